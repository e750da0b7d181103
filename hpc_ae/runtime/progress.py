"""Progress: a small file that others can read, and on the screen a bar, or in a batch log a line now and then."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from hpc_ae.errors import WorkError, harmless
from hpc_ae.files import make_dir, publish_json
from hpc_ae.record import Record
from hpc_ae.runtime.streams import terminal

_FILE_SECONDS = 1.0
_LOG_SECONDS = 30.0


class ProgressRecord(Record):
    """How far some work is, as its file says: of `total` units (0: nobody knows) `done`, `first` of them by an earlier
    process; units per second and seconds of this one.
    """

    what: str
    state: str  # running, done or failed
    done: int
    first: int
    total: int
    unit: str
    rate: float
    seconds: float
    note: str
    time: float
    pid: int


NOTHING_YET = ProgressRecord(
    what="", state="", done=0, first=0, total=0, unit="", rate=0.0, seconds=0.0, note="", time=0.0, pid=0
)


class Progress:
    """Counts `total` units of work (0: nobody knows); shows rate and time left; safe to call often.

    `path`, where given, is a JSON file that says how far the work is, for `hpc-ae status` and the live view.
    """

    def __init__(self, what: str, total: int, unit: str, *, path: Path | None = None, quiet: bool = False) -> None:
        self.what, self.total, self.unit, self.path = what, total, unit, path
        self.done = 0
        self.first = 0
        self.note = ""
        self._started = time.monotonic()
        self._last_file = self._last_log = self._started
        self._bar: Any = None
        self._quiet = quiet

    def __enter__(self) -> Progress:
        if not self._quiet and sys.stderr.isatty():
            self._bar = _rich_bar(self.what, self.total, self.unit)
            self._bar.start()
        if self.path is not None:
            make_dir(self.path.parent)
        self._write_file("running")
        return self

    def start_at(self, done: int) -> None:
        """Say that `done` units were finished by an earlier run; the rate counts from here."""
        self.done = self.first = done
        self._started = time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        """Say that `done` units are finished in all."""
        self.done, self.note = done, note
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, note=harmless(note))
        if now - self._last_file >= _FILE_SECONDS:
            self._last_file = now
            self._write_file("running")
        if self._bar is None and not self._quiet and now - self._last_log >= _LOG_SECONDS:
            self._last_log = now
            print(self.line(), file=sys.stderr, flush=True)

    @property
    def seconds(self) -> float:
        """Wall time since the start, in seconds."""
        return time.monotonic() - self._started

    @property
    def rate(self) -> float:
        """Units per second since the start of this process's work."""
        return (self.done - self.first) / max(self.seconds, 1e-9)

    def line(self) -> str:
        """One line for a log: `encode: 1,000,000 of 2,000,000 stars (50 %), 3,100,000 stars/s, 0:00:01 left`."""
        left = (self.total - self.done) / self.rate if self.rate > 0 else 0.0
        note = f", {self.note}" if self.note else ""
        if not self.total:
            return f"{self.what}: {self.done:,} {self.unit}, {self.rate:,.0f} {self.unit}/s{note}"
        share = 100 * self.done / self.total
        text = (
            f"{self.what}: {self.done:,} of {self.total:,} {self.unit} ({share:.0f} %), {self.rate:,.0f} {self.unit}/s"
        )
        return text + f", {_clock(left)} left{note}"

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._write_file("done" if kind is None else "failed")
        if kind is None and not self._quiet:
            num = self.done - self.first
            text = f"{num:,} {self.unit} in {self.seconds:.1f} s ({self.rate:,.0f} {self.unit}/s)"
            print(f"{self.what}: {text if num else 'nothing left to do'}", file=sys.stderr, flush=True)

    def _write_file(self, state: str) -> None:
        if self.path is None:
            return
        record = ProgressRecord(
            what=self.what,
            state=state,
            done=self.done,
            first=self.first,
            total=self.total,
            unit=self.unit,
            rate=round(self.rate, 1),
            seconds=round(self.seconds, 1),
            note=self.note,
            time=time.time(),
            pid=os.getpid(),
        )
        try:
            publish_json(self.path, record.to_json())
        except WorkError:
            self.path = None  # a full disk must not end the work for the sake of a progress file


def _clock(seconds: float) -> str:
    return f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02d}:{int(seconds % 60):02d}"


def _rich_bar(what: str, total: int, unit: str) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    ]
    bar = RichProgress(*columns, console=Console(file=terminal(sys.stderr)), transient=True)
    bar.add_task(harmless(what), total=total or None, note="")
    return bar
