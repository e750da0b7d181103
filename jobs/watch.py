"""Shows a run to a user: its status once or again and again, and the logs of its ranks."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from hpc_ae.config import RunConfig
from hpc_ae.errors import InputError
from jobs.launcher import Launched
from jobs.stages import stages_of
from jobs.status import launched_before, status_of, status_table

_WATCH_SECONDS = 2.0
_FOLLOW_SECONDS = 0.2
_GOING_ON = ("queued", "running")


def show(config: RunConfig) -> None:
    """The status, once, on standard output."""
    from rich.console import Console

    console = Console()
    width = None if console.is_terminal else 160  # a pipe has no width of its own
    Console(width=width).print(status_table(config, status_of(config)))


def watch_status(config: RunConfig) -> None:
    """The status again and again until nothing is queued or runs; Ctrl-C ends the watching alone."""
    from rich.live import Live

    stages = status_of(config)
    with Live(status_table(config, stages), auto_refresh=False) as live:
        while any(stage.state in _GOING_ON for stage in stages):
            time.sleep(_WATCH_SECONDS)
            stages = status_of(config)
            live.update(status_table(config, stages), refresh=True)


def show_log(config: RunConfig, stage: str | None, rank: int, *, follow: bool) -> None:
    """Print the log of a rank of a stage; InputError where there is none."""
    path = _find_log(config, _find_launch(config, stage), rank)
    with path.open(encoding="utf-8", errors="replace") as log:
        while True:
            for line in log:
                sys.stdout.write(line)
            sys.stdout.flush()
            if not follow or not any(status.state in _GOING_ON for status in status_of(config)):
                return
            time.sleep(_FOLLOW_SECONDS)


def _find_launch(config: RunConfig, stage: str | None) -> Launched:
    names = [known.name for known in stages_of(config)]
    if stage is not None and stage not in names:
        raise InputError("no such stage in this run", where="STAGE", got=stage, expected=", ".join(names))
    launches = [launched_before(config, name) for name in ([stage] if stage else names)]
    found = [launch for launch in launches if launch is not None and launch.log_path().exists()]
    if not found:
        raise InputError(
            "nothing has been logged yet",
            where=config.run_path / "jobs" / "logs",
            fix=f"hpc-ae status {config.run_path}",
        )
    return found[-1]


def _find_log(config: RunConfig, launched: Launched, rank: int) -> Path:
    path = launched.log_path(rank)
    if not path.exists():
        raise InputError(
            f"{launched.stage} has no log of this rank", where=path, got=rank, expected=f"0 to {launched.num_tasks - 1}"
        )
    return path
