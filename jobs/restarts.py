"""The ledger of restarts: when a job began again, why, and how far the work was. It ends a job that gets nowhere."""

from __future__ import annotations

import contextlib
import json
import os
import time

from hpc_ae.errors import WorkError
from hpc_ae.jobs.marker import Marker
from hpc_ae.jobs.run import WorkDone
from hpc_ae.layout import LaunchLayout
from hpc_ae.record import Record

MOST_WITHOUT_PROGRESS = 3


class Start(Record):
    """One start of a job: a line of its ledger."""

    restart: int
    time: float
    done: int
    unit: str
    why: str


def note_restart(files: LaunchLayout, part: int, work: WorkDone, before: Marker | None) -> None:
    """Called by the first rank of each job at its start. `before`: what its marker said until then.

    WorkError after three restarts in a row between which no step and no shard was finished.
    """
    path = files.starts_path(part)
    restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    start = Start(restart=restart, time=time.time(), done=work.done, unit=work.unit, why=_why(before))
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(start.to_json()) + "\n")
    stuck = [entry for entry in read_ledger(files, part) if entry.done == work.done]
    if restart and len(stuck) > MOST_WITHOUT_PROGRESS:
        raise WorkError(
            f"started {len(stuck)} times without progress",
            where=path,
            got=f"{work.done} {work.unit}s done at each start; before the last: {start.why}",
            expected="a checkpoint or a finished shard between two starts",
            fix="raise cluster.time, or lower train.checkpoint_seconds; a smaller catalog.shard_rows for encode",
        )


def read_ledger(files: LaunchLayout, part: int) -> list[Start]:
    """Every start of a job, oldest first; a line that a kill cut short is left out."""
    path = files.starts_path(part)
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            found.append(Start.model_validate_json(line))
    return found


def restart_reasons(files: LaunchLayout, parts: tuple[int, ...]) -> tuple[str, ...]:
    """Why the jobs of a launch began again, oldest first."""
    starts = [start for part in parts for start in read_ledger(files, part)[1:]]
    return tuple(start.why for start in sorted(starts, key=lambda start: start.time))


def _why(before: Marker | None) -> str:
    if before is None:
        return "first start"
    if before.state == "interrupted":
        return before.message
    if before.state == "disconnected":
        return "the connection to a rank on another node was lost, and Slurm requeued it"
    if before.state == "running":
        return f"{before.host} was lost, or its tasks were killed (requeued from outside)"
    return f"it was requeued when it was {before.state}"
