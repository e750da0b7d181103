"""Runs that were renamed or copied, that died on another machine, or whose ranks never started."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import await_sign, command, environment, hpc_ae, in_process, run_processes, start, write_config
from runs import make_catalog
from slurm_cluster import SlurmCluster, wait_until

from hpc_ae.files import make_dir, read_json
from hpc_ae.jobs import worker
from hpc_ae.jobs.clock import time_at
from hpc_ae.jobs.launched import Launched, record_launch
from hpc_ae.jobs.marker import read_marker
from hpc_ae.jobs.worker import Reporter, StopFlag
from hpc_ae.layout import RunLayout

LONG = {"steps": 1_000_000, "batch_size": 64, "partitions": 8, "checkpoint_steps": 200}
ALONE = {"ranks_per_node": 1, "cpus_per_task": 1}


@pytest.fixture(scope="module")
def star_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A star catalog."""
    return make_catalog(tmp_path_factory.mktemp("stars") / "catalog")


@pytest.fixture
def running(star_dir: Path, tmp_path: Path) -> Iterator[Path]:
    """The directory of a run that trains, for a very long time, in the background."""
    config = write_config(tmp_path, catalog={"path": str(star_dir), "source": None}, train=LONG, cluster=ALONE)
    process = start("run", config)
    run_dir = tmp_path / "run"
    await_sign(lambda: any(run_dir.glob("checkpoints/step-*")), process)
    yield run_dir
    for name in ("run", "renamed"):
        for pid in run_processes(tmp_path / name):
            os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)


def status(run_dir: Path) -> dict[str, Any]:
    """What `status --json` says, the training by itself."""
    done = hpc_ae("status", run_dir, "--json")
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads(done.stdout)
    return {**record, "train": next(stage for stage in record["stages"] if stage["stage"] == "train")}


def test_copied_run_is_its_own(running: Path, tmp_path: Path) -> None:
    """What is done in a copy leaves the jobs and processes of the original alone, and its own config is refused until
    it is said which of the two is meant.
    """
    copy = tmp_path / "copy"
    shutil.copytree(running, copy, ignore=shutil.ignore_patterns(".*"))
    ended = hpc_ae("cancel", copy)
    assert ended.returncode == 0 and f"a copy of {running}" in ended.stdout
    assert status(running)["train"]["state"] == "running"
    shown = status(copy)
    assert shown["train"]["state"] == "waiting"
    assert shown["next"] == f"hpc-ae run {copy / 'config.yaml'} run_dir={copy}"
    refused = hpc_ae("train", copy / "config.yaml")
    assert refused.returncode == 2 and f"run_dir={copy}" in refused.stderr and f"run_dir={running}" in refused.stderr
    words = [*shlex.split(shown["next"])[2:], "train.steps=0"]
    asked = hpc_ae("check", *words[:2])
    assert asked.returncode == 0 and f"run_dir: {copy}" in asked.stdout


def test_renamed_run_goes_on(star_dir: Path, tmp_path: Path) -> None:
    """A run that was renamed when it had stopped: what `status` advises goes on from its checkpoint there."""
    train = {"steps": 4000, "batch_size": 64, "partitions": 8, "checkpoint_steps": 100}
    config = write_config(tmp_path, catalog={"path": str(star_dir), "source": None}, train=train, cluster=ALONE)
    process = start("run", config)
    await_sign(lambda: any((tmp_path / "run").glob("checkpoints/step-*")), process)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=150)
    renamed = (tmp_path / "run").rename(tmp_path / "renamed")
    shown = status(renamed)
    assert shown["train"]["state"] == "stopped"
    done = hpc_ae(*shlex.split(shown["next"])[1:])
    assert done.returncode == 0 and "train: resumed at step" in done.stderr, done.stderr
    assert not (tmp_path / "run").exists()
    assert hpc_ae("verify", renamed).returncode == 0
    assert status(renamed)["state"] == "done"
    assert hpc_ae("run", renamed / "config.yaml").returncode == 0  # it names its new place now


def test_renamed_run_is_cancelled(running: Path, tmp_path: Path) -> None:
    """The processes of a run that was renamed while it runs are its own still: they end when they are told to, or when
    they find their directory gone, and the command that started them with them.
    """
    renamed = running.rename(tmp_path / "renamed")
    said = hpc_ae("cancel", renamed).stdout
    assert "1 processes were asked to save" in said or "train: lost before" in said or "train: failed before" in said
    assert wait_until(lambda: not run_processes(tmp_path), timeout=40)
    assert status(renamed)["train"]["state"] != "running"


@pytest.mark.slurm
def test_jobs_of_a_copy(slurm: SlurmCluster, no_jobs_left: None, star_dir: Path, tmp_path: Path) -> None:
    """`cancel` in a copy ends no job of the original, and `run` there hands in jobs of its own."""
    cluster = {"kind": "slurm", "nodes": 1, "ranks_per_node": 1, "sbatch": {"begin": "now+3600"}}
    config = write_config(tmp_path, catalog={"path": str(star_dir), "source": None}, cluster=cluster)
    variables = slurm.environment()
    assert hpc_ae("run", config, "--no-wait", **variables).returncode == 0
    jobs = set(slurm.queue())
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "run", copy)
    assert "is a copy of" in hpc_ae("cancel", copy, **variables).stdout
    assert set(slurm.queue()) == jobs and len(jobs) == 4
    done = hpc_ae("run", copy / "config.yaml", f"run_dir={copy}", "--no-wait", **variables)
    assert done.returncode == 0 and "already submitted" not in done.stderr, done.stderr
    assert len(slurm.queue()) == 8
    hpc_ae("cancel", copy, **variables)
    assert wait_until(lambda: set(slurm.queue()) == jobs, timeout=30)


