"""Requeue and preemption on a real Slurm: the result is that of a run that nothing happened to."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from commands import hpc_ae, write_config
from runs import assert_same_training
from slurm_cluster import SlurmCluster, wait_until

from hpc_ae.config import load_config
from hpc_ae.files import read_json
from hpc_ae.jobs.restarts import Start, read_ledger
from hpc_ae.layout import LaunchLayout
from hpc_ae.simulate import SimulateSettings, simulate

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1500)]
SLURM = {"kind": "slurm", "nodes": 2, "ranks_per_node": 1, "time": "00:09:00"}
TRAIN = {"steps": 5_000, "batch_size": 64, "partitions": 8, "checkpoint_steps": 200, "validations": 20}


def newest_step(run_dir: Path) -> int:
    """The step of the newest checkpoint."""
    return max((int(path.name[5:]) for path in run_dir.glob("checkpoints/step-*")), default=0)


def starts(run_dir: Path, stage: str) -> list[Start]:
    """The ledger of a stage's newest launch."""
    record = read_json(run_dir / "jobs" / "state" / f"{stage}.json")
    return read_ledger(LaunchLayout(run_dir / "jobs" / "state" / record["state_dir"]), 0)


def job_of(run_dir: Path, stage: str) -> int:
    """Number of the job of a stage."""
    return int(read_json(run_dir / "jobs" / "state" / f"{stage}.json")["job_id"])


def check_same(folder: Path, star_dir: Path, run_dir: Path, train: dict[str, Any]) -> None:
    """The training of a run is bit for bit that of two local ranks that nothing interrupted."""
    quiet = write_config(
        folder,
        "quiet.yaml",
        run_dir=str(folder / "quiet"),
        catalog={"path": str(star_dir), "source": None},
        train=train,
    )
    done = hpc_ae("train", quiet, timeout=400)
    assert done.returncode == 0, done.stderr
    assert_same_training(load_config(run_dir / "config.yaml"), load_config(folder / "quiet" / "config.yaml"))


def test_requeued_training_is_the_uninterrupted_one(slurm: SlurmCluster, no_jobs_left: None, tmp_path: Path) -> None:
    """Requeued from outside, then told by USR2 that its time is up, with a limit of less than ten minutes: two restarts
    with their reasons, at most the steps since a checkpoint taken again, and the same model bit for bit.
    """
    simulate(tmp_path / "stars", SimulateSettings(3000, shard_rows=1000))
    catalog = {"path": str(tmp_path / "stars"), "source": None}
    config = write_config(tmp_path, catalog=catalog, train=TRAIN, cluster=SLURM)
    assert hpc_ae("run", config, "--no-wait", **slurm.environment()).returncode == 0
    run_dir = tmp_path / "run"
    job_id = job_of(run_dir, "train")
    assert wait_until(lambda: newest_step(run_dir) >= 600, timeout=90)
    slurm.run("scontrol", "requeue", str(job_id))
    assert wait_until(lambda: len(starts(run_dir, "train")) == 2, timeout=90)
    begun = newest_step(run_dir)
    assert wait_until(lambda: newest_step(run_dir) > begun, timeout=150)
    slurm.run("scancel", "--signal=USR2", str(job_id))
    assert wait_until(lambda: len(starts(run_dir, "train")) == 3, timeout=90)
    assert slurm.wait(job_id, timeout=200) == "COMPLETED", slurm.log_tails()
    ledger = starts(run_dir, "train")
    assert ["asked to stop" in ledger[1].why, "time limit was near" in ledger[2].why] == [True, True]
    assert 0 < ledger[1].done < ledger[2].done < TRAIN["steps"]
    check_same(tmp_path, tmp_path / "stars", run_dir, TRAIN)


def freeze(run_dir: Path, stage: str) -> None:
    """Stop all processes of a stage as soon as one of its ranks says that it runs."""

    def running() -> list[int]:
        record = run_dir / "jobs" / "state" / f"{stage}.json"
        markers = (run_dir / "jobs" / "state" / read_json(record)["state_dir"]).glob("rank-*.json")
        return [found["pid"] for path in markers if (found := read_json(path))["state"] == "running"]

    assert wait_until(lambda: len(running()) == (1 if stage == "finalise" else 2), timeout=150, interval=0.02)
    for pid in running():
        os.kill(pid, signal.SIGSTOP)  # Slurm wakes what it sends a signal to


OTHERS = [pytest.param(stage, marks=pytest.mark.slow) for stage in ("simulate", "encode", "finalise", "postprocess")]


