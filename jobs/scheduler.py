"""What Slurm says of jobs: squeue first, sacct for those that have left it; asked at most once a minute for a run."""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path
from typing import Any

from hpc_ae.errors import HpcAeError
from hpc_ae.files import make_dir, publish_json, read_json

ASK_SECONDS = 60.0
WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED", "RESV_DEL_HOLD"})
ENDED = frozenset(
    {
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
        "REVOKED", "TIMEOUT",
    }
)  # fmt: skip
_COMMAND_SECONDS = 30

Answer = dict[str, dict[str, str]]  # by job number (of an array task: 12_3): state, reason, nodes, time of the answer


def ask(run_dir: Path, job_ids: list[str], *, anew: bool = False) -> Answer | None:
    """What Slurm knows of these jobs; None where it does not answer. An answer is kept for a minute, unless `anew`."""
    if not job_ids:
        return {}
    cache = run_dir / "jobs" / "state" / "scheduler.json"
    asked, kept = _kept(cache)
    if not anew and set(job_ids) <= set(asked):
        return kept
    asked = sorted({*asked, *job_ids})  # who else watches this run will ask for the others
    known = _table(_lines("squeue", "--me", "--noheader", "--array", "--states=all", "--format", "%i|%T|%r|%N"))
    if known is None:
        return None
    answer = {job_id: known[job_id] for job_id in asked if job_id in known}
    if gone := [job_id for job_id in asked if job_id not in answer]:
        answer |= _accounted(gone)
    for row in answer.values():
        row["time"] = str(time.time())
    with contextlib.suppress(HpcAeError):
        publish_json(make_dir(cache.parent) / cache.name, {"jobs": asked, "time": time.time(), "answer": answer})
    return answer


def forget(run_dir: Path) -> None:
    """Ask anew the next time: jobs were cancelled."""
    (run_dir / "jobs" / "state" / "scheduler.json").unlink(missing_ok=True)


def _kept(cache: Path) -> tuple[list[str], Answer]:
    """(what was asked within the last minute, what Slurm said of it)."""
    with contextlib.suppress(HpcAeError):
        record: dict[str, Any] = read_json(cache)
        if 0 <= time.time() - record["time"] < ASK_SECONDS:
            return list(record["jobs"]), dict(record["answer"])
    return [], {}


def _accounted(job_ids: list[str]) -> Answer:
    """Jobs that have left the queue, by sacct; empty where there is no accounting."""
    options = ("--noheader", "--allocations", "--parsable2", "--format", "JobID,State,Reason,NodeList")
    found = _table(_lines("sacct", "--jobs", ",".join(job_ids), *options)) or {}
    return {job_id: found[job_id] for job_id in job_ids if job_id in found}


def _table(lines: list[str] | None) -> Answer | None:
    if lines is None:
        return None
    names = ("state", "reason", "nodes")
    rows = [line.split("|") for line in lines if line.count("|") == len(names)]
    table = {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows}
    for row in table.values():
        row["state"] = row["state"].split()[0] if row["state"] else ""  # sacct: CANCELLED by 1000
    return table


def _lines(*command: str) -> list[str] | None:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.splitlines() if answer.returncode == 0 else None


def ending_jobs(answer: Answer, job_ids: list[str]) -> list[str]:
    """The jobs that are being ended, where none waits or runs any more."""
    alive = [job_id for job_id in job_ids if is_alive(answer, job_id)]
    return alive if all(answer[job_id]["state"] == "COMPLETING" for job_id in alive) else []


def is_alive(answer: Answer, job_id: str) -> bool:
    """Whether a job still waits or runs."""
    return job_id in answer and answer[job_id]["state"] not in ENDED
