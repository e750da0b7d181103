"""Which column of a raw file is which of ours, what its numbers mean, and why that was decided.

Precedence, highest first: explicit mapping; for the bands the first family of `FAMILIES` of which all five are there,
magnitudes before fluxes; the errors likewise (a lone `zErr` is the redshift's); for everything else the first name of
its list. The trap of `z`: beside u, g, r and i it is the band, beside five bands of another naming it is the redshift,
and where both could be it is an error that asks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hpc_ae.catalog.schema import DEFAULT_BANDS
from hpc_ae.errors import InputError
from hpc_ae.readers.band_errors import Errors, choose_errors
from hpc_ae.readers.bands import Bands, choose_bands
from hpc_ae.readers.columns import Columns, Given, Taken
from hpc_ae.readers.conversion import Conversion, conditions_of
from hpc_ae.readers.extinctions import Extinctions, choose_extinctions
from hpc_ae.readers.names import NAMES, RAW_PREFIX, REDSHIFT_COMPANY, TARGETS, WITHIN_FIELD
from hpc_ae.readers.positions import FirstValues, IsSexagesimal, choose_positions, measure_positions
from hpc_ae.readers.selection import Condition
from hpc_ae.reading import Reading

_VELOCITY = re.compile(r"/\s*s\b|s(\^|\*\*)?\(?-1", re.IGNORECASE)  # km/s, km s-1, km.s**-1


@dataclass(frozen=True)
class Understanding:
    """What was decided of a raw file: our name to column index (conditions' columns as `raw:INDEX`), the conversion,
    why each column was taken, and what a user should know.
    """

    wanted: dict[str, int]
    conversion: Conversion
    reasons: dict[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Choice:
    """The column of the id or of the redshift, None for none, and what there is to know of the choice."""

    target: str
    column: Taken | None
    notes: tuple[str, ...] = ()

    @property
    def taken(self) -> dict[str, Taken]:
        return {} if self.column is None else {self.target: self.column}


@dataclass(frozen=True)
class _Conditions:
    """The conditions on rows with the columns that they are on, and those columns which serve nothing else."""

    resolved: tuple[Condition, ...]
    taken: dict[str, Taken]


def understand(
    columns: Columns,
    mapping: Mapping[str, str],
    reading: Reading,
    first: FirstValues,
    is_sexagesimal: IsSexagesimal = lambda _: False,
    *,
    notice: bool = True,
) -> Understanding:
    """Decide what the columns of a raw file are; only the five bands must be there. `first` reads the first values.

    `mapping` (target to column name) wins over recognition; an empty column name says that the file has none. With
    `notice` the first values are looked at for doubts too.
    InputError where a band is missing, a mapped column is not there, or it is unclear what a column is or holds.
    """
    check_mapping(mapping)
    given = Given.of(columns, mapping, reading)
    bands = choose_bands(given)
    errors = choose_errors(given, bands)
    places = choose_positions(given)
    objid, redshift = _choose_objid(given), _choose_redshift(given, bands)
    taken = {**bands.taken, **objid.taken, **places, **redshift.taken, **errors.taken}
    _check_redshift_unit(given, redshift)
    _check_taken_once(given, taken)
    positions = measure_positions(given, places, first, is_sexagesimal, notice=notice)
    extinctions = choose_extinctions(given, bands) if reading.deredden else Extinctions()
    taken = {**taken, **positions.taken, **extinctions.taken}
    conditions = _resolve_all(given, taken)
    ordered = {name: taken[name] for name in (*DEFAULT_BANDS, *TARGETS) if name in taken}
    return Understanding(
        {name: column.index for name, column in {**ordered, **taken, **conditions.taken}.items()},
        Conversion(
            reading,
            positions.ra_factor,
            positions.dec_factor,
            bands.zero_points,
            errors.inverse_variance,
            errors.factors,
            extinctions.factors,
            conditions.resolved,
            positions.sexagesimal,
        ),
        {name: column.why for name, column in taken.items()},
        (*_band_notes(given, bands, errors), *objid.notes, *redshift.notes, *positions.notes, *extinctions.notes),
    )


def check_mapping(mapping: Mapping[str, str]) -> None:
    """InputError where a mapping names what a star catalog has not, or takes a band away."""
    for target, name in mapping.items():
        if target not in TARGETS or (not name and target in DEFAULT_BANDS):
            raise InputError(
                "a wrong column mapping",
                where="--map",
                got=f"{target}={name}",
                expected=f"name=column, name one of {', '.join(TARGETS)}",
            )


def _band_notes(given: Given, bands: Bands, errors: Errors) -> list[str]:
    is_idle = given.reading.asinh and not bands.zero_points
    idle = ["--asinh changes nothing: the bands are magnitudes already"] if is_idle else []
    return [*bands.notes, *errors.notes, *idle]


def _find_named(given: Given, target: str) -> Taken | None:
    """The first column of the names that are known for a target."""
    name = next((name for name in NAMES[target] if name in given.columns), None)
    return None if name is None else Taken(given.columns.find(name, target), f"named {name}")


def _choose_objid(given: Given) -> _Choice:
    """The column of ids."""
    if "objid" in given.mapping:
        return _Choice("objid", given.by_hand.get("objid"))
    name = next((name for name in NAMES["objid"] if name in given.columns), None)
    if name == "id" and all(other in given.columns for other in WITHIN_FIELD):
        note = "column id is a number within a field, beside run, camcol and field: not the star's own id"
        return _Choice("objid", None, (note,))
    return _Choice("objid", _find_named(given, "objid"))


def _choose_redshift(given: Given, bands: Bands) -> _Choice:
    """The column of redshifts: named so, or a column z that is not the band."""
    if "redshift" in given.mapping:
        return _Choice("redshift", given.by_hand.get("redshift"))
    columns = given.columns
    found = _find_named(given, "redshift")
    if found is not None or "z" in given.mapping or "z" not in columns:
        return _Choice("redshift", found)
    index = columns.find("z", "z")
    if index == bands.taken["z"].index:
        return _Choice("redshift", None)
    band = given.name(bands.taken["z"])
    company = [columns.names[columns.places(name)[0]] for name in REDSHIFT_COMPANY if name in columns]
    why = f"z beside {', '.join([band, *company])} is the redshift"
    note = f"column {columns.names[index]} is the redshift, as the z band is {band}"
    return _Choice("redshift", Taken(index, why), (note,))


def _check_redshift_unit(given: Given, redshift: _Choice) -> None:
    """InputError where the redshift that was found is a velocity by the file's unit; the mapping is believed."""
    column = redshift.column
    if column is None or "redshift" in given.by_hand or not _VELOCITY.search(given.unit(column)):
        return
    what = f"column {given.name(column)} is in {given.unit(column)}, which is a velocity"
    fix = "name another column with --map redshift=COLUMN, or use --map redshift= for no redshift"
    raise given.columns.error(what, "redshift", "a redshift, which has no unit", fix)


def _check_taken_once(given: Given, taken: Mapping[str, Taken]) -> None:
    """InputError where a column is two things and not both were said: `--map redshift=z` leaves no z for the band."""
    first: dict[int, str] = {}
    for target in (*DEFAULT_BANDS, *NAMES):
        if target not in taken:
            continue
        other = first.setdefault(taken[target].index, target)
        both_by_hand = other in given.by_hand and target in given.by_hand
        if other != target and not (both_by_hand and not {other, target} <= set(DEFAULT_BANDS)):
            name = target if other in given.by_hand else other
            what = f"column {given.name(taken[target])} is taken for {other} and for {target}"
            raise given.columns.error(what, name, f"a column for {other} and another one for {target}")


def _resolve_all(given: Given, taken: Mapping[str, Taken]) -> _Conditions:
    """The conditions of the user with the columns that they mean."""
    resolved: list[Condition] = []
    own: dict[str, Taken] = {}
    for condition in conditions_of(given.reading):
        target = condition.column.strip().lower()
        if target in taken:
            _check_clear(given, condition, taken[target])
            resolved.append(replace(condition, column=target))
            continue
        index = _find_own(given.columns, condition)
        own[f"{RAW_PREFIX}{index}"] = Taken(index, condition.text)
        resolved.append(replace(condition, column=f"{RAW_PREFIX}{index}"))
    return _Conditions(tuple(resolved), own)


def _check_clear(given: Given, condition: Condition, taken: Taken) -> None:
    """InputError where the name of what a star catalog has is also that of another column of the file."""
    name = condition.column.strip()
    own: Sequence[int] = given.columns.places(name)
    if own and taken.index not in own:
        target = name.lower()
        raise given.columns.error(
            f"a condition could mean two columns: {condition.text}",
            name,
            f"the column {given.columns.names[own[0]]} of the file, or {given.name(taken)}, which is taken as {target}",
            fix="name another column, such as redshift for a redshift called z",
        )


def _find_own(columns: Columns, condition: Condition) -> int:
    """The column of the file that a condition names, as it stands there; InputError where there is none."""
    name = condition.column.strip()
    if not columns.places(name):
        what, expected = "a condition is on a column that does not exist", f"a column {name}"
        raise columns.error(what, condition.text, expected, "name a column of the file")
    return columns.find(name, condition.text, exactly=True)
