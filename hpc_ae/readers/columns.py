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
from hpc_ae.readers.surveys import DEFAULT_SURVEY, Survey
from hpc_ae.reading import Reading

_SHOWN = 60
_NUMBER = re.compile(r"#(\d{1,6})")
_WITH_UNIT = re.compile(r"\s*(.*\S)\s*(?:\[([^\[\]]*)\]|\(([^()]*)\))\s*")
_NO_UNIT = ("-", "--", "---", "1", "none", "unitless", "dimensionless", "b-v")  # E(B-V) is a name


@dataclass(frozen=True)
class Columns:
    """Names and units of the columns of a raw file, of its `table` where it has several; TABLE/NAME is one of these."""

    path: Path
    names: Sequence[str]
    units: Sequence[str] = ()
    table: str = ""

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
        key = name.strip().lower()
        group = self.table.lower().rpartition(" in /")[2].strip("/")  # of an HDF5 file
        inside = key.removeprefix("/").removeprefix(f"{group}/") if group else key
        return self._places.get(key) or self._places.get(inside, [])

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
    """What is known before anything is decided: the columns, whose they are, and what a user says of them.

    `mapping` is target to column name, "" where the file has none; `by_hand` has the columns that it names.
    """

    columns: Columns
    mapping: Mapping[str, str]
    reading: Reading
    survey: Survey
    by_hand: Mapping[str, Taken]

    @classmethod
    def of(cls, columns: Columns, mapping: Mapping[str, str], reading: Reading, survey: Survey) -> Given:
        """InputError where a column that the mapping names is not there."""
        named = {target: name for target, name in mapping.items() if name}
        by_hand = {
            target: Taken(columns.find(name, target, exactly=True), "mapped by hand") for target, name in named.items()
        }
        return cls(columns, mapping, reading, survey, by_hand)

    @property
    def is_default(self) -> bool:
        """Whether the survey is the one that is assumed where nothing is said."""
        return not self.reading.bands and self.reading.survey in (None, DEFAULT_SURVEY) and self.survey.complete

    @property
    def needs_all(self) -> bool:
        """Whether every band must be there: those that the user named, and those of a survey of which all are."""
        return self.survey.complete or bool(self.reading.bands)

    @property
    def by_hand_bands(self) -> list[str]:
        """The bands whose columns the user named."""
        return [band for band in self.survey.band_names if band in self.by_hand]

    def name(self, taken: Taken) -> str:
        """The name of a column that was taken."""
        return self.columns.names[taken.index]

    def unit(self, taken: Taken) -> str:
        """The unit that the file says for a column that was taken; empty where it says none."""
        return self.columns.unit(taken.index)
