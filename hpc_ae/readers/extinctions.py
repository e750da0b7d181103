"""The extinction of each band in a raw file, for --deredden: columns of it, else one of the reddening E(B-V)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hpc_ae.errors import InputError
from hpc_ae.readers.bands import Bands
from hpc_ae.readers.columns import Given, Taken
from hpc_ae.readers.flux import magnitude_factor
from hpc_ae.readers.names import BARE, EXTINCTION_PREFIX
from hpc_ae.readers.naming import follow
from hpc_ae.readers.surveys import ANY_SURVEY, load_survey


@dataclass(frozen=True)
class Extinctions:
    """Each band's column, and what its values are multiplied by (B,) to be in mag; by default there are none."""

    taken: Mapping[str, Taken] = field(default_factory=dict)
    factors: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()


def choose_extinctions(given: Given, bands: Bands) -> Extinctions:
    """The extinction of every band, else the reddening.

    InputError where there is neither, or the magnitudes are corrected already.
    """
    columns, first = given.columns, next(iter(bands.taken))
    if bands.family.dereddened:
        raise InputError(
            "the magnitudes are corrected for extinction already",
            where=columns.path,
            got=f"--deredden with the columns {bands.pattern.replace(BARE, first)}, ...",
            fix="leave --deredden out, or choose others with --magnitudes",
        )
    common = load_survey(ANY_SURVEY)
    patterns = (*bands.survey.extinctions, *common.extinctions)
    for pattern in patterns:
        followed = follow(columns, pattern, bands.survey.bands)
        if len(followed.places) == len(bands.taken):
            found = {
                band: Taken(places[0], f"named {pattern.replace(BARE, band)}")
                for band, places in followed.places.items()
            }
            return Extinctions(_by_band(found), tuple(_mag_of_one(given, one) for one in found.values()))
    reddenings = (*bands.survey.reddenings, *common.reddenings)
    for name in reddenings:
        if name in columns:
            return _of_reddening(given, bands, name)
    examples = ", ".join(pattern.replace(BARE, first) for pattern in patterns)
    expected = f"a column for each band such as {examples}, or a reddening {', '.join(reddenings)}"
    raise columns.error("there is no extinction for every band", "--deredden", expected, "leave --deredden out")


def _of_reddening(given: Given, bands: Bands, name: str) -> Extinctions:
    """The one column serves all bands, each with its own factor; InputError where one is not known."""
    factors = [band.extinction for band in bands.survey.bands if band.extinction is not None]
    unknown = [band.name for band in bands.survey.bands if band.extinction is None]
    if unknown:
        what, expected = "the extinction of a band for a reddening is not known", "a survey whose file says them"
        fix = "leave --deredden out, or give a survey's file with the extinction of each band (--survey FILE.yaml)"
        raise given.columns.error(what, ", ".join(unknown), expected, fix)
    found = {band: Taken(given.columns.find(name, name), f"reddening {name}") for band in bands.taken}
    listed, names = ", ".join(map(str, factors)), list(bands.taken)
    source = " (Schlafly & Finkbeiner 2011)" if given.is_default else ""
    note = f"the extinction in {names[0]} to {names[-1]} is {name} times {listed}{source}"
    whole = tuple(factor * _mag_of_one(given, one) for factor, one in zip(factors, found.values(), strict=True))
    return Extinctions(_by_band(found), whole, (note,))


def _by_band(found: Mapping[str, Taken]) -> dict[str, Taken]:
    return {EXTINCTION_PREFIX + band: one for band, one in found.items()}


def _mag_of_one(given: Given, taken: Taken) -> float:
    """How many mag one unit of a column is, by the file's unit. InputError where that is no magnitude."""
    unit = given.unit(taken)
    factor = magnitude_factor(unit) if unit else 1.0
    if factor is None:
        what = f"column {given.name(taken)} is in {unit}, which is not a magnitude"
        fix = "leave --deredden out, or correct the file's unit"
        raise given.columns.error(what, "--deredden", "a unit of mag", fix)
    return factor
