"""Which column of a raw file is which of ours, what its numbers mean, and why that was decided.

Precedence, highest first: explicit mapping; for the bands the first family of `FAMILIES` of which all five are there,
magnitudes before fluxes; the errors likewise (a lone `zErr` is the redshift's); for everything else the first name of
its list. The trap of `z`: beside u, g, r and i it is the band, beside five bands of another naming it is the redshift,
and where both could be it is an error that asks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from hpc_ae.catalog.schema import DEFAULT_BANDS
from hpc_ae.errors import InputError
from hpc_ae.readers.bands import Bands, choose_bands
from hpc_ae.readers.columns import Columns
from hpc_ae.readers.conversion import Conversion, conditions_of
from hpc_ae.readers.flux import EXTINCTION_OF_REDDENING, magnitude_factor
from hpc_ae.readers.names import (
    EXTINCTION_PREFIX,
    EXTINCTIONS,
    NAMES,
    RAW_PREFIX,
    REDDENINGS,
    REDSHIFT_COMPANY,
    TARGETS,
    WITHIN_FIELD,
)
from hpc_ae.readers.positions import Head, angle_factors, choose_positions
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


def understand(columns: Columns, mapping: Mapping[str, str], reading: Reading, head: Head) -> Understanding:
    """Decide what the columns of a raw file are; only the five bands must be there. `head` reads the first values.

    `mapping` (target to column name) wins over recognition; an empty column name says that the file has none.
    InputError where a band is missing, a mapped column is not there, or it is unclear what a column is or holds.
    """
    check_mapping(mapping)
    for target, name in mapping.items():
        if name:
            columns.take(target, columns.find(name, target, exactly=True), "mapped by hand")
    bands = choose_bands(columns, mapping, reading)
    if reading.asinh and not bands.zero_points:
        columns.notes.append("--asinh changes nothing: the bands are magnitudes already")
    choose_positions(columns, mapping)
    _choose_others(columns, mapping)
    _check_redshift_unit(columns, mapping)
    _check_taken_once(columns, mapping)
    ra_factor, dec_factor = angle_factors(columns, reading, head)
    factors = _choose_extinctions(columns, bands) if reading.deredden else ()
    conditions = tuple(_resolve(columns, condition) for condition in conditions_of(reading))
    order = {target: columns.wanted[target] for target in (*DEFAULT_BANDS, *TARGETS) if target in columns.wanted}
    conversion = Conversion(
        ra_factor,
        dec_factor,
        bands.zero_points,
        reading.asinh,
        bands.inverse_variance,
        bands.error_factors,
        factors,
        conditions,
    )
    return Understanding({**order, **columns.wanted}, conversion, columns.reasons, tuple(columns.notes))


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


def _choose_others(columns: Columns, mapping: Mapping[str, str]) -> None:
    """Take the id and the redshift: the first known name of each; a column z that is not the band is the redshift."""
    for target in ("objid", "redshift"):
        if target in mapping:
            continue
        name = next((name for name in NAMES[target] if name in columns), None)
        if name == "id" and all(other in columns for other in WITHIN_FIELD):
            columns.notes.append(
                "column id counts within a field, beside run, camcol and field: it is no star's own id"
            )
        elif name is not None:
            columns.take(target, columns.find(name, target), f"named {name}")
    if not {"redshift", "z"} & mapping.keys() and "redshift" not in columns.wanted and "z" in columns:
        index = columns.find("z", "redshift")
        if index != columns.wanted["z"]:
            band = columns.names[columns.wanted["z"]]
            company = [columns.names[columns.places(name)[0]] for name in REDSHIFT_COMPANY if name in columns]
            beside = ", ".join([band, *company])
            columns.take("redshift", index, f"z beside {beside} is the redshift")
            columns.notes.append(f"column {columns.names[index]} is the redshift, as the z band is {band}")


def _choose_extinctions(columns: Columns, bands: Bands) -> tuple[float, ...]:
    """Take the extinction of every band, else the reddening; what each is to be multiplied by (B,).

    InputError where there is neither, or the magnitudes are corrected already.
    """
    if bands.family.is_dereddened:
        raise InputError(
            "the magnitudes are corrected for extinction already",
            where=columns.path,
            got=f"--deredden with the columns {bands.pattern.format(b='u')}, ...",
            fix="leave --deredden out, or choose others with --magnitudes",
        )
    for pattern in EXTINCTIONS:
        if all(pattern.format(b=band) in columns for band in DEFAULT_BANDS):
            for band in DEFAULT_BANDS:
                name = pattern.format(b=band)
                columns.take(EXTINCTION_PREFIX + band, columns.find(name, name), f"named {name}")
            return tuple(_mag_of_one(columns, band) for band in DEFAULT_BANDS)
    for name in REDDENINGS:
        if name in columns:
            for band in DEFAULT_BANDS:
                columns.take(EXTINCTION_PREFIX + band, columns.find(name, name), f"reddening {name}")
            factors = ", ".join(map(str, EXTINCTION_OF_REDDENING))
            columns.notes.append(f"the extinction in u to z is {name} times {factors} (Schlafly & Finkbeiner 2011)")
            return tuple(
                factor * _mag_of_one(columns, band)
                for factor, band in zip(EXTINCTION_OF_REDDENING, DEFAULT_BANDS, strict=True)
            )
    examples = ", ".join(pattern.format(b="u") for pattern in EXTINCTIONS)
    expected = f"five columns such as {examples}, or a reddening {', '.join(REDDENINGS)}"
    raise columns.error("there is no extinction of every band", "--deredden", expected, "leave --deredden out")


def _mag_of_one(columns: Columns, band: str) -> float:
    """How many mag one unit of a band's extinction is, by the file's unit. InputError where that is no magnitude."""
    index = columns.wanted[EXTINCTION_PREFIX + band]
    unit = columns.unit(index)
    factor = magnitude_factor(unit) if unit else 1.0
    if factor is None:
        what = f"column {columns.names[index]} is in {unit}, which is no magnitude"
        raise columns.error(what, "--deredden", "a unit of mag", "leave --deredden out, or correct the file's unit")
    return factor


def _check_redshift_unit(columns: Columns, mapping: Mapping[str, str]) -> None:
    """InputError where the redshift that was found is a velocity by the file's unit; the mapping is believed."""
    index = columns.wanted.get("redshift")
    if index is None or mapping.get("redshift") or not _VELOCITY.search(columns.unit(index)):
        return
    what = f"column {columns.names[index]} is in {columns.unit(index)}, which is a velocity"
    fix = "say another column with --map redshift=COLUMN, or --map redshift= to do without"
    raise columns.error(what, "redshift", "a redshift, which has no unit", fix)