@pytest.mark.slow
def test_preempted_in_a_partition_that_cancels(slurm: SlurmCluster, no_jobs_left: None, tmp_path: Path) -> None:
    """PreemptMode=CANCEL with a grace time: the job has saved, and is requeued before Slurm would cancel it."""
    simulate(tmp_path / "stars", SimulateSettings(3000, shard_rows=1000))
    catalog = {"path": str(tmp_path / "stars"), "source": None}
    config = write_config(tmp_path, catalog=catalog, train=TRAIN, cluster={**SLURM, "partition": "lowest"})
    assert hpc_ae("run", config, "--no-wait", **slurm.environment()).returncode == 0
    run_dir = tmp_path / "run"
    job_id = job_of(run_dir, "train")
    assert wait_until(lambda: newest_step(run_dir) >= 600, timeout=150)
    taking = slurm.submit("true", "--partition=high", "--nodes=2", "--exclusive")
    assert slurm.wait(taking, timeout=90) == "COMPLETED", slurm.log_tails()
    assert slurm.wait(job_id, timeout=200) == "COMPLETED", slurm.log_tails()
    assert slurm.restarts(job_id) == 1


@pytest.mark.mpi
@pytest.mark.parametrize("stage", ["train", *OTHERS])
def test_preempted_stage_is_requeued(
    slurm: SlurmCluster, no_jobs_left: None, mpiexec: str, tmp_path: Path, stage: str
) -> None:
    """A job of a higher partition takes the nodes, with a grace time in which the ranks save and end: the job of every
    stage goes back into the queue once, the chain ends well, and the model is the same bit for bit.
    """
    train = TRAIN if stage == "train" else {}
    cluster = {**SLURM, "mpi": "pmi2", "partition": "low"}
    config = write_config(tmp_path, train=train, cluster=cluster)
    assert hpc_ae("run", config, "--no-wait", **slurm.environment()).returncode == 0
    run_dir = tmp_path / "run"
    job_id, last = job_of(run_dir, stage), job_of(run_dir, "postprocess")
    if stage == "train":
        assert wait_until(lambda: newest_step(run_dir) >= 600, timeout=150)
    else:
        freeze(run_dir, stage)
    taking = slurm.submit("true", "--partition=high", "--nodes=2", "--exclusive")
    assert slurm.wait(taking, timeout=90) == "COMPLETED", slurm.log_tails()
    assert slurm.wait(last, timeout=250) == "COMPLETED", slurm.log_tails()
    assert slurm.restarts(job_id) == 1
    if stage == "train":
        assert "another job is to have its nodes" in starts(run_dir, "train")[1].why
        check_same(tmp_path, run_dir / "catalog", run_dir, TRAIN)
    assert hpc_ae("verify", run_dir).returncode == 0


def test_refused_requeue_is_said(slurm: SlurmCluster, no_jobs_left: None, tmp_path: Path) -> None:
    """Where Slurm may not requeue a job whose time is up, its status says that the work is saved and how to go on."""
    simulate(tmp_path / "stars", SimulateSettings(3000, shard_rows=1000))
    catalog = {"path": str(tmp_path / "stars"), "source": None}
    config = write_config(tmp_path, catalog=catalog, train={**TRAIN, "steps": 100_000}, cluster=SLURM)
    assert hpc_ae("run", config, "--no-wait", **slurm.environment()).returncode == 0
    run_dir = tmp_path / "run"
    job_id = job_of(run_dir, "train")
    assert wait_until(lambda: newest_step(run_dir) >= 200, timeout=150)
    slurm.run("scontrol", "update", f"JobId={job_id}", "Requeue=0")
    slurm.run("scancel", "--signal=USR2", str(job_id))
    assert slurm.wait(job_id, timeout=90) == "FAILED", slurm.log_tails()
    done = hpc_ae("status", run_dir, "--json", **slurm.environment())
    training = next(stage for stage in json.loads(done.stdout)["stages"] if stage["stage"] == "train")
    assert training["state"] == "failed"
    assert "it saved its work; Slurm did not requeue it" in training["why"] and "same hpc-ae run" in training["why"]
    log = hpc_ae("logs", run_dir, "train")
    assert "Traceback" not in log.stdout + log.stderr


@pytest.mark.slow
def test_training_that_outlives_its_limit(slurm: SlurmCluster, no_jobs_left: None, tmp_path: Path) -> None:
    """A training of several minutes in jobs of one minute: each saves, is requeued by itself, and the model is that of
    an uninterrupted run bit for bit.
    """
    simulate(tmp_path / "stars", SimulateSettings(3000, shard_rows=1000))
    train = {**TRAIN, "steps": 60_000}
    catalog = {"path": str(tmp_path / "stars"), "source": None}
    config = write_config(tmp_path, catalog=catalog, train=train, cluster={**SLURM, "time": "1"})
    assert hpc_ae("run", config, "--no-wait", **slurm.environment()).returncode == 0
    job_id = job_of(tmp_path / "run", "train")
    assert slurm.wait(job_id, timeout=900) == "COMPLETED", slurm.log_tails()
    again = starts(tmp_path / "run", "train")[1:]
    assert len(again) >= 2 and all("time limit was near" in start.why for start in again)
    check_same(tmp_path, tmp_path / "stars", tmp_path / "run", train)
