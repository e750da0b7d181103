"""Magnitudes and latents as integers and back: a grid of the asked-for error, and one of few bits.

Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_ae.errors import DamageError

MAGNITUDE_LIMITS = (0.0, 30.0)
LEAST_ERROR, MOST_ERROR = 1e-5, 1.0
MOST_LATENT_BITS = 16
_MARGIN = 2.0**-19  # twice the rounding of a magnitude below 32 to float32
_CELL_BITS = 6


@dataclass(frozen=True)
class Grid:
    """Magnitudes (N, B) to integers and back: multiples of a step for a band of maximum error > 0, in mag; for 0 the
    bits of the float32 in the order of their values, so that nothing is lost.
    """

    max_error: tuple[float, ...]

    def steps(self) -> np.ndarray:
        """Step per band in mag, float64 (B,); 0 where nothing is lost. With float32's rounding the error is kept."""
        return np.array([2.0 * (error - _MARGIN) if error else 0.0 for error in self.max_error])

    def to_integers(self, magnitude: np.ndarray) -> np.ndarray:
        """int64 (N, B) of magnitude (N, B), float32 or float64, inside MAGNITUDE_LIMITS."""
        values = np.empty(magnitude.shape, np.int64)
        for band, step in enumerate(self.steps()):
            column = magnitude[:, band]
            values[:, band] = np.rint(column.astype(np.float64) / step) if step else _ordered(column)
        return values

    def to_magnitudes(self, integers: np.ndarray) -> np.ndarray:
        """float32 (N, B) in mag of int64 (N, B); DamageError where one stands for no magnitude."""
        magnitude = np.empty(integers.shape, np.float32)
        for band, step in enumerate(self.steps()):
            column = integers[:, band]
            if step:
                magnitude[:, band] = np.clip(column * step, *MAGNITUDE_LIMITS)
            else:
                magnitude[:, band] = _from_ordered(column)
        return magnitude


def _ordered(values: np.ndarray) -> np.ndarray:
    """Integers in the order of the float32 `values` (N,), one for each float32: int64 (N,)."""
    bits = np.ascontiguousarray(values, np.float32).view(np.int32)
    return np.asarray(bits ^ ((bits >> 31) & 0x7FFFFFFF), np.int64)


def _from_ordered(integers: np.ndarray) -> np.ndarray:
    narrow = integers.astype(np.int32)
    if not np.array_equal(narrow, integers):
        raise DamageError("a residual leads to no magnitude", got="an integer of more than 32 bits")
    return np.asarray((narrow ^ ((narrow >> 31) & 0x7FFFFFFF)).view(np.float32))


@dataclass(frozen=True)
class LatentGrid:
    """Latents (N, L) to integers of `bits` bits: equal steps from `low` to `high`, (L,) each; what lies outside goes to
    the ends.
    """

    bits: int
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, latent: np.ndarray, bits: int, tail: float = 1e-3) -> LatentGrid:
        """A grid over finite latents (N, L) but for a share `tail` at each end."""
        if not len(latent):
            return cls(bits, (0.0,) * latent.shape[1], (1.0,) * latent.shape[1])
        low, high = np.quantile(latent.astype(np.float64), [tail, 1.0 - tail], axis=0)
        high = np.maximum(high, low + 1e-6 * np.maximum(1.0, np.abs(low)))
        return cls(bits, tuple(low.tolist()), tuple(high.tolist()))

    def _steps(self) -> np.ndarray:
        return np.asarray((np.array(self.high) - np.array(self.low)) / max(1, (1 << self.bits) - 1))

    def to_integers(self, latent: np.ndarray) -> np.ndarray:
        """int64 (N, L) from 0 to 2^bits - 1; a latent that is not finite becomes 0."""
        with np.errstate(invalid="ignore", over="ignore"):
            places = np.rint((latent.astype(np.float64) - np.array(self.low)) / self._steps())
        places = np.where(np.isfinite(latent), places, 0.0)
        return np.asarray(np.clip(places, 0, (1 << self.bits) - 1), np.int64)

    def to_latents(self, integers: np.ndarray) -> np.ndarray:
        """float64 (N, L) of int64 (N, L)."""
        return np.asarray(np.array(self.low) + integers * self._steps())

    def cells(self, integers: np.ndarray) -> np.ndarray:
        """Number of the cell of the latent space of each star, int64 (N,) below `num_cells`: the leading bits."""
        top = self._cell_bits
        cell = np.zeros(len(integers), np.int64)
        for column in integers.T[:_CELL_BITS]:
            cell = (cell << top) | (column >> (self.bits - top))
        return cell

    @property
    def _cell_bits(self) -> int:
        return min(self.bits, _CELL_BITS // min(len(self.low), _CELL_BITS))

    @property
    def num_cells(self) -> int:
        """C, 64 at most."""
        return 1 << (self._cell_bits * min(len(self.low), _CELL_BITS))
