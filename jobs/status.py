"""How far a run is: from its own files first, then from Slurm, which is asked at most once a minute.

A rank's marker says running, done, failed or interrupted; a stage's progress file says how far; the record of a launch
says which is the newest. hpc_ae/layout.py names these files.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Literal

from hpc_ae.config import load_config
from hpc_ae.errors import HpcAeError, InputError
from hpc_ae.jobs.clock import time_at
from hpc_ae.jobs.launched import Launched, check_run_dir, copied_from, launched_before
from hpc_ae.jobs.launcher import ask_to_save
from hpc_ae.jobs.marker import Marker
from hpc_ae.jobs.restarts import restart_reasons
from hpc_ae.jobs.run import Run, Stage
from hpc_ae.jobs.scheduler import ENDED, WAITING, Answer, JobRow, ask, forget
from hpc_ae.jobs.slurm_clients import scancel
from hpc_ae.jobs.stages import make_run
from hpc_ae.jobs.worker import SIGN_SECONDS
from hpc_ae.layout import CONFIG_NAME, MANIFEST_NAME, MODEL_NAME, SUMMARY_NAME, RunLayout
from hpc_ae.private import check_place
from hpc_ae.record import Record, read_record
from hpc_ae.runtime.progress import NOTHING_YET, ProgressRecord

_NEVER = "never starts"
_REASONS = {
    "Dependency": "waits for the stage before it",
    "DependencyNeverSatisfied": "not started: an earlier stage failed or was cancelled",
    "Resources": "waits for free nodes",
    "Priority": "waits for its turn",
    "BeginTime": "requeued; starts again soon",
    "NonZeroExitCode": "a task failed",
    "TimeLimit": "its time limit",
    "PartitionTimeLimit": f"{_NEVER}: its time is above the partition's limit; cancel, and lower cluster.time",
    "PartitionNodeLimit": f"{_NEVER}: more nodes than the partition has; cancel, and lower cluster.nodes",
    "PartitionConfig": f"{_NEVER}: more than the partition has (nodes, cores, memory, time); cancel, and ask for less",
    "PartitionDown": "waits until the partition is up again",
    "PartitionInactive": "waits until the partition takes jobs again",
    "AccountNotAllowed": f"{_NEVER}: the partition does not take this account; cancel, and change cluster.account",
    "QOSNotAllowed": f"{_NEVER}: the partition does not take this qos; cancel, and change cluster.qos",
    "InvalidAccount": f"{_NEVER}: there is no such account; cancel, and change cluster.account",
    "InvalidQOS": f"{_NEVER}: there is no such qos; cancel, and change cluster.qos",
    "ReservationDeleted": f"{_NEVER}: its reservation is gone; cancel, and change cluster.reservation",
    "ReqNodeNotAvail": "the nodes it asks for are reserved or down",
    "JobLaunchFailure": "Slurm could not start it: its directories may not be there, or not be writable, on that node",
    "JobHeldUser": "held; scontrol release lets it start",
    "JobHeldAdmin": "held by an administrator, or as it could not be started; scontrol show job says more",
    "launch_failed_requeued_held": "held, as Slurm could not start it; scontrol release lets it try again",
    "BadConstraints": f"{_NEVER}: no node is as it asks for; cancel, and change the section cluster",
    "NodeDown": "a node of it went down",
    "OutOfMemory": "its memory; raise cluster.mem",
    "AssocGrpBillingMinutes": "waits: the account has used up its share",
}
_LOG_BYTES = 1 << 16
_SILENT_SECONDS, _SKEW_SECONDS = 9 * SIGN_SECONDS, 60.0
_LAST_WRITTEN = (MANIFEST_NAME, MODEL_NAME, SUMMARY_NAME)  # of a catalog, a model, a report
_CULPRITS = ("failed", "lost")

Markers = dict[int, Marker]  # by rank
StageState = Literal["waiting", "queued", "running", "done", "failed", "stopped", "lost"]


class StageStatus(Record):
    """One stage of a run."""

    stage: str
    state: StageState = "waiting"
    job_id: str | None = None
    nodes: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    rate: float = 0.0
    seconds_left: float | None = None
    restarts: int = 0
    restart_reasons: tuple[str, ...] = ()
    why: str = ""
    last_line: str = ""
    nulls: ClassVar[frozenset[str]] = frozenset({"job_id", "seconds_left"})


class RunStatus(Record):
    """The status of a run as `--json` shows it."""

    run_dir: str
    kind: str
    state: StageState
    stages: tuple[StageStatus, ...]
    next: str


def open_run(run_dir: Path) -> Run:
    """The run of a directory; InputError where there is none, or one that others may have written."""
    check_place(run_dir)
    where, run_dir = run_dir, run_dir.resolve()  # once: what is looked at is what is read, wherever a link leads next
    check_run_dir(RunLayout(run_dir))
    path = RunLayout(run_dir).config_path
    if not path.is_file():
        raise InputError(
            "not a run directory", where=where, got=f"no {CONFIG_NAME}", expected="the run_dir of `hpc-ae run CONFIG`"
        )
    return make_run(load_config(path, [f"run_dir={run_dir.absolute()}"]))


def status_of(run: Run, *, fresh: bool = False) -> list[StageStatus]:
    """Every stage of the run, in order. `fresh`: ask Slurm even where it was asked within the last minute."""
    launches = [launched_before(run.layout, stage.name) for stage in run.stages]
    jobs = [job for job in launches if job is not None and not job.local]
    answer = ask(run.layout, [job_id for job in jobs for job_id in job.job_ids], fresh=fresh)
    found = [
        _not_launched(run, stage) if job is None else _launched_status(run, stage, job, answer)
        for stage, job in zip(run.stages, launches, strict=True)
    ]
    return _stopped_after_failure(found)


def _stopped_after_failure(stages: list[StageStatus]) -> list[StageStatus]:
    """Jobs behind one that failed never start: Slurm, which takes its time to remove them, is not waited for."""
    failed, found = False, []
    for status in stages:
        if failed and status.job_id is not None and status.state == "queued":
            why = _REASONS["DependencyNeverSatisfied"]
            status = status.model_copy(update={"state": "stopped", "why": why})
        failed = failed or (status.job_id is not None and status.state in _CULPRITS)
        found.append(status)
    return found


def _not_launched(run: Run, stage: Stage) -> StageStatus:
    outputs = [path for path in stage.outputs(run) if path != run.layout.scores_dir]  # the report comes after them
    if any((path / name).exists() for path in outputs for name in _LAST_WRITTEN):
        return StageStatus(stage=stage.name, state="done", why="its output already existed")
    return StageStatus(stage=stage.name)


def _launched_status(run: Run, stage: Stage, job: Launched, answer: Answer | None) -> StageStatus:
    markers = job.markers()
    state, why = _state(job, markers, answer)
    counts = _array_counts(job, markers, answer) if job.is_array else ""
    why = "; ".join(filter(None, [counts, why, *_clock_notes(markers)]))
    progress = _read_progress(run.layout.progress_path(stage.name))
    done = progress.total if state == "done" else progress.done
    return StageStatus(
        stage=stage.name,
        state=state,
        job_id=None if job.local else job.job_id,
        nodes=",".join(sorted({marker.host for marker in markers.values()} - {""})),
        done=done,
        total=progress.total,
        unit=progress.unit,
        rate=progress.rate,
        seconds_left=(progress.total - done) / progress.rate if state == "running" and progress.rate else None,
        restarts=sum(_restarts(job, markers, part) for part in job.parts),
        restart_reasons=restart_reasons(job.files, job.parts),
        why=why,
        last_line=last_line(job.log_path(_newest_rank(job, markers))),
    )


def _newest_rank(job: Launched, markers: Markers) -> int:
    """The rank whose last words say most: the first that failed, else the first that runs, else the first of all."""
    for state in ("failed", "running"):
        for rank, marker in markers.items():
            if marker.state == state:
                return rank
    return job.ranks[0]


def _restarts(job: Launched, markers: Markers, part: int) -> int:
    return max((markers[rank].restart for rank in job.ranks_of(part) if rank in markers), default=0)


def _read_progress(path: Path) -> ProgressRecord:
    """How far a stage is; nothing where it does not say so."""
    with contextlib.suppress(HpcAeError):
        return read_record(path, ProgressRecord)
    return NOTHING_YET


def _state(job: Launched, markers: Markers, answer: Answer | None) -> tuple[StageState, str]:
    """(state, why) of a launch: by its markers, by Slurm's answer (None: there is none) where they leave it open."""
    failed = [marker for marker in markers.values() if marker.state == "failed"]
    open_ranks = job.open_ranks(markers)
    if failed and (not job.is_array or not open_ranks):
        return "failed", min(failed, key=lambda marker: marker.moment).message
    if not open_ranks:
        return "done", ""
    if job.local:
        return _local_state(job, markers)
    messages: dict[str, str] = {marker.state: marker.message for marker in markers.values()}
    if answer is None:
        return ("running" if "running" in messages else "queued"), "Slurm does not answer: this is from its own files"
    jobs = dict.fromkeys(job.job_of(rank) for rank in open_ranks)
    said = [answer.get(job_id, JobRow()) for job_id in jobs]
    asked = max((row.asked_at for row in said), default=0.0)
    if any(marker.state == "running" and marker.moment > asked for marker in markers.values()):
        return "running", ""
    return _state_in_queue(said, messages)


