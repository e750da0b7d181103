"""The coordinates of a raw file: which columns they are, and how many degrees one of their units is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from hpc_ae.errors import InputError
from hpc_ae.readers.columns import Columns
from hpc_ae.readers.flux import angle_factor
from hpc_ae.readers.names import EITHER_ANGLE, NAMES, PAIRS, RADIANS
from hpc_ae.reading import Reading

_SEXAGESIMAL = ":"
_LIMITS = {"ra": 2 * np.pi, "dec": np.pi / 2}  # in radians
_ROUNDING = 1e-6
_ENOUGH = 100  # rows that tell something of the range
Head = Callable[[list[int]], list[np.ndarray]]  # column indices -> their first values, float64, NaN for none


def choose_positions(columns: Columns, mapping: Mapping[str, str]) -> None:
    """Take ra and dec: mapped by hand, else the first of the known names."""
    for target in ("ra", "dec"):
        if target in mapping:
            continue
        for name in NAMES[target]:
            if name in columns and (name not in PAIRS or PAIRS[name] in columns):
                index = columns.find(name, target)
                if _SEXAGESIMAL not in columns.unit(index):  # VizieR has text such as 12:34:56 beside degrees
                    columns.take(target, index, f"named {name}")
                    break


def angle_factors(columns: Columns, reading: Reading, head: Head) -> tuple[float, float]:
    """Degrees in one unit of ra and of dec: as said, by the file's unit, by the name, by values; InputError asks."""
    factors = {target: _factor(columns, target, reading) for target in ("ra", "dec")}
    known = [target for target in factors if target in columns.wanted]
    if None in factors.values():
        factors = dict.fromkeys(factors, _factor_of_values(columns, known, head))
    elif _is_assumed(columns, reading, known) and _fit_radians(columns, known, head) >= _ENOUGH:
        columns.notes.append(
            "ra and dec are taken as degrees, but the first ones are all within 2 pi and pi / 2; "
            "say --angles rad where they are radians, --angles deg where not"
        )
    return factors["ra"] or 1.0, factors["dec"] or 1.0


def _is_assumed(columns: Columns, reading: Reading, known: list[str]) -> bool:
    """Whether degrees are nothing but the usual unit of columns called ra and dec."""
    said = [columns.unit(columns.wanted[target]) for target in known]
    names = [columns.names[columns.wanted[target]].strip().lower() for target in known]
    return (
        columns.notice
        and bool(known)
        and not reading.angles
        and not any(said)
        and not any(name in RADIANS for name in names)
    )


def _factor(columns: Columns, target: str, reading: Reading) -> float | None:
    """Degrees in one unit; None where neither user nor file nor name say it. InputError for a unit that is no angle."""
    index = columns.wanted.get(target)
    if index is None:
        return 1.0
    unit = reading.angles or columns.unit(index)
    if unit:
        factor = angle_factor(unit)
        if factor is None:
            raise InputError(
                f"the unit of {target} is not understood",
                where=f"{columns.path}, column {columns.names[index]}",
                got=unit,
                expected="deg or rad",
                fix=f"say --angles deg or rad, or another column with --map {target}=COLUMN",
            )
        columns.reasons[target] += f", in {unit}" + (" as said" if reading.angles else " by the file's unit")
        return factor
    name = columns.names[index].strip().lower()
    if name in RADIANS:
        columns.reasons[target] += ", in radians by its name"
        return angle_factor("rad")
    return None if name in EITHER_ANGLE else 1.0


def _fit_radians(columns: Columns, known: list[str], head: Head) -> int:
    """How many of the first rows have coordinates, if all of them could be radians; else 0."""
    values = head([columns.wanted[target] for target in known])
    limits = [_LIMITS[target] for target in known]
    with np.errstate(invalid="ignore"):
        outside = [(np.abs(one) > limit + _ROUNDING).any() for one, limit in zip(values, limits, strict=True)]
    return 0 if any(outside) else int(np.isfinite(values[0]).sum())


def _factor_of_values(columns: Columns, known: list[str], head: Head) -> float:
    """Degrees, where a value of the first rows can be nothing else; small values may be either, so it asks."""
    values = head([columns.wanted[target] for target in known])
    limits = [(_LIMITS[target], 90.0 if target == "dec" else 360.0) for target in known]
    for target, one, (radians, degrees) in zip(known, values, limits, strict=True):
        with np.errstate(invalid="ignore"):
            if ((np.abs(one) > radians + _ROUNDING) & (np.abs(one) <= degrees)).any():
                columns.reasons[target] += ", in degrees by its values"
                return 1.0
    raise InputError(
        "ra and dec may be degrees or radians",
        where=columns.path,
        got=", ".join(columns.names[columns.wanted[target]] for target in known) + " without a unit, all values small",
        expected="a unit in the file, or yours",
        fix="say --angles deg or --angles rad",
    )
