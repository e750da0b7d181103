"""The locus: what stars near the ridge of the density are like, along it.

Shape letters: N stars, D dimensions of the map, R points of the ridge, C colours.
"""

from __future__ import annotations

import numpy as np

from hpc_ae.analysis.density import Ridge

_LEAST_STARS = 10
_LEVELS = (0.16, 0.5, 0.84)


def colours_of(magnitude: np.ndarray) -> np.ndarray:
    """Differences of neighbouring bands of magnitude (N, B), (B - 1, N)."""
    colours: np.ndarray = -np.diff(magnitude.T, axis=0)
    return colours


def locus_quantiles(ridge: Ridge, places: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of stars at `places` (N, D) in cells with `values` (C, N): how many are on each point of the ridge, int64 (R,),
    and their 16, 50 and 84 per cent quantiles, float64 (3, C, R); NaN where there are too few.
    """
    num = len(ridge.points)
    found = np.full((3, len(values), num), np.nan)
    if num < 2:
        return np.zeros(num, np.int64), found
    nearest = nearest_point(ridge, places)
    near = np.flatnonzero(nearest >= 0)
    order = near[np.argsort(nearest[near], kind="stable")]
    counts = np.bincount(nearest[near], minlength=num)
    stops = np.cumsum(counts)
    for point in np.flatnonzero(counts >= _LEAST_STARS):
        stars = order[stops[point] - counts[point] : stops[point]]
        found[:, :, point] = np.quantile(values[:, stars].astype(np.float64), _LEVELS, axis=1)
    return counts, found


def nearest_point(ridge: Ridge, places: np.ndarray) -> np.ndarray:
    """The ridge point that each place (N, D) in cells is on, int64 (N,); -1 where it is on none."""
    from scipy.spatial import cKDTree

    if not len(ridge.points):
        return np.full(len(places), -1)
    distance, nearest = cKDTree(ridge.points).query(places, distance_upper_bound=ridge.width)
    return np.where(np.isfinite(distance), nearest, -1)


def cells_on_ridge(ridge: Ridge, shape: tuple[int, ...]) -> np.ndarray:
    """The ridge point that each cell of a map of `shape` is on, flat int64 (n,); -1 where it is on none."""
    return nearest_point(ridge, np.indices(shape).reshape(len(shape), -1).T)
