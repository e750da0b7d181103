"""The coordinates of a raw file: which columns they are, and how many degrees one of their units is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from hpc_ae.errors import InputError
from hpc_ae.readers.columns import Columns, Given, Taken
from hpc_ae.readers.flux import angle_factor
from hpc_ae.readers.names import EITHER_ANGLE, PAIRS, RADIANS

_SEXAGESIMAL = ":"
_LIMITS = {"ra": 2 * np.pi, "dec": np.pi / 2}  # in radians
_ROUNDING = 1e-6
_ENOUGH = 100  # rows that tell something of the range
# A name of ra, and what dec is called where ra is: coord.ra beside coord.dec, ra_1 beside dec_1.
_WORDS = {
    **{"ra": "dec", "raj2000": "dej2000", "ra2000": "dec2000", "radeg": "decdeg", "ramean": "decmean"},
    **{"raicrs": "deicrs", "alpha": "delta"},
}
_OF_ANOTHER_KIND = {
    *("e", "err", "error", "errors", "sigma", "std", "rms", "unc", "pm", "cov", "corr", "ivar", "offset")
}
_TOKENS = re.compile(r"[^a-z0-9]+")
IsSexagesimal = Callable[[int], bool]  # column index -> whether its first values are text such as 12:34:56
FirstValues = Callable[[list[int]], list[np.ndarray]]  # column indices -> their first values, float64, NaN for none


@dataclass(frozen=True)
class Positions:
    """The columns of ra and dec, as far as they are there, and how many degrees one of their units is."""

    taken: Mapping[str, Taken]
    ra_factor: float
    dec_factor: float
    notes: tuple[str, ...] = ()
    sexagesimal: frozenset[str] = frozenset()  # those of text such as 12:34:56


@dataclass(frozen=True)
class _Angle:
    """Degrees in one unit of a column, None where only its values can tell, and the words that say why."""

    factor: float | None
    why: str = ""
    is_sexagesimal: bool = False


def choose_positions(given: Given) -> dict[str, Taken]:
    """The columns of ra and dec: mapped by hand, else the first of the known names, else the only pair that is called
    so beside something else. InputError where there are several such pairs, as in a joined table.
    """
    taken = {}
    for target in ("ra", "dec"):
        found = given.by_hand.get(target) if target in given.mapping else _find(given, target)
        if found is not None:
            taken[target] = found
    return taken or _find_pair(given)


def _find(given: Given, target: str) -> Taken | None:
    """The first column of the known names; degrees before text such as 12:34:56, which VizieR has beside them."""
    columns, texts = given.columns, []
    for name in given.survey.names_of(target):
        if name in columns and (name not in PAIRS or PAIRS[name] in columns):
            taken = Taken(columns.find(name, target), f"named {name}")
            if _SEXAGESIMAL not in columns.unit(taken.index):
                return taken
            texts.append(taken)
    return texts[0] if texts else None


def _find_pair(given: Given) -> dict[str, Taken]:
    """The columns of the only pair such as coord.ra and coord.dec."""
    if {"ra", "dec"} & given.mapping.keys():
        return {}
    columns = given.columns
    pairs = [pair for name in columns.names if (pair := _pair_of(columns, name.strip().lower()))]
    if len(pairs) > 1:
        listed = ", ".join(f"{ra} and {dec}" for ra, dec in pairs)
        chosen = f"--map ra={pairs[0][0]} --map dec={pairs[0][1]}"
        fix = f"choose with {chosen}, or say that there are none: --map ra= --map dec="
        raise columns.error("several pairs of columns could be the positions", "ra", f"one pair of {listed}", fix)
    if not pairs:
        return {}
    ra, dec = pairs[0]
    return {
        target: Taken(columns.find(name, target), f"the only pair of coordinates, {ra} and {dec}")
        for target, name in (("ra", ra), ("dec", dec))
    }


def _pair_of(columns: Columns, name: str) -> tuple[str, str] | None:
    """A column whose name has a word for ra, and the one that has dec there; None where it is no such."""
    tokens = _TOKENS.split(name)
    if _OF_ANOTHER_KIND & set(tokens) or len(columns.places(name)) != 1:
        return None
    for word in set(tokens) & _WORDS.keys():
        other = re.sub(rf"(?<![a-z0-9]){word}(?![a-z0-9])", _WORDS[word], name)
        if len(columns.places(other)) == 1:
            return name, other
    return None


def measure_positions(
    given: Given, taken: Mapping[str, Taken], first: FirstValues, is_sexagesimal: IsSexagesimal, *, notice: bool
) -> Positions:
    """Degrees in one unit of ra and of dec: as said, by the file's unit, by the name, by values; InputError asks.

    With `notice` the first values are looked at for doubts that stop nothing.
    """
    angles = {target: _angle(given, target, column, is_sexagesimal) for target, column in taken.items()}
    texts = frozenset(target for target, angle in angles.items() if angle.is_sexagesimal)
    explained = {target: replace(taken[target], why=taken[target].why + angle.why) for target, angle in angles.items()}
    factors = {target: angle.factor for target, angle in angles.items()}
    notes = _notes_of(given, taken, texts)
    if None in factors.values():
        telling = _find_degrees(given, taken, first)
        explained[telling] = replace(explained[telling], why=explained[telling].why + ", in degrees by its values")
        factors = {}
    elif notice and _is_assumed(given, taken) and _fit_radians(taken, first) >= _ENOUGH:
        notes = (
            *notes,
            "ra and dec are taken as degrees, but the first ones are all within 2 pi and pi / 2; "
            "use --angles rad if they are radians, --angles deg if not",
        )
    return Positions(explained, factors.get("ra") or 1.0, factors.get("dec") or 1.0, notes, texts)


def _notes_of(given: Given, taken: Mapping[str, Taken], texts: frozenset[str]) -> tuple[str, ...]:
    """What a user should know of columns that are called otherwise than positions usually are, or are text."""
    notes = []
    if any(
        given.name(one).strip().lower() not in given.survey.names_of(target) for target, one in _by_name(given, taken)
    ):
        notes.append(f"the positions are the columns {' and '.join(given.name(one) for one in taken.values())}")
    if texts:
        notes.append(
            f"{' and '.join(sorted(texts, reverse=True))} are text such as 12:34:56, read as hours (ra), degrees"
        )
    return tuple(notes)


def _by_name(given: Given, taken: Mapping[str, Taken]) -> list[tuple[str, Taken]]:
    """The columns that nobody mapped by hand."""
    return [(target, one) for target, one in taken.items() if target not in given.by_hand]


def _is_assumed(given: Given, taken: Mapping[str, Taken]) -> bool:
    """Whether degrees are nothing but the usual unit of columns called ra and dec."""
    names = [given.name(column).strip().lower() for column in taken.values()]
    said = given.reading.angles or any(given.unit(column) for column in taken.values())
    return bool(taken) and not said and not any(name in RADIANS for name in names)


def _angle(given: Given, target: str, taken: Taken, is_sexagesimal: IsSexagesimal) -> _Angle:
    """By what user, file or name say, or by text such as 12:34:56. InputError for a unit that is no angle."""
    said = given.reading.angles
    unit = said or given.unit(taken)
    if _SEXAGESIMAL in unit or is_sexagesimal(taken.index):
        in_hours = target == "ra" and not unit.strip("\"' ").lower().startswith("d")
        return _Angle(15.0 if in_hours else 1.0, f", {'hours' if in_hours else 'degrees'}, minutes and seconds", True)
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
