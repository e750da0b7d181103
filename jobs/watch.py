"""Shows a run to a user: its status once or again and again, and the logs of its ranks."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from hpc_ae.errors import HpcAeError, InputError
from hpc_ae.files import open_regular
from hpc_ae.jobs.launched import Launched, launched_before
from hpc_ae.jobs.launcher import say
from hpc_ae.jobs.run import Run
from hpc_ae.jobs.status import StageStatus, status_of
from hpc_ae.jobs.table import status_table
from hpc_ae.record import read_record
from hpc_ae.runtime.progress import Progress, ProgressRecord
from hpc_ae.runtime.streams import terminal

_WATCH_SECONDS = 2.0
_FOLLOW_SECONDS = 0.5
_GOING_ON = ("queued", "running")


def show(run: Run) -> None:
    """The status, once, on standard output."""
    from rich.console import Console

    console = Console(file=terminal(sys.stdout))
    width = console.width if console.is_terminal else 160  # a pipe has no width of its own
    Console(file=console.file, width=width).print(status_table(run.layout, status_of(run), width))


def watch_status(run: Run) -> None:
    """The status again and again until nothing is queued or runs; Ctrl-C ends the watching alone."""
    from rich.console import Console
    from rich.live import Live

    console = Console(file=terminal(sys.stdout))
    stages, width = status_of(run), console.width
    with Live(status_table(run.layout, stages, width), console=console, auto_refresh=False) as live:
        while any(stage.state in _GOING_ON for stage in stages):
            time.sleep(_WATCH_SECONDS)
            stages = status_of(run)
            live.update(status_table(run.layout, stages, width), refresh=True)


def show_log(run: Run, stage: str | None, rank: int | None, *, follow: bool) -> None:
    """Print the log of a rank of a stage, to its end or until the stage has ended; InputError where there is none."""
    launched = _find_launch(run, stage)
    path = _find_log(launched, rank)
    if not path.stat().st_size:
        say(f"{path} is empty so far: progress is written every 30 s, by the first rank only")
    with open_regular(path) as file, io.TextIOWrapper(file, encoding="utf-8", errors="replace") as log:
        while True:
            going_on = follow and _goes_on(run, launched)
            for line in log:
                sys.stdout.write(line)
            sys.stdout.flush()
            if not going_on:
                return
            time.sleep(_FOLLOW_SECONDS)


def _goes_on(run: Run, launched: Launched) -> bool:
    return any(status.stage == launched.stage and status.state in _GOING_ON for status in status_of(run))


def _find_launch(run: Run, stage: str | None) -> Launched:
    names = run.stage_names
    if stage is not None and stage not in names:
        raise InputError("no such stage in this run", where="STAGE", got=stage, expected=", ".join(names))
    launches = [launched_before(run.layout, name) for name in ([stage] if stage else names)]
    found = [launch for launch in launches if launch is not None and _has_log(launch)]
    if not found and any(launch is not None and launch.adopted for launch in launches):
        raise InputError(
            "this stage was started by another launcher, and wrote to its terminal",
            where=run.layout.run_dir,
            fix="look where torchrun, srun or mpiexec was typed; runs of hpc-ae itself have logs",
        )
    if not found:
        raise InputError(
            "nothing has been logged",
            where=run.layout.logs_dir,
            got="; ".join(_how_it_is(status) for status in status_of(run) if status.state != "waiting"),
            fix=f"hpc-ae doctor {shlex.quote(str(run.layout.run_dir))} looks at what ranks need to start",
        )
    return found[-1]


def _how_it_is(status: StageStatus) -> str:
    return f"{status.stage} is {status.state}" + (f" ({status.why})" if status.why else "")


def _has_log(launched: Launched) -> bool:
    return any(launched.log_path(rank).exists() for rank in launched.ranks)


def _find_log(launched: Launched, rank: int | None) -> Path:
    """The log of a rank; where none is named, of the first that has one, as the first tasks of an array may be done."""
    ranks = launched.ranks if rank is None else [rank] if rank in launched.ranks else []
    for number in ranks:
        if (path := launched.log_path(number)).exists():
            return path
    raise InputError(
        f"{launched.stage} has no log of this rank",
        where=launched.layout.logs_dir,
        got=f"rank {rank}" if rank is not None else "no log",
        expected=f"one of {len(launched.ranks)} ranks, {launched.ranks[0]} to {launched.ranks[-1]}, that has started",
    )


class LiveView:
    """Shows a stage's progress file here, wherever the stage runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._progress: Progress | None = None
        self._seen: int | None = None
        self._last: ProgressRecord | None = None

    def __enter__(self) -> LiveView:
        return self

    def refresh(self) -> None:
        """Read the progress file, if it changed, and show it."""
        with contextlib.suppress(OSError, HpcAeError):
            stamp = self.path.stat().st_mtime_ns
            if stamp != self._seen:
                self._seen = stamp
                self._show(read_record(self.path, ProgressRecord))

    def _show(self, record: ProgressRecord) -> None:
        if self._progress is None:
            self._progress = Progress(record.what, record.total, record.unit).__enter__()
            self._progress.start_at(record.done)
        self._progress.update(record.done, record.note)
        self._last = record

    def __exit__(self, *error: Any) -> None:
        self.refresh()
        if self._progress is not None and self._last is not None:
            self._progress.close()
            if error[0] is None:
                say(summary_line(self._last))


def summary_line(record: ProgressRecord) -> str:
    """What a finished stage's progress file says, in one line; its last rank may have ended after the first."""
    num = record.total - record.first
    if not num and record.total:  # a report made again from the scores that are there
        return f"{record.what}: done in {record.seconds:.1f} s, from earlier results"
    what = f"{num:,} of {record.total:,} {record.unit}" if record.first else f"{num:,} {record.unit}"
    return f"{record.what}: {what} in {record.seconds:.1f} s, {record.rate:,.0f} {record.unit}/s"