def _state_in_queue(said: list[JobRow], messages: dict[str, str]) -> tuple[StageState, str]:
    """Of the jobs that are not done: running where one of them is, else queued, else how the first of them ended.

    `messages`: by the states that ranks say they are in.
    """
    alive = [row for row in said if row.state and row.state not in ENDED]
    if any(row.state not in WAITING for row in alive):
        if "interrupted" in messages and all(row.state == "COMPLETING" for row in alive):
            return "stopped", messages["interrupted"]
        return ("running", "") if messages.keys() & {"running", "done"} else ("queued", "starting")
    if alive:
        return "queued", _REASONS.get(alive[0].reason, alive[0].reason)
    ended = next((row for row in said if row.state), None)
    if ended is not None:
        return ("stopped" if ended.state == "CANCELLED" else "lost"), _how_it_ended(ended)
    if "interrupted" in messages:
        return "stopped", messages["interrupted"]
    return "lost", "the job has left Slurm's queue without finishing"


def _how_it_ended(row: JobRow) -> str:
    words = row.state.lower().replace("_", " ")
    if words == "cancelled" and row.reason in ("Dependency", "DependencyNeverSatisfied"):
        return "cancelled before it started: a stage before it was cancelled or failed"
    reason = _REASONS.get(row.reason, row.reason)
    return f"{words}: {reason}" if reason not in ("", "None") else words


