"""Histograms that can be added up: fixed bins, so that shards are counted apart and merged in any number.

`LogBins` are cut by the bits of a float32, which are its logarithm but for a straight line within each octave: a shift
instead of a logarithm, exact edges, and the same counts on every machine. Shape letters: N stars, M magnitude bins,
E error bins, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_MANTISSA_BITS = 23
_EXPONENT_BIAS = 127


@dataclass(frozen=True)
class LogBins:
    """Bins of values >= 0 from 2**low to 2**high, each octave cut into 2**bits equal parts.

    What lies below falls into the first bin, what lies above into the last.
    """

    low: int
    high: int
    bits: int

    @property
    def num(self) -> int:
        """Number of bins."""
        return (self.high - self.low) << self.bits

    @property
    def precision(self) -> float:
        """Largest width of a bin relative to a value in it."""
        return float(2.0**-self.bits)

    def edges(self) -> np.ndarray:
        """The edges, float64 (num + 1,)."""
        octave, part = np.divmod(np.arange(self.num + 1), 1 << self.bits)
        edges: np.ndarray = np.ldexp(1.0 + part / (1 << self.bits), octave + self.low)
        return edges

    def index(self, values: np.ndarray) -> np.ndarray:
        """The bin of each of the contiguous float32 `values` >= 0, int32 of the same shape."""
        index = values.view(np.int32) >> (_MANTISSA_BITS - self.bits)
        index -= (self.low + _EXPONENT_BIAS) << self.bits
        return np.clip(index, 0, self.num - 1, out=index)

    def count(self, values: np.ndarray) -> np.ndarray:
        """Number of the float32 `values` >= 0 (N,) in each bin, int64 (num,)."""
        return np.bincount(self.index(values), minlength=self.num)


ERROR_BINS = LogBins(-24, 16, 12)
"""For quantiles of reconstruction errors in mag: 6e-8 to 65536 mag, to 1/4096 of the value."""

RESIDUAL_BINS = LogBins(-16, 4, 4)
"""For |residual| in the figures: 1.5e-5 to 16 mag, 16 bins per octave."""


@dataclass(frozen=True)
class LinearBins:
    """`num` equal bins from `low` to `high`; what lies outside is not counted."""

    low: float
    high: float
    num: int

    def edges(self) -> np.ndarray:
        """The edges, float64 (num + 1,)."""
        return np.linspace(self.low, self.high, self.num + 1)

    def padded_index(self, values: np.ndarray) -> np.ndarray:
        """The bin of each float32 value counted from 1, int32; 0 below the range and num + 1 above it."""
        scale = self.num / (self.high - self.low)
        position = values * np.float32(scale)
        position += np.float32(1.0 - self.low * scale)
        np.clip(position, 0.0, self.num + 1.5, out=position)
        return position.astype(np.int32)


MAGNITUDE_BINS = LinearBins(0.0, 30.0, 240)
"""The range of good magnitudes in steps of 1/8 mag."""


def count_2d(bins_x: LinearBins, bins_y: LinearBins, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Number of points (x, y), float32 (N,) each, in each cell, int64 (num_x, num_y); points outside are left out."""
    return count_cells(bins_x.padded_index(x), bins_y.padded_index(y), bins_x.num, bins_y.num)


def count_cells(index_x: np.ndarray, index_y: np.ndarray, num_x: int, num_y: int) -> np.ndarray:
    """Like `count_2d`, of padded indices int32 (N,) that are known already."""
    cells = index_x * np.int32(num_y + 2)
    cells += index_y
    counts = np.bincount(cells, minlength=(num_x + 2) * (num_y + 2))
    return counts.reshape(num_x + 2, num_y + 2)[1:-1, 1:-1]


def count_against(magnitude_index: np.ndarray, size: np.ndarray, bins: LogBins) -> np.ndarray:
    """Counts of `size` (N,) float32 >= 0 by magnitude bin, int64 (M, E).

    `magnitude_index` (N,) is the padded index of MAGNITUDE_BINS. Every star is counted: magnitudes at
    the limits 0 and 30 fall into the outermost bins.
    """
    num = MAGNITUDE_BINS.num
    cells = np.clip(magnitude_index, 1, num)
    cells -= 1
    cells *= np.int32(bins.num)
    cells += bins.index(size)
    return np.bincount(cells, minlength=num * bins.num).reshape(num, bins.num)


def quantiles(counts: np.ndarray, edges: np.ndarray, fractions: Sequence[float]) -> np.ndarray:
    """Quantiles (Q,) of what was counted: counts (E,), edges (E + 1,); NaN where nothing was.

    As numpy's linear method, each order statistic known to the width of its bin.
    """
    total = int(counts.sum())
    if not total:
        return np.full(len(fractions), np.nan)
    above = np.cumsum(counts)
    rank = np.asarray(fractions, np.float64) * (total - 1)
    low = np.floor(rank)
    first = _order_statistic(counts, above, edges, low)
    second = _order_statistic(counts, above, edges, np.minimum(low + 1, total - 1))
    between: np.ndarray = first + (rank - low) * (second - first)
    return between


def _order_statistic(counts: np.ndarray, above: np.ndarray, edges: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """The value of rank 0, 1, ...: stars are taken to lie evenly in their bin."""
    index = np.searchsorted(above, rank, side="right")
    inside = (rank - (above[index] - counts[index]) + 0.5) / counts[index]
    value: np.ndarray = edges[index] + inside * (edges[index + 1] - edges[index])
    return value


def column_quantiles(counts: np.ndarray, edges: np.ndarray, fractions: Sequence[float], least: int) -> np.ndarray:
    """Quantiles (M, Q) of each row of counts (M, E); NaN where a row has fewer than `least`."""
    answer = np.full((len(counts), len(fractions)), np.nan)
    for row in np.flatnonzero(counts.sum(axis=1) >= least):
        answer[row] = quantiles(counts[row], edges, fractions)
    return answer
