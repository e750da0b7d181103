"""Standard output and error as users leave them: closed, a pipe whose reader has gone, a file on a full disk.

What is printed steers no terminal, whatever file its words come from. What cannot be said on standard error is left
unsaid: a run does not end because nobody reads it. Standard output is what a command was typed for, so that it fails;
but for the words on work that is done all the same (`report`).
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import sys
from typing import TextIO

from hpc_ae.errors import WorkError, harmless

_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")


class OutputError(WorkError):
    """Standard output cannot be written. `reader_gone`: it is a pipe, and who read it has ended."""

    def __init__(self, error: OSError) -> None:
        super().__init__("standard output cannot be written", got=error.strerror or str(error))
        self.reader_gone = error.errno == errno.EPIPE


class _Output(io.TextIOWrapper):
    """Standard output: an OutputError where it cannot be written."""

    def write(self, text: str) -> int:
        try:
            return super().write(_shown(text, self.isatty()))
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
            return super().write(_shown(text, self.isatty()))
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def _shown(text: str, is_terminal: bool) -> str:
    """What is printed, whatever file or program its words come from: a terminal obeys nothing in it but colours."""
    if text.isprintable():
        return text
    parts = _COLOUR.split(text) if is_terminal else [text]
    return "".join(part if index % 2 else harmless(part) for index, part in enumerate(parts))


def as_json(record: object) -> str:
    """A record for standard output: JSON whose strings hold no character that a terminal would obey."""
    text = json.dumps(record, indent=1, ensure_ascii=False)
    return "".join(letter if letter.isprintable() or letter == "\n" else json.dumps(letter)[1:-1] for letter in text)


def terminal(stream: TextIO) -> TextIO:
    """The same stream for rich, which moves on the screen, and is given harmless words alone."""
    if not isinstance(stream, _Output | _Messages):
        return stream
    return open(stream.fileno(), "w", encoding=stream.encoding, errors="backslashreplace", closefd=False)


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
    options = {"encoding": stream.encoding, "errors": "backslashreplace", "newline": None}
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
