"""How far a run is: from its own files first, then from Slurm, which is asked at most once a minute.

A rank's marker (jobs/state/STAGE-TOKEN/rank-NNNNN.json) says running, done, failed or interrupted; a stage's progress
file says how far; jobs/state/STAGE.json says which launch is the newest.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpc_ae.config import RunConfig, load_config
from hpc_ae.errors import HpcAeError, InputError
from hpc_ae.files import check_private, read_json
from hpc_ae.jobs.launched import Launched, config_path, launched_before
from hpc_ae.jobs.launcher import scancel
from hpc_ae.jobs.restarts import restart_reasons
from hpc_ae.jobs.scheduler import ENDED, WAITING, Answer, ask, forget
from hpc_ae.jobs.stages import Stage, progress_path, stages_of
from hpc_ae.jobs.worker import runs_here

_REASONS = {
    "Dependency": "waits for the stage before it",
    "DependencyNeverSatisfied": "a stage before it did not end well",
    "Resources": "waits for free nodes",
    "Priority": "waits for its turn",
    "BeginTime": "requeued; starts again soon",
    "NonZeroExitCode": "a task failed",
    "TimeLimit": "its time limit",
    "PartitionTimeLimit": "never starts: its time is above the partition's limit; cancel, and lower cluster.time",
    "PartitionNodeLimit": "never starts: more nodes than the partition has; cancel, and lower cluster.nodes",
    "ReqNodeNotAvail": "the nodes it asks for are reserved or down",
}
_LOG_BYTES = 1 << 16
_LAST_WRITTEN = ("manifest.json", "model.json", "summary.json")  # of a catalog, a model, a report


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
    restart_reasons: list[str] = field(default_factory=list)
    why: str = ""
    last_line: str = ""


def open_run(run_dir: Path) -> RunConfig:
    """The config of a run; InputError where there is no run, or one that others may have written."""
    check_private(run_dir)
    if not config_path(run_dir).exists():
        raise InputError(
            "not a run directory", where=run_dir, got="no config.yaml", expected="the run_dir of `hpc-ae run CONFIG`"
        )
    return load_config(config_path(run_dir), [f"run_dir={run_dir.absolute()}"])


def status_of(config: RunConfig, *, anew: bool = False) -> list[StageStatus]:
    """Every stage of the run, in order. `anew`: ask Slurm even where it was asked within the last minute."""
    launches = {stage.name: launched_before(config.run_path, stage.name) for stage in stages_of(config)}
    jobs = [job for job in launches.values() if job is not None and not job.local]
    answer = ask(config.run_path, [job_id for job in jobs for job_id in job.job_ids], anew=anew)
    stages = [_stage_status(config, stage, launches[stage.name], answer) for stage in stages_of(config)]
    _stop_after_failure([stage for stage in stages if stage.job_id is not None])
    return stages


def _stop_after_failure(submitted: list[StageStatus]) -> None:
    """Jobs behind one that failed never start: Slurm, which takes its time to remove them, is not waited for."""
    failed = False
    for status in submitted:
        if failed and status.state == "queued":
            status.state, status.why = "stopped", _REASONS["DependencyNeverSatisfied"]
        failed = failed or status.state in ("failed", "lost")


def _stage_status(config: RunConfig, stage: Stage, job: Launched | None, answer: Answer | None) -> StageStatus:
    status = StageStatus(stage.name)
    if job is None:
        outputs = [path for path in stage.outputs(config) if path.name != "scores"]  # the report comes after them
        if any((path / name).exists() for path in outputs for name in _LAST_WRITTEN):
            status.state, status.why = "done", "its output was there before"
        return status
    markers = job.markers()
    status.job_id = None if job.local else job.job_id
    status.last_line = last_line(job.log_path(_newest_rank(job, markers)))
    _add_progress(status, progress_path(config, stage.name))
    status.restarts = sum(_restarts(markers, part, job.tasks) for part in job.parts)
    status.restart_reasons = restart_reasons(job.state_dir, job.parts)
    status.nodes = ",".join(sorted({str(marker.get("host", "")) for marker in markers.values()} - {""}))
    status.state, status.why = _state(job, markers, answer)
    if job.is_array:
        status.why = "; ".join(filter(None, [_array_counts(job, markers, answer), status.why]))
    if status.state == "done":
        status.done = status.total
    if status.state == "running" and status.rate:
        status.seconds_left = (status.total - status.done) / status.rate
    return status


def _newest_rank(job: Launched, markers: dict[int, dict[str, Any]]) -> int:
    """The rank whose last words say most: the first that failed, else the first that runs, else the first of all."""
    for state in ("failed", "running"):
        for rank, marker in markers.items():
            if marker["state"] == state:
                return rank
    return job.ranks[0]


def _restarts(markers: dict[int, dict[str, Any]], part: int, tasks: int) -> int:
    return max((int(marker["restart"]) for rank, marker in markers.items() if rank // tasks == part), default=0)


def _add_progress(status: StageStatus, path: Path) -> None:
    with contextlib.suppress(HpcAeError):
        record = read_json(path)
        status.done, status.total = int(record["done"]), int(record["total"])
        status.unit, status.rate = str(record["unit"]), float(record["rate"])


def _state(job: Launched, markers: dict[int, dict[str, Any]], answer: Answer | None) -> tuple[str, str]:
    """(state, why) of a launch: by its markers, by Slurm's answer (None: there is none) where they leave it open."""
    failed = [marker for marker in markers.values() if marker["state"] == "failed"]
    open_ranks = [rank for rank in job.ranks if markers.get(rank, {}).get("state") not in ("done", "failed")]
    if failed and (not job.is_array or not open_ranks):
        return "failed", str(min(failed, key=lambda marker: float(marker["time"]))["message"])
    if not open_ranks:
        return "done", ""
    if job.local:
        return _local_state(markers)
    states = {str(marker["state"]): str(marker["message"]) for marker in markers.values()}
    if answer is None:
        return ("running" if "running" in states else "queued"), "Slurm does not answer: this is from its own files"
    jobs = dict.fromkeys(job.job_of(rank) for rank in open_ranks)
    said = [answer.get(job_id, {"state": "", "reason": ""}) for job_id in jobs]
    asked = max((float(one["time"]) for one in said if "time" in one), default=0.0)
    newer = {str(marker["state"]) for marker in markers.values() if float(marker["time"]) > asked}
    if "running" in newer:
        return "running", ""
    return _state_in_queue(said, states)


