"""How far a run is: from its own files first, then from Slurm, which is asked at most once a minute.

A rank's marker (jobs/state/STAGE-TOKEN/rank-NNNNN.json) says running, done, failed or interrupted; a stage's progress
file says how far; jobs/state/STAGE.json says which launch is the newest.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpc_ae.config import RunConfig, load_config
from hpc_ae.errors import HpcAeError, InputError
from hpc_ae.files import publish_json, read_json
from jobs.launcher import Launched, config_path, launch_record
from jobs.stages import Stage, progress_path, stages_of

_SCHEDULER_SECONDS = 60.0
_ENDED_WELL = ("done",)
_LOG_BYTES = 1 << 16


@dataclass
class StageStatus:
    """One stage of a run. `state`: waiting, queued, running, done, failed, stopped, lost."""

    stage: str
    state: str = "waiting"
    job_id: str | None = None
    nodes: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    rate: float = 0.0
    seconds_left: float | None = None
    restarts: int = 0
    why: str = ""
    last_line: str = ""


def open_run(run_dir: Path) -> RunConfig:
    """The config of a run; InputError where there is no run."""
    if not config_path(run_dir).exists():
        raise InputError(
            "not a run directory", where=run_dir, got="no config.yaml", expected="the run_dir of `hpc-ae run CONFIG`"
        )
    return load_config(config_path(run_dir), [f"run_dir={run_dir.absolute()}"])


def status_of(config: RunConfig) -> list[StageStatus]:
    """Every stage of the run, in order."""
    launches = {stage.name: launched_before(config, stage.name) for stage in stages_of(config)}
    queue = ask_scheduler(config, [job.job_id for job in launches.values() if job is not None and not job.local])
    return [_stage_status(config, stage, launches[stage.name], queue) for stage in stages_of(config)]


def launched_before(config: RunConfig, stage: str) -> Launched | None:
    """The newest launch of a stage; None where there was none."""
    path = launch_record(config.run_path, stage)
    if not path.exists():
        return None
    record = read_json(path)
    state_dir = config.run_path / "jobs" / "state" / record["state_dir"]
    return Launched(stage, record["job_id"], record["num_tasks"], config.run_path, state_dir, local=record["local"])


def ask_scheduler(config: RunConfig, job_ids: list[str]) -> dict[str, dict[str, str]] | None:
    """State, reason and nodes by job id, None where Slurm does not answer; asked again when a minute has passed."""
    if not job_ids:
        return {}
    cache = config.run_path / "jobs" / "state" / "scheduler.json"
    with contextlib.suppress(HpcAeError):
        record = read_json(cache)
        if record["jobs"] == job_ids and 0 <= time.time() - record["time"] < _SCHEDULER_SECONDS:
            return dict(record["answer"])
    lines = _lines("squeue", "--me", "--noheader", "--format", "%i|%T|%r|%N")
    if lines is None:
        return None
    queued = _table(lines, ("state", "reason", "nodes"))
    answer = _sacct(job_ids) | {job_id: queued[job_id] for job_id in job_ids if job_id in queued}
    with contextlib.suppress(HpcAeError):
        publish_json(cache, {"jobs": job_ids, "time": time.time(), "answer": answer})
    return answer


def _sacct(job_ids: list[str]) -> dict[str, dict[str, str]]:
    """Empty where there is no accounting."""
    options = ("--noheader", "--allocations", "--parsable2", "--format", "JobID,State,Reason,NodeList")
    return _table(_lines("sacct", "--jobs", ",".join(job_ids), *options) or [], ("state", "reason", "nodes"))


def _table(lines: list[str], names: tuple[str, ...]) -> dict[str, dict[str, str]]:
    rows = [line.split("|") for line in lines if line.count("|") == len(names)]
    return {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows}


def _lines(*command: str) -> list[str] | None:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.splitlines() if answer.returncode == 0 else None


def _stage_status(
    config: RunConfig, stage: Stage, job: Launched | None, queue: dict[str, dict[str, str]] | None
) -> StageStatus:
    status = StageStatus(stage.name)
    if job is None:
        if any(path.exists() for path in stage.outputs(config)):
            status.why = "its output was there before"
        return status
    status.job_id = None if job.local else job.job_id
    status.last_line = last_line(job.log_path())
    _add_progress(status, progress_path(config, stage.name))
    markers = job.markers()
    status.restarts = max((int(marker["restart"]) for marker in markers), default=0)
    status.nodes = ",".join(sorted({str(marker.get("host", "")) for marker in markers} - {""}))
    status.state, status.why = _state(job, markers, None if queue is None else queue.get(job.job_id, {}))
    if status.state == "done":
        status.done = status.total
    status.seconds_left = (
        (status.total - status.done) / status.rate if status.state == "running" and status.rate else None
    )
    return status


def _add_progress(status: StageStatus, path: Path) -> None:
    with contextlib.suppress(HpcAeError):
        record = read_json(path)
        status.done, status.total = int(record["done"]), int(record["total"])
        status.unit, status.rate = str(record["unit"]), float(record["rate"])


def _state(job: Launched, markers: list[dict[str, Any]], queued: dict[str, str] | None) -> tuple[str, str]:
    """(state, why) of a launch: by its markers, by the queue (None: no answer) where they leave it open."""
    states = [str(marker["state"]) for marker in markers]
    failed = [marker for marker in markers if marker["state"] == "failed"]
    if failed:
        return "failed", str(min(failed, key=lambda marker: float(marker["time"]))["message"])
    if states.count("done") == job.num_tasks:
        return "done", ""
    if job.local:
        return _local_state(markers)
    if queued is None:
        return ("running" if "running" in states else "queued"), "Slurm does not answer: this is from its own files"
    if queued.get("state", "") in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED"):
        return "queued", queued["reason"]
    if queued.get("state", "") in ("RUNNING", "COMPLETING", "CONFIGURING"):
        return ("running", "") if "running" in states else ("queued", "starting")
    if queued:
        return ("stopped" if "CANCELLED" in queued["state"] else "lost"), queued["state"].lower()
    if "interrupted" in states:
        return "stopped", "it was asked to stop, and saved its work"
    return "lost", "the job has left Slurm's queue without finishing"


def _local_state(markers: list[dict[str, Any]]) -> tuple[str, str]:
    here = socket.gethostname()
    for rank, marker in enumerate(markers):
        if marker["state"] == "interrupted":
            return "stopped", "it was asked to stop, and saved its work"
        away = marker.get("host", here) != here
        if marker["state"] == "running" and not away and not Path(f"/proc/{marker['pid']}").exists():
            return "lost", f"rank {rank} died (killed, perhaps for want of memory)"
    return ("running", "") if markers else ("queued", "starting")


def last_line(path: Path) -> str:
    """The last line of a log that says something."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LOG_BYTES))
        lines = [line.strip() for line in re.split(r"[\r\n]+", file.read().decode(errors="replace")) if line.strip()]
        return lines[-1] if lines else ""
    return ""


