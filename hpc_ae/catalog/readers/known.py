"""The columns of one raw file, looked up by name whatever its case, and the one error for a name that is not clear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpc_ae.errors import InputError

_SHOWN = 60


@dataclass
class Columns:
    """Names and units of a raw file's columns; what was decided of them gathers in `wanted`, `reasons` and `notes`."""

    path: Path
    names: Sequence[str]
    units: Sequence[str] = ()
    wanted: dict[str, int] = field(default_factory=dict)  # our name -> index
    reasons: dict[str, str] = field(default_factory=dict)  # our name -> why
    notes: list[str] = field(default_factory=list)  # what a user should know

    def __post_init__(self) -> None:
        self._places: dict[str, list[int]] = {}
        for index, name in enumerate(self.names):
            self._places.setdefault(name.strip().lower(), []).append(index)

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._places

    def unit(self, index: int) -> str:
        """The unit that the file says for a column; empty where it says none."""
        return self.units[index].strip() if index < len(self.units) else ""

    def places(self, name: str) -> list[int]:
        """Indices of the columns called `name`, whatever its case."""
        return self._places.get(name.strip().lower(), [])

    def find(self, name: str, target: str, *, exactly: bool = False) -> int:
        """Index of the one column called `name` whatever its case; with `exactly`, its own spelling settles a tie.

        InputError where there is none, or several.
        """
        same = self.places(name)
        if exactly and len(spelled := [index for index in same if self.names[index].strip() == name]) == 1:
            return spelled[0]
        if not same:
            raise self.error("a column is missing", target, f"a column {name}")
        if len(same) > 1:
            raise self.error("several columns could be meant", target, f"one column {name}, whatever its case")
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
