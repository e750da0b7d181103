"""A rank's marker: the small file in which it says that it runs, is done, was interrupted, or why it failed."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Literal

from pydantic import Field

from hpc_ae.errors import HpcAeError
from hpc_ae.record import Record, read_record

# "disconnected": the connection to another rank was lost, and the batch script will say why (jobs/aftermath.py).
State = Literal["running", "done", "interrupted", "disconnected", "failed"]


class Marker(Record):
    """What a rank says of itself; the defaults are those of a rank that never came to say anything."""

    state: State
    message: str = ""
    status: int = 0  # the exit status
    restart: int = 0  # which start of its job this is
    pid: int = 0
    started: str = ""  # when the process began, as started_at says it
    host: str = ""
    processes: str = ""  # the table that `pid` is a number of: another after a reboot, and in a container
    has_aftermath: bool = False  # whether a batch script waits that says why a connection was lost
    gpus: str = ""
    time: float = 0.0  # by its node's clock
    ahead: float = 0.0  # seconds by which that is ahead of the file system's
    seen: float = Field(0.0, exclude=True)  # its last sign of life, by the file system's clock: the file's own time

    @property
    def has_ended(self) -> bool:
        """Whether this is the rank's last word: a rank that was interrupted goes on when its job begins again."""
        return self.state in ("done", "failed")

    @property
    def still_runs(self) -> bool:
        """Whether the process that wrote this, on this machine, still runs."""
        return bool(self.started) and started_at(self.pid) == self.started

    @property
    def moment(self) -> float:
        """When this was said, by the file system's clock."""
        return self.time - self.ahead

    @property
    def runs_here(self) -> bool | None:
        """Whether the process that wrote this still runs; None where that was on another machine."""
        is_here = self.host == host_name() and self.processes in ("", process_table())
        return self.still_runs if is_here else None

    def judged(self, state: State, message: str, time: float) -> Marker:
        """The marker that another process writes of a rank that cannot say any more how it ended."""
        return self.model_copy(update={"state": state, "message": message, "status": 1, "time": time})


def read_marker(path: Path) -> Marker | None:
    """What a rank said last; None where it has not said anything, or its marker is damaged."""
    with contextlib.suppress(HpcAeError, OSError):
        return read_record(path, Marker).model_copy(update={"seen": path.stat().st_mtime})
    return None


def started_at(pid: int) -> str:
    """When a process began, in this machine's ticks; empty where it is gone. Tells it from a later one."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def process_table() -> str:
    """The name of the table that this process has its number in: of this start of the machine, of its container."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def host_name() -> str:
    """This machine, as Slurm calls it where it does."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()
