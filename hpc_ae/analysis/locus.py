"""The locus: what stars near the ridge of the density are like, along it.

Shape letters: N stars, D dimensions of the map, R points of the ridge, C colours.
"""

from __future__ import annotations

import numpy as np

_LEAST_STARS = 10
_WIDTH = 2.0  # stars within so many steps of the ridge from it
_LEVELS = (0.16, 0.5, 0.84)


def colours_of(magnitude: np.ndarray) -> np.ndarray:
    """Differences of neighbouring bands of magnitude (N, B), (B - 1, N)."""
    colours: np.ndarray = -np.diff(magnitude.T, axis=0)
    return colours


def locus_quantiles(points: np.ndarray, places: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of stars at `places` (N, D) with `values` (C, N): how many are near each ridge point (R, D), int64 (R,), and
    their 16, 50 and 84 per cent quantiles, float64 (3, C, R); NaN where there are too few.
    """
    from scipy.spatial import cKDTree

    num = len(points)
    found = np.full((3, len(values), num), np.nan)
    if num < 2:
        return np.zeros(num, np.int64), found
    step = float(np.median(np.linalg.norm(np.diff(points, axis=0), axis=1)))
    distance, nearest = cKDTree(points).query(places, distance_upper_bound=_WIDTH * max(step, 1.0))
    near = np.flatnonzero(np.isfinite(distance))
    order = near[np.argsort(nearest[near], kind="stable")]
    counts = np.bincount(nearest[near], minlength=num)
    stops = np.cumsum(counts)
    for point in np.flatnonzero(counts >= _LEAST_STARS):
        stars = order[stops[point] - counts[point] : stops[point]]
        found[:, :, point] = np.quantile(values[:, stars].astype(np.float64), _LEVELS, axis=1)
    return counts, found


def near_ridge(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """For each cell of a map of `shape` the ridge point (R, D) that it is near to, int64 of that shape; -1: none."""
    from scipy.spatial import cKDTree

    cells = np.indices(shape).reshape(len(shape), -1).T
    if len(points) < 2:
        return np.full(shape, -1)
    step = float(np.median(np.linalg.norm(np.diff(points, axis=0), axis=1)))
    distance, nearest = cKDTree(points).query(cells, distance_upper_bound=_WIDTH * max(step, 1.0))
    return np.where(np.isfinite(distance), nearest, -1).reshape(shape)
