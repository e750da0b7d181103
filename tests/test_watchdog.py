"""A rank that shows no sign of life is named and ended; one that is only suspended is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import await_sign, environment, hpc_ae, start, write_config
from slurm_cluster import SlurmCluster, wait_until

from hpc_ae.files import publish_json, read_json
from hpc_ae.simulate import SimulateSettings, simulate

LONG = {"steps": 1_000_000, "batch_size": 64, "partitions": 8, "checkpoint_steps": 200}
WATCHED = """
import ctypes, sys, time
from pathlib import Path
from hpc_ae.runtime import heartbeat
from hpc_ae.jobs.watchdog import start_watchdog
start_watchdog(Path(sys.argv[1]), 7, 4.0)
time.sleep(5.0)  # starting up is not watched
for step in range(int(sys.argv[3])):
    heartbeat.beat(f"step {step}, reading survey.h5")
    time.sleep(0.1)
while sys.argv[2] == "hang":
    ctypes.PyDLL(None).sleep(600)  # keeps Python's lock
"""


def start_watched(marker: Path, end: str, num_beats: int) -> subprocess.Popen[str]:
    """A process that beats, then hangs or ends."""
    publish_json(marker, {"state": "running", "message": "", "status": 0, "has_aftermath": False})
    words = [sys.executable, "-c", WATCHED, str(marker), end, str(num_beats)]
    return subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)


def test_rank_that_hangs(tmp_path: Path) -> None:
    """A process that hangs with Python's lock held is killed; marker and log name rank, step and file, and where."""
    process = start_watched(tmp_path / "rank.json", "hang", 3)
    _, said = process.communicate(timeout=150)
    assert process.returncode == -signal.SIGKILL
    marker = read_json(tmp_path / "rank.json")
    message = "rank 7 is stuck: no sign of life for cluster.stall_seconds 4 (step 2, reading survey.h5)"
    assert (marker["state"], marker["message"], marker["status"]) == ("failed", message, 1)
    assert message in said and 'File "<string>"' in said  # its traceback


def test_rank_that_works_and_ends(tmp_path: Path) -> None:
    """A process that beats for longer than the limit, and one that beats once and ends, are left alone."""
    for num_beats in (60, 1):
        process = start_watched(tmp_path / "rank.json", "end", num_beats)
        assert process.communicate(timeout=150)[1] == "" and process.returncode == 0
        assert read_json(tmp_path / "rank.json")["state"] == "running"


def test_suspended_job_is_not_stuck(tmp_path: Path) -> None:
    """Process and watchdog stopped together for longer than the limit, as Slurm suspends a job, go on afterwards."""
    process = start_watched(tmp_path / "rank.json", "end", 30)
    time.sleep(6)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    both = [process.pid, *map(int, children)]
    assert len(both) == 2
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in both:
            os.kill(pid, number)
        time.sleep(6 if number == signal.SIGSTOP else 0)
    assert process.communicate(timeout=150)[1] == "" and process.returncode == 0


@pytest.fixture(scope="module")
def star_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A star catalog of 10,000 stars in 400 shards."""
    directory = tmp_path_factory.mktemp("stars") / "catalog"
    simulate(directory, SimulateSettings(10_000, shard_rows=25))
    return directory


def pid_of(run_dir: Path, stage: str, rank: int) -> int:
    """Process of a rank of the newest launch of a stage."""
    record = read_json(run_dir / "jobs" / "state" / f"{stage}.json")
    return int(read_json(run_dir / "jobs" / "state" / record["state_dir"] / f"rank-{rank:05d}.json")["pid"])


@pytest.mark.parametrize("stage", ["train", "encode"])
def test_stopped_rank_is_named(stage: str, star_dir: Path, tmp_path: Path) -> None:
    """One of two ranks is stopped: the run ends with status 1 and names it, with its step or shard, not the other."""
    train = LONG if stage == "train" else {"steps": 50, "batch_size": 64, "partitions": 8}
    config = write_config(
        tmp_path, catalog={"path": str(star_dir), "source": None}, train=train, cluster={"stall_seconds": 15}
    )
    run_dir, process = tmp_path / "run", start("run", config)
    sign = "checkpoints/step-*" if stage == "train" else "encoding/shard-000?[13579].h5"  # rank 1 has the odd ones
    await_sign(lambda: any(run_dir.glob(sign)), process, interval=0.02)
    stopped, began = pid_of(run_dir, stage, 1), time.monotonic()
    os.kill(stopped, signal.SIGSTOP)
    _, said = process.communicate(timeout=150)
    assert process.returncode == 1 and time.monotonic() - began < 120, said
    assert f"{stage} failed: rank 1 is stuck: no sign of life for cluster.stall_seconds 15 (" in said
    assert ("(step " if stage == "train" else "shard-00") in said and "stopped" in said
    shown = json.loads(hpc_ae("status", run_dir, "--json").stdout)["stages"]
    assert next(one["state"] for one in shown if one["stage"] == stage) == "failed"


@pytest.mark.slurm
def test_stopped_rank_ends_its_job(slurm: SlurmCluster, no_jobs_left: None, star_dir: Path, tmp_path: Path) -> None:
    """On two nodes, with a limit of 30 s: the job fails within a minute of the stop, and status names the rank."""
    cluster = {"kind": "slurm", "nodes": 2, "ranks_per_node": 1, "time": "00:10:00", "stall_seconds": 30}
    config = write_config(tmp_path, catalog={"path": str(star_dir), "source": None}, train=LONG, cluster=cluster)
    assert hpc_ae("run", config, "--no-wait", **slurm.environment()).returncode == 0
    run_dir = tmp_path / "run"
    assert wait_until(lambda: any(run_dir.glob("checkpoints/step-*")), timeout=90)
    os.kill(pid_of(run_dir, "train", 1), signal.SIGSTOP)
    job_id = int(read_json(run_dir / "jobs" / "state" / "train.json")["job_id"])
    assert slurm.wait(job_id, timeout=60) == "FAILED"
    shown = json.loads(hpc_ae("status", run_dir, "--json", **slurm.environment()).stdout)["stages"]
    assert "rank 1 is stuck: no sign of life for cluster.stall_seconds 30 (step " in shown[0]["why"], shown[0]
