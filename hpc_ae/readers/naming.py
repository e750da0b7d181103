"""Which columns of a raw file follow a pattern such as mag_{b}, of which case, and which survey they speak for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hpc_ae.errors import InputError
from hpc_ae.readers.columns import Columns
from hpc_ae.readers.surveys import (
    DEFAULT_SURVEY,
    MIN_BANDS,
    Band,
    Family,
    Survey,
    known_surveys,
    load_survey,
)
from hpc_ae.reading import Reading

_B = "{b}"


@dataclass(frozen=True)
class Followed:
    """The columns that follow a pattern: of each band those whose letters stand in the case that most bands have.

    `num_any` counts the bands whatever the case; `num_cases` the cases that have as many bands as this one.
    """

    places: dict[str, list[int]]
    num_any: int
    num_cases: int

    @property
    def bands(self) -> list[str]:
        """The bands that are there."""
        return list(self.places)


def follow(columns: Columns, pattern: str, bands: Sequence[Band]) -> Followed:
    """The columns of these bands: spelled as the survey does, else all small, else all capital. U beside g, r, i and z
    is Johnson's, and z beside Z another filter.
    """
    found = {band.name: _letters(columns, pattern, band) for band in bands}
    cases = []
    for case in (_is_exact, _is_lower, _is_upper):
        places = {name: [index for index, *letters in some if case(*letters)] for name, some in found.items()}
        cases.append({name: indices for name, indices in places.items() if indices})
    best = max(cases, key=len)
    same = [tuple(sorted(place for places in case.values() for place in places)) for case in cases]
    num_cases = len({places for case, places in zip(cases, same, strict=True) if len(case) == len(best)})
    return Followed(best, sum(bool(some) for some in found.values()), num_cases)


def _letters(columns: Columns, pattern: str, band: Band) -> list[tuple[int, str, str]]:
    """The columns of a band: index, letters of the band as they stand there, and the word that they are."""
    start = pattern.index(_B)
    for word in band.words:
        places = columns.places(pattern.replace(_B, word))
        if places:
            return [(place, columns.names[place].strip()[start : start + len(word)], word) for place in places]
    return []


def _is_exact(letters: str, word: str) -> bool:
    return letters == word


def _is_lower(letters: str, _word: str) -> bool:
    return letters.islower()


def _is_upper(letters: str, _word: str) -> bool:
    return letters.isupper()


def names_of(columns: Columns, followed: Followed) -> list[str]:
    """The names of the columns, one for each band."""
    return [columns.names[places[0]] for places in followed.places.values()]


def recognise(columns: Columns, reading: Reading) -> Survey:
    """The survey that the columns speak for, where the user says none; the default one where no other does, or where
    all its bands are there and are not just some of the other's.

    InputError where two surveys fit.
    """
    default = load_survey(DEFAULT_SURVEY)
    taken = {name: _taken(columns, load_survey(name), reading) for name in known_surveys()}
    fitting = {name: places for name, places in taken.items() if len(places) >= MIN_BANDS}
    own = _taken(columns, default, reading, shared=True)
    if len(own) == len(default.bands):
        fitting = {name: places for name, places in fitting.items() if own < places}
    largest = [name for name, places in fitting.items() if not any(places < other for other in fitting.values())]
    if len(largest) > 1:
        raise _several(columns, largest)
    return load_survey(largest[0]) if largest else default


def _taken(columns: Columns, survey: Survey, reading: Reading, *, shared: bool = False) -> set[int]:
    """The columns of the family of most bands, of those that the survey is recognised by (with `shared`, of all)."""
    best: set[int] = set()
    for family in families_of(survey, reading):
        if not shared and (family.shared or (family.marks and not any(mark in columns for mark in family.marks))):
            continue
        for pattern in family.names:
            places = follow(columns, pattern, survey.bands).places
            indices = {indices[0] for indices in places.values()}
            if len(indices) > len(best):
                best = indices
    return best


def families_of(survey: Survey, reading: Reading) -> list[Family]:
    """The families of a survey in the order they are tried, of the label that the user chose."""
    families = [one for one in survey.families if reading.magnitudes.lower() in ("", one.label.lower())]
    if reading.flux and not reading.magnitudes:
        families.sort(key=lambda one: not one.is_flux)
    return families


def might_be(columns: Columns, reading: Reading) -> list[str]:
    """The surveys of whose families, those of several surveys too, at least three bands are there."""
    return [
        name for name in known_surveys() if len(_taken(columns, load_survey(name), reading, shared=True)) >= MIN_BANDS
    ]


def foreign_survey(name: str, own: Survey) -> str:
    """The title of another survey that a column's name is that of a band of, and of no band of `own`; "" for none."""
    if _is_of(name, own, shared=True):
        return ""
    titles = (load_survey(other).title for other in known_surveys() if _is_of(name, load_survey(other), shared=False))
    return next(titles, "")


def _is_of(name: str, survey: Survey, *, shared: bool) -> bool:
    """Whether a name follows a pattern of a survey: of all its families, or of those that are its alone."""
    patterns: Iterable[str] = (
        pattern
        for family in survey.families
        if shared or not (family.shared or family.marks)
        for pattern in family.names
    )
    lowered = name.strip().lower()
    words = [word.lower() for band in survey.bands for word in band.words]
    return any(pattern.replace(_B, word) == lowered for pattern in patterns for word in words if pattern != _B)


def _several(columns: Columns, names: Sequence[str]) -> InputError:
    titles = ", ".join(f"{name} ({load_survey(name).title})" for name in names)
    return InputError(
        "the columns are those of several surveys",
        where=columns.path,
        got=titles,
        expected="one of them",
        fix=f"choose with --survey {names[0]}, or name the bands yourself with --bands and --map",
    )
