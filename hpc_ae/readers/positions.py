"""The coordinates of a raw file: which columns they are, and how many degrees one of their units is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from hpc_ae.errors import InputError
from hpc_ae.readers.columns import Given, Taken
from hpc_ae.readers.flux import angle_factor
from hpc_ae.readers.names import EITHER_ANGLE, NAMES, PAIRS, RADIANS

_SEXAGESIMAL = ":"
_LIMITS = {"ra": 2 * np.pi, "dec": np.pi / 2}  # in radians
_ROUNDING = 1e-6
_ENOUGH = 100  # rows that tell something of the range
FirstValues = Callable[[list[int]], list[np.ndarray]]  # column indices -> their first values, float64, NaN for none


@dataclass(frozen=True)
class Positions:
    """The columns of ra and dec, as far as they are there, and how many degrees one of their units is."""

    taken: Mapping[str, Taken]
    ra_factor: float
    dec_factor: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Angle:
    """Degrees in one unit of a column, None where only its values can tell, and the words that say why."""

    factor: float | None
    why: str = ""


def choose_positions(given: Given) -> dict[str, Taken]:
    """The columns of ra and dec: mapped by hand, else the first of the known names."""
    taken = {}
    for target in ("ra", "dec"):
        found = given.by_hand.get(target) if target in given.mapping else _find(given, target)
        if found is not None:
            taken[target] = found
    return taken


def _find(given: Given, target: str) -> Taken | None:
    columns = given.columns
    for name in NAMES[target]:
        if name in columns and (name not in PAIRS or PAIRS[name] in columns):
            index = columns.find(name, target)
            if _SEXAGESIMAL not in columns.unit(index):  # VizieR has text such as 12:34:56 beside degrees
                return Taken(index, f"named {name}")
    return None


def measure_positions(given: Given, taken: Mapping[str, Taken], first: FirstValues, *, notice: bool) -> Positions:
    """Degrees in one unit of ra and of dec: as said, by the file's unit, by the name, by values; InputError asks.

    With `notice` the first values are looked at for doubts that stop nothing.
    """
    angles = {target: _angle(given, target, column) for target, column in taken.items()}
    explained = {target: replace(taken[target], why=taken[target].why + angle.why) for target, angle in angles.items()}
    factors = {target: angle.factor for target, angle in angles.items()}
    notes: tuple[str, ...] = ()
    if None in factors.values():
        telling = _find_degrees(given, taken, first)
        explained[telling] = replace(explained[telling], why=explained[telling].why + ", in degrees by its values")
        factors = {}
    elif notice and _is_assumed(given, taken) and _fit_radians(taken, first) >= _ENOUGH:
        notes = (
            "ra and dec are taken as degrees, but the first ones are all within 2 pi and pi / 2; "
            "use --angles rad if they are radians, --angles deg if not",
        )
    return Positions(explained, factors.get("ra") or 1.0, factors.get("dec") or 1.0, notes)


def _is_assumed(given: Given, taken: Mapping[str, Taken]) -> bool:
    """Whether degrees are nothing but the usual unit of columns called ra and dec."""
    names = [given.name(column).strip().lower() for column in taken.values()]
    said = given.reading.angles or any(given.unit(column) for column in taken.values())
    return bool(taken) and not said and not any(name in RADIANS for name in names)


def _angle(given: Given, target: str, taken: Taken) -> _Angle:
    """By what user, file or name say. InputError for a unit that is no angle."""
    said = given.reading.angles
    unit = said or given.unit(taken)
    if unit:
        factor = angle_factor(unit)
        if factor is None:
            raise InputError(
                f"the unit of {target} is not understood",
                where=f"{given.columns.path}, column {given.name(taken)}",
                got=unit,
                expected="deg or rad",
                fix=f"set --angles deg or rad, or name another column with --map {target}=COLUMN",
            )
        return _Angle(factor, f", in {unit}" + (" as said" if said else " by the file's unit"))
    name = given.name(taken).strip().lower()
    if name in RADIANS:
        return _Angle(angle_factor("rad"), ", in radians by its name")
    return _Angle(None if name in EITHER_ANGLE else 1.0)


def _fit_radians(taken: Mapping[str, Taken], first: FirstValues) -> int:
    """How many of the first rows have coordinates, if all of them could be radians; else 0."""
    values = first([column.index for column in taken.values()])
    with np.errstate(invalid="ignore"):
        outside = [(np.abs(one) > _LIMITS[target] + _ROUNDING).any() for target, one in zip(taken, values, strict=True)]
    return 0 if any(outside) else int(np.isfinite(values[0]).sum())


def _find_degrees(given: Given, taken: Mapping[str, Taken], first: FirstValues) -> str:
    """Which of ra and dec has a first value that can be nothing but degrees; small values may be either, so it asks."""
    for target, one in zip(taken, first([column.index for column in taken.values()]), strict=True):
        most = 90.0 if target == "dec" else 360.0
        with np.errstate(invalid="ignore"):
            if ((np.abs(one) > _LIMITS[target] + _ROUNDING) & (np.abs(one) <= most)).any():
                return target
    raise InputError(
        "ra and dec may be degrees or radians",
        where=given.columns.path,
        got=", ".join(given.name(column) for column in taken.values()) + " without a unit, all values small",
        expected="a unit in the file or on the command line",
        fix="set --angles deg or --angles rad",
    )
