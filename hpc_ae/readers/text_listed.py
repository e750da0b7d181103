"""Names that a text lists in its comments, a line for each column, as SExtractor and IRAF write them.

    #   1 NUMBER      Running object number
    #   2 MAG_APER    Fixed aperture magnitude vector      [mag]
    #   4 ALPHA_J2000 Right ascension                      [deg]

    # BEGIN CATALOG HEADER
    # nfields 13
    #     ra     1  0 d degrees %10.5f
    # END CATALOG HEADER

A column of several numbers has one line: what follows it up to the next line's number is NAME_1, NAME_2, ...
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_NUMBER_FIRST = re.compile(r"[#%!]\s*(?P<number>\d{1,4})\s+(?P<name>\S+)(?:.*\[(?P<unit>[^\[\]]*)\])?.*")
_NAME_FIRST = re.compile(r"[#%!]\s*(?P<name>\S+)\s+(?P<number>\d{1,4})\s+\d+\s+[cdilrx]\s+(?P<unit>\S+)\s+%\S+\s*")
_NO_UNIT = "-"


@dataclass(frozen=True)
class Listed:
    """The names of all columns, and their units, - where there is none."""

    names: list[str]
    units: list[str]


def listed_names(comments: Sequence[bytes], num_fields: int) -> Listed | None:
    """What the comments list, where they list as many columns as a row has fields; else None."""
    lines = [comment.decode(errors="replace").strip() for comment in comments]
    for pattern in (_NUMBER_FIRST, _NAME_FIRST):
        entries = [found for line in lines if (found := pattern.fullmatch(line))]
        numbers = [int(entry["number"]) for entry in entries]
        if numbers and numbers[0] == 1 and numbers == sorted(set(numbers)) and numbers[-1] <= num_fields:
            return _filled(entries, [*numbers, num_fields + 1])
    return None


def _filled(entries: Sequence[re.Match[str]], numbers: Sequence[int]) -> Listed:
    names, units = [], []
    for entry, first, after in zip(entries, numbers[:-1], numbers[1:], strict=True):
        name, unit = entry["name"], (entry["unit"] or "").strip()
        names += [name, *(f"{name}_{place}" for place in range(1, after - first))]
        units += [_NO_UNIT if unit in ("", "INDEF") or " " in unit else unit] * (after - first)
    return Listed(names, units)
