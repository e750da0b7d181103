"""A node that is lost while a job runs, on a real Slurm: the job is requeued, and little is done twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import conftest
import pytest
from commands import hpc_ae, write_config
from runs import assert_same_training, make_catalog, make_random_model
from slurm_cluster import SlurmCluster, wait_until

from hpc_ae import open_catalog
from hpc_ae.config import load_config
from hpc_ae.files import read_json
from hpc_ae.jobs.restarts import Start, read_ledger
from hpc_ae.layout import LaunchLayout
from hpc_ae.simulate import SimulateSettings, simulate

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]
SLURM = {"kind": "slurm", "nodes": 2, "ranks_per_node": 1, "time": "00:10:00"}
TRAIN = {"steps": 3000, "batch_size": 64, "partitions": 8, "checkpoint_steps": 200, "validations": 4}


@pytest.fixture
def broken_slurm() -> Iterator[SlurmCluster]:
    """A cluster of this test's own, whose nodes may die."""
    conftest.need("slurm")
    with SlurmCluster() as cluster:
        yield cluster


def launch_of(run_dir: Path, stage: str) -> dict[str, Any]:
    """What the run wrote down of a stage's job."""
    path = run_dir / "jobs" / "state" / f"{stage}.json"
    return read_json(path) if path.exists() else {}


def starts(run_dir: Path, stage: str) -> list[Start]:
    """The ledger of a stage's job."""
    return read_ledger(LaunchLayout(run_dir / "jobs" / "state" / launch_of(run_dir, stage)["state_dir"]), 0)


def lose(slurm: SlurmCluster, run_dir: Path, stage: str, *, back_at_once: bool) -> Start:
    """Kill slurmd and tasks of n2 and start it again; returns what the ledger says of the job's second start."""
    job_id = int(launch_of(run_dir, stage)["job_id"])
    slurm.kill_node("n2")
    if not back_at_once:
        assert wait_until(lambda: slurm.state(job_id) != "RUNNING", timeout=90), slurm.log_tails()
    slurm.start_node("n2", wait=False)
    assert wait_until(lambda: len(starts(run_dir, stage)) == 2, timeout=150), slurm.log_tails()
    assert slurm.wait(job_id, timeout=120) == "COMPLETED", slurm.log_tails()
    assert len(starts(run_dir, stage)) == 2
    return starts(run_dir, stage)[1]


def test_lost_node_in_training(broken_slurm: SlurmCluster, tmp_path: Path) -> None:
    """slurmd and tasks of a node die, and slurmd is back before Slurm misses it: the batch script finds that, the job
    ends with the model of an uninterrupted run, and goes on from the newest checkpoint that was there at the loss.
    """
    simulate(tmp_path / "stars", SimulateSettings(3000, shard_rows=1000))
    catalog = {"path": str(tmp_path / "stars"), "source": None}
    config = write_config(tmp_path, catalog=catalog, train=TRAIN, cluster=SLURM)
    run_dir = tmp_path / "run"
    assert hpc_ae("run", config, "--no-wait", **broken_slurm.environment()).returncode == 0
    steps = run_dir / "checkpoints"
    assert wait_until(lambda: len(list(steps.glob("step-*"))) > 2, timeout=90), broken_slurm.log_tails()
    saved = max(int(path.name[5:]) for path in steps.glob("step-*"))
    again = lose(broken_slurm, run_dir, "train", back_at_once=True)
    assert "n2 was lost" in again.why and again.done >= saved
    quiet = write_config(tmp_path, "quiet.yaml", run_dir=str(tmp_path / "quiet"), catalog=catalog, train=TRAIN)
    assert hpc_ae("train", quiet, timeout=200).returncode == 0
    assert_same_training(load_config(run_dir / "config.yaml"), load_config(tmp_path / "quiet" / "config.yaml"))


def test_lost_node_in_encoding(broken_slurm: SlurmCluster, tmp_path: Path) -> None:
    """The node stays away until the job has left it: whoever finds out first, the job is requeued, no shard that was
    there is made again, and the encoding is complete.
    """
    stars = make_catalog(tmp_path / "catalog", 3_000, 10)
    model = make_random_model(tmp_path / "model", stars)
    catalog = {"path": str(stars), "source": None}
    config = write_config(tmp_path, catalog=catalog, encode={"model": str(model)}, cluster=SLURM)
    run_dir = tmp_path / "run"
    encoding = run_dir / "encoding"
    done = hpc_ae("run", config, "--no-wait", **broken_slurm.environment())
    assert done.returncode == 0, done.stderr
    assert wait_until(lambda: len(list(encoding.glob("shard-*.h5"))) > 20, timeout=90), broken_slurm.log_tails()
    before = {path: path.stat().st_mtime_ns for path in encoding.glob("shard-*.h5")}
    again = lose(broken_slurm, run_dir, "encode", back_at_once=False)
    assert len(before) <= again.done < 300
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert wait_until(lambda: not broken_slurm.queue(), timeout=90)
    assert open_catalog(encoding).num_stars == 3_000
    assert hpc_ae("verify", run_dir).returncode == 0
