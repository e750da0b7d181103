"""`status`, `logs` and `cancel`, of runs on this machine and of jobs on a real Slurm."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from commands import await_sign, hpc_ae, in_process, start, write_config
from rich.console import Console
from slurm_cluster import SlurmCluster, wait_until

from hpc_ae.errors import DamageError
from hpc_ae.files import make_dir, publish_json
from hpc_ae.jobs.launched import launched_before
from hpc_ae.jobs.main import run_command
from hpc_ae.jobs.scheduler import JobRow, ask
from hpc_ae.jobs.status import StageStatus
from hpc_ae.jobs.table import status_table
from hpc_ae.jobs.watch import summary_line
from hpc_ae.layout import RunLayout
from hpc_ae.runtime.progress import NOTHING_YET

LONG = {"steps": 1_000_000, "batch_size": 64, "partitions": 8, "checkpoint_steps": 1000}
ALONE = {"ranks_per_node": 1, "cpus_per_task": 1}
SLURM = {"kind": "slurm", "nodes": 2, "ranks_per_node": 1, "time": "00:10:00", "mpi": "pmi2"}


def status(run_dir: Path, **variables: str) -> dict[str, dict[str, Any]]:
    """What `status --json` says, by stage; "next" beside them."""
    done = hpc_ae("status", run_dir, "--json", **variables)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    return {stage["stage"]: stage for stage in record["stages"]} | {"next": {"command": record["next"]}}


def states(run_dir: Path, **variables: str) -> dict[str, str]:
    """State by stage."""
    return {name: stage["state"] for name, stage in status(run_dir, **variables).items() if name != "next"}


def test_finished_run(tmp_path: Path) -> None:
    """All stages done, all stars counted, the next command verifies; a log of each stage; nothing left to cancel."""
    config = write_config(tmp_path, cluster=ALONE)
    assert hpc_ae("run", config).returncode == 0
    shown = status(tmp_path / "run")
    assert set(states(tmp_path / "run").values()) == {"done"}
    assert shown["encode"]["done"] == shown["encode"]["total"] > 0
    assert shown["next"]["command"] == f"hpc-ae verify {tmp_path / 'run'}"
    table = hpc_ae("status", tmp_path / "run")
    assert all(name in table.stdout for name in ("simulate", "train", "encode", "finalise", "postprocess", "done"))
    log = hpc_ae("logs", tmp_path / "run", "train")
    assert log.returncode == 0 and "train:" in log.stdout
    ended = hpc_ae("cancel", tmp_path / "run")
    assert ended.returncode == 0 and "train: done before" in ended.stdout


def test_running_and_cancelled_run(tmp_path: Path) -> None:
    """A training is seen running; cancel ends it with a checkpoint; status says so and how to go on."""
    process = start("run", write_config(tmp_path, train=LONG, cluster=ALONE))
    run_dir = tmp_path / "run"
    await_sign(lambda: any(run_dir.glob("checkpoints/step-*")), process)
    shown = status(run_dir)
    assert shown["train"]["state"] == "running" and shown["encode"]["state"] == "waiting"
    assert "--watch" in shown["next"]["command"]
    assert "asked to save" in hpc_ae("cancel", run_dir).stdout
    process.communicate(timeout=150)
    assert process.returncode == 1
    shown = status(run_dir)
    assert shown["train"]["state"] == "stopped" and "saved" in shown["train"]["why"]
    assert shown["next"]["command"].startswith("hpc-ae run ")


def test_killed_run(tmp_path: Path) -> None:
    """A run whose processes were all killed is lost, not running."""
    process = start("run", write_config(tmp_path, train=LONG, cluster=ALONE))
    run_dir = tmp_path / "run"
    await_sign(lambda: any(run_dir.glob("checkpoints/step-*")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=150)
    assert wait_until(lambda: states(run_dir)["train"] == "lost", timeout=30)


def test_failed_stage(tmp_path: Path) -> None:
    """The stage that failed, its message, and its log as what to look at."""
    raw = tmp_path / "raw.csv"
    raw.write_text("objid,ra,dec,u,g,r,i,z\n1,2,3,19,18,17,16,bright\n")
    assert hpc_ae("run", write_config(tmp_path, catalog={"source": {"raw": [str(raw)]}})).returncode == 2
    shown = status(tmp_path / "run")
    assert shown["ingest"]["state"] == "failed" and "bright" in shown["ingest"]["why"]
    assert shown["train"]["state"] == "waiting"
    assert "logs" in shown["next"]["command"] and "ingest" in shown["next"]["command"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("status", "nowhere"), "not a run directory"),
        (("logs", "nowhere"), "not a run directory"),
        (("cancel", "nowhere"), "not a run directory"),
    ],
)
def test_no_run(capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, str], message: str) -> None:
    """A directory that is no run is status 2."""
    found, said = in_process(capsys, words[0], tmp_path / words[1])
    assert found == 2 and message in said


def test_nothing_logged_yet(tmp_path: Path) -> None:
    """An unknown stage and a stage without a log say which there are, and what to type."""
    config = write_config(tmp_path)
    assert hpc_ae("train", config, "catalog.path=nowhere").returncode == 2
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "config.yaml").write_text(config.read_text())
    done = hpc_ae("logs", tmp_path / "run", "teach")
    assert done.returncode == 2 and "postprocess" in done.stderr
    assert hpc_ae("logs", tmp_path / "run", "encode").returncode == 2


@pytest.mark.slurm
@pytest.mark.mpi
def test_on_slurm(slurm: SlurmCluster, no_jobs_left: None, mpiexec: str, tmp_path: Path) -> None:
    """Queued behind one another, running, cancelled children first; right without accounting and after the queue."""
    config = write_config(tmp_path, train=LONG, cluster=SLURM)
    variables = slurm.environment()
    done = hpc_ae("run", config, "--no-wait", **variables)
    assert done.returncode == 0, done.stderr
    run_dir = tmp_path / "run"
    assert wait_until(lambda: any(run_dir.glob("checkpoints/step-*")), 90)
    (run_dir / "jobs" / "state" / "scheduler.json").unlink(missing_ok=True)
    shown = status(run_dir, **variables)
    assert shown["simulate"]["state"] == "done" and shown["train"]["state"] == "running"
    assert shown["train"]["nodes"] == "n1,n2"
    assert (shown["encode"]["state"], shown["encode"]["why"]) == ("queued", "waits for the stage before it")
    assert hpc_ae("logs", run_dir, "train", "--rank", "1", **variables).returncode == 0
    (run_dir / "jobs" / "state" / "scheduler.json").unlink()
    unanswered = status(run_dir, **{**variables, "SLURM_CONF": str(tmp_path / "nowhere.conf")})
    assert unanswered["train"]["state"] == "running" and "does not answer" in unanswered["train"]["why"]
    ended = hpc_ae("cancel", run_dir, **variables).stdout.splitlines()
    assert [line.split(":")[0] for line in ended] == ["postprocess", "finalise", "encode", "train", "simulate"]
    assert ended[-1] == "simulate: done before"
    assert wait_until(lambda: not slurm.run("squeue", "--noheader").strip(), timeout=30)
    assert states(run_dir, **variables)["train"] in ("stopped", "lost")
    assert states(run_dir, **variables)["simulate"] == "done"


# ---- what the queue's older answer and the newer files say together


def launched(run_dir: Path, states: dict[int, str], answer: dict[str, dict[str, str]], num_parts: int = 1) -> None:
    """A training as job 7, one rank a part, whose markers of time 1000 say this, and what Slurm answered just now."""
    layout = RunLayout(run_dir)
    launch = layout.launch("train", "x")
    make_dir(launch.launch_dir)
    layout.config_path.write_text(f"run_dir: {run_dir}\n")
    record = {"job_id": "7", "tasks": 1, "parts": list(range(num_parts)), "local": False}
    publish_json(layout.launch_path("train"), {**record, "state_dir": launch.launch_dir.name})
    for rank, state in states.items():
        marker = {"state": state, "message": "", "status": 0, "time": 1000.0, "restart": 0, "pid": 1, "host": "n1"}
        publish_json(launch.marker_path(rank), marker)
    publish_json(layout.scheduler_path, {"jobs": list(answer), "time": time.time(), "answer": answer})


def said(state: str, reason: str, time: float) -> dict[str, str]:
    """A row of Slurm's answer."""
    return {"state": state, "reason": reason, "nodes": "", "time": str(time)}


