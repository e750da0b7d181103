"""How rare a score is among stars of the same brightness: counted, and beyond the counted a fitted tail.

In bins of one magnitude: the survival function of the scores on a grid up to a threshold, beyond it a generalised
Pareto distribution fitted to the excesses. Shape letters: N stars, M magnitude bins, G steps of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_STEPS = 256
_CELLS_PER_MAG = 20
_FAINTEST_MAG = 30
_MOST_BINS = 24
_BIN_STARS = 10_000
_TAIL_STARS = 40
_LEAST = np.float32(1e-30)


@dataclass
class Tail:
    """`bin_of_cell` (cells of 1/20 mag,); `low`, `high` (M,): the grid's ends; `log_survival` (M, G + 1) on the grid;
    `shape` and `scale` (M,) of what scores exceed `high` by.
    """

    bin_of_cell: np.ndarray
    low: np.ndarray
    high: np.ndarray
    log_survival: np.ndarray
    shape: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, score: np.ndarray, magnitude: np.ndarray) -> Tail:
        """Fit to finite scores (N,) of stars of these magnitudes (N,); of no stars the probability is always 1."""
        cells = _cells(magnitude)
        bin_of_cell = _cut_bins(np.bincount(cells, minlength=_FAINTEST_MAG * _CELLS_PER_MAG))
        fitted = [_fit_bin(score[bin_of_cell[cells] == index]) for index in range(bin_of_cell.max() + 1)]
        low, high, survival, shape, scale = (np.array(values) for values in zip(*fitted, strict=True))
        return cls(bin_of_cell, low, high, np.log(survival), shape, scale)

    def probability(self, score: np.ndarray, magnitude: np.ndarray) -> np.ndarray:
        """The share of stars of the same brightness with such a score (N,) or a higher one, float32 (N,), above 0."""
        bins = self.bin_of_cell[_cells(magnitude)]
        steps = ((_STEPS / (self.high - self.low)).astype(np.float32))[bins]
        steps *= score - self.low.astype(np.float32)[bins]
        np.clip(steps, 0.0, _STEPS - 0.001, out=steps)
        whole = steps.astype(np.int32)
        steps -= whole
        cells = bins * np.int32(_STEPS + 1)
        cells += whole
        table = self.log_survival.astype(np.float32).ravel()
        found: np.ndarray = np.take(table, cells)
        steps *= np.take(np.diff(table, append=0.0), cells)
        found += steps
        np.exp(found, out=found)
        beyond = np.flatnonzero(score > self.high.astype(np.float32)[bins])
        found[beyond] = self._beyond(score[beyond], bins[beyond])
        return found

    def _beyond(self, score: np.ndarray, bins: np.ndarray) -> np.ndarray:
        """The probability of scores above the threshold."""
        excess = score - self.high[bins]
        ratio = np.maximum(excess, 0.0) / self.scale[bins]
        shape = self.shape[bins]
        curved = np.where(shape > 1e-6, shape, 1.0)
        logs = np.where(shape > 1e-6, -np.log1p(shape * ratio) / curved, -ratio)
        found: np.ndarray = np.maximum(np.exp(self.log_survival[bins, -1] + logs), _LEAST)
        return found


def _cells(magnitude: np.ndarray) -> np.ndarray:
    last = _FAINTEST_MAG * _CELLS_PER_MAG - 1
    cells: np.ndarray = np.clip(magnitude * np.float32(_CELLS_PER_MAG), 0, last).astype(np.int32)
    return cells


def _cut_bins(counts: np.ndarray) -> np.ndarray:
    """The bin of each cell, ascending from 0: bins of about as many stars each, some thousands where there are."""
    num = int(np.clip(counts.sum() // _BIN_STARS, 1, _MOST_BINS))
    middle = np.cumsum(counts) - 0.5 * counts
    bins = np.clip((middle * num / max(1, counts.sum())).astype(np.int32), 0, num - 1)
    return np.unique(bins, return_inverse=True)[1].astype(np.int32)


def _fit_bin(score: np.ndarray) -> tuple[float, float, np.ndarray, float, float]:
    """Ends of the grid, survival on it, shape and scale of the tail."""
    num = len(score)
    if not num:
        return 0.0, 1.0, np.ones(_STEPS + 1), 0.0, 1.0
    ordered = np.sort(score.astype(np.float64))
    num_beyond = min(_TAIL_STARS, num // 2)
    low, high = ordered[0], ordered[num - 1 - num_beyond]
    high = max(high, low + 1e-3)
    grid = np.linspace(low, high, _STEPS + 1)
    survival = (num - np.searchsorted(ordered, grid, side="left") + 0.5) / (num + 1)
    excess = ordered[ordered > high] - high
    return low, high, np.minimum(survival, 1.0), *_fit_excess(excess)


def _fit_excess(excess: np.ndarray) -> tuple[float, float]:
    """Shape and scale of a generalised Pareto distribution by probability-weighted moments (Hosking and Wallis 1987).

    Ascending excesses. The shape is not below 0: a tail with an end would call a star impossible.
    """
    if len(excess) < 2 or not excess[-1] > 0:
        return 0.0, float(excess.mean()) + 1e-3 if len(excess) else 1e-3
    mean = float(excess.mean())
    weighted = float((excess * (1.0 - (np.arange(len(excess)) + 0.65) / len(excess))).mean())
    shape = 2.0 - mean / (mean - 2.0 * weighted) if mean > 2.0 * weighted else 0.0
    if shape <= 0:
        return 0.0, mean
    return shape, 2.0 * mean * weighted / (mean - 2.0 * weighted)
