"""The five bands of a raw file: which family of columns they are, and whether they are fluxes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpc_ae.catalog.schema import DEFAULT_BANDS
from hpc_ae.errors import InputError
from hpc_ae.readers.columns import Columns, Given, Taken
from hpc_ae.readers.flux import ZERO_POINTS, flux_unit, magnitude_factor
from hpc_ae.readers.names import BARE, FAMILIES, FOREIGN, NAMES, REDSHIFT_COMPANY, Family
from hpc_ae.reading import Reading


@dataclass(frozen=True)
class Bands:
    """What the bands are: their family, the pattern of their names, the column of each, and the zero points of fluxes
    (B,), in mag; () where the columns hold magnitudes.
    """

    family: Family
    pattern: str
    taken: Mapping[str, Taken]
    zero_points: tuple[float, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Naming:
    """A family, the pattern that the columns follow, and what there is to know of the choice."""

    family: Family
    pattern: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Scale:
    """Zero points (B,) of fluxes, in mag, () for magnitudes, and what there is to know of them."""

    zero_points: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()


def choose_bands(given: Given) -> Bands:
    """The five bands. InputError where one is missing, or what a column holds is unclear."""
    open_bands = [band for band in DEFAULT_BANDS if band not in given.by_hand]
    naming = _choose_family(given, open_bands) if open_bands else _family_of_mapped(given.mapping)
    taken = {band: given.by_hand.get(band) or _take(given, naming, band, open_bands) for band in DEFAULT_BANDS}
    scale = _find_scale(given, naming.family, taken)
    notes = (*naming.notes, *_foreign_notes(given, naming.pattern, taken), *scale.notes)
    return Bands(naming.family, naming.pattern, taken, scale.zero_points, notes)


def _foreign_notes(given: Given, pattern: str, taken: Mapping[str, Taken]) -> list[str]:
    """What a user should know where columns look as if they were bands of another survey than SDSS."""
    notes, columns = [], given.columns
    if pattern.format(b="y") in columns and not (pattern == BARE and "x" in columns):  # x and y are places on a chip
        name = columns.names[columns.places(pattern.format(b="y"))[0]]
        notes.append(f"column {name} is there too: bands of Pan-STARRS, LSST and DES are not quite those of SDSS")
    for band, column in taken.items():
        name = given.name(column)
        survey = next((one for one, word in FOREIGN if re.search(word, name.lower())), "")
        if survey and band in given.by_hand:
            notes.append(f"column {name}, mapped to {band}, is a band of {survey} by its name, not SDSS's {band}")
    return notes


def _take(given: Given, naming: _Naming, band: str, bands: Sequence[str]) -> Taken:
    index = given.columns.find_band(naming.pattern, band, band, bands)
    is_trap = naming.pattern == BARE and band == "z"
    return Taken(index, "z beside u, g, r and i is the band" if is_trap else f"family {naming.family.label}")


def _candidates(reading: Reading) -> list[tuple[Family, str]]:
    """Families and their patterns in the order they are tried."""
    families = [one for one in FAMILIES if reading.magnitudes.lower() in ("", one.label.lower())]
    if reading.flux and not reading.magnitudes:
        families.sort(key=lambda one: not one.is_flux)
    return [(family, pattern) for family in families for pattern in family.names]


def _choose_family(given: Given, bands: Sequence[str]) -> _Naming:
    """The first naming of which all of `bands` are there; InputError names the bands that are missing."""
    columns = given.columns
    candidates = _candidates(given.reading)
    found = {pattern: [band for band in bands if pattern.format(b=band) in columns] for _, pattern in candidates}
    whole = [(family, pattern) for family, pattern in candidates if len(found[pattern]) == len(bands)]
    if not whole:
        raise _no_family(given, bands, found)
    of_one_kind = [one for one in whole if columns.cases(one[1], bands)]
    if not of_one_kind:
        raise _mixed_cases(given, whole[0][1], bands)
    whole = of_one_kind
    family, pattern = whole[0]
    if pattern == BARE and "z" in bands:
        _check_bare_z(columns, found, "redshift" in given.mapping)
    others = list(dict.fromkeys(other.label for other, _ in whole[1:] if other.label != family.label))
    if not others:
        return _Naming(family, pattern)
    names = ", ".join(columns.names[columns.find_band(pattern, band, band, bands)] for band in bands)
    note = (
        f"the bands are the columns {names} ({family.label}); also there: {', '.join(others)}, "
        f"choose them with --magnitudes {others[0]}"
    )
    return _Naming(family, pattern, (note,))


def _mixed_cases(given: Given, pattern: str, bands: Sequence[str]) -> InputError:
    """The error for U beside g, r, i and z, which asks about those that are fewer."""
    columns = given.columns
    upper = [band for band in bands if columns.cases(pattern, [band]) == [True]]
    odd = upper if 2 * len(upper) <= len(bands) else [band for band in bands if band not in upper]
    names = [columns.names[columns.find(pattern.format(b=band), band)] for band in odd]
    mapped = " ".join(f"--map {band}={name}" for band, name in zip(odd, names, strict=True))
    return columns.error(
        "the letters of the bands are of mixed case",
        ",".join(odd),
        f"five bands of one system: {', '.join(names)} beside the others may be Johnson's, nearly a magnitude off",
        f"name the right columns with --map, such as {mapped} if they are SDSS's",
    )


def _family_of_mapped(mapping: Mapping[str, str]) -> _Naming:
    """The family that five columns named by hand belong to, if all belong to one; else that of the plain names."""
    names = {band: mapping[band].strip().lower() for band in DEFAULT_BANDS}
    for family in FAMILIES:
        for pattern in family.names:
            if all(pattern.format(b=band) == name for band, name in names.items()):
                return _Naming(family, pattern)
    return _Naming(FAMILIES[0], BARE)


def _no_family(given: Given, bands: Sequence[str], found: Mapping[str, list[str]]) -> InputError:
    best = max(found, key=lambda pattern: len(found[pattern]))
    missing = [band for band in bands if band not in found[best]]
    family = f" of {given.reading.magnitudes}" if given.reading.magnitudes else ""
    examples = ", ".join(pattern.format(b=missing[0]) for pattern in _examples(found))
    if missing == ["z"] and "z" in given.columns:
        examples += "; is the column z the band (--map z=z), or the redshift (--map z=COLUMN)"
    return given.columns.error(
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
            fix="use --map z=z if it is the band, else --map z=COLUMN with the band's column (and --map redshift=z)",
        )


def _is_of_band(columns: Columns, name: str) -> bool:
    """Whether `zErr` or `z_err` has its like of the four other bands beside it."""
    return name in ("zerr", "z_err") and all(band + name[1:] in columns for band in "ugri")


def _find_scale(given: Given, family: Family, taken: Mapping[str, Taken]) -> _Scale:
    """Whether the columns hold fluxes, and of which zero points. InputError where it is not clear."""
    reading = given.reading
    units = {band: given.unit(taken[band]) for band in DEFAULT_BANDS}
    if reading.flux == "counts":
        return _Scale(reading.zero_point * (len(DEFAULT_BANDS) // len(reading.zero_point)))
    said = {band: flux_unit(unit) for band, unit in units.items()}
    if reading.flux:
        by_hand = f"the columns of {family.label} are read as fluxes, as --flux says"
        notes = () if family.is_flux or any(said.values()) else (by_hand,)
        points = (ZERO_POINTS[reading.flux],) * len(DEFAULT_BANDS)
        return _Scale(points, (*notes, *_note_other(units, said, reading.flux)))
    if not (family.is_flux or any(said.values())):
        _check_magnitude_units(given, taken)
        return _Scale()
    chosen = [said[band] or ("" if units[band] else family.unit) for band in DEFAULT_BANDS]
    if not all(chosen):
        shown = ", ".join(f"{given.name(taken[band])} {units[band]!r}" for band in DEFAULT_BANDS)
        raise InputError(
            "the bands are fluxes of unknown unit",
            where=given.columns.path,
            got=shown,
            expected=f"one of {', '.join(ZERO_POINTS)}, or counts with a zero point",
            fix="set it with --flux UNIT, or choose magnitudes with --magnitudes",
        )
    source = "by the file's units" if all(units.values()) else f"as {family.label} is by convention"
    note = f"the bands are fluxes in {', '.join(dict.fromkeys(map(str, chosen)))}, {source}"
    return _Scale(tuple(ZERO_POINTS[str(name)] for name in chosen), (note,))


def _note_other(units: Mapping[str, str], said: Mapping[str, str | None], flux: str) -> tuple[str, ...]:
    """What to know where the file says another unit than the user."""
    other = {units[band] for band in DEFAULT_BANDS if units[band] and said[band] != flux}
    listed = ", ".join(sorted(other))
    return (f"the file says {listed}, the bands are read in {flux} as --flux says",) if other else ()


def _check_magnitude_units(given: Given, taken: Mapping[str, Taken]) -> None:
    """InputError where the file says that a column is something else than magnitudes; the mapping is believed."""
    for band, column in taken.items():
        unit, name = given.unit(column), given.name(column)
        factor = magnitude_factor(unit) if unit else 1.0
        if factor == 1.0 or (factor is None and band in given.by_hand):
            continue
        if factor is None:
            raise given.columns.error(f"column {name} is in {unit}, which is not a magnitude", band, "a unit of mag")
        what, fix = f"column {name} is in {unit}, not mag", "convert the file to mag"
        raise given.columns.error(what, band, "a unit of mag", fix)
