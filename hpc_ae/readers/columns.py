"""The columns of one raw file, looked up by name whatever its case, and the one error for a name that is not clear;
and what a user says of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hpc_ae.errors import InputError
from hpc_ae.reading import Reading

_SHOWN = 60
_NUMBER = re.compile(r"#(\d{1,6})")
_WITH_UNIT = re.compile(r"\s*(.*\S)\s*(?:\[([^\[\]]*)\]|\(([^()]*)\))\s*")
_NO_UNIT = ("-", "--", "---", "1", "none", "unitless", "dimensionless", "b-v")  # E(B-V) is a name


@dataclass(frozen=True)
class Columns:
    """Names and units of a raw file's columns."""

    path: Path
    names: Sequence[str]
    units: Sequence[str] = ()

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        places: dict[str, list[int]] = {}
        for index, name in enumerate(self.names):
            places.setdefault(name.strip().lower(), []).append(index)
        for index, name in enumerate(self.names):  # `ra [deg]` is ra too, where no column is just called so
            if (found := _WITH_UNIT.fullmatch(name)) and found[1].lower() not in places:
                places[found[1].lower()] = [index]
        return places

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
            raise self.error(what, target, expected, f"choose with --map {target}=COLUMN, or by its number: {numbers}")
        return same[0]

    def cases(self, pattern: str, bands: Sequence[str]) -> list[bool]:
        """The cases (True: upper) in which the letters of all these bands stand in columns that follow a pattern; none
        where some are of one and some of the other: U beside g, r, i and z is Johnson's.
        """
        found = [{self._is_upper(pattern, index) for index in self.places(pattern.format(b=band))} for band in bands]
        return [case for case in (False, True) if all(case in one for one in found)]

    def _is_upper(self, pattern: str, index: int) -> bool:
        return self.names[index].strip()[pattern.index("{b}")].isupper()

    def find_band(self, pattern: str, band: str, target: str, bands: Sequence[str]) -> int:
        """Index of the column of a band of a pattern, of the case that all `bands` have. InputError as of `find`."""
        cases = self.cases(pattern, bands)
        places = [one for one in self.places(pattern.format(b=band)) if self._is_upper(pattern, one) in cases]
        return places[0] if len(cases) == len(places) == 1 else self.find(pattern.format(b=band), target)

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
            fix=fix or f"choose with --map {target.split(',')[0]}=COLUMN",
        )


@dataclass(frozen=True)
class Taken:
    """A column that is taken for something of a star catalog, and why."""

    index: int
    why: str


@dataclass(frozen=True)
class Given:
    """What is known before anything is decided: the columns, and what a user says of them.

    `mapping` is target to column name, "" where the file has none; `by_hand` has the columns that it names.
    """

    columns: Columns
    mapping: Mapping[str, str]
    reading: Reading
    by_hand: Mapping[str, Taken]

    @classmethod
    def of(cls, columns: Columns, mapping: Mapping[str, str], reading: Reading) -> Given:
        """InputError where a column that the mapping names is not there."""
        named = {target: name for target, name in mapping.items() if name}
        by_hand = {
            target: Taken(columns.find(name, target, exactly=True), "mapped by hand") for target, name in named.items()
        }
        return cls(columns, mapping, reading, by_hand)

    def name(self, taken: Taken) -> str:
        """The name of a column that was taken."""
        return self.columns.names[taken.index]

    def unit(self, taken: Taken) -> str:
        """The unit that the file says for a column that was taken; empty where it says none."""
        return self.columns.unit(taken.index)
