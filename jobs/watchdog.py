"""A rank's watchdog: a small process of its own that ends the rank where it shows no sign of life for too long.

It is a process, not a thread: it must see a rank that is stopped, or that hangs while it holds Python's lock. It says
in the rank's marker and log which rank it was and what that did, and ends it with SIGKILL; the launcher ends the rest.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

from hpc_ae.errors import HpcAeError
from hpc_ae.files import publish_json
from hpc_ae.interpreter import python_words
from hpc_ae.runtime import heartbeat

_WAITING_SECONDS = 15.0  # a rank that waits for a stuck one is given so much longer, so that the stuck one is named
_START_FACTOR = 6  # start-up and compilation may take so much longer
_TRACEBACK_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1


def start_watchdog(marker_path: Path, rank: int, stall_seconds: float) -> None:
    """Watch this process from now on."""
    descriptor = heartbeat.open_page()
    faulthandler.register(signal.SIGUSR1, chain=False)  # the watchdog asks where it hangs
    words = [str(os.getpid()), str(descriptor), str(rank), str(stall_seconds), str(marker_path)]
    command = python_words("hpc_ae.jobs.watchdog", *words)
    subprocess.Popen(command, pass_fds=(descriptor,), stdin=subprocess.DEVNULL)
    os.close(descriptor)


def watch(pid: int, signs: heartbeat.Signs, stall_seconds: float) -> tuple[str, bool]:
    """Return what a process was doing when it showed no sign for too long, and whether it waited for other ranks;
    "" where it has ended by itself.

    Time is counted by the watchdog's own ticks: a job that Slurm suspends stops both, and is not called stuck after.
    """
    tick, silent, last = min(1.0, stall_seconds / 20), 0.0, 0
    while Path(f"/proc/{pid}").exists() and os.getppid() == pid:
        count, waits, doing = signs.read()
        silent = silent + tick if count == last else 0.0
        last = count
        stopped = _is_stopped(pid)
        limit = stall_seconds if count else _START_FACTOR * stall_seconds
        if silent > limit + (_WAITING_SECONDS if waits and not stopped else 0.0):
            said = (", waiting for the other ranks" if waits else "") + (", stopped" if stopped else "")
            return (doing or "starting up") + said, waits and not stopped
        time.sleep(tick)
    return "", False


def _is_stopped(pid: int) -> bool:
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    return False


def main(pid: int, descriptor: int, rank: int, stall_seconds: float, marker_path: Path) -> None:
    """Watch a rank; where it is stuck, say so and end it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # it ends with its rank
    doing, waits = watch(pid, heartbeat.Signs(descriptor), stall_seconds)
    if not doing:
        return
    message = f"rank {rank} is stuck: no sign of life for cluster.stall_seconds {stall_seconds:.0f} ({doing})"
    print(f"hpc-ae: {message}", file=sys.stderr, flush=True)
    with contextlib.suppress(HpcAeError):
        _say_in_marker(marker_path, message, waits)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGUSR1)  # its traceback goes to its log
        time.sleep(_TRACEBACK_SECONDS)
        os.kill(pid, signal.SIGKILL)


def _say_in_marker(path: Path, message: str, waits: bool) -> None:
    from hpc_ae.jobs.marker import read_marker  # and with it pydantic: a watchdog that finds nothing does without

    if (marker := read_marker(path)) is not None:
        state: Literal["disconnected", "failed"] = "disconnected" if waits and marker.has_aftermath else "failed"
        publish_json(path, marker.judged(state, message, marker.time).to_json())


if __name__ == "__main__":
    watched, page, number = map(int, sys.argv[1:4])
    main(watched, page, number, float(sys.argv[4]), Path(sys.argv[5]))
