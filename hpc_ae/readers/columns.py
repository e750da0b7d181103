"""The columns of one raw file, looked up by name whatever its case, and the one error for a name that is not clear."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpc_ae.errors import InputError

_SHOWN = 60
_NUMBER = re.compile(r"#(\d{1,6})")
_WITH_UNIT = re.compile(r"\s*(.*\S)\s*(?:\[([^\[\]]*)\]|\(([^()]*)\))\s*")
_NO_UNIT = ("-", "--", "---", "1", "none", "unitless", "dimensionless", "b-v")  # E(B-V) is a name


@dataclass
class Columns:
    """Names and units of a raw file's columns; what was decided of them gathers in `wanted`, `reasons` and `notes`."""

    path: Path
    names: Sequence[str]
    units: Sequence[str] = ()
    notice: bool = True  # whether values are looked at for doubts that stop nothing
    wanted: dict[str, int] = field(default_factory=dict)  # our name -> index
    reasons: dict[str, str] = field(default_factory=dict)  # our name -> why
    notes: list[str] = field(default_factory=list)  # what a user should know

    def __post_init__(self) -> None:
        self._places: dict[str, list[int]] = {}
        for index, name in enumerate(self.names):
            self._places.setdefault(name.strip().lower(), []).append(index)
        for index, name in enumerate(self.names):  # `ra [deg]` is ra too, where no column is just called so
            if (found := _WITH_UNIT.fullmatch(name)) and found[1].lower() not in self._places:
                self._places[found[1].lower()] = [index]

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._places

    def unit(self, index: int) -> str:
        """The unit that the file says for a column; empty where it says none."""
        unit = self.units[index].strip() if index < len(self.units) else ""
        if not unit and (found := _WITH_UNIT.fullmatch(self.names[index])):
            unit = (found[2] or found[3] or "").strip()
        return "" if unit.lower() in _NO_UNIT else unit

    def places(self, name: str) -> list[int]:
        """Indices of the columns called `name`, whatever its case."""
        return self._places.get(name.strip().lower(), [])

    def find(self, name: str, target: str, *, exactly: bool = False) -> int:
        """Index of the one column called `name` whatever its case; with `exactly`, its own spelling settles a tie, and
        #5 is the fifth column, where no name can tell two apart. InputError where there is none, or several.
        """
        same = self.places(name)
        if exactly and not same and (number := _NUMBER.fullmatch(name)) and 0 < int(number[1]) <= len(self.names):
            return int(number[1]) - 1
        if exactly and len(spelled := [index for index in same if self.names[index].strip() == name]) == 1:
            return spelled[0]
        if not same:
            raise self.error("a column is missing", target, f"a column {name}")
        if len(same) > 1:
            numbers = " or ".join(f"--map {target}=#{index + 1}" for index in same)
            what, expected = "several columns could be meant", f"one column {name}, whatever its case"
            raise self.error(
                what, target, expected, f"say which with --map {target}=COLUMN, or by its number: {numbers}"
            )
        return same[0]

    def take(self, target: str, index: int, why: str) -> None:
        """Decide that a column is `target`."""
        self.wanted[target] = index
        self.reasons[target] = why

    def shown(self) -> str:
        """The names, for messages."""
        return ", ".join(self.names[:_SHOWN]) + (", ..." if len(self.names) > _SHOWN else "")

    def error(self, what: str, target: str, expected: str, fix: str = "") -> InputError:
        """The one message for a column that is not there or not clear; it lists those that are."""
        return InputError(
            f"{what}: {target}",
            where=self.path,
            got="the columns " + self.shown(),
            expected=expected,
            fix=fix or f"say which with --map {target.split(',')[0]}=COLUMN",
        )
