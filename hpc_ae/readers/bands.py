"""The bands of a raw file: whose they are, which family of columns, and whether they are fluxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpc_ae.errors import InputError
from hpc_ae.readers.columns import Columns, Given, Taken
from hpc_ae.readers.flux import ZERO_POINTS, flux_unit, magnitude_factor
from hpc_ae.readers.names import BARE, REDSHIFT_COMPANY
from hpc_ae.readers.naming import Followed, families_of, follow, foreign_survey, might_be, names_of
from hpc_ae.readers.surveys import MIN_BANDS, Family, Survey


@dataclass(frozen=True)
class Bands:
    """What the bands are: of which survey, the bands that are there alone; their family, the pattern of their names,
    the column of each, and the zero points of fluxes (B,), in mag; () where the columns hold magnitudes.
    """

    survey: Survey
    family: Family
    pattern: str
    taken: Mapping[str, Taken]
    zero_points: tuple[float, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Naming:
    """A family, the pattern that the columns follow, the columns, and what there is to know of the choice."""

    family: Family
    pattern: str
    followed: Followed
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Scale:
    """Zero points (B,) of fluxes, in mag, () for magnitudes, and what there is to know of them."""

    zero_points: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()


def choose_bands(given: Given) -> Bands:
    """The bands that the file has of its survey. InputError where one is missing that must be there, there are fewer
    than three, or what a column holds is unclear.
    """
    survey = given.survey
    open_bands = [band for band in survey.band_names if band not in given.by_hand]
    naming = _choose_naming(given, open_bands) if open_bands else _naming_of_mapped(given)
    taken = {
        band: given.by_hand.get(band) or _take(given, naming, band)
        for band in survey.band_names
        if band in given.by_hand or band in naming.followed.places
    }
    if len(taken) < MIN_BANDS:
        raise _no_family(given, open_bands)
    there = survey.with_bands(tuple(taken))
    absent = [band for band in survey.band_names if band not in taken]
    scale = _find_scale(given, naming.family, taken)
    notes = (*naming.notes, *_absent_notes(survey, absent), *_foreign_notes(given, naming.pattern, taken), *scale.notes)
    return Bands(there, naming.family, naming.pattern, taken, scale.zero_points, notes)


def _absent_notes(survey: Survey, absent: Sequence[str]) -> list[str]:
    return [f"the file has no band {', '.join(absent)} of {survey.title}: the catalog has the others"] if absent else []


def _foreign_notes(given: Given, pattern: str, taken: Mapping[str, Taken]) -> list[str]:
    """What a user should know where columns look as if they were bands of another survey."""
    notes, columns = [], given.columns
    y_name = pattern.replace(BARE, "y")
    is_place = pattern == BARE and "x" in columns  # x and y are places on a chip
    if given.survey.complete and y_name in columns and not is_place:
        name = columns.names[columns.places(y_name)[0]]
        notes.append(
            f"column {name} is there too: bands of Pan-STARRS, LSST and DES are not quite those of SDSS; "
            "--survey lsst, panstarrs or des reads them as theirs"
        )
    for band, column in taken.items():
        survey = foreign_survey(given.name(column), given.survey) if band in given.by_hand and given.is_default else ""
        if survey:
            name = given.name(column)
            notes.append(f"column {name}, mapped to {band}, is a band of {survey} by its name, not SDSS's {band}")
    return notes


def _take(given: Given, naming: _Naming, band: str) -> Taken:
    places = naming.followed.places[band]
    is_double = len(places) > 1 or (given.survey.complete and naming.followed.num_cases > 1)
    index = given.columns.find(naming.pattern.replace(BARE, band), band) if is_double else places[0]
    is_trap = naming.pattern == BARE and band == "z" and given.survey.complete
    return Taken(index, "z beside u, g, r and i is the band" if is_trap else f"family {naming.family.label}")


def _choose_naming(given: Given, bands: Sequence[str]) -> _Naming:
    """The first naming of which all of `bands` are there, else that of most, where a survey's files may lack some.

    InputError names the bands that are missing.
    """
    columns, survey = given.columns, given.survey
    every = [
        _Naming(family, pattern, follow(columns, pattern, [band for band in survey.bands if band.name in bands]))
        for family in families_of(survey, given.reading)
        for pattern in family.names
    ]
    whole = [one for one in every if len(one.followed.places) == len(bands)]
    if whole:
        chosen = whole[0]
    else:
        mixed = [one for one in every if one.followed.num_any == len(bands)]
        if mixed and given.needs_all:
            raise _mixed_cases(given, mixed[0], bands)
        chosen = max(every, key=lambda one: len(one.followed.places), default=None) or _nothing(survey)
        if given.needs_all or len(given.by_hand_bands) + len(chosen.followed.places) < MIN_BANDS:
            raise _no_family(given, bands)
    if chosen.pattern == BARE and "z" in bands and survey.complete:
        found = {one.pattern: one.followed.bands for one in every}
        _check_bare_z(columns, found, given.survey.names_of("redshift"), "redshift" in given.mapping)
    return _Naming(chosen.family, chosen.pattern, chosen.followed, _other_notes(given, chosen, whole))


def _nothing(survey: Survey) -> _Naming:
    return _Naming(survey.families[0], BARE, Followed({}, 0, 0))


def _other_notes(given: Given, chosen: _Naming, whole: Sequence[_Naming]) -> tuple[str, ...]:
    """Which other families are there."""
    others = list(dict.fromkeys(one.family.label for one in whole if one.family.label != chosen.family.label))
    if not others:
        return ()
    names = ", ".join(names_of(given.columns, chosen.followed))
    return (
        f"the bands are the columns {names} ({chosen.family.label}); also there: {', '.join(others)}, "
        f"choose them with --magnitudes {others[0]}",
    )


def _mixed_cases(given: Given, naming: _Naming, bands: Sequence[str]) -> InputError:
    """The error for U beside g, r, i and z, which asks about those that are fewer."""
    columns = given.columns
    odd = [band for band in bands if band not in naming.followed.places]
    names = [columns.names[columns.find(naming.pattern.replace(BARE, band), band)] for band in odd]
    mapped = " ".join(f"--map {band}={name}" for band, name in zip(odd, names, strict=True))
    return columns.error(
        "the letters of the bands are of mixed case",
        ",".join(odd),
        f"all bands of one system: {', '.join(names)} beside the others may be Johnson's, nearly a magnitude off",
        f"name the right columns with --map, such as {mapped} if they are {given.survey.title}'s",
    )


def _naming_of_mapped(given: Given) -> _Naming:
    """The family that the columns named by hand belong to, if all belong to one; else that of the plain names."""
    names = {band: given.mapping[band].strip().lower() for band in given.survey.band_names}
    for family in given.survey.families:
        for pattern in family.names:
            if all(pattern.replace(BARE, band.lower()) == name for band, name in names.items()):
                return _Naming(family, pattern, Followed({}, 0, 0))
    return _nothing(given.survey)


def _no_family(given: Given, bands: Sequence[str]) -> InputError:
    columns = given.columns
    every = [pattern for family in families_of(given.survey, given.reading) for pattern in family.names]
    known = [band for band in given.survey.bands if band.name in bands]
    found = {pattern: follow(columns, pattern, known).bands for pattern in every}
    best = max(found, key=lambda pattern: len(found[pattern]), default=BARE)
    missing = [band for band in bands if band not in found.get(best, ())]
    family = f" of {given.reading.magnitudes}" if given.reading.magnitudes else ""
    firsts = [family.names[0] for family in given.survey.families]
    examples = ", ".join(pattern.replace(BARE, missing[0]) for pattern in [one for one in found if one in firsts][:6])
    if missing == ["z"] and "z" in columns:
        examples += "; is the column z the band (--map z=z), or the redshift (--map z=COLUMN)"
    expected = f"one of {examples}, ..." if examples else f"a column {missing[0]}"
    what = f"the column of band {', '.join(missing)}{family} is missing"
    return columns.error(what, missing[0], expected, _way_out(given, missing[0]))


def _way_out(given: Given, band: str) -> str:
    """What to do where a band is missing: name its column, or another survey."""
    if not given.is_default:
        others = "" if given.reading.bands else ", or name the bands that there are with --bands"
        return f"choose with --map {band}=COLUMN{others}"
    fitting = might_be(given.columns, given.reading)
    survey = f"--survey {' or '.join(fitting)}" if fitting else "--survey NAME"
    return f"choose with --map {band}=COLUMN, or say whose bands they are: {survey}, or any with --bands and --map"


def _check_bare_z(
    columns: Columns, found: Mapping[str, list[str]], redshifts: Sequence[str], has_redshift: bool
) -> None:
    """Refuse u, g, r, i, z where z may be something else: another column has the z band's name and no naming of its own
    beside it, or z has the company of a redshift that has no column of its own.
    """
    for pattern, bands in found.items():
        if bands == ["z"]:
            other = pattern.replace(BARE, "z")
            raise columns.error(
                "two columns could be the band", "z", f"either z (and {other} is something else) or {other}"
            )
    if has_redshift or any(name in columns for name in redshifts):
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
    reading, num_bands = given.reading, len(taken)
    units = {band: given.unit(column) for band, column in taken.items()}
    if reading.flux == "counts":
        _check_zero_points(given, num_bands)
        return _Scale(reading.zero_point * (num_bands // len(reading.zero_point)))
    said = {band: flux_unit(unit) for band, unit in units.items()}
    if reading.flux:
        by_hand = f"the columns of {family.label} are read as fluxes, as --flux says"
        notes = () if family.is_flux or any(said.values()) else (by_hand,)
        return _Scale((ZERO_POINTS[reading.flux],) * num_bands, (*notes, *_note_other(units, said, reading.flux)))
    are_magnitudes = all(unit and magnitude_factor(unit) for unit in units.values())  # which some files call FLUX_J
    if are_magnitudes or not (family.is_flux or any(said.values())):
        _check_magnitude_units(given, taken)
        return _Scale()
    if family.zero_point is not None and not any(units.values()):
        note = f"the bands are fluxes of zero point {family.zero_point:g}, as {family.label} is by convention"
        return _Scale((family.zero_point,) * num_bands, (note,))
    chosen = [said[band] or ("" if units[band] else family.unit) for band in taken]
    if not all(chosen):
        shown = ", ".join(f"{given.name(column)} {units[band]!r}" for band, column in taken.items())
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


def _check_zero_points(given: Given, num_bands: int) -> None:
    """InputError where there is neither one zero point nor one for each band."""
    points = given.reading.zero_point
    if len(points) not in (1, num_bands):
        got, expected = ", ".join(map(str, points)), f"one number, or {num_bands}, one for each band"
        raise InputError("wrong zero points", where="--zero-point", got=got, expected=expected)


def _note_other(units: Mapping[str, str], said: Mapping[str, str | None], flux: str) -> tuple[str, ...]:
    """What to know where the file says another unit than the user."""
    other = {unit for band, unit in units.items() if unit and said[band] != flux}
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