def training(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What `status --json` says of the training."""
    assert run_command(["status", str(run_dir), "--json"]) == 0
    return next(stage for stage in json.loads(capsys.readouterr().out)["stages"] if stage["stage"] == "train")


@pytest.mark.parametrize(
    ("marker", "row", "state"),
    [
        ("running", said("PENDING", "Dependency", 990.0), "running"),  # it has started since
        ("running", said("PENDING", "BeginTime", 1010.0), "queued"),  # it was requeued since
        ("interrupted", said("COMPLETING", "None", 1010.0), "stopped"),
        ("interrupted", said("CANCELLED", "None", 1010.0), "stopped"),
        ("running", said("RUNNING", "None", 1010.0), "running"),
        ("running", said("TIMEOUT", "TimeLimit", 1010.0), "lost"),
    ],
)
def test_newer_word_holds(
    tmp_path: Path, marker: str, row: dict[str, str], state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A marker that is newer than Slurm's answer overrules it, an older one does not."""
    launched(tmp_path / "run", {0: marker}, {"7": row})
    assert training(tmp_path / "run", capsys)["state"] == state


@pytest.mark.parametrize("reason", ["PartitionConfig", "PartitionNodeLimit", "InvalidQOS", "BadConstraints"])
def test_job_that_never_starts(tmp_path: Path, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A reason of Slurm's that does not pass by itself is called so, with what to do in place of waiting."""
    launched(tmp_path / "run", {}, {"7": said("PENDING", reason, 1.0)})
    assert training(tmp_path / "run", capsys)["why"].startswith("never starts: ")
    assert run_command(["status", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["next"].startswith(f"hpc-ae cancel {tmp_path / 'run'};")


def test_array_tasks_that_never_ran_are_not_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tasks that were cancelled in the queue are counted as that."""
    answer = {"7_0": said("COMPLETED", "None", 1.0)} | {
        f"7_{index}": said("CANCELLED", "Dependency", 1.0) for index in (1, 2)
    }
    launched(tmp_path / "run", {0: "done"}, answer, 3)
    counts, why = training(tmp_path / "run", capsys)["why"].split("; ")
    assert counts == "1 done, 2 cancelled, of 3 array tasks"
    assert why.startswith("cancelled before it started")


@pytest.mark.parametrize("width", [60, 80, 100, 130])
def test_table_on_any_terminal(tmp_path: Path, width: int) -> None:
    """Stage, job number, state and time left are never cut, however narrow the terminal is."""
    stage = StageStatus(
        stage="postprocess",
        state="running",
        job_id="38148490",
        nodes="n1,n2",
        done=66_457_600,
        total=151_552_000,
        unit="stars",
        rate=232_773.0,
        seconds_left=366.0,
    )
    console = Console(width=width, file=io.StringIO())
    console.print(status_table(RunLayout(tmp_path), [stage], width))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    words = ("postprocess", "38148490", "running", "00:06:06", "of 15" if width > 76 else "44 %")
    assert [word for word in words if word not in text] == []


def test_summary_line_of_nothing_new() -> None:
    """A report made again from kept scores does not say that no star was worked on, at no speed."""

    def line(first: int, rate: float) -> str:
        known = {"what": "postprocess", "unit": "stars", "done": 5, "total": 5, "first": first, "rate": rate}
        return summary_line(NOTHING_YET.model_copy(update={**known, "seconds": 1.0}))

    assert line(5, 0.0) == "postprocess: done in 1.0 s, from earlier results"
    assert line(0, 5.0) == "postprocess: 5 stars in 1.0 s, 5 stars/s"
    assert line(2, 3.0) == "postprocess: 3 of 5 stars in 1.0 s, 3 stars/s"


# ---- state files that a kill, a full disk or another version has left


def damage(path: Path, text: str) -> None:
    """Another content of a state file that is there."""
    assert path.exists(), path
    path.write_text(text)


def test_damaged_state_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Markers, progress and Slurm's answer that cannot be read count as not there; a launch's record is named."""
    run_dir, layout = tmp_path / "run", RunLayout(tmp_path / "run")
    answer = {f"7_{index}": said("RUNNING", "None", 1.0) for index in (0, 1)}
    launched(run_dir, {0: "running", 1: "done"}, answer, 2)
    job = launched_before(layout, "train")
    assert job is not None and list(job.markers()) == [0, 1]
    make_dir(layout.progress_dir)
    publish_json(layout.progress_path("train"), {**NOTHING_YET.to_json(), "done": 5, "total": 9})
    found = training(run_dir, capsys)
    assert found["why"] == "1 done, 1 running, of 2 array tasks" and (found["done"], found["total"]) == (5, 9)
    damage(job.files.marker_path(0), '{"state": "run')
    damage(job.files.marker_path(1), '{"state": "asleep", "pid": "seven"}')
    assert job.markers() == {} and job.open_ranks({}) == [0, 1]
    for text in ("{", "[]", '{"done": "many"}'):
        damage(layout.progress_path("train"), text)
        found = training(run_dir, capsys)
        assert found["why"] == "of 2 array tasks; starting" and (found["done"], found["total"]) == (0, 0)
        kept = layout.scheduler_path.read_text()
        damage(layout.scheduler_path, text)
        assert "Slurm does not answer" in training(run_dir, capsys)["why"]
        damage(layout.scheduler_path, kept)
    for text in ("{", "[]", '{"done": "many"}'):
        damage(layout.launch_path("train"), text)
        with pytest.raises(DamageError, match=r"train\.json"):
            launched_before(layout, "train")


def test_kept_answer_is_read_again(tmp_path: Path) -> None:
    """What Slurm said is kept with its time, row by row, for who asks within a minute."""
    layout = RunLayout(tmp_path)
    make_dir(layout.state_dir)
    row = {"state": "PENDING", "reason": "Priority", "nodes": "", "time": "12.5"}
    publish_json(layout.scheduler_path, {"jobs": ["7"], "time": time.time(), "answer": {"7": row}})
    assert ask(layout, ["7"]) == {"7": JobRow(**row)}
