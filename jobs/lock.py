"""One command at a time in a run directory: a lock that the operating system frees when its owner dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from hpc_ae.errors import InputError
from hpc_ae.files import make_dir
from hpc_ae.jobs.launched import check_run_dir
from hpc_ae.layout import RunLayout

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Hold RUN_DIR/jobs/lock; InputError names who holds it. File systems without locks are used without."""
    check_run_dir(RunLayout(run_dir))
    path = RunLayout(run_dir).lock_path
    make_dir(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                "another hpc-ae works in this run directory",
                where=run_dir,
                got=os.read(descriptor, 200).decode(errors="replace").strip() or "an unnamed process",
                fix="follow it: hpc-ae status RUN_DIR --watch; end it: hpc-ae cancel RUN_DIR; or choose another",
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        _sign(descriptor)
        yield
    finally:
        os.close(descriptor)


def _sign(descriptor: int) -> None:
    """Write down who holds the lock; not into a file that has another name elsewhere, which may be anything."""
    if os.fstat(descriptor).st_nlink > 1:
        return
    with contextlib.suppress(OSError):  # a full disk: who holds it is a courtesy
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())


def who_holds(run_dir: Path) -> str:
    """What the last process that held the lock said of itself; empty where none ever did."""
    with contextlib.suppress(OSError):
        return RunLayout(run_dir).lock_path.read_text(errors="replace")[:200]
    return ""
