"""A user's day on a real Slurm, with accounting and without: submit, watch, steer, resume, and what goes wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import hpc_ae, write_config
from slurm_cluster import SlurmCluster, wait_until

from hpc_ae import open_catalog
from hpc_ae.files import read_json
from hpc_ae.simulate import SimulateSettings, simulate

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]
SLURM = {"kind": "slurm", "nodes": 2, "ranks_per_node": 1, "time": "00:10:00", "mpi": "pmi2"}
LONG = {"steps": 1_000_000, "batch_size": 64, "partitions": 8, "checkpoint_steps": 200}
STAGES = ["train", "encode", "finalise", "postprocess"]


@pytest.fixture
def star_dir(tmp_path: Path) -> Path:
    """A star catalog of 3,000 stars in six shards."""
    simulate(tmp_path / "stars", SimulateSettings(3000, shard_rows=500))
    return tmp_path / "stars"


def slurm_config(folder: Path, star_dir: Path, name: str = "run", **changes: Any) -> Path:
    """A run on two nodes with a catalog that is there."""
    cluster = {**SLURM, **changes.pop("cluster", {})}
    catalog = {"path": str(star_dir), "source": None}
    return write_config(folder, f"{name}.yaml", run_dir=str(folder / name), catalog=catalog, cluster=cluster, **changes)


def ask(run_dir: Path, slurm: SlurmCluster) -> dict[str, dict[str, Any]]:
    """What `status --json` says, by stage, with what Slurm knows now."""
    (run_dir / "jobs" / "state" / "scheduler.json").unlink(missing_ok=True)
    done = hpc_ae("status", run_dir, "--json", **slurm.environment())
    assert done.returncode == 0, done.stderr
    return {stage["stage"]: stage for stage in json.loads(done.stdout)["stages"]}


def began_again(run_dir: Path, slurm: SlurmCluster, reason: str) -> None:
    """Return when status says that the training began again, for this reason."""
    assert wait_until(lambda: ask(run_dir, slurm)["train"]["restarts"] > 0, 150, interval=2)
    shown = ask(run_dir, slurm)["train"]
    assert any(reason in why for why in shown["restart_reasons"]), shown
    assert "restarted: " in hpc_ae("status", run_dir, **slurm.environment()).stdout


def has_checkpoint(run_dir: Path) -> bool:
    """Whether a training has saved anything."""
    return any(run_dir.glob("checkpoints/step-*"))


def newest_step(run_dir: Path) -> int:
    """The step of the newest checkpoint."""
    return max((int(path.name[5:]) for path in run_dir.glob("checkpoints/step-*")), default=0)


def test_run_status_logs_and_mail(any_slurm: SlurmCluster, star_dir: Path, tmp_path: Path) -> None:
    """From submission to the report, in a directory with a space and quotes: the queue is empty, all stages done."""
    folder = tmp_path / 'it\'s a "run" directory'
    folder.mkdir()
    config = slurm_config(folder, star_dir, cluster={"mail_type": "END,FAIL", "mail_user": "astronomer@example.org"})
    variables = any_slurm.environment()
    done = hpc_ae("run", config, "--no-wait", "--parsable", **variables)
    assert done.returncode == 0, done.stderr
    ids = done.stdout.split()
    assert len(ids) == 4 and all(number.isdigit() for number in ids)
    assert "hpc-ae status " in done.stderr and "hpc-ae cancel " in done.stderr
    again = hpc_ae("run", config, timeout=400, **variables)
    assert again.returncode == 0, again.stderr + again.stdout
    assert f"already submitted: jobs {' '.join(ids)}"[:30] in again.stderr
    run_dir = folder / "run"
    shown = ask(run_dir, any_slurm)
    assert [stage["state"] for stage in shown.values()] == ["done"] * 4
    assert [stage["job_id"] for stage in shown.values()] == ids
    assert shown["train"]["nodes"] == "n1,n2" and shown["encode"]["done"] == 3000
    assert "train:" in hpc_ae("logs", run_dir, "train", **variables).stdout
    assert hpc_ae("verify", run_dir).returncode == 0
    shutil.rmtree(run_dir / "report")
    left = hpc_ae("run", config, timeout=400, **variables)
    assert left.returncode == 0 and re.findall(r"\((\w+)\)", left.stdout) == ["postprocess"], left.stdout
    assert wait_until(lambda: "astronomer" in _read(any_slurm.directory / "mailed"), timeout=20)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_dry_run_is_what_is_submitted(slurm: SlurmCluster, no_jobs_left: None, star_dir: Path, tmp_path: Path) -> None:
    """The scripts that `--dry-run` prints are the submitted ones byte for byte, with each stage's own resources."""
    stages = {
        "train": {"time": "00:07:00", "nodes": 1, "ranks_per_node": 2, "cpus_per_task": 2, "mem": "900M"},
        "encode": {"array": 3, "array_throttle": 2, "nodes": 1},
        "finalise": {"partition": "short", "time": "5"},
    }
    more = {"stages": stages, "sbatch": {"nice": 10, "exclusive": "user"}, "environment": {"COLOUR": "it's blue"}}
    config = slurm_config(tmp_path, star_dir, cluster={**more, "constraint": None})
    shown = hpc_ae("run", config, "--dry-run", **slurm.environment())
    assert shown.returncode == 0, shown.stderr
    assert not (tmp_path / "run").exists()
    done = hpc_ae("run", config, "--no-wait", "--parsable", **slurm.environment())
    assert done.returncode == 0, done.stderr
    ids, scripts = done.stdout.split(), {}
    for stage, number in zip(STAGES, ids, strict=True):
        [path] = (tmp_path / "run" / "jobs" / "logs").glob(f"{number}*_submission.sh")
        scripts[stage] = path.read_text()
        before = STAGES[STAGES.index(stage) - 1]
        waits = f"--parsable --dependency=afterok:<job id of {before}> --kill-on-invalid-dep=yes "
        head = f"# {stage} (after {before})\n# sbatch {waits}SCRIPT\n"
        first = "# train\n# sbatch --parsable SCRIPT\n"
        assert (first if stage == "train" else head) + scripts[stage] in shown.stdout, stage
    assert "#SBATCH --time=00:07:00" in scripts["train"] and "#SBATCH --mem=900M" in scripts["train"]
    assert "#SBATCH --nodes=1" in scripts["train"] and "#SBATCH --ntasks-per-node=2" in scripts["train"]
    assert "--cpus-per-task=2" in scripts["train"] and "#SBATCH --signal=USR2@84" in scripts["train"]
    assert "#SBATCH --array=0-2%2" in scripts["encode"] and "--array" not in scripts["train"]
    assert "#SBATCH --partition=short" in scripts["finalise"] and "#SBATCH --time=5" in scripts["finalise"]
    for script in scripts.values():
        assert "#SBATCH --nice=10" in script and "#SBATCH --exclusive=user" in script and "wckey" not in script
        assert "export COLOUR='it'\"'\"'s blue'" in script
    assert slurm.wait(int(ids[-1]), timeout=120) == "COMPLETED", slurm.log_tails()
    assert hpc_ae("verify", tmp_path / "run").returncode == 0


