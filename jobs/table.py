"""Shows the status of a run as a table, as wide as the terminal is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hpc_ae.errors import harmless
from hpc_ae.jobs.status import StageStatus, next_command
from hpc_ae.layout import RunLayout

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

_WIDE, _MIDDLING, _NARROW = 120, 96, 76  # columns of a terminal: all; without the bar; with a percentage for numbers


def status_table(layout: RunLayout, stages: list[StageStatus], width: int = 160) -> Group:
    """The status as a rich table with lines of advice under it; a narrow terminal does without the bar, nodes, rate."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(harmless(str(layout.run_dir))), title_justify="left", box=None, pad_edge=False)
    shown = columns_for(width)
    for name in shown:
        table.add_column("" if name == "bar" else name, no_wrap=name != "nodes")
    for stage in stages:
        cells = _cells(stage, short=width < _WIDE)
        if width < _NARROW and stage.total:
            cells["progress"] = f"{100 * stage.done / stage.total:.0f} %"
        table.add_row(*(cells[name] for name in shown))
    notes = [Text(harmless(line)) for stage in stages for line in _notes(stage)]
    return Group(table, *notes, Text(harmless(f"next: {next_command(layout, stages)}")))


def columns_for(width: int) -> list[str]:
    """The columns that fit: stage, job, state and time left always do."""
    names = ["stage", "job", "state", "nodes", "bar", "progress", "rate", "left", "restarts"]
    left_out = [] if width >= _WIDE else ["bar"] if width >= _MIDDLING else ["bar", "nodes", "rate", "restarts"]
    return [name for name in names if name not in left_out]


def _cells(stage: StageStatus, *, short: bool) -> dict[str, RenderableType]:
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    number = _short if short else "{:,.0f}".format
    progress = f"{number(stage.done)} of {number(stage.total)} {stage.unit}"
    left = "" if stage.seconds_left is None else time.strftime("%H:%M:%S", time.gmtime(stage.seconds_left))
    return {
        "stage": stage.stage,
        "job": Text(harmless(stage.job_id or "")),
        "state": stage.state,
        "nodes": Text(harmless(stage.nodes)),
        "bar": ProgressBar(max(1, stage.total), stage.done, width=16) if stage.total else "",
        "progress": Text(harmless(progress)) if stage.total else "",
        "rate": f"{number(stage.rate)}/s" if stage.rate else "",
        "left": left,
        "restarts": str(stage.restarts) if stage.restarts else "",
    }


def _short(number: float) -> str:
    """1234567 as 1.2M."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.1f}{unit}"
    return f"{number:.0f}"


def _notes(stage: StageStatus) -> list[str]:
    """What there is to say of a stage beside the numbers."""
    notes = []
    said = stage.why or (stage.last_line if stage.state != "done" else "")
    if said:
        notes.append(f"{stage.stage}: {said.removeprefix(f'{stage.stage}: ')}")
    counts = {reason: stage.restart_reasons.count(reason) for reason in stage.restart_reasons}
    reasons = [f"{reason} ({count} times)" if count > 1 else reason for reason, count in counts.items()]
    return [*notes, f"{stage.stage}: restarted: {'; '.join(reasons)}"] if reasons else notes