# ---- another machine


@pytest.fixture
def elsewhere(star_dir: Path, tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A run that trains on a machine of another name."""
    config = write_config(tmp_path, catalog={"path": str(star_dir), "source": None}, train=LONG, cluster=ALONE)
    words = f"hostname elsewhere && exec {shlex.join(command('run', config))}"
    process = subprocess.Popen(
        ["unshare", "--uts", "sh", "-c", words],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    await_sign(lambda: any((tmp_path / "run").glob("checkpoints/step-*")), process)
    yield tmp_path / "run", process
    for pid in run_processes(tmp_path / "run"):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)


def age(run_dir: Path, seconds: float) -> None:
    """Make the last signs of life of a training so much older."""
    for path in run_dir.glob("jobs/state/train-*/rank-*.json"):
        moment = path.stat().st_mtime - seconds
        os.utime(path, (moment, moment))


def test_run_that_died_elsewhere(elsewhere: tuple[Path, subprocess.Popen[str]]) -> None:
    """A run on a machine that this one cannot see runs as long as it gives signs of life; what follows it ends then."""
    run_dir, process = elsewhere
    assert status(run_dir)["train"]["state"] == "running"
    os.killpg(process.pid, signal.SIGKILL)
    assert wait_until(lambda: not run_processes(run_dir), timeout=20)
    follower = subprocess.Popen(command("logs", run_dir, "train", "-f"), env=environment(), stdout=subprocess.DEVNULL)
    age(run_dir, 100)
    assert status(run_dir)["train"]["state"] == "running"
    age(run_dir, 100)
    shown = status(run_dir)["train"]
    assert shown["state"] == "lost" and "no sign of life from rank 0 on elsewhere for 0:03:" in shown["why"]
    assert shown["seconds_left"] is None
    assert hpc_ae("status", run_dir, "--watch").returncode == 0
    assert follower.wait(timeout=150) == 0


@pytest.mark.slow
def test_signs_of_life(elsewhere: tuple[Path, subprocess.Popen[str]]) -> None:
    """A rank that works gives them without being asked."""
    run_dir, _ = elsewhere
    age(run_dir, 200)
    assert wait_until(lambda: status(run_dir)["train"]["state"] == "running", timeout=30)


def test_clock_that_is_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a node with a wrong clock says is placed in the time of the file system, and the clock is named."""
    there, real = time_at(tmp_path), time.time()
    assert abs(there - real) < 60 and list(tmp_path.iterdir()) == []
    monkeypatch.setattr(worker.time, "time", lambda: real + 3600)
    layout = RunLayout(tmp_path / "run")
    files = layout.launch("train", "x")
    with monkeypatch.context() as patch:
        patch.setattr(worker, "time_at", lambda _: real)
        reporter = Reporter(files.marker_path(0), 0)
        patch.setattr(signal, "signal", lambda *_: None)
        reporter.run(lambda: "done", StopFlag())
    marker = read_marker(files.marker_path(0))
    assert marker is not None and abs(marker.ahead - 3600) < 60 and abs(marker.moment - real) < 60
    layout.config_path.write_text(f"run_dir: {layout.run_dir}\n")
    record_launch(Launched("train", "srun-x", layout, files, 1))
    assert "the clock of" in status(layout.run_dir)["train"]["why"]
    assert "is 1:00:00 ahead" in status(layout.run_dir)["train"]["why"]


# ---- ranks that never started


def test_ranks_that_never_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the process that starts the ranks has ended without one, `status` says so with its last words, and neither
    it nor `logs` sends a user back to the other.
    """
    layout = RunLayout(tmp_path / "run")
    files = layout.launch("train", "x")
    make_dir(files.launch_dir)
    layout.config_path.write_text(f"run_dir: {layout.run_dir}\n")
    process = subprocess.Popen(["sleep", "300"])
    record_launch(Launched("train", str(process.pid), layout, files, 1))
    assert status(layout.run_dir)["train"]["state"] == "queued"
    process.kill()
    process.wait()
    shown = status(layout.run_dir)
    assert shown["train"]["state"] == "lost" and shown["train"]["why"] == "no rank started: it left no log"
    assert shown["next"].startswith(f"hpc-ae doctor {layout.run_dir}")
    found, said = in_process(capsys, "logs", layout.run_dir, "train")
    assert found == 2 and "train is lost (no rank started: it left no log)" in said and "hpc-ae status" not in said
    log = layout.log_path(str(process.pid), 0)
    make_dir(log.parent)
    log.write_text("Traceback\nModuleNotFoundError: No module named 'torch'\n")
    shown = status(layout.run_dir)
    assert shown["train"]["why"].endswith("No module named 'torch'")
    assert shown["next"].startswith(f"hpc-ae logs {layout.run_dir} train")


def test_records_say_where(running: Path) -> None:
    """A launch is written down with the directory, the machine and the start of what it started."""
    record = read_json(running / "jobs" / "state" / "train.json")
    assert record["run_dir"] == str(running.resolve()) and record["inode"] == running.stat().st_ino
    assert record["host"] and record["started"]
