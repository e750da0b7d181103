"""The extinction of each band in a raw file, for --deredden: columns of it, else one of the reddening E(B-V)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hpc_ae.catalog.schema import DEFAULT_BANDS
from hpc_ae.errors import InputError
from hpc_ae.readers.bands import Bands
from hpc_ae.readers.columns import Given, Taken
from hpc_ae.readers.flux import EXTINCTION_OF_REDDENING, magnitude_factor
from hpc_ae.readers.names import EXTINCTION_PREFIX, EXTINCTIONS, REDDENINGS


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
    columns = given.columns
    if bands.family.is_dereddened:
        raise InputError(
            "the magnitudes are corrected for extinction already",
            where=columns.path,
            got=f"--deredden with the columns {bands.pattern.format(b='u')}, ...",
            fix="leave --deredden out, or choose others with --magnitudes",
        )
    for pattern in EXTINCTIONS:
        if columns.cases(pattern, DEFAULT_BANDS):
            names = {band: pattern.format(b=band) for band in DEFAULT_BANDS}
            found = [
                Taken(columns.find_band(pattern, band, name, DEFAULT_BANDS), f"named {name}")
                for band, name in names.items()
            ]
            return Extinctions(_by_band(found), tuple(_mag_of_one(given, one) for one in found))
    for name in REDDENINGS:
        if name in columns:
            return _of_reddening(given, name)
    examples = ", ".join(pattern.format(b="u") for pattern in EXTINCTIONS)
    expected = f"five columns such as {examples}, or a reddening {', '.join(REDDENINGS)}"
    raise columns.error("there is no extinction for every band", "--deredden", expected, "leave --deredden out")


def _of_reddening(given: Given, name: str) -> Extinctions:
    """The one column serves all bands, each with its own factor."""
    found = [Taken(given.columns.find(name, name), f"reddening {name}")] * len(DEFAULT_BANDS)
    listed = ", ".join(map(str, EXTINCTION_OF_REDDENING))
    note = f"the extinction in u to z is {name} times {listed} (Schlafly & Finkbeiner 2011)"
    factors = [factor * _mag_of_one(given, one) for factor, one in zip(EXTINCTION_OF_REDDENING, found, strict=True)]
    return Extinctions(_by_band(found), tuple(factors), (note,))


def _by_band(found: list[Taken]) -> dict[str, Taken]:
    return {EXTINCTION_PREFIX + band: one for band, one in zip(DEFAULT_BANDS, found, strict=True)}


def _mag_of_one(given: Given, taken: Taken) -> float:
    """How many mag one unit of a column is, by the file's unit. InputError where that is no magnitude."""
    unit = given.unit(taken)
    factor = magnitude_factor(unit) if unit else 1.0
    if factor is None:
        what = f"column {given.name(taken)} is in {unit}, which is not a magnitude"
        fix = "leave --deredden out, or correct the file's unit"
        raise given.columns.error(what, "--deredden", "a unit of mag", fix)
    return factor
