"""Back into Slurm's queue: the one place that asks for it, by the ranks that have saved and by a batch script."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from hpc_ae.jobs.finding import error_of
from hpc_ae.jobs.marker import read_marker
from hpc_ae.jobs.slurm_clients import ask_slurm

_SAVE_SECONDS = 30.0
_END_SECONDS = 120.0


def job_number() -> str:
    """This job's number, of an array task as ARRAY_TASK: the plain number of the last one means the whole array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def requeue_saved(mine: Path, neighbours: Sequence[Path]) -> str:
    """Put the job back into the queue when its ranks have saved: by the first that gets here, which makes the file
    `mine`. Slurm ends this process then; what it says where it refuses is returned. `neighbours`: all ranks' markers.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(mine, os.O_CREAT | os.O_EXCL, 0o600))
        deadline = time.monotonic() + _SAVE_SECONDS
        while time.monotonic() < deadline and any(_is_running(path) for path in neighbours):
            time.sleep(0.2)
        return requeue_now()
    time.sleep(_END_SECONDS)
    return ""


def requeue_now() -> str:
    """Put the job back into the queue and wait to be ended; what Slurm says where it refuses."""
    answer = ask_slurm("scontrol", "requeue", job_number())
    if answer is None or answer.returncode:
        return error_of(answer) or "no answer"
    time.sleep(_END_SECONDS)
    return ""


def not_requeued(why: str, said: str) -> str:
    """What a user is told of a job that ended with its work saved, and that Slurm did not take back."""
    return f"{why}; Slurm did not requeue it ({said}): type the same hpc-ae run again, it goes on from what is saved"


def _is_running(path: Path) -> bool:
    marker = read_marker(path)
    return marker is not None and marker.state == "running"
