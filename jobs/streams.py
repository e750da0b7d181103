"""Standard output and error as users leave them: closed, a pipe whose reader has gone, a file on a full disk.

What cannot be said on standard error is left unsaid: a run does not end because nobody reads it. Standard output is
what a command was typed for, so that it fails; but for the words on work that is done all the same (`report`).
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import TextIO

from hpc_ae.errors import WorkError


class OutputError(WorkError):
    """Standard output cannot be written. `reader_gone`: it is a pipe, and who read it has ended."""

    def __init__(self, error: OSError) -> None:
        super().__init__("standard output cannot be written", got=error.strerror or str(error))
        self.reader_gone = error.errno == errno.EPIPE


class _Output(io.TextIOWrapper):
    """Standard output: an OutputError where it cannot be written."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise OutputError(error) from error

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise OutputError(error) from error


class _Messages(io.TextIOWrapper):
    """Standard error: nothing where it cannot be written."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def open_standard_streams() -> None:
    """Give a process that was started with some of its three standard streams closed /dev/null for them: the next
    files that it opens would take their places, and what is printed would go into those.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)


def guard_streams() -> None:
    """Make this process's standard output and error ones that fail as said above."""
    sys.stdout = _guarded(sys.stdout, 1, _Output)
    sys.stderr = _guarded(sys.stderr, 2, _Messages)


def _guarded(stream: TextIO | None, number: int, kind: type[_Output | _Messages]) -> TextIO:
    """The same stream as one of ours; on the file that is open now where Python found none."""
    if not isinstance(stream, io.TextIOWrapper):
        return kind(open(number, "wb", closefd=False), encoding="utf-8", errors="replace")
    errors = stream.errors if kind is _Output else "backslashreplace"
    options = {"encoding": stream.encoding, "errors": errors, "newline": None}
    flags = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
    return kind(stream.detach(), **options, **flags)  # type: ignore[arg-type]


def report(text: str) -> None:
    """Print what has been done: done it is, whether or not anybody reads of it."""
    try:
        print(text, flush=True)
    except OutputError as error:
        forget_output()
        print(f"note: {error.what} ({error.got}); what was to be said there is done: {text}", file=sys.stderr)


def forget_output() -> None:
    """Let everything more that is printed go nowhere, as what is printed cannot be written."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
