"""The errors of the five bands of a raw file: which columns they are, and what their values count in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hpc_ae.catalog.schema import DEFAULT_BANDS
from hpc_ae.readers.bands import Bands
from hpc_ae.readers.columns import Given, Taken
from hpc_ae.readers.flux import ZERO_POINTS, flux_unit, magnitude_factor
from hpc_ae.readers.names import ERROR_PREFIX, ERRORS, error_patterns, inverse_variance_patterns


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
    """The errors of the bands: those mapped by hand, the others if all are there. InputError where they contradict."""
    taken = {target: given.by_hand[target] for target in ERRORS if target in given.by_hand}
    taken |= _find_errors(given, bands)
    names = [given.name(taken[target]).lower() for target in ERRORS if target in taken]
    are_inverse = {"ivar" in name for name in names} if bands.zero_points else {False}
    if len(are_inverse) > 1:
        raise given.columns.error("some errors are inverse variances, others not", ERRORS[0], "five of one kind")
    is_inverse = True in are_inverse
    scale = _Scale() if is_inverse else _find_scale(given, bands, taken)
    return Errors(taken, is_inverse, scale.factors, scale.notes)


def _find_errors(given: Given, bands: Bands) -> dict[str, Taken]:
    """The columns of the first naming of which all five are there, for the errors that the mapping does not say."""
    wanted = [target for target in ERRORS if target not in given.mapping]
    inverse = inverse_variance_patterns(bands.pattern) if bands.zero_points else ()
    for name in (*error_patterns(bands.pattern, bands.family), *inverse):
        if wanted and given.columns.cases(name, DEFAULT_BANDS):
            why, find = f"errors of {bands.family.label}", given.columns.find_band
            return {target: Taken(find(name, target[-1], target, DEFAULT_BANDS), why) for target in wanted}
    return {}


def _find_scale(given: Given, bands: Bands, taken: Mapping[str, Taken]) -> _Scale:
    """By the file's units; InputError where these say that a column is something else, unless it was mapped by hand."""
    if not set(ERRORS) <= taken.keys():
        return _Scale()  # a catalog has the errors of all bands or none
    factors, said = [], []
    for place, target in enumerate(ERRORS):
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