def _check_taken_once(columns: Columns, mapping: Mapping[str, str]) -> None:
    """InputError where a column is two things and not both were said: `--map redshift=z` leaves no z for the band."""
    taken: dict[int, str] = {}
    for target in (*DEFAULT_BANDS, *NAMES):
        index = columns.wanted.get(target)
        if index is None:
            continue
        other = taken.setdefault(index, target)
        if other != target and not (mapping.get(other) and mapping.get(target)):
            name = target if mapping.get(other) else other
            what = f"column {columns.names[index]} is taken for {other} and for {target}"
            raise columns.error(what, name, f"a column for {other} and another one for {target}")


def _resolve(columns: Columns, condition: Condition) -> Condition:
    """A condition on what a star catalog has (compared after conversion), else on a column of the file as it stands."""
    name = condition.column.strip()
    target, own = name.lower(), columns.places(name)
    if target in columns.wanted:
        if own and columns.wanted[target] not in own:
            raise columns.error(
                f"a condition could mean two columns: {condition.text}",
                name,
                f"the column {columns.names[own[0]]} of the file, or {columns.names[columns.wanted[target]]}, "
                f"which is taken as {target}",
                fix="name another column, such as redshift for a redshift called z",
            )
        return replace(condition, column=target)
    index = columns.find(name, condition.text, exactly=True) if own else None
    if index is None:
        raise columns.error(
            "a condition is on a column that is not there",
            condition.text,
            f"a column {name}",
            "name a column of the file",
        )
    columns.wanted[f"{RAW_PREFIX}{index}"] = index
    return replace(condition, column=f"{RAW_PREFIX}{index}")
