"""Which column of a raw file is which of ours, what its numbers mean, and why that was decided.

Precedence, highest first: explicit mapping; for the bands the first family of `FAMILIES` of which all five are there,
magnitudes before fluxes; the errors likewise (a lone `zErr` is the redshift's); for everything else the first name of
its list. The trap of `z`: beside u, g, r and i it is the band, beside five bands of another naming it is the redshift,
and where both could be it is an error that asks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from hpc_ae.errors import InputError
from hpc_ae.readers.band_errors import Errors, choose_errors
from hpc_ae.readers.bands import Bands, choose_bands
from hpc_ae.readers.columns import Columns, Given, Taken
from hpc_ae.readers.conversion import Conversion, conditions_of
from hpc_ae.readers.extinctions import Extinctions, choose_extinctions
from hpc_ae.readers.names import ERROR_PREFIX, OTHERS, RAW_PREFIX, REDSHIFT_COMPANY, WITHIN_FIELD
from hpc_ae.readers.naming import recognise
from hpc_ae.readers.positions import FirstValues, IsSexagesimal, choose_positions, measure_positions
from hpc_ae.readers.selection import Condition
from hpc_ae.readers.surveys import DEFAULT_SURVEY, Survey, load_survey, said_survey
from hpc_ae.reading import Reading

_VELOCITY = re.compile(r"/\s*s\b|s(\^|\*\*)?\(?-1", re.IGNORECASE)  # km/s, km s-1, km.s**-1


@dataclass(frozen=True)
class Understanding:
    """What was decided of a raw file: whose bands it has, our name to column index (conditions' columns as
    `raw:INDEX`), the conversion, whether bands may be missing, why each column was taken, and what a user should know.
    """

    survey: Survey
    wanted: dict[str, int]
    conversion: Conversion
    has_states: bool
    reasons: dict[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Look:
    """What may be asked of the first rows: numbers of columns, and whether a column is of text such as 12:34:56, or of
    words that are no ids.
    """

    first: FirstValues
    is_sexagesimal: IsSexagesimal = lambda _: False
    has_words: Callable[[int], bool] = lambda _: False


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
    look: Look,
    *,
    notice: bool = True,
) -> Understanding:
    """Decide what the columns of a raw file are; only bands must be there. `look` reads the first values.

    `mapping` (target to column name) wins over recognition; an empty column name says that the file has none. With
    `notice` the first values are looked at for doubts too.
    InputError where a band is missing, a mapped column is not there, or it is unclear what a column is or holds.
    """
    check_mapping(mapping, reading)
    survey = _survey_of(columns, mapping, reading)
    given = Given.of(columns, mapping, reading, survey)
    bands = choose_bands(given)
    errors = choose_errors(given, bands)
    places = choose_positions(given)
    objid, redshift = _choose_objid(given, look), _choose_redshift(given, bands)
    names = [*bands.taken, *(ERROR_PREFIX + band for band in bands.taken)]
    taken = {**bands.taken, **objid.taken, **places, **redshift.taken, **errors.taken}
    _check_redshift_unit(given, redshift)
    _check_taken_once(given, taken)
    positions = measure_positions(given, places, look.first, look.is_sexagesimal, notice=notice)
    extinctions = choose_extinctions(given, bands) if reading.deredden else Extinctions()
    taken = {**taken, **positions.taken, **extinctions.taken}
    conditions = _resolve_all(given, bands, taken)
    ordered = {name: taken[name] for name in (*bands.taken, *OTHERS, *names) if name in taken}
    return Understanding(
        bands.survey,
        {name: column.index for name, column in {**ordered, **taken, **conditions.taken}.items()},
        Conversion(
            reading,
            positions.ra_factor,
            positions.dec_factor,
            bands.zero_points,
            _softening(given, bands),
            errors.inverse_variance,
            errors.factors,
            extinctions.factors,
            conditions.resolved,
            positions.sexagesimal,
        ),
        not (given.is_default and reading.survey is None),
        {name: column.why for name, column in taken.items()},
        (
            *_survey_notes(given),
            *_band_notes(given, bands, errors),
            *objid.notes,
            *redshift.notes,
            *positions.notes,
            *extinctions.notes,
        ),
    )


def check_mapping(mapping: Mapping[str, str], reading: Reading) -> None:
    """InputError where a mapping names what a star catalog of the survey that was said has not, or takes a band away
    that the user named.
    """
    said = said_survey(reading)
    bands = (said or load_survey(DEFAULT_SURVEY)).band_names
    targets = (*OTHERS, *bands, *(ERROR_PREFIX + band for band in bands))
    for target, name in mapping.items():
        if target not in targets or (not name and target in bands):
            raise InputError(
                "a wrong column mapping",
                where="--map",
                got=f"{target}={name}",
                expected=f"name=column, name one of {', '.join(targets)}",
                fix="" if said else "for other bands than these name them all: --bands B1,B2,B3,...",
            )


def _survey_of(columns: Columns, mapping: Mapping[str, str], reading: Reading) -> Survey:
    """The survey that the user says, else the one whose bands were mapped, else that of the columns."""
    said = said_survey(reading)
    if said is not None:
        return said
    return load_survey(DEFAULT_SURVEY) if mapping.keys() - set(OTHERS) else recognise(columns, reading)


def _survey_notes(given: Given) -> list[str]:
    if given.is_default or given.reading.survey or given.reading.bands:
        return []
    return [f"the columns are those of {given.survey.title}: its bands are taken (--survey says another one)"]


def _softening(given: Given, bands: Bands) -> tuple[float, ...]:
    """The softening of asinh magnitudes (B,), where such are asked for. InputError where it is not known of a band."""
    if not given.reading.asinh:
        return ()
    unknown = [band.name for band in bands.survey.bands if band.softening is None]
    if unknown and bands.zero_points:
        raise InputError(
            "the softening of asinh magnitudes is not known",
            where="--asinh",
            got=f"band {', '.join(unknown)} of {bands.survey.title}",
            expected="a survey whose file says that of each band",
            fix="leave --asinh out, or give a survey's file with softening (--survey FILE.yaml)",
        )
    return tuple(band.softening for band in bands.survey.bands if band.softening is not None)


def _band_notes(given: Given, bands: Bands, errors: Errors) -> list[str]:
    is_idle = given.reading.asinh and not bands.zero_points
    idle = ["--asinh changes nothing: the bands are magnitudes already"] if is_idle else []
    return [*bands.notes, *errors.notes, *idle]


def _find_named(given: Given, target: str) -> Taken | None:
    """The first column of the names that are known for a target."""
    name = next((name for name in given.survey.names_of(target) if name in given.columns), None)
    return None if name is None else Taken(given.columns.find(name, target), f"named {name}")


def _choose_objid(given: Given, look: Look) -> _Choice:
    """The column of ids; of a survey that was said or recognised one of words is none: many name their stars."""
    if "objid" in given.mapping:
        return _Choice("objid", given.by_hand.get("objid"))
    name = next((name for name in given.survey.names_of("objid") if name in given.columns), None)
    if name == "id" and all(other in given.columns for other in WITHIN_FIELD):
        note = "column id is a number within a field, beside run, camcol and field: not the star's own id"
        return _Choice("objid", None, (note,))
    found = _find_named(given, "objid")
    if found is not None and not given.is_default and look.has_words(found.index):
        note = f"column {given.name(found)} has names of stars, not numbers: it is not used as the id"
        return _Choice("objid", None, (note,))
    return _Choice("objid", found)


def _choose_redshift(given: Given, bands: Bands) -> _Choice:
    """The column of redshifts: named so, or a column z that is not the band."""
    if "redshift" in given.mapping:
        return _Choice("redshift", given.by_hand.get("redshift"))
    columns = given.columns
    found = _find_named(given, "redshift")
    if found is not None or "z" in given.mapping or "z" not in columns:
        return _Choice("redshift", found)
    indices = {taken.index for taken in bands.taken.values()}
    if "z" not in bands.taken or not set(columns.places("z")) - indices:
        return _Choice("redshift", None)
    index = columns.find("z", "z")
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
    bands = given.survey.band_names
    for target in (*bands, *OTHERS):
        if target not in taken:
            continue
        other = first.setdefault(taken[target].index, target)
        both_by_hand = other in given.by_hand and target in given.by_hand
        if other != target and not (both_by_hand and not {other, target} <= set(bands)):
            name = target if other in given.by_hand else other
            what = f"column {given.name(taken[target])} is taken for {other} and for {target}"
            raise given.columns.error(what, name, f"a column for {other} and another one for {target}")


def _resolve_all(given: Given, bands: Bands, taken: Mapping[str, Taken]) -> _Conditions:
    """The conditions of the user with the columns that they mean."""
    resolved: list[Condition] = []
    own: dict[str, Taken] = {}
    for condition in conditions_of(given.reading, tuple(bands.taken)):
        target = condition.column.strip()
        target = target if target in taken else target.lower()
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
        target = name if name in given.survey.band_names else name.lower()
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
