"""Text tables of fixed width, whose columns a rule of dashes bounds: a field may be empty there, or hold blanks."""

from __future__ import annotations

import re
from collections.abc import Sequence

Bounds = tuple[tuple[int, int], ...]  # first character and one past the last of each column

_DASHES = re.compile(r"-+")


def bounds_of(rule: str, names: str, rows: Sequence[str]) -> Bounds:
    """The columns that a line of dashes bounds, () where it does not: where it is one of separators too, a column would
    have no name, or the line of names or a row has anything between the columns, as where dashes are an ornament.
    """
    bounds = tuple((run.start(), run.end()) for run in _DASHES.finditer(rule))
    if len(bounds) < 2 or set(rule.strip()) != {"-", " "}:
        return ()
    if not all(cut_line(names, bounds)):
        return ()
    return bounds if all(fits(line, bounds) and "\t" not in line for line in (names, *rows)) else ()


def fits(line: str, bounds: Bounds) -> bool:
    """Whether a line has nothing but blanks outside of its columns."""
    stop = 0
    for start, end in (*bounds, (len(line), 0)):
        if line[stop:start].strip():
            return False
        stop = end
    return True


def cut_line(line: str, bounds: Bounds) -> list[str]:
    """The fields of a line, without the blanks around them."""
    return [line[start:stop].strip() for start, stop in bounds]


def tabs_for_columns(data: bytes, bounds: Bounds) -> tuple[bytes, int | None]:
    """Whole lines with one tab between their fields, and the number of the first row that does not fit, None for none;
    empty lines are no rows.
    """
    made, misfit = [], None
    lines = (line for line in data.decode(errors="replace").split("\n") if line.rstrip("\r"))
    for number, line in enumerate(lines):
        plain = line.rstrip("\r")
        if misfit is None and not fits(plain, bounds):
            misfit = number
        made.append("\t".join(map(_quoted, cut_line(plain, bounds))))
    return "\n".join([*made, ""]).encode(), misfit


def _quoted(field: str) -> str:
    return '"' + field.replace('"', '""') + '"' if '"' in field or "\t" in field else field
