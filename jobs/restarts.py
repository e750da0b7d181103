"""The ledger of restarts: when a job began again, why, and how far the work was. It ends a job that gets nowhere."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from hpc_ae.errors import WorkError

MOST_WITHOUT_PROGRESS = 3


def note_restart(state_dir: Path, part: int, done: tuple[int, int, str], before: dict[str, Any]) -> None:
    """Called by the first rank of each job at its start. `before`: what its marker said until then.

    WorkError after three restarts in a row between which no step and no shard was finished.
    """
    path = ledger_path(state_dir, part)
    restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    record = {"restart": restart, "time": time.time(), "done": done[0], "unit": done[2], "why": _why(before)}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    ledger = read_ledger(state_dir, part)
    stuck = [entry for entry in ledger if entry["done"] == done[0]]
    if restart and len(stuck) > MOST_WITHOUT_PROGRESS:
        raise WorkError(
            f"started {len(stuck)} times without progress",
            where=path,
            got=f"{done[0]} {done[2]}s done at each start; before the last: {record['why']}",
            expected="a checkpoint or a finished shard between two starts",
            fix="raise cluster.time, or lower train.checkpoint_seconds; a smaller catalog.shard_rows for encode",
        )


def ledger_path(state_dir: Path, part: int) -> Path:
    """The ledger of one job of a launch."""
    return state_dir / f"starts-{part:05d}.jsonl"


def read_ledger(state_dir: Path, part: int) -> list[dict[str, Any]]:
    """Every start of a job, oldest first; a line that a kill cut short is left out."""
    path = ledger_path(state_dir, part)
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def restart_reasons(state_dir: Path, parts: tuple[int, ...]) -> list[str]:
    """Why the jobs of a launch began again, oldest first."""
    entries = [entry for part in parts for entry in read_ledger(state_dir, part)[1:]]
    return [str(entry["why"]) for entry in sorted(entries, key=lambda entry: float(entry["time"]))]


def _why(before: dict[str, Any]) -> str:
    if not before:
        return "first start"
    if before["state"] == "interrupted":
        return str(before["message"])
    if before["state"] == "disconnected":
        return "the connection to a rank on another node was lost, and Slurm requeued it"
    if before["state"] == "running":
        return f"{before['host']} was lost, or its tasks were killed (requeued from outside)"
    return f"it was requeued when it was {before['state']}"