def next_command(config: RunConfig, stages: list[StageStatus]) -> str:
    """What to type next."""
    run_dir = config.run_path
    states = {stage.state for stage in stages}
    if "failed" in states or "lost" in states:
        culprit = next(stage for stage in stages if stage.state in ("failed", "lost"))
        return f"hpc-ae logs {run_dir} {culprit.stage}; then hpc-ae run {config_path(run_dir)} goes on from there"
    if states & {"queued", "running"}:
        return f"hpc-ae status {run_dir} --watch"
    if all(stage.state in _ENDED_WELL or stage.why.startswith("its output") for stage in stages):
        return f"hpc-ae verify {run_dir}"
    return f"hpc-ae run {config_path(run_dir)}"


def status_record(config: RunConfig, stages: list[StageStatus]) -> dict[str, Any]:
    """The status for `--json`."""
    return {
        "run_dir": str(config.run_path),
        "kind": config.cluster.kind,
        "stages": [asdict(stage) for stage in stages],
        "next": next_command(config, stages),
    }


def status_table(config: RunConfig, stages: list[StageStatus]) -> Any:
    """The status as a rich table with a line of advice under it."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table(title=str(config.run_path), title_justify="left", box=None, pad_edge=False)
    for name in ("stage", "job", "state", "nodes", "progress", "", "rate", "left", "restarts"):
        table.add_column(name, no_wrap=name != "nodes")
    notes = []
    for stage in stages:
        bar = ProgressBar(max(1, stage.total), stage.done, width=16) if stage.total else ""
        share = f"{stage.done:,} of {stage.total:,} {stage.unit}" if stage.total else ""
        rate = f"{stage.rate:,.0f}/s" if stage.rate else ""
        left = "" if stage.seconds_left is None else time.strftime("%H:%M:%S", time.gmtime(stage.seconds_left))
        cells = (stage.stage, stage.job_id or "", stage.state, stage.nodes, bar, share, rate, left)
        table.add_row(*cells, str(stage.restarts) if stage.restarts else "")
        if stage.why or (stage.last_line and stage.state != "done"):
            notes.append(Text(f"{stage.stage}: {stage.why or stage.last_line}"))
    return Group(table, *notes, Text(f"next: {next_command(config, stages)}"))


def cancel_run(config: RunConfig) -> list[str]:
    """End what still runs or waits, last stage first; lines that say what was ended and what had ended before."""
    said = []
    for stage in reversed(status_of(config)):
        job = launched_before(config, stage.stage)
        if job is None or stage.state == "waiting":
            continue
        if stage.state not in ("queued", "running"):
            said.append(f"{stage.stage}: {stage.state} before")
        elif job.local:
            said.append(f"{stage.stage}: {_cancel_local(job)}")
        else:
            answer = subprocess.run(["scancel", job.job_id], capture_output=True, text=True, timeout=60, check=False)
            said.append(f"{stage.stage}: job {job.job_id} " + (answer.stderr.strip() or "cancelled"))
    return said


def _cancel_local(job: Launched) -> str:
    """SIGTERM to each rank: it saves its work, and the command that started it ends with its stage."""
    here, ended = socket.gethostname(), 0
    for marker in job.markers():
        if marker["state"] == "running" and marker.get("host", here) == here:
            with contextlib.suppress(OSError):
                os.kill(int(marker["pid"]), 15)
                ended += 1
    return f"{ended} processes were asked to save and stop"
