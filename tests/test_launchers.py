"""Stages under others' launchers: torchrun, srun in an allocation, mpiexec; and runs that outlive their terminal."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import PASSED_ON, await_sign, command, environment, hpc_ae, run_processes, write_config
from slurm_cluster import SlurmCluster, wait_until

from hpc_ae import open_catalog
from hpc_ae.files import digest_file, read_json
from hpc_ae.simulate import SimulateSettings, simulate

pytestmark = pytest.mark.timeout(600)
COLUMNS = ("objid", "latent", "reconstruction_error", "reconstruction", "chi2")


@pytest.fixture(scope="module")
def star_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A star catalog of 3,000 stars in three shards."""
    directory = tmp_path_factory.mktemp("stars") / "catalog"
    simulate(directory, SimulateSettings(3000, shard_rows=1000))
    return directory


@pytest.fixture(scope="module")
def reference(star_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of `hpc-ae run` with two local ranks."""
    folder = tmp_path_factory.mktemp("reference")
    done = hpc_ae("run", write_config(folder, catalog={"path": str(star_dir), "source": None}))
    assert done.returncode == 0, done.stderr
    return folder / "run"


def make_config(folder: Path, star_dir: Path) -> Path:
    """The same run, in a directory of its own."""
    folder.mkdir(exist_ok=True)
    return write_config(folder, catalog={"path": str(star_dir), "source": None})


def launch(words: list[str], **variables: str) -> str:
    """Run a launcher to its end; what it printed."""
    done = subprocess.run(
        words, env=environment(**variables), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def check_equal(run_dir: Path, reference: Path) -> None:
    """Model and encoding are those of `hpc-ae run`, bit for bit, and verified."""
    weights = [digest_file(path / "model" / "model.safetensors") for path in (run_dir, reference)]
    assert weights[0] == weights[1]
    ours, theirs = open_catalog(run_dir / "encoding"), open_catalog(reference / "encoding")
    for name in COLUMNS:
        assert np.asarray(ours[name][:]).tobytes() == np.asarray(theirs[name][:]).tobytes(), name
    assert hpc_ae("verify", run_dir / "encoding").returncode == 0


def states(run_dir: Path) -> dict[str, str]:
    """State by stage, as `status` tells it."""
    record = json.loads(hpc_ae("status", run_dir, "--json").stdout)
    return {stage["stage"]: stage["state"] for stage in record["stages"]}


def test_torchrun(star_dir: Path, reference: Path, tmp_path: Path) -> None:
    """`torchrun -m hpc_ae train` and `encode` make the model and the encoding of `hpc-ae run`; status knows of them."""
    config, launcher = make_config(tmp_path, star_dir), [str(Path(sys.executable).parent / "torchrun"), "--standalone"]
    launch([*launcher, "--nproc-per-node=2", "-m", "hpc_ae", "train", str(config)])
    assert states(tmp_path / "run")["train"] == "done"
    assert read_json(tmp_path / "run" / "model" / "model.json")["training"]["world_size"] == 2
    launch([*launcher, "--nproc-per-node=2", "-m", "hpc_ae", "encode", str(config)])
    assert not (tmp_path / "run" / "encoding" / "manifest.json").exists()
    assert hpc_ae("encode", config).returncode == 0
    check_equal(tmp_path / "run", reference)


@pytest.mark.slow
def test_torchrun_starts_again(star_dir: Path, tmp_path: Path) -> None:
    """A worker that is killed under `torchrun --max-restarts`: all start again, from the newest checkpoint."""
    train = {"steps": 3000, "batch_size": 64, "partitions": 8, "checkpoint_steps": 100}
    config = write_config(tmp_path, catalog={"path": str(star_dir), "source": None}, train=train)
    words = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node=2", "--max-restarts=2"]
    process = subprocess.Popen(
        [*words, "-m", "hpc_ae", "train", str(config)], env=environment(), stderr=subprocess.PIPE, text=True
    )
    run_dir = tmp_path / "run"
    await_sign(lambda: any(run_dir.glob("checkpoints/step-*")), process)
    markers = [read_json(path) for path in run_dir.glob("jobs/state/train-*/rank-*.json")]
    os.kill(markers[0]["pid"], signal.SIGKILL)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert len(list(run_dir.glob("jobs/state/train-*"))) == 2
    steps = [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 3000
    assert states(run_dir)["train"] == "done"


@pytest.mark.mpi
def test_mpiexec(mpiexec: str, star_dir: Path, reference: Path, tmp_path: Path) -> None:
    """`mpiexec` starts train, encode and postprocess likewise."""
    config = make_config(tmp_path, star_dir)
    launch([mpiexec, "-n", "2", *command("train", config)])
    launch([mpiexec, "-n", "2", *command("encode", config)])
    assert hpc_ae("encode", config).returncode == 0
    launch([mpiexec, "-n", "3", *command("postprocess", config)])
    check_equal(tmp_path / "run", reference)
    summary = "report/anomalies.csv"
    assert (tmp_path / "run" / summary).read_bytes() == (reference / summary).read_bytes()
    assert set(states(tmp_path / "run").values()) == {"done"}


@pytest.mark.slurm
@pytest.mark.mpi
def test_srun_in_an_allocation(
    slurm: SlurmCluster, no_jobs_left: None, mpiexec: str, star_dir: Path, reference: Path, tmp_path: Path
) -> None:
    """Inside an allocation of two nodes `srun` starts ranks of train and encode, and MPI tasks of postprocess."""
    config = make_config(tmp_path, star_dir)
    exports = "\n".join(f"export {name}='{environment()[name]}'" for name in PASSED_ON)
    lines = [
        ("srun --nodes=2 --ntasks=2", "train"),
        ("srun --nodes=2 --ntasks=2", "encode"),
        ("", "encode"),
        ("srun --nodes=2 --ntasks=3 --overcommit --mpi=pmi2", "postprocess"),
    ]
    words = "\n".join(f"{launcher} {' '.join(map(repr, command(verb, config)))}" for launcher, verb in lines)
    job_id = slurm.submit(f"set -e\n{exports}\n{words}", "--nodes=2", "--ntasks-per-node=2")
    assert slurm.wait(job_id, timeout=200) == "COMPLETED", slurm.output(job_id)
    check_equal(tmp_path / "run", reference)
    assert (tmp_path / "run" / "report" / "summary.json").exists()
    assert set(states(tmp_path / "run").values()) == {"done"}


def test_wrong_place_is_refused(star_dir: Path, tmp_path: Path) -> None:
    """Variables of a launcher that make no sense are status 2 and named."""
    config = make_config(tmp_path, star_dir)
    done = hpc_ae("train", config, OMPI_COMM_WORLD_RANK="0", OMPI_COMM_WORLD_SIZE="many")
    assert done.returncode == 2 and "OMPI_COMM_WORLD_SIZE is not a number" in done.stderr
    done = hpc_ae("train", config, MPI_LOCALRANKID="0", MPI_LOCALNRANKS="1", PMI_RANK="0", PMI_SIZE="2")
    assert done.returncode == 2 and "over several nodes without Slurm" in done.stderr


# ---- what a shell was left with by another launcher

STALE = {"MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "29500", "RANK": "3", "WORLD_SIZE": "5", "LOCAL_RANK": "1"}


def test_stale_ranks_are_ignored(star_dir: Path, reference: Path, tmp_path: Path) -> None:
    """Variables that torchrun would set, where none has started a command, are named and have no effect on any rank."""
    done = hpc_ae("run", make_config(tmp_path, star_dir), **STALE, TORCHELASTIC_RUN_ID="old")
    assert done.returncode == 0, done.stderr
    named = ", ".join(sorted([*STALE, "TORCHELASTIC_RUN_ID"]))
    assert f"ignored, as no torchrun has started this process: {named}" in done.stderr
    check_equal(tmp_path / "run", reference)
    alone = make_config(tmp_path / "alone", star_dir)
    done = hpc_ae("train", alone, "cluster.ranks_per_node=1", **STALE)
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "alone" / "run" / "model" / "model.json")["training"]["world_size"] == 1


@pytest.mark.slurm
@pytest.mark.slow
def test_stale_ranks_do_not_reach_slurm(
    slurm: SlurmCluster, no_jobs_left: None, star_dir: Path, reference: Path, tmp_path: Path
) -> None:
    """The ranks of a job do not meet where the user's shell says, be it by sbatch's or by the config's environment."""
    config = make_config(tmp_path, star_dir)
    words = ["cluster.kind=slurm", "cluster.nodes=2", "cluster.ranks_per_node=1"]
    done = hpc_ae("run", config, *words, "cluster.environment={MASTER_PORT: '29500'}", **slurm.environment(), **STALE)
    assert done.returncode == 0, done.stderr
    check_equal(tmp_path / "run", reference)


# ---- a run that outlives its terminal


@pytest.fixture
def background(tmp_path: Path) -> Iterator[Path]:
    """A run directory whose processes are ended with the test."""
    yield tmp_path / "run"
    hpc_ae("cancel", tmp_path / "run")
    assert wait_until(lambda: not run_processes(tmp_path / "run"), timeout=30)


def test_local_run_survives_its_terminal(background: Path, star_dir: Path, tmp_path: Path) -> None:
    """`run --no-wait` returns at once; the run goes on when the terminal it was typed in is closed."""
    config = write_config(tmp_path, catalog={"path": str(star_dir), "source": None}, cluster={"ranks_per_node": 1})
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, command("run", config, "--no-wait"), environment())
    said = b""
    while True:
        try:
            said += os.read(terminal, 1000)
        except OSError:
            break  # the command has ended, and with it the last process that had the terminal
    assert os.waitpid(pid, 0)[1] == 0, said
    os.close(terminal)
    assert b"started in the background" in said and b"hpc-ae cancel" in said
    assert wait_until(lambda: (background / "report" / "summary.json").exists(), timeout=120)
    assert wait_until(lambda: set(states(background).values()) == {"done"}, timeout=30)
    assert b"train" not in said.split(b"started in the background")[0]
    assert "verified: 3,000 stars" in (background / "jobs" / "logs" / "run.log").read_text()
    wrong = hpc_ae("run", config, "--no-wait", "train.learning_rate=0.001")
    assert wrong.returncode == 2 and "was made from another config or other inputs" in wrong.stderr
    again = hpc_ae("run", config, "--no-wait")
    assert again.returncode == 0 and "already done: train, encode, finalise, postprocess" in again.stderr


def test_background_run_is_steered(background: Path, star_dir: Path, tmp_path: Path) -> None:
    """A background run holds the directory, is followed by `logs -f`, and ended by `cancel`."""
    train = {"steps": 1_000_000, "batch_size": 64, "partitions": 8, "checkpoint_steps": 500}
    alone = {"ranks_per_node": 1, "cpus_per_task": 1}
    config = write_config(tmp_path, catalog={"path": str(star_dir), "source": None}, train=train, cluster=alone)
    assert hpc_ae("run", config, "--no-wait").returncode == 0
    second = hpc_ae("run", config)
    assert second.returncode == 2 and "another hpc-ae works in this run directory" in second.stderr
    assert wait_until(lambda: any(background.glob("checkpoints/step-*")), timeout=150)
    follower = subprocess.Popen(command("logs", background, "train", "-f"), env=environment(), stdout=subprocess.PIPE)
    assert "asked to save" in hpc_ae("cancel", background).stdout
    follower.communicate(timeout=150)  # ends with the stage
    assert follower.returncode == 0
    assert wait_until(lambda: states(background)["train"] == "stopped", timeout=30)
    assert wait_until(lambda: not run_processes(background), timeout=30)
