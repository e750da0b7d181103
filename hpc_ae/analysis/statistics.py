"""Moments, extremes and the worst stars: statistics of parts that merge into those of the whole.

Shape letters: N stars, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Moments:
    """Count, mean, sum of squared deviations from the mean, smallest and largest, per dimension: float64 (D,) each."""

    num: int
    mean: np.ndarray
    deviation: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Moments of float32 or float64 values (D, N), contiguous along N."""
        dims, num = values.shape
        if not num:
            return cls.none(dims)
        wide = values.astype(np.float64)
        mean = wide.sum(axis=1) / num
        wide -= mean[:, None]
        np.multiply(wide, wide, out=wide)
        low, high = values.min(axis=1).astype(np.float64), values.max(axis=1).astype(np.float64)
        return cls(num, mean, wide.sum(axis=1), low, high)

    @classmethod
    def none(cls, dims: int) -> Moments:
        """The moments of no values."""
        return cls(0, np.zeros(dims), np.zeros(dims), np.full(dims, np.inf), np.full(dims, -np.inf))

    def merge(self, other: Moments) -> Moments:
        """Moments of both parts together (Chan, Golub and LeVeque 1979)."""
        if not other.num or not self.num:
            return self if self.num else other
        num = self.num + other.num
        step = other.mean - self.mean
        return Moments(
            num,
            self.mean + step * (other.num / num),
            self.deviation + other.deviation + step * step * (self.num * other.num / num),
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )

    @property
    def std(self) -> np.ndarray:
        """Population standard deviation (D,)."""
        std: np.ndarray = np.sqrt(self.deviation / max(1, self.num))
        return std

    @property
    def mean_square(self) -> np.ndarray:
        """Mean of the squares (D,)."""
        square: np.ndarray = self.deviation / max(1, self.num) + self.mean**2
        return square


def worst(values: np.ndarray, rows: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """The `num` largest of finite values (N,) and their rows, largest first; equal values by ascending row.

    `rows` (N,) ascends among equal values, as it does where parts are joined in order.
    """
    order = worst_places(values, rows, num)
    return values[order], rows[order]


def worst_places(values: np.ndarray, rows: np.ndarray, num: int) -> np.ndarray:
    """Where in finite values (N,) the `num` largest are, largest first; equal values by ascending row."""
    if len(values) <= num:
        return np.lexsort((rows, -values))
    limit = np.partition(values, len(values) - num)[len(values) - num] if num else np.inf
    chosen = np.flatnonzero(values >= limit)
    places: np.ndarray = chosen[np.lexsort((rows[chosen], -values[chosen]))][:num]
    return places
