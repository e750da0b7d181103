"""What one shard adds to the summary, in two passes, and how shards add up.

The first pass finds ranges, quantiles and the worst stars from the encoding alone; the second counts on grids that the
first one has fixed. The counts of one shard (at most 4 million stars) are int32, half as much to send to the parent;
their sums start from `none` and are int64. Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpc_ae.analysis.histogram import (
    ERROR_BINS,
    MAGNITUDE_BINS,
    RESIDUAL_BINS,
    LinearBins,
    count_1d,
    count_against,
    count_cells,
    quantiles,
)
from hpc_ae.analysis.statistics import Moments, worst

MAX_SHOWN = 4
GRID_CELLS = 256
_BLOCK_ROWS = 1 << 17
_KEY_SHIFT = 16
_WINDOW = (0.001, 0.999)
_MARGIN = 0.15


def usable_rows(quality: np.ndarray, error: np.ndarray, latent: np.ndarray) -> np.ndarray:
    """Rows, bool (N,), that enter the statistics: quality (N,) is 0 and error (N,) and latent (N, L) are finite."""
    usable: np.ndarray = (quality == 0) & np.isfinite(error)
    for dim in range(latent.shape[1]):
        usable &= np.isfinite(latent[:, dim])
    return usable


def select(values: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """The usable rows of (N,) or (N, D) values with the stars along the last axis, contiguous: (n,) or (D, n)."""
    return np.ascontiguousarray((values if usable.all() else values[usable]).T)


@dataclass
class ErrorTally:
    """The first pass: counts and moments of errors in mag and latents, and the worst stars."""

    num_good: int
    error_counts: np.ndarray
    error: Moments
    latent: Moments
    latent_keys: np.ndarray
    worst_errors: np.ndarray
    worst_rows: np.ndarray

    @classmethod
    def none(cls, num_latent: int) -> ErrorTally:
        """The tally of no stars."""
        empty = np.empty(0, np.float32)
        tally = cls.of(np.empty(0, np.uint16), empty, np.empty((0, num_latent), np.float32), 0, 1)
        tally.error_counts, tally.latent_keys = (
            counts.astype(np.int64) for counts in (tally.error_counts, tally.latent_keys)
        )
        return tally

    @classmethod
    def of(
        cls, quality: np.ndarray, error: np.ndarray, latent: np.ndarray, first_row: int, num_worst: int
    ) -> ErrorTally:
        """Tally quality (N,), error (N,) in mag and latent (N, L); row numbers start at `first_row`."""
        usable = usable_rows(quality, error, latent)
        errors, latents = select(error, usable), select(latent, usable)
        num_worst = min(num_worst, len(errors))
        values, positions = worst(errors, np.arange(len(errors)), num_worst)
        rows = positions if len(errors) == len(error) else np.flatnonzero(usable)[positions]
        return cls(
            num_good=int(np.count_nonzero(quality == 0)),
            error_counts=ERROR_BINS.count(errors).astype(np.int32),
            error=Moments.of(errors[None, :]),
            latent=Moments.of(latents),
            latent_keys=np.stack([_count_keys(values) for values in latents[:MAX_SHOWN]]).astype(np.int32),
            worst_errors=values,
            worst_rows=rows + first_row,
        )

    def add(self, other: ErrorTally, num_worst: int) -> None:
        """Take in the tally of the next shard."""
        self.num_good += other.num_good
        self.error_counts += other.error_counts
        self.error = self.error.merge(other.error)
        self.latent = self.latent.merge(other.latent)
        self.latent_keys += other.latent_keys
        joined = [np.concatenate(pair) for pair in zip(self.worst(), other.worst(), strict=True)]
        self.worst_errors, self.worst_rows = worst(joined[0], joined[1], num_worst)

    def worst(self) -> tuple[np.ndarray, np.ndarray]:
        """Errors in mag and rows of the worst stars, worst first."""
        return self.worst_errors, self.worst_rows

    def error_quantiles(self, fractions: Sequence[float]) -> np.ndarray:
        """Quantiles of the error in mag, to ERROR_BINS.precision of the value; NaN where there are no stars."""
        found = quantiles(self.error_counts, ERROR_BINS.edges(), fractions)
        return found if not self.error.num else np.clip(found, self.error.low, self.error.high)

    def windows(self) -> list[LinearBins]:
        """For each latent dimension shown the bins that hold nearly all stars: outliers must not shrink the rest."""
        found = []
        for dim, counts in enumerate(self.latent_keys):
            low, high = _key_quantiles(counts)
            margin = _MARGIN * (high - low)
            low, high = max(low - margin, self.latent.low[dim]), min(high + margin, self.latent.high[dim])
            if not high - low > 1e-6 * max(1.0, abs(low)):
                low, high = (low - 0.5, low + 0.5) if self.latent.num else (0.0, 1.0)
            edge = 1e-3 * (high - low)  # the outermost stars lie inside, not on the edge
            found.append(LinearBins(float(low - edge), float(high + edge), GRID_CELLS))
        return found


def _count_keys(values: np.ndarray) -> np.ndarray:
    """Counts of float32 (N,) of either sign by the upper 16 bits of an integer that sorts as they do."""
    bits = values.view(np.int32)
    keys = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    return np.bincount((keys >> _KEY_SHIFT) + (1 << 15), minlength=1 << 16)


def _key_quantiles(counts: np.ndarray) -> tuple[float, float]:
    """Values near the quantiles of `_WINDOW`: the outer edges of their bins; 0, 0 where there are no stars."""
    total = counts.sum()
    if not total:
        return 0.0, 0.0
    above = np.cumsum(counts)
    first, last = (int(np.searchsorted(above, fraction * total, side="left")) for fraction in _WINDOW)
    keys = np.array([(first - (1 << 15)) << _KEY_SHIFT, ((last + 1 - (1 << 15)) << _KEY_SHIFT) - 1], np.int64)
    keys = keys.astype(np.int32)
    low, high = (keys ^ ((keys >> 31) & np.int32(0x7FFFFFFF))).view(np.float32)
    return float(low), float(high)


@dataclass
class GridTally:
    """The second pass: stars on the latent grids, |residual| against magnitude, sums of residuals per band.

    `latent_grids`: (num,) of one dimension, else (num, num) of each pair of those shown, in the order of
    `itertools.combinations`. `magnitude_grids`: (B, magnitude bins, residual bins). `residual_sum` and
    `residual_square`: (B,) in mag and mag^2, zero without a reconstruction.
    """

    latent_grids: list[np.ndarray]
    magnitude_grids: np.ndarray
    residual_sum: np.ndarray
    residual_square: np.ndarray

    @classmethod
    def none(cls, num_bands: int, num_shown: int, dtype: type[np.integer[Any]] = np.int64) -> GridTally:
        """The tally of no stars."""
        pairs = num_shown * (num_shown - 1) // 2
        shape = (GRID_CELLS,) if num_shown == 1 else (GRID_CELLS, GRID_CELLS)
        grids = [np.zeros(shape, dtype) for _ in range(max(1, pairs))]
        against = np.zeros((num_bands, MAGNITUDE_BINS.num, RESIDUAL_BINS.num), dtype)
        return cls(grids, against, np.zeros(num_bands), np.zeros(num_bands))

    @classmethod
    def of(cls, latent: np.ndarray, magnitude: np.ndarray, model: np.ndarray, windows: list[LinearBins]) -> GridTally:
        """Tally usable stars: latent (N, L), magnitude (N, B), `model` in mag: reconstruction (N, B) or error (N,)."""
        tally = cls.none(magnitude.shape[1], len(windows), np.int32)
        for start in range(0, len(latent), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            tally._add_latents(latent[rows], windows)
            tally._add_residuals(magnitude[rows], model[rows])
        return tally

    def _add_latents(self, latent: np.ndarray, windows: list[LinearBins]) -> None:
        columns = [np.ascontiguousarray(latent[:, dim]) for dim in range(len(windows))]
        if len(columns) == 1:
            self.latent_grids[0] += count_1d(windows[0], columns[0])
            return
        indices = [bins.padded_index(values) for bins, values in zip(windows, columns, strict=True)]
        for grid, (one, two) in zip(self.latent_grids, itertools.combinations(indices, 2), strict=True):
            grid += count_cells(one, two, GRID_CELLS, GRID_CELLS)

    def _add_residuals(self, magnitude: np.ndarray, model: np.ndarray) -> None:
        for band, grid in enumerate(self.magnitude_grids):
            values = np.ascontiguousarray(magnitude[:, band])
            if model.ndim == 2:
                size = values - model[:, band]
                wide = size.astype(np.float64)
                self.residual_sum[band] += wide.sum()
                np.multiply(wide, wide, out=wide)
                self.residual_square[band] += wide.sum()
                np.abs(size, out=size)
            else:
                size = np.ascontiguousarray(model)
            grid += count_against(MAGNITUDE_BINS.padded_index(values), size, RESIDUAL_BINS)

    def add(self, other: GridTally) -> None:
        """Take in the tally of the next shard."""
        for grid, more in zip(self.latent_grids, other.latent_grids, strict=True):
            grid += more
        self.magnitude_grids += other.magnitude_grids
        self.residual_sum += other.residual_sum
        self.residual_square += other.residual_square
