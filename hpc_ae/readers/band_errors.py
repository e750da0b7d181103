"""The errors of the bands of a raw file: which columns they are, and what their values count in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpc_ae.readers.bands import Bands
from hpc_ae.readers.columns import Given, Taken
from hpc_ae.readers.flux import ZERO_POINTS, flux_unit, magnitude_factor
from hpc_ae.readers.names import BARE, ERROR_PREFIX, error_patterns, inverse_variance_patterns
from hpc_ae.readers.naming import follow


@dataclass(frozen=True)
class Errors:
    """The columns of the errors, whether they are inverse variances of fluxes, and what their values are multiplied by
    (B,) to be in mag or in the unit of the fluxes; () is by nothing.
    """

    taken: Mapping[str, Taken]
    inverse_variance: bool
    factors: tuple[float, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Scale:
    """Factors (B,) of the errors' values, () for none, and what there is to know of them."""

    factors: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()


def choose_errors(given: Given, bands: Bands) -> Errors:
    """The errors of the bands: those mapped by hand, the others as far as they are there; of a survey of which all
    bands must be there the errors of all or none. InputError where they contradict.
    """
    targets = {band: ERROR_PREFIX + band for band in bands.taken}
    taken = {target: given.by_hand[target] for target in targets.values() if target in given.by_hand}
    wanted = [band for band, target in targets.items() if target not in given.mapping]
    taken |= _find_errors(given, bands, wanted)
    names = [given.name(taken[target]).lower() for target in targets.values() if target in taken]
    are_inverse = {"ivar" in name for name in names} if bands.zero_points else {False}
    if len(are_inverse) > 1:
        what, expected = "some errors are inverse variances, others not", "errors of one kind"
        raise given.columns.error(what, next(iter(targets.values())), expected)
    is_inverse = True in are_inverse
    scale = _Scale() if is_inverse else _find_scale(given, bands, taken)
    return Errors(taken, is_inverse, scale.factors, (*scale.notes, *_absent_notes(given, bands, taken)))


def _absent_notes(given: Given, bands: Bands, taken: Mapping[str, Taken]) -> list[str]:
    absent = [band for band in bands.taken if ERROR_PREFIX + band not in taken]
    is_part = taken and absent and not given.survey.complete
    return [f"no column of errors of band {', '.join(absent)}: they will be missing"] if is_part else []


def _find_errors(given: Given, bands: Bands, wanted: Sequence[str]) -> dict[str, Taken]:
    """The columns of the first naming of which all bands are there; else, where a survey's bands need not all be there,
    those of the naming of most bands, and after it those that follow from each column's own name.
    """
    inverse = inverse_variance_patterns(bands.pattern) if bands.zero_points else ()
    patterns = (*error_patterns(bands.pattern, bands.family), *inverse)
    every = [follow(given.columns, name, bands.survey.bands) for name in patterns if BARE in name]
    whole = [one for one in every if len(one.places) == len(bands.taken)]
    why = f"errors of {bands.family.label}"
    if not wanted:
        return {}
    if whole:
        places = whole[0].places
        is_double = len(whole) > 0 and (whole[0].num_cases > 1 and given.survey.complete)
        if is_double:
            raise given.columns.error(
                "the letters of the errors' columns are of two cases", ERROR_PREFIX + wanted[0], why
            )
        return {ERROR_PREFIX + band: _only(given, band, places[band], why) for band in wanted}
    if given.survey.complete:
        return {}
    best = max(every, key=lambda one: len(one.places)).places if every else {}
    found = {ERROR_PREFIX + band: _only(given, band, best[band], why) for band in wanted if band in best}
    for band in wanted:
        own = _of_own_name(given, bands, band)
        if own is not None:
            found.setdefault(ERROR_PREFIX + band, own)
    return found


def _only(given: Given, band: str, places: Sequence[int], why: str) -> Taken:
    """The only column; InputError of several."""
    if len(places) > 1:
        given.columns.find(given.columns.names[places[0]], ERROR_PREFIX + band)
    return Taken(places[0], why)


def _of_own_name(given: Given, bands: Bands, band: str) -> Taken | None:
    """The errors that are called after the band's own column, such as W1err of W1; None where there is no one such."""
    name = given.name(bands.taken[band]).strip().lower()
    inverse = inverse_variance_patterns(name) if bands.zero_points else ()
    for pattern in (*error_patterns(name, bands.family), *inverse):
        places = given.columns.places(pattern) if BARE not in pattern else []
        if len(places) == 1:
            return Taken(places[0], f"named after {given.name(bands.taken[band])}")
    return None


def _find_scale(given: Given, bands: Bands, taken: Mapping[str, Taken]) -> _Scale:
    """By the file's units; InputError where these say that a column is something else, unless it was mapped by hand."""
    targets = [ERROR_PREFIX + band for band in bands.taken]
    if not taken or (given.survey.complete and not set(targets) <= taken.keys()):
        return _Scale()  # a catalog of such a survey has the errors of all bands or none
    factors, said = [], []
    for place, target in enumerate(targets):
        if target not in taken:
            factors.append(1.0)
            continue
        unit, band_unit = given.unit(taken[target]), given.unit(bands.taken[target.removeprefix(ERROR_PREFIX)])
        factor: float | None = 1.0
        if unit not in ("", band_unit):
            is_flux = bool(bands.zero_points)
            factor = _flux_factor(unit, band_unit, bands.zero_points[place]) if is_flux else magnitude_factor(unit)
        if factor is None and target not in given.by_hand:
            kind = "flux" if bands.zero_points else "magnitude"
            what = f"column {given.name(taken[target])} is in {unit}, which is not a {kind}"
            raise given.columns.error(what, target, "a unit of flux" if bands.zero_points else "a unit of mag")
        factors.append(factor or 1.0)
        said.append(unit)
    if all(factor == 1.0 for factor in factors):
        return _Scale()
    note = f"the errors are in {', '.join(dict.fromkeys(said))} by the file's units, and converted"
    return _Scale(tuple(factors), (note,))


def _flux_factor(unit: str, band_unit: str, zero_point: float) -> float | None:
    """How many units of a flux (of `zero_point`, where its own is not known) one unit of its error is, else None."""
    error, flux = flux_unit(unit), flux_unit(band_unit)
    if error is None:
        return None
    return float(10.0 ** (0.4 * ((ZERO_POINTS[flux] if flux else zero_point) - ZERO_POINTS[error])))
