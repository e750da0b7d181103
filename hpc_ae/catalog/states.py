"""What is known of each band of each star: measured, not observed, below the limit, unusable. Arithmetic on arrays.

Shape letters: N stars, B bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from hpc_ae.catalog.quality import find_sentinels
from hpc_ae.catalog.schema import MAGNITUDE_RANGE

_LIMITS = (10.0, 40.0)  # mag: an "error" of that size in the place of a sentinel's is the limit
_LEAST_SENTINEL = 90.0
_LEAST_ERROR = 1e-9  # mag: less is the error of an asinh magnitude of nothing, not of a detection


class State(IntEnum):
    """The state of one band of one star, as the dataset `band_state` has it."""

    MEASURED = 0
    UNOBSERVED = 1  # or nothing is known
    LIMIT = 2  # looked at, and fainter than could be seen
    UNUSABLE = 3  # a sentinel without meaning, not finite, outside of the range


@dataclass(frozen=True)
class Meaning:
    """What numbers of a survey's files mean: the range of its magnitudes (mag), sentinels that stand for a limit and
    for no observation, and whether a magnitude without an error is a limit.
    """

    range: tuple[float, float] = MAGNITUDE_RANGE
    limits: tuple[float, ...] = ()
    unobserved: tuple[float, ...] = ()
    empty_error_is_limit: bool = False


@dataclass(frozen=True)
class States:
    """The states uint8 (N, B), and the limits float32 (N, B) in mag, NaN where none is stated."""

    state: np.ndarray
    limit: np.ndarray


def find_states(magnitude: np.ndarray, error: np.ndarray, known: np.ndarray, meaning: Meaning) -> States:
    """The states of magnitudes (N, B) with their errors (N, B), (N, 0) where there are none, as a file has them.

    `known` uint8 (N, B) has the states that the conversion has found: of empty fields, of fluxes that no magnitude has.
    """
    low, high = meaning.range
    with np.errstate(invalid="ignore"):
        inside = (magnitude >= low) & (magnitude <= high)
    sentinel = find_sentinels(magnitude)
    state = np.where(inside & ~sentinel, State.MEASURED, State.UNUSABLE).astype(np.uint8)
    limit = np.full(magnitude.shape, np.nan, np.float32)
    state[np.isin(magnitude, _as(magnitude, meaning.unobserved))] = State.UNOBSERVED
    state[np.isin(magnitude, _as(magnitude, meaning.limits))] = State.LIMIT
    if error.shape == magnitude.shape:
        _use_errors(state, limit, magnitude, error, meaning)
    state[known != State.MEASURED] = known[known != State.MEASURED]
    limit[state != State.LIMIT] = np.nan
    return States(state, limit)


def _as(magnitude: np.ndarray, values: Sequence[float]) -> np.ndarray:
    return np.array(values, magnitude.dtype)


def _use_errors(
    state: np.ndarray, limit: np.ndarray, magnitude: np.ndarray, error: np.ndarray, meaning: Meaning
) -> None:
    """What the errors say of the states, in place."""
    with np.errstate(invalid="ignore"):
        says_limit = holds_limit(magnitude, error) & (state != State.MEASURED)
        is_tiny = (state == State.MEASURED) & (error > 0) & (error < _LEAST_ERROR)
    state[says_limit] = State.LIMIT
    limit[says_limit] = error[says_limit]
    state[is_tiny] = State.LIMIT
    if meaning.empty_error_is_limit:
        is_limit = (state == State.MEASURED) & np.isnan(error) & ~np.isnan(error).all(axis=0)
        state[is_limit] = State.LIMIT
        limit[is_limit] = magnitude[is_limit]


def holds_limit(magnitude: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Where (N, B) a magnitude is one of nothing, such as 99, and its error is the limit."""
    with np.errstate(invalid="ignore"):
        return (magnitude >= _LEAST_SENTINEL) & (error > _LIMITS[0]) & (error < _LIMITS[1])


def seen_magnitudes(magnitude: np.ndarray, has_states: bool) -> np.ndarray:
    """Magnitudes (N, B) of a catalog with NaN where a band is not measured. One with states has them so; of one without
    what is outside of the range, such as -9999, is not measured.
    """
    if has_states:
        return magnitude
    with np.errstate(invalid="ignore"):
        inside = (magnitude >= MAGNITUDE_RANGE[0]) & (magnitude <= MAGNITUDE_RANGE[1])
    return magnitude if inside.all() else np.where(inside, magnitude, np.float32(np.nan))


def count_measured(magnitude: np.ndarray) -> np.ndarray:
    """How many bands of magnitudes (N, B), NaN where a band is not measured, are: int64 (N,)."""
    return np.asarray(np.count_nonzero(~np.isnan(magnitude), axis=1))


def count_by_bands(state: np.ndarray) -> tuple[int, ...]:
    """How many stars have 0, 1, ..., B measured bands, of states (N, B)."""
    num_measured = np.count_nonzero(state == State.MEASURED, axis=1)
    return tuple(np.bincount(num_measured, minlength=state.shape[1] + 1).tolist())
