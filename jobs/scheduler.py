"""What Slurm says of jobs: squeue first, sacct for those that have left it; asked at most once a minute for a run."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from hpc_ae.errors import HpcAeError
from hpc_ae.files import make_dir, publish_json
from hpc_ae.jobs.clock import time_at
from hpc_ae.jobs.slurm_clients import ask_slurm
from hpc_ae.layout import RunLayout
from hpc_ae.record import Record, read_record

ASK_SECONDS = 60.0
WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED", "RESV_DEL_HOLD"})
ENDED = frozenset(
    {
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
        "REVOKED", "TIMEOUT",
    }
)  # fmt: skip
_COMMAND_SECONDS = 30
_FIELDS = 4  # of a row of squeue and sacct, as they are asked here


class JobRow(Record):
    """What Slurm says of a job. An empty state: it does not know the job."""

    state: str = ""
    reason: str = ""
    nodes: str = ""
    time: str = ""  # when it said so, in seconds by the file system's clock

    @property
    def asked_at(self) -> float:
        """When Slurm said so; 0 where it did not."""
        with contextlib.suppress(ValueError):
            return float(self.time)
        return 0.0


Answer = dict[str, JobRow]  # by job number (of an array task: 12_3)


class _Asked(Record):
    """The file that keeps the last answer."""

    jobs: tuple[str, ...]
    time: float
    answer: dict[str, JobRow]


def ask(layout: RunLayout, job_ids: list[str], *, fresh: bool = False) -> Answer | None:
    """What Slurm knows of these jobs; None where it does not answer. An answer is kept for a minute, unless `fresh`."""
    if not job_ids:
        return {}
    cache = layout.scheduler_path
    asked = _kept(cache)
    if not fresh and set(job_ids) <= set(asked.jobs):
        return asked.answer
    jobs = sorted({*asked.jobs, *job_ids})  # who else watches this run will ask for the others
    now = str(time_at(layout.state_dir))  # before it is asked: what a marker says later is newer
    known = _table(_lines("squeue", "--me", "--noheader", "--array", "--states=all", "--format", "%i|%T|%r|%N"), now)
    if known is None:
        return None
    answer = {job_id: known[job_id] for job_id in jobs if job_id in known}
    if gone := [job_id for job_id in jobs if job_id not in answer]:
        answer |= _accounted(gone, now)
    with contextlib.suppress(HpcAeError):
        record = _Asked(jobs=tuple(jobs), time=time.time(), answer=answer)
        publish_json(make_dir(cache.parent) / cache.name, record.to_json())
    return answer


def forget(layout: RunLayout) -> None:
    """Ask Slurm the next time: jobs were cancelled."""
    layout.scheduler_path.unlink(missing_ok=True)


def _kept(cache: Path) -> _Asked:
    """What was asked within the last minute, and what Slurm said of it."""
    with contextlib.suppress(HpcAeError):
        record = read_record(cache, _Asked)
        if 0 <= time.time() - record.time < ASK_SECONDS:
            return record
    return _Asked(jobs=(), time=0.0, answer={})


def _accounted(job_ids: list[str], now: str) -> Answer:
    """Jobs that have left the queue, by sacct; empty where there is no accounting."""
    options = ("--noheader", "--allocations", "--parsable2", "--format", "JobID,State,Reason,NodeList")
    found = _table(_lines("sacct", "--jobs", ",".join(job_ids), *options), now) or {}
    return {job_id: found[job_id] for job_id in job_ids if job_id in found}


def _table(lines: list[str] | None, now: str) -> Answer | None:
    if lines is None:
        return None
    table = {}
    for row in (line.split("|") for line in lines):
        if len(row) == _FIELDS:
            job_id, state, reason, nodes = row
            word = state.split()[0] if state else ""  # sacct: CANCELLED by 1000
            table[job_id] = JobRow(state=word, reason=reason, nodes=nodes, time=now)
    return table


def _lines(*command: str) -> list[str] | None:
    answer = ask_slurm(*command, seconds=_COMMAND_SECONDS)
    return answer.stdout.splitlines() if answer is not None and answer.returncode == 0 else None


def ending_jobs(answer: Answer, job_ids: list[str]) -> list[str]:
    """The jobs that are being ended, where none waits or runs any more."""
    alive = [job_id for job_id in job_ids if is_alive(answer, job_id)]
    return alive if all(answer[job_id].state == "COMPLETING" for job_id in alive) else []


def is_alive(answer: Answer, job_id: str) -> bool:
    """Whether a job still waits or runs."""
    return job_id in answer and answer[job_id].state not in ENDED
