"""Which stars are usable: quality and caution flags from plain arrays.

Shape letters: N stars, B bands.
"""

from __future__ import annotations

import numpy as np

from hpc_ae.catalog.schema import MAGNITUDE_RANGE, SENTINELS, Caution, Quality

MOST_ERROR = 1.0
"""What a magnitude error counts at most, in mag: beyond, it says that the star was not seen in that band."""
_MOST_REDSHIFT = 100.0  # beyond is no redshift of anything, but 1e20, 9.97e36 and the like, which stand for no value
_LEAST_FILL = 1e6  # the same of a magnitude error; below, Pogson's law makes large ones of fluxes near zero
_LEAST_SENTINEL = min(map(abs, SENTINELS))


def flag_magnitudes(
    magnitude: np.ndarray, missing: np.ndarray | None = None, span: tuple[float, float] = MAGNITUDE_RANGE
) -> np.ndarray:
    """Quality flags uint16 (N,) of magnitude (N, B) in mag; `missing` (N, B) marks values that the file has not.

    A value has one reason: missing, else non-finite, else sentinel, else out of range. The limits of the span are good.
    """
    low, high = span
    with np.errstate(invalid="ignore"):
        inside = (magnitude >= low) & (magnitude <= high)
    quality = np.zeros(len(magnitude), np.uint16)
    rows = np.flatnonzero(~inside.all(axis=1) if missing is None else ~(inside & ~missing).all(axis=1))
    if len(rows):
        quality[rows] = _reasons(magnitude[rows], inside[rows], None if missing is None else missing[rows])
    return quality


def _reasons(values: np.ndarray, inside: np.ndarray, missing: np.ndarray | None) -> np.ndarray:
    absent = np.zeros(values.shape, bool) if missing is None else missing
    infinite = ~np.isfinite(values) & ~absent
    sentinel = find_sentinels(values) & ~absent
    outside = ~inside & ~absent & ~infinite & ~sentinel
    reasons = np.zeros(len(values), np.uint16)
    for flag, mask in (
        (Quality.MISSING, absent),
        (Quality.NON_FINITE, infinite),
        (Quality.SENTINEL, sentinel),
        (Quality.OUT_OF_RANGE, outside),
    ):
        reasons[mask.any(axis=1)] |= np.uint16(flag)
    return reasons


def flag_positions(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Caution flags uint16 (N,) of positions in degrees: missing (NaN) or outside 0 <= ra <= 360, |dec| <= 90."""
    caution = np.zeros(len(ra), np.uint16)
    missing = np.isnan(ra) | np.isnan(dec)
    with np.errstate(invalid="ignore"):
        outside = (ra < 0) | (ra > 360) | (np.abs(dec) > 90)
    caution[missing] |= np.uint16(Caution.POSITION_MISSING)
    caution[outside] |= np.uint16(Caution.POSITION_OUTSIDE)
    return caution


def flag_zeros(magnitude: np.ndarray) -> np.ndarray:
    """Caution flags uint16 (N,) of magnitude (N, B) in mag: a value of exactly 0 is within the range, but doubtful."""
    caution = np.zeros(len(magnitude), np.uint16)
    caution[(magnitude == 0).any(axis=1)] = np.uint16(Caution.MAGNITUDE_ZERO)
    return caution


def find_sentinels(values: np.ndarray) -> np.ndarray:
    """Which values are one of `SENTINELS`, compared in the precision of the values: bool, of their shape."""
    found = np.zeros(np.shape(values), bool)
    with np.errstate(invalid="ignore"):
        suspects = np.abs(values) >= _LEAST_SENTINEL  # few, and most often none
    if suspects.any():
        found[suspects] = np.isin(values[suspects], np.array(SENTINELS, values.dtype))
    return found


def drop_errors(error: np.ndarray) -> np.ndarray:
    """Make NaN in place what is no error (N, B) in mag: a sentinel, infinite, a fill value (1e20), not positive.

    Returns how many of each star's errors were dropped, int64 (N,); those that were NaN already are not counted.
    """
    with np.errstate(invalid="ignore"):
        good = (error > 0) & (error < _LEAST_FILL)
    suspects = error >= _LEAST_SENTINEL
    if suspects.any():
        good &= ~(suspects & find_sentinels(error))
    wrong = ~good & ~np.isnan(error)
    error[wrong] = np.nan
    return np.asarray(np.count_nonzero(wrong, axis=1))


def drop_redshifts(redshift: np.ndarray) -> np.ndarray:
    """Make NaN in place what is no redshift (N,): a sentinel, -1 and below, or beyond what a redshift can be. Returns
    which: int64 (N,).
    """
    with np.errstate(invalid="ignore"):
        wrong = (redshift <= -1) | (redshift > _MOST_REDSHIFT) | find_sentinels(redshift)
    redshift[wrong] = np.nan
    return np.asarray(wrong, np.int64)


def usable_errors(magnitude_error: np.ndarray) -> np.ndarray:
    """Magnitude errors (N, B) in mag, 0 where they are not finite and positive, at most MOST_ERROR."""
    usable = np.isfinite(magnitude_error) & (magnitude_error > 0)
    return np.where(usable, np.minimum(magnitude_error, np.float32(MOST_ERROR)), np.float32(0))