def _state_in_queue(said: list[dict[str, str]], states: dict[str, str]) -> tuple[str, str]:
    """Of the jobs that are not done: running where one of them is, else queued, else how the first of them ended.

    `states`: those that ranks say they are in, each with a message.
    """
    alive = [one for one in said if one["state"] and one["state"] not in ENDED]
    if any(one["state"] not in WAITING for one in alive):
        if "interrupted" in states and all(one["state"] == "COMPLETING" for one in alive):
            return "stopped", states["interrupted"]
        return ("running", "") if states.keys() & {"running", "done"} else ("queued", "starting")
    if alive:
        return "queued", _REASONS.get(alive[0]["reason"], alive[0]["reason"])
    ended = next((one for one in said if one["state"]), None)
    if ended is not None:
        return ("stopped" if ended["state"] == "CANCELLED" else "lost"), _how_it_ended(ended)
    if "interrupted" in states:
        return "stopped", states["interrupted"]
    return "lost", "the job has left Slurm's queue without finishing"


def _how_it_ended(said: dict[str, str]) -> str:
    words = said["state"].lower().replace("_", " ")
    if words == "cancelled" and said["reason"] in ("Dependency", "DependencyNeverSatisfied"):
        return "cancelled before it started: a stage before it was cancelled, or did not end well"
    reason = _REASONS.get(said["reason"], said["reason"])
    return f"{words}: {reason}" if reason not in ("", "None") else words


