"""The five bands of a raw file: which family of columns they are, their errors, and whether they are fluxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpc_ae.catalog.schema import DEFAULT_BANDS
from hpc_ae.errors import InputError
from hpc_ae.readers.columns import Columns
from hpc_ae.readers.flux import ZERO_POINTS, flux_unit, magnitude_factor
from hpc_ae.readers.names import (
    BARE,
    ERROR_PREFIX,
    ERRORS,
    FAMILIES,
    NAMES,
    REDSHIFT_COMPANY,
    Family,
    error_patterns,
    inverse_variance_patterns,
)
from hpc_ae.reading import Reading


@dataclass(frozen=True)
class Bands:
    """What the bands are: their family, the pattern of their names, the zero points of fluxes (B,), in mag,
    and what the errors' values are to be multiplied by (B,), () where by nothing.
    """

    family: Family
    pattern: str
    zero_points: tuple[float, ...] = ()
    inverse_variance: bool = False
    error_factors: tuple[float, ...] = ()


def choose_bands(columns: Columns, mapping: Mapping[str, str], reading: Reading) -> Bands:
    """Take the five bands and their errors. InputError where a band is missing, or what a column holds is unclear."""
    open_bands = [band for band in DEFAULT_BANDS if not mapping.get(band)]
    family, pattern = _choose_family(columns, open_bands, mapping, reading)
    for band in open_bands:
        columns.take(band, columns.find(pattern.format(b=band), band), _why(columns, family, pattern, band))
    zero_points = _zero_points(columns, family, mapping, reading)
    is_inverse = _choose_errors(columns, family, pattern, mapping, is_flux=bool(zero_points))
    factors = () if is_inverse else _error_factors(columns, mapping, zero_points)
    return Bands(family, pattern, zero_points, is_inverse, factors)


def _why(columns: Columns, family: Family, pattern: str, band: str) -> str:
    if pattern == BARE and band == "z":
        return "z beside u, g, r and i is the band"
    return f"family {family.label}"


def _candidates(reading: Reading) -> list[tuple[Family, str]]:
    """Families and their patterns in the order they are tried."""
    families = [one for one in FAMILIES if reading.magnitudes.lower() in ("", one.label.lower())]
    if reading.flux and not reading.magnitudes:
        families.sort(key=lambda one: not one.is_flux)
    return [(family, pattern) for family in families for pattern in family.names]


def _choose_family(
    columns: Columns, bands: Sequence[str], mapping: Mapping[str, str], reading: Reading
) -> tuple[Family, str]:
    """The first naming of which all of `bands` are there; InputError names the bands that are missing."""
    if not bands:
        return _family_of_mapped(mapping)
    candidates = _candidates(reading)
    found = {pattern: [band for band in bands if pattern.format(b=band) in columns] for _, pattern in candidates}
    whole = [(family, pattern) for family, pattern in candidates if len(found[pattern]) == len(bands)]
    if not whole:
        raise _no_family(columns, bands, found, reading)
    family, pattern = whole[0]
    if pattern == BARE and "z" in bands:
        _check_bare_z(columns, found, "redshift" in mapping)
    others = list(dict.fromkeys(other.label for other, _ in whole[1:] if other.label != family.label))
    if others:
        names = ", ".join(columns.names[columns.find(pattern.format(b=band), band)] for band in bands)
        columns.notes.append(
            f"the bands are the columns {names} ({family.label}); also there: {', '.join(others)}, "
            f"which --magnitudes {others[0]} would take"
        )
    return family, pattern


def _family_of_mapped(mapping: Mapping[str, str]) -> tuple[Family, str]:
    """The family that five columns named by hand belong to, if all belong to one; else that of the plain names."""
    names = {band: mapping[band].strip().lower() for band in DEFAULT_BANDS}
    for family in FAMILIES:
        for pattern in family.names:
            if all(pattern.format(b=band) == name for band, name in names.items()):
                return family, pattern
    return FAMILIES[0], BARE


def _no_family(columns: Columns, bands: Sequence[str], found: Mapping[str, list[str]], reading: Reading) -> InputError:
    best = max(found, key=lambda pattern: len(found[pattern]))
    missing = [band for band in bands if band not in found[best]]
    family = f" of {reading.magnitudes}" if reading.magnitudes else ""
    examples = ", ".join(pattern.format(b=missing[0]) for pattern in _examples(found))
    if missing == ["z"] and "z" in columns:
        examples += "; is the column z the band (--map z=z), or the redshift (--map z=COLUMN)"
    return columns.error(
        f"the column of band {', '.join(missing)}{family} is missing", missing[0], f"one of {examples}, ..."
    )


def _examples(found: Mapping[str, list[str]]) -> list[str]:
    """The patterns that a user is most likely to have: the first of each family."""
    firsts = [family.names[0] for family in FAMILIES]
    return [pattern for pattern in found if pattern in firsts][:6]


def _check_bare_z(columns: Columns, found: Mapping[str, list[str]], has_redshift: bool) -> None:
    """Refuse u, g, r, i, z where z may be something else: another column has the z band's name and no naming of its own
    beside it, or z has the company of a redshift that has no column of its own.
    """
    for pattern, bands in found.items():
        if bands == ["z"]:
            other = pattern.format(b="z")
            raise columns.error(
                "two columns could be the band", "z", f"either z (and {other} is something else) or {other}"
            )
    if has_redshift or any(name in columns for name in NAMES["redshift"]):
        return
    company = [name for name in REDSHIFT_COMPANY if name in columns and not _is_of_band(columns, name)]
    if company:
        raise columns.error(
            "a column could be a band or the redshift",
            "z",
            f"z to be the band or the redshift; beside it is {', '.join(company)}, which redshifts have",
            fix="say --map z=z where it is the band, else --map z=COLUMN with the band's column (and --map redshift=z)",
        )


def _is_of_band(columns: Columns, name: str) -> bool:
    """Whether `zErr` or `z_err` has its like of the four other bands beside it."""
    return name in ("zerr", "z_err") and all(band + name[1:] in columns for band in "ugri")


def _choose_errors(
    columns: Columns, family: Family, pattern: str, mapping: Mapping[str, str], *, is_flux: bool
) -> bool:
    """Take the errors of the bands if all are there; return whether they are inverse variances of fluxes."""
    wanted = [ERROR_PREFIX + band for band in DEFAULT_BANDS if ERROR_PREFIX + band not in mapping]
    inverse = inverse_variance_patterns(pattern) if is_flux else ()
    for name in (*error_patterns(pattern, family), *inverse):
        if wanted and all(name.format(b=band) in columns for band in DEFAULT_BANDS):
            for target in wanted:
                columns.take(target, columns.find(name.format(b=target[-1]), target), f"errors of {family.label}")
            break
    names = [columns.names[columns.wanted[target]].lower() for target in ERRORS if target in columns.wanted]
    are_inverse = {"ivar" in name for name in names} if is_flux else {False}
    if len(are_inverse) > 1:
        raise columns.error("some errors are inverse variances, others not", ERRORS[0], "five of one kind")
    return True in are_inverse


def _zero_points(columns: Columns, family: Family, mapping: Mapping[str, str], reading: Reading) -> tuple[float, ...]:
    """Zero points (B,) of fluxes, in mag; () where the columns hold magnitudes. InputError where it is not clear."""
    units = {band: columns.unit(columns.wanted[band]) for band in DEFAULT_BANDS}
    if reading.flux == "counts":
        return reading.zero_point * (len(DEFAULT_BANDS) // len(reading.zero_point))
    said = {band: flux_unit(unit) for band, unit in units.items()}
    if reading.flux:
        if not family.is_flux and not any(said.values()):
            columns.notes.append(f"the columns of {family.label} are read as fluxes, as --flux says")
        _note_other(columns, units, {band: known or "" for band, known in said.items()}, reading.flux)
        return (ZERO_POINTS[reading.flux],) * len(DEFAULT_BANDS)
    is_flux = family.is_flux or any(said.values())
    if not is_flux:
        _check_magnitude_units(columns, units, mapping)
        return ()
    chosen = [said[band] or ("" if units[band] else family.unit) for band in DEFAULT_BANDS]
    if not all(chosen):
        shown = ", ".join(f"{columns.names[columns.wanted[band]]} {units[band]!r}" for band in DEFAULT_BANDS)
        raise InputError(
            "the bands are fluxes of unknown unit",
            where=columns.path,
            got=shown,
            expected=f"one of {', '.join(ZERO_POINTS)}, or counts with a zero point",
            fix="say it with --flux UNIT, or choose magnitudes with --magnitudes",
        )
    source = "by the file's units" if all(units.values()) else f"as {family.label} is by convention"
    columns.notes.append(f"the bands are fluxes in {', '.join(dict.fromkeys(map(str, chosen)))}, {source}")
    return tuple(ZERO_POINTS[str(name)] for name in chosen)


def _note_other(columns: Columns, units: Mapping[str, str], said: Mapping[str, str], flux: str) -> None:
    other = {units[band] for band in DEFAULT_BANDS if units[band] and said[band] != flux}
    if other:
        columns.notes.append(f"the file says {', '.join(sorted(other))}, the bands are read in {flux} as --flux says")


def _check_magnitude_units(columns: Columns, units: Mapping[str, str], mapping: Mapping[str, str]) -> None:
    """InputError where the file says that a column is something else than magnitudes; the mapping is believed."""
    for band, unit in units.items():
        factor = magnitude_factor(unit) if unit else 1.0
        if factor == 1.0 or (factor is None and mapping.get(band)):
            continue
        name = columns.names[columns.wanted[band]]
        if factor is None:
            raise columns.error(f"column {name} is in {unit}, which is no magnitude", band, "a unit of mag")
        raise columns.error(f"column {name} is in {unit}, not mag", band, "a unit of mag", "convert the file to mag")


def _error_factors(columns: Columns, mapping: Mapping[str, str], zero_points: tuple[float, ...]) -> tuple[float, ...]:
    """What the errors' values (B,) are multiplied by, to be in mag or in the unit of the fluxes; () is 1.

    By the file's units; InputError where these say that a column is something else, unless it was mapped by hand.
    """
    if not set(ERRORS) <= columns.wanted.keys():
        return ()  # a catalog has the errors of all bands or none
    factors, said = [], []
    for place, target in enumerate(ERRORS):
        index = columns.wanted[target]
        unit, band_unit = columns.unit(index), columns.unit(columns.wanted[target.removeprefix(ERROR_PREFIX)])
        if unit in ("", band_unit):
            factor: float | None = 1.0
        else:
            factor = _flux_factor(unit, band_unit, zero_points[place]) if zero_points else magnitude_factor(unit)
        if factor is None and not mapping.get(target):
            what = f"column {columns.names[index]} is in {unit}, which is no {'flux' if zero_points else 'magnitude'}"
            raise columns.error(what, target, "a unit of flux" if zero_points else "a unit of mag")
        factors.append(factor or 1.0)
        said.append(unit)
    if all(factor == 1.0 for factor in factors):
        return ()
    columns.notes.append(f"the errors are in {', '.join(dict.fromkeys(said))} by the file's units, and converted")
    return tuple(factors)


def _flux_factor(unit: str, band_unit: str, zero_point: float) -> float | None:
    """How many units of a flux (of `zero_point`, where its own is not known) one unit of its error is, else None."""
    error, flux = flux_unit(unit), flux_unit(band_unit)
    if error is None:
        return None
    return float(10.0 ** (0.4 * ((ZERO_POINTS[flux] if flux else zero_point) - ZERO_POINTS[error])))