def test_failing_stage_and_what_follows(any_slurm: SlurmCluster, star_dir: Path, tmp_path: Path) -> None:
    """A stage that fails keeps what follows from ever starting; status says which, why, and what to type."""
    config = slurm_config(tmp_path, star_dir, train={"batch_size": 8000})
    run_dir = tmp_path / "run"
    done = hpc_ae("run", config, "--no-wait", **any_slurm.environment())
    assert done.returncode == 0, done.stderr
    assert wait_until(lambda: not any_slurm.queue(), timeout=90)
    shown = ask(run_dir, any_slurm)
    assert shown["train"]["state"] == "failed" and "fewer training stars" in shown["train"]["why"]
    for stage in ("encode", "finalise", "postprocess"):
        assert shown[stage]["state"] == "stopped", shown[stage]
        assert "failed or was cancelled" in shown[stage]["why"] or "cancelled" in shown[stage]["why"]
    assert not list((run_dir / "jobs" / "state").glob("encode-*/rank-*.json"))
    table = hpc_ae("status", run_dir, **any_slurm.environment()).stdout
    assert "fewer training stars" in table and "hpc-ae logs" in table
    assert hpc_ae("run", config, "train.batch_size=64", timeout=400, **any_slurm.environment()).returncode == 0


@pytest.mark.parametrize("any_slurm", ["plain", pytest.param("accounting", marks=pytest.mark.slow)], indirect=True)
def test_array_task_fails_alone_and_is_resumed_alone(any_slurm: SlurmCluster, star_dir: Path, tmp_path: Path) -> None:
    """One damaged shard fails one task of the array; the others finish; after the mend that task alone runs again."""
    stages = {"encode": {"array": 3, "array_throttle": 3, "nodes": 1}}
    config = slurm_config(tmp_path, star_dir, cluster={"stages": stages})
    shard, run_dir = star_dir / "shard-00001.h5", tmp_path / "run"
    assert hpc_ae("train", config).returncode == 0
    whole = shard.read_bytes()
    shard.write_bytes(whole[:20000] + bytes(200) + whole[20200:])
    os.utime(shard, (0, 0))  # bit rot, which leaves no other trace
    done = hpc_ae("run", config, timeout=400, **any_slurm.environment())
    assert done.returncode == 1, done.stderr
    assert "encode failed" in done.stderr and "1 of 3 failed" in done.stderr and "shard-00001.h5" in done.stderr
    shown = ask(run_dir, any_slurm)
    assert shown["encode"]["state"] == "failed", shown["encode"]
    assert "2 done, 1 failed, of 3 array tasks" in shown["encode"]["why"] and shown["finalise"]["state"] == "stopped"
    finished = {path.name: path.stat().st_mtime_ns for path in (run_dir / "encoding").glob("shard-*.h5")}
    assert sorted(finished) == [f"shard-0000{index}.h5" for index in (0, 2, 3, 5)]
    shard.write_bytes(whole)
    again = hpc_ae("run", config, timeout=400, **any_slurm.environment())
    assert again.returncode == 0, again.stderr
    assert "1 of 3 array tasks have work left" in again.stderr and "resumed at shard 5 of 6" in again.stderr
    assert {name: (run_dir / "encoding" / name).stat().st_mtime_ns for name in finished} == finished
    record = read_json(run_dir / "jobs" / "state" / "encode.json")
    assert record["parts"] == [1]
    assert open_catalog(run_dir / "encoding").num_stars == 3000
    assert hpc_ae("verify", run_dir).returncode == 0