def _array_counts(job: Launched, markers: dict[int, dict[str, Any]], answer: Answer | None) -> str:
    """How many of an array's tasks are done, failed, running."""
    counts = {"done": 0, "failed": 0, "running": 0, "cancelled": 0}
    for part, job_id in zip(job.parts, job.job_ids, strict=True):
        states = [markers.get(part * job.tasks + rank, {}).get("state", "") for rank in range(job.tasks)]
        if states.count("done") == job.tasks:
            counts["done"] += 1
        elif (answer or {}).get(job_id, {}).get("state") == "CANCELLED":
            counts["cancelled"] += 1
        elif "failed" in states or _ended_badly(answer, job_id):
            counts["failed"] += 1
        elif "running" in states:
            counts["running"] += 1
    said = [f"{count} {word}" for word, count in counts.items() if count]
    return ", ".join([*said, f"of {len(job.parts)} array tasks"])


def _ended_badly(answer: Answer | None, job_id: str) -> bool:
    return (answer or {}).get(job_id, {}).get("state", "") in ENDED - {"COMPLETED"}


def _local_state(markers: dict[int, dict[str, Any]]) -> tuple[str, str]:
    for rank, marker in markers.items():
        if marker["state"] == "interrupted":
            return "stopped", str(marker["message"])
        if marker["state"] == "running" and runs_here(marker) is False:
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
    run_dir, path = shlex.quote(config.run_dir), shlex.quote(str(config_path(config.run_path)))
    states = {stage.state for stage in stages}
    if "failed" in states or "lost" in states:
        culprit = next(stage for stage in stages if stage.state in ("failed", "lost"))
        return f"hpc-ae logs {run_dir} {culprit.stage}; mend what it names, then the same hpc-ae run goes on"
    if states & {"queued", "running"}:
        return f"hpc-ae status {run_dir} --watch"
    if all(stage.state == "done" for stage in stages):
        return f"hpc-ae verify {run_dir}"
    return f"hpc-ae run {path}"


def overall_state(stages: list[StageStatus]) -> str:
    """One word for a run: that of the stage that matters most."""
    states = [stage.state for stage in stages]
    order = ("failed", "lost", "running", "queued", "stopped")
    return next((state for state in order if state in states), "done" if set(states) == {"done"} else "waiting")


def status_record(config: RunConfig, stages: list[StageStatus]) -> dict[str, Any]:
    """The status for `--json`."""
    return {
        "run_dir": str(config.run_path),
        "kind": config.cluster.kind,
        "state": overall_state(stages),
        "stages": [asdict(stage) for stage in stages],
        "next": next_command(config, stages),
    }


def cancel_run(config: RunConfig) -> list[str]:
    """End what still runs or waits, last stage first; lines that say what was ended and what had ended before."""
    said = []
    for stage in reversed(status_of(config, anew=True)):
        job = launched_before(config.run_path, stage.stage)
        if job is None or stage.state == "waiting":
            continue
        if stage.state not in ("queued", "running"):
            said.append(f"{stage.stage}: {stage.state} before")
        elif job.local:
            said.append(f"{stage.stage}: {_cancel_local(job)}")
        else:
            said.append(f"{stage.stage}: job {job.job_id} " + (scancel(job.job_id) or "cancelled"))
            forget(config.run_path)
    return said


def _cancel_local(job: Launched) -> str:
    """SIGTERM to each rank: it saves its work, and the command that started it ends with its stage."""
    ended = 0
    for marker in job.markers().values():
        if marker["state"] == "running" and runs_here(marker):
            with contextlib.suppress(OSError):
                os.kill(int(marker["pid"]), 15)
                ended += 1
    return f"{ended} processes were asked to save and stop"