def _array_counts(job: Launched, markers: Markers, answer: Answer | None) -> str:
    """How many of an array's tasks are done, failed, running."""
    counts = {"done": 0, "failed": 0, "running": 0, "cancelled": 0}
    for part, job_id in zip(job.parts, job.job_ids, strict=True):
        states = [markers[rank].state for rank in job.ranks_of(part) if rank in markers]
        in_queue = (answer or {}).get(job_id, JobRow()).state
        if states.count("done") == job.tasks:
            counts["done"] += 1
        elif in_queue == "CANCELLED":
            counts["cancelled"] += 1
        elif "failed" in states or in_queue in ENDED - {"COMPLETED"}:
            counts["failed"] += 1
        elif "running" in states:
            counts["running"] += 1
    said = [f"{count} {word}" for word, count in counts.items() if count]
    return ", ".join([*said, f"of {len(job.parts)} array tasks"])


def _local_state(job: Launched, markers: Markers) -> tuple[StageState, str]:
    for rank, marker in markers.items():
        if marker.state == "interrupted":
            return "stopped", marker.message
        if marker.state == "running" and marker.runs_here is False:
            return "lost", f"rank {rank} died (killed, perhaps because memory ran out)"
        if marker.state == "running" and marker.runs_here is None and (silence := _silence(job, marker.seen)):
            return "lost", f"no sign of life from rank {rank} on {marker.host} for {silence}"
    if markers:
        return "running", ""
    if job.launcher_is_gone:
        return "lost", f"no rank started: {last_line(job.log_path()) or 'it left no log'}"
    launched_at = job.layout.launch_path(job.stage).stat().st_mtime
    if not job.was_started_here and (silence := _silence(job, launched_at)):
        return "lost", f"no rank started on {job.host or 'another machine'} within {silence}"
    return "queued", "starting"