@pytest.mark.parametrize("any_slurm", ["plain", pytest.param("accounting", marks=pytest.mark.slow)], indirect=True)
def test_time_limit_and_requeue_side_by_side(any_slurm: SlurmCluster, star_dir: Path, tmp_path: Path) -> None:
    """Two trainings at the same time: one outlives its limit of a minute, one is requeued from outside. Both go on
    from what they had saved, status says why they began again, and `cancel` ends each without the other.
    """
    one = {"nodes": 1, "time": "1", "cpus_per_task": 1}
    limited, requeued = (slurm_config(tmp_path, star_dir, name, train=LONG, cluster=one) for name in ("a", "b"))
    for config in (limited, requeued):
        assert (
            hpc_ae(
                "run",
                config,
                "--no-wait",
                "cluster.time=00:10:00" if config == requeued else "seed=2",
                **any_slurm.environment(),
            ).returncode
            == 0
        )
    a, b = tmp_path / "a", tmp_path / "b"
    assert wait_until(lambda: has_checkpoint(a) and has_checkpoint(b), timeout=90)
    job_id = int(read_json(b / "jobs" / "state" / "train.json")["job_id"])
    saved = newest_step(b)
    any_slurm.run("scontrol", "requeue", str(job_id))
    began_again(b, any_slurm, "asked to stop")
    assert newest_step(b) >= saved > 0
    assert "cancelled" in hpc_ae("cancel", b, **any_slurm.environment()).stdout
    assert wait_until(lambda: ask(a, any_slurm)["train"]["state"] in ("running", "queued"), 30, interval=1)
    again = hpc_ae("run", requeued, "--no-wait", "cluster.time=00:10:00", **any_slurm.environment())
    assert again.returncode == 0 and "Submitted batch job" in again.stdout, again.stderr  # it waited for the ending job
    assert hpc_ae("cancel", b, **any_slurm.environment()).returncode == 0
    began_again(a, any_slurm, "time limit was near")
    assert wait_until(lambda: ask(a, any_slurm)["train"]["state"] == "running", 150, interval=1)  # not ending just now
    assert "train: job" in hpc_ae("cancel", a, **any_slurm.environment()).stdout
    assert wait_until(lambda: not any_slurm.queue(), timeout=60)
    assert ask(a, any_slurm)["train"]["state"] == ask(b, any_slurm)["train"]["state"] == "stopped"


def test_each_task_sees_its_own_gpu(slurm: SlurmCluster, no_jobs_left: None, star_dir: Path, tmp_path: Path) -> None:
    """Two tasks on each of two nodes with two GPUs: every task has one device, no two of a node the same."""
    config = slurm_config(tmp_path, star_dir, cluster={"gpus_per_node": 2, "ranks_per_node": 2})
    done = hpc_ae("run", config, "--no-wait", "--parsable", **slurm.environment())
    assert done.returncode == 0, done.stderr
    assert slurm.wait(int(done.stdout.split()[1]), timeout=150) == "COMPLETED", slurm.log_tails()
    for stage in ("train", "encode"):
        state_dir = read_json(tmp_path / "run" / "jobs" / "state" / f"{stage}.json")["state_dir"]
        markers = [read_json(path) for path in (tmp_path / "run" / "jobs" / "state" / state_dir).glob("rank-*.json")]
        assert sorted((marker["host"], marker["gpus"]) for marker in markers) == [
            ("n1", "0"), ("n1", "1"), ("n2", "0"), ("n2", "1")
        ]  # fmt: skip
