"""What users set for Slurm's programs in their shells changes nothing of a run: no job is hidden or passed over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import hpc_ae, write_config
from slurm_cluster import SlurmCluster, wait_until

from hpc_ae.jobs.slurm_clients import ask_slurm, ignored_options, is_option
from hpc_ae.simulate import SimulateSettings, simulate

LONG = {"steps": 1_000_000, "batch_size": 64, "partitions": 8, "checkpoint_steps": 200}
# As the manual pages of Slurm 22.05 name them; each hides jobs, picks jobs, asks a question or changes what is printed.
HIDING = {
    **{f"SQUEUE_{name}": "nothing_like_it" for name in ("ACCOUNT", "LICENSES", "NAMES", "PARTITION", "QOS", "USERS")},
    **{"SQUEUE_STATES": "COMPLETED", "SQUEUE_FORMAT": "%u", "SQUEUE_SORT": "i", "SQUEUE_FORMAT2": "UserName"},
    **{f"SCANCEL_{name}": "nothing_like_it" for name in ("ACCOUNT", "NAME", "PARTITION", "QOS", "USER", "WCKEY")},
    **{"SCANCEL_STATE": "SUSPENDED", "SCANCEL_INTERACTIVE": "1", "SCANCEL_VERBOSE": "1"},
    **{"SACCT_FORMAT": "User", "SCONTROL_ALL": "1", "SINFO_PARTITION": "nothing_like_it", "SINFO_FORMAT": "%u"},
    **{"SLURM_TIME_FORMAT": "relative", "SLURM_BITSTR_LEN": "2", "SLURM_DEPENDENCY": "afterok:1", "SRUN_DEBUG": "5"},
    **{"SBATCH_PARTITION": "nothing_like_it", "SBATCH_ACCOUNT": "somebody_else", "SBATCH_TIMELIMIT": "1"},
}


@pytest.mark.slurm
@pytest.mark.timeout(600)
def test_options_in_the_environment_change_nothing(slurm: SlurmCluster, no_jobs_left: None, tmp_path: Path) -> None:
    """With all of them set: submitted once, followed, and really cancelled; SBATCH_* are named as ignored."""
    simulate(tmp_path / "stars", SimulateSettings(2000, shard_rows=500))
    catalog = {"path": str(tmp_path / "stars"), "source": None}
    cluster = {"kind": "slurm", "nodes": 1, "ranks_per_node": 1, "time": "00:10:00"}
    run_dir = tmp_path / "run"
    config = write_config(tmp_path, run_dir=str(run_dir), catalog=catalog, cluster=cluster, train=LONG)
    variables = {**HIDING, **slurm.environment()}
    done = hpc_ae("run", config, "--no-wait", "--parsable", **variables)
    assert done.returncode == 0, done.stderr
    assert "ignored" in done.stderr and "SBATCH_ACCOUNT, SBATCH_PARTITION, SBATCH_TIMELIMIT" in done.stderr

    def state() -> str:
        (run_dir / "jobs" / "state" / "scheduler.json").unlink(missing_ok=True)
        return str(json.loads(hpc_ae("status", run_dir, "--json", **variables).stdout)["state"])

    assert wait_until(lambda: state() == "running", 60, interval=1), state()
    again = hpc_ae("run", config, "--no-wait", "--parsable", **variables)
    assert again.stdout.split() == done.stdout.split(), again.stderr  # the same jobs, no second chain
    assert sorted(slurm.queue()) == sorted(done.stdout.split())
    assert "cancelled" in hpc_ae("cancel", run_dir, **variables).stdout
    assert wait_until(lambda: slurm.queue() == [], 60), slurm.queue()


def test_what_tells_where_slurm_is_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of Slurm's finds its cluster and its user's token, and nothing else of Slurm's in its environment."""
    for name in (*HIDING, "SLURM_CONF", "SLURM_JWT", "SLURMD_NODENAME"):
        monkeypatch.setenv(name, "x")
    done = ask_slurm("env")
    assert done is not None
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert {"SLURM_CONF", "SLURM_JWT", "PATH"} <= names
    assert not names & HIDING.keys() and not {name for name in names if is_option(name)}
    assert ignored_options(HIDING) == ["SBATCH_ACCOUNT", "SBATCH_PARTITION", "SBATCH_TIMELIMIT"]
