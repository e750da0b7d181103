"""How rare a score is among stars of the same brightness: counted, and beyond the counted a fitted tail.

What is usual changes with brightness in every survey: so scores are first measured against the running median and
spread of stars of their brightness, in 60 groups (fewer where they would have less than 500 stars), smaller ones at
the ends. Of scores so measured the
survival function is counted in 12 bins where each gets 1,000 stars (in 24 where each gets 10,000), on a grid up to a
threshold; beyond it a generalised Pareto distribution is fitted to the excesses of a bin and its neighbours.
Between groups, and between bins, goes a straight line: a star's probability does not jump with its brightness.
Shape letters: N stars, C cells of brightness, G steps of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

_STEPS = 256
_CELLS_PER_MAG = 20
_FAINTEST_MAG = 30
_NUM_BINS, _MOST_BINS = 12, 24
_BIN_STARS = 1000
_NUM_GROUPS, _GROUP_STARS = 60, 500
_END_STARS = 50
_WIDE = 0.9  # the quantile whose distance from the median is the spread
_LEAST_SPREAD = 1e-3
_MANY_STARS = 10_000
_BEYOND_SHARE, _LEAST_BEYOND, _MOST_BEYOND = 0.0025, 20, 100
_TAIL_STARS = 40_000
_LEAST = np.float32(1e-30)


@dataclass
class Tail:
    """For each cell of 1/20 mag: `low`, `high` (C,), the grid's ends; `log_survival` (C, G + 1) on the grid; `shape`
    and `scale` (C,) of what scores exceed `high` by; `num_stars` (C,), how many stars were counted about there.
    """

    low: np.ndarray
    high: np.ndarray
    log_survival: np.ndarray
    shape: np.ndarray
    scale: np.ndarray
    num_stars: np.ndarray

    @classmethod
    def fit(cls, score: np.ndarray, magnitude: np.ndarray) -> Self:
        """Fit to finite scores (N,) of stars of these magnitudes (N,); of no stars the probability is always 1."""
        order = np.argsort(magnitude, kind="stable")
        ordered, score = magnitude[order].astype(np.float64), score[order].astype(np.float64)
        usual = _Usual.fit(score, ordered)
        bins = _Bin.fit_all(usual.measure(score, ordered), ordered)
        centers = (np.arange(_FAINTEST_MAG * _CELLS_PER_MAG) + 0.5) / _CELLS_PER_MAG
        low, high, shape, scale, num_stars, survival = _between(bins, centers)
        middle, spread = usual.at(centers)
        ends = middle + low * spread, middle + high * spread
        return cls(*ends, np.log(survival), shape, scale * spread, num_stars)

    def num_alike(self, magnitude: np.ndarray) -> np.ndarray:
        """How many stars of such magnitudes (N,) were counted: a probability below 1 in that many is extrapolated."""
        found: np.ndarray = self.num_stars[_cells(magnitude)]
        return found

    def probability(self, score: np.ndarray, magnitude: np.ndarray) -> np.ndarray:
        """The share of stars of the same brightness with such a score (N,) or a higher one, float32 (N,), above 0."""
        cell_of = _cells(magnitude)
        steps = ((_STEPS / (self.high - self.low)).astype(np.float32))[cell_of]
        steps *= score - self.low.astype(np.float32)[cell_of]
        np.clip(steps, 0.0, _STEPS - 0.001, out=steps)
        whole = steps.astype(np.int32)
        steps -= whole
        places = cell_of * np.int32(_STEPS + 1)
        places += whole
        table = self.log_survival.astype(np.float32).ravel()
        found: np.ndarray = np.take(table, places)
        steps *= np.take(np.diff(table, append=0.0), places)
        found += steps
        np.exp(found, out=found)
        beyond = np.flatnonzero(score > self.high.astype(np.float32)[cell_of])
        cells = cell_of[beyond]
        tails = _log_tail(score[beyond] - self.high[cells], self.shape[cells], self.scale[cells])
        found[beyond] = np.maximum(np.exp(self.log_survival[cells, -1] + tails), _LEAST)
        return found


@dataclass(frozen=True)
class _Usual:
    """The running median and spread of scores: at `magnitudes` (n,), lines between."""

    magnitudes: np.ndarray
    median: np.ndarray
    spread: np.ndarray

    @classmethod
    def fit(cls, score: np.ndarray, magnitude: np.ndarray) -> Self:
        """Of stars in order of their magnitudes."""
        groups = np.split(np.arange(len(score)), _group_edges(len(score)))
        rows = [
            (np.median(magnitude[group]), *np.quantile(score[group], [0.5, _WIDE])) for group in groups if len(group)
        ]
        magnitudes, median, wide = np.array(rows or [(0.0, 0.0, 1.0)]).T
        return cls(magnitudes, median, np.maximum(wide - median, _LEAST_SPREAD))

    def at(self, magnitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (
            np.interp(magnitude, self.magnitudes, self.median),
            np.interp(magnitude, self.magnitudes, self.spread),
        )

    def measure(self, score: np.ndarray, magnitude: np.ndarray) -> np.ndarray:
        """Scores in spreads above the median of their brightness."""
        middle, spread = self.at(magnitude)
        found: np.ndarray = (score - middle) / spread
        return found


@dataclass(frozen=True)
class _Bin:
    """The scores of stars about as bright as `magnitude`: ascending `scores` (n,), of which those beyond `high` follow
    a tail of `shape` and `scale`.
    """

    magnitude: float
    scores: np.ndarray
    high: float
    shape: float = 0.0
    scale: float = 1.0

    @classmethod
    def count(cls, score: np.ndarray, magnitude: np.ndarray) -> Self:
        """A bin without its tail."""
        ordered = np.sort(score)
        beyond = int(np.clip(_BEYOND_SHARE * len(score), _LEAST_BEYOND, _MOST_BEYOND))
        high = ordered[len(ordered) - 1 - min(beyond, len(ordered) // 2)]
        return cls(float(np.median(magnitude)), ordered, max(high, ordered[0] + 1e-3))

    @classmethod
    def fit_all(cls, score: np.ndarray, magnitude: np.ndarray) -> list[Self]:
        """Bins of as many stars each, in order of their magnitudes."""
        most = int(np.clip(len(score) // _MANY_STARS, _NUM_BINS, _MOST_BINS))
        num = int(np.clip(len(score) // _BIN_STARS, 1, most))
        parts = [rows for rows in np.array_split(np.arange(len(score)), num) if rows.size]
        bins = [cls.count(score[rows], magnitude[rows]) for rows in parts]
        reach = max(1, num * _TAIL_STARS // (2 * max(1, len(score))))
        return [one.with_tail(bins[max(0, index - reach) : index + reach + 1]) for index, one in enumerate(bins)]

    @property
    def unit(self) -> float:
        """What excesses of other bins are compared in: how far the threshold is from the median."""
        return max(self.high, _LEAST_SPREAD)

    def with_tail(self, neighbours: Sequence[Self]) -> Self:
        """The tail that its neighbours, itself among them, have in common."""
        excess = [(one.scores[one.scores > one.high] - one.high) / one.unit for one in neighbours]
        shape, scale = _fit_excess(np.sort(np.concatenate(excess)))
        return replace(self, shape=shape, scale=scale * self.unit)

    def survival(self, score: np.ndarray) -> np.ndarray:
        """The share of scores at least as high as each of some."""
        num = len(self.scores)
        at = np.minimum(score, self.high)
        counted = np.minimum((num - np.searchsorted(self.scores, at, side="left") + 0.5) / (num + 1), 1.0)
        found: np.ndarray = counted * np.exp(_log_tail(score - self.high, self.shape, self.scale))
        return found


def _between(bins: Sequence[_Bin], magnitudes: np.ndarray) -> tuple[np.ndarray, ...]:
    """`low`, `high`, shape, scale, number of stars (C,) and survival (C, G + 1) at magnitudes (C,): lines between
    the bins.
    """
    num = len(magnitudes)
    if not bins:
        zeros, ones = np.zeros(num), np.ones(num)
        return zeros, ones, zeros, ones, zeros, np.ones((num, _STEPS + 1))
    middles = [one.magnitude for one in bins]
    lines = ((one.scores[0], one.high, one.shape, one.scale, len(one.scores)) for one in bins)
    found = [np.interp(magnitudes, middles, values) for values in zip(*lines, strict=True)]
    low, high, *_ = found
    grid = np.linspace(low, high, _STEPS + 1)
    place = np.interp(magnitudes, middles, np.arange(len(bins)))
    survival = np.zeros_like(grid)
    for index, one in enumerate(bins):
        near = np.flatnonzero(np.abs(place - index) < 1)
        survival[:, near] += (1 - np.abs(place[near] - index)) * one.survival(grid[:, near])
    return *found, survival.T


def _group_edges(num: int) -> np.ndarray:
    """Where to cut `num` stars into groups: of 50 stars at both ends, each twice its neighbour, then alike."""
    size = max(_GROUP_STARS, num // _NUM_GROUPS)
    doubled = _END_STARS * 2 ** np.arange(32)
    ends = np.cumsum(doubled[doubled < size])
    ends = ends[ends < num // 3]
    first, last = (ends[-1], num - ends[-1]) if len(ends) else (0, num)
    middle = np.linspace(first, last, max(1, (last - first) // size) + 1).astype(int)[1:-1]
    return np.concatenate([ends, middle, num - ends[::-1]])


def _cells(magnitude: np.ndarray) -> np.ndarray:
    last = _FAINTEST_MAG * _CELLS_PER_MAG - 1
    cells: np.ndarray = np.clip(magnitude * np.float32(_CELLS_PER_MAG), 0, last).astype(np.int32)
    return cells


def _log_tail(excess: np.ndarray, shape: np.ndarray | float, scale: np.ndarray | float) -> np.ndarray:
    """The logarithm of a generalised Pareto distribution's survival function, 0 where there is no excess."""
    ratio = np.maximum(excess, 0.0) / scale
    curved = np.where(np.asarray(shape) > 1e-6, shape, 1.0)
    found: np.ndarray = np.where(np.asarray(shape) > 1e-6, -np.log1p(shape * ratio) / curved, -ratio)
    return found


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