def _silence(job: Launched, seen: float) -> str:
    """For how long nothing was heard of what runs on another machine; "" where that is no reason to give it up."""
    seconds = time_at(job.files.launch_dir) - seen
    return str(timedelta(seconds=round(seconds))) if seconds > _SILENT_SECONDS else ""


def _clock_notes(markers: Markers) -> list[str]:
    """Which nodes' clocks are not that of the file system."""
    ahead = {marker.host: marker.ahead for marker in markers.values() if abs(marker.ahead) > _SKEW_SECONDS}
    return [
        f"the clock of {host} is {timedelta(seconds=round(abs(by)))} {'ahead' if by > 0 else 'behind'}"
        for host, by in sorted(ahead.items())
    ]


def last_line(path: Path) -> str:
    """The last line of a log that says something."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LOG_BYTES))
        lines = [line.strip() for line in re.split(r"[\r\n]+", file.read().decode(errors="replace")) if line.strip()]
        return lines[-1] if lines else ""
    return ""


def next_command(layout: RunLayout, stages: list[StageStatus]) -> str:
    """What to type next."""
    run_dir = shlex.quote(str(layout.run_dir))
    if culprit := next((stage for stage in stages if stage.state in _CULPRITS), None):
        look = f"hpc-ae logs {run_dir} {culprit.stage}" if culprit.last_line else f"hpc-ae doctor {run_dir}"
        return f"{look}; fix what it names, then type the same hpc-ae run again"
    if any(stage.state == "queued" and stage.why.startswith(_NEVER) for stage in stages):
        return f"hpc-ae cancel {run_dir}; change what it asks for, then type the same hpc-ae run again"
    if any(stage.state in ("queued", "running") for stage in stages):
        return f"hpc-ae status {run_dir} --watch"
    if all(stage.state == "done" for stage in stages):
        return f"hpc-ae verify {run_dir}"
    moved = "" if _names_itself(layout) else f" run_dir={run_dir}"
    return f"hpc-ae run {shlex.quote(str(layout.config_path))}{moved}"


def _names_itself(layout: RunLayout) -> bool:
    """Whether the config in a run directory is of that directory: not where it was renamed or copied."""
    return load_config(layout.config_path).run_path.resolve() == layout.run_dir.resolve()


def overall_state(stages: list[StageStatus]) -> StageState:
    """One word for a run: that of the stage that matters most."""
    states = {stage.state for stage in stages}
    order: tuple[StageState, ...] = ("failed", "lost", "running", "queued", "stopped")
    return next((state for state in order if state in states), "done" if states == {"done"} else "waiting")


def run_status(run: Run, stages: list[StageStatus]) -> RunStatus:
    """The status for `--json`."""
    return RunStatus(
        run_dir=str(run.layout.run_dir),
        kind=run.config.cluster.kind,
        state=overall_state(stages),
        stages=tuple(stages),
        next=next_command(run.layout, stages),
    )


def cancel_run(run: Run) -> list[str]:
    """End what still runs or waits, last stage first; lines that say what was ended and what had ended before."""
    if origin := copied_from(run.layout, run.stage_names):
        return [f"nothing was started here: this is a copy of {origin}, whose jobs and processes are left alone"]
    said = []
    for stage in reversed(status_of(run, fresh=True)):
        job = launched_before(run.layout, stage.stage)
        if job is None or stage.state == "waiting":
            continue
        if stage.state not in ("queued", "running"):
            said.append(f"{stage.stage}: {stage.state} before")
        elif job.local:
            asked = ask_to_save(job)
            elsewhere = "" if asked or not stage.nodes else f"; it runs on {stage.nodes}: cancel it there"
            said.append(f"{stage.stage}: {asked} processes were asked to save and stop{elsewhere}")
        else:
            said.append(f"{stage.stage}: job {job.job_id} " + (scancel(job.job_id) or "cancelled"))
            forget(run.layout)
    return said
