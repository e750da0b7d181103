"""Structure in a density map: clusters of stars around its significant peaks, and the ridge along its main body.

Works on counts per cell, so it takes the same time for any number of stars. Shape letters: K cells along a side,
R points of the ridge.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

NO_CLUSTER = -1
_MAX_CLUSTERS = 1000
_LEVELS_PER_OCTAVE = 4
_PROMINENCE = 2.0  # a peak is twice as high as the saddle to a higher one, and
_SIGMAS = 5.0  # higher than it by so many standard deviations of its Poisson noise
_LEAST_STARS = 10.0  # effectively under the smoothing kernel: less is no density
_BODY_STARS = 0.97  # the densest cells with so many of the stars are the main body, which the ridge runs through
_COLOUR_ENDS = 0.01  # of the stars are the bluest, and the reddest
_RIDGE_SMOOTH_CELLS = 4.0


def kernel_width(num_stars: int) -> float:
    """Standard deviation in cells of the smoothing of a map of so many stars (Scott's rule; a locus is thin)."""
    return float(np.clip(20.0 * max(num_stars, 1) ** (-1 / 6), 1.0, 6.0))


def smoothed(counts: np.ndarray) -> np.ndarray:
    """Density in stars per cell, float64 of the shape of the counts (K,) or (K, K)."""
    from scipy import ndimage

    width = kernel_width(int(counts.sum()))
    density: np.ndarray = ndimage.gaussian_filter(counts.astype(np.float64), width, mode="constant", truncate=4.0)
    return density


def _kernel_cells(counts: np.ndarray) -> float:
    """Number of cells that the smoothing averages over, effectively."""
    return float((2.0 * np.sqrt(np.pi) * kernel_width(int(counts.sum()))) ** counts.ndim)


def find_clusters(counts: np.ndarray) -> np.ndarray:
    """The cluster of each cell, int16 of the shape of the counts (K,) or (K, K): 0 has most stars, -1 is none.

    Each cell belongs to the peak of the smoothed density that one reaches uphill. Peaks are followed down the levels of
    the density; where two meet, the lower one stays a cluster of its own if it stands out (`_PROMINENCE`, `_SIGMAS`),
    else it becomes part of the higher one. Cells with next to no stars are in none.
    """
    density = smoothed(counts)
    floor = _LEAST_STARS / _kernel_cells(counts)
    labels = np.full(counts.shape, NO_CLUSTER, np.int16)
    if not density.max(initial=0.0) >= floor:
        return labels
    summit = _uphill(density)
    owners = _Peaks(density, _kernel_cells(counts)).owners(np.unique(summit), floor)
    owner = np.array([owners.get(int(cell), NO_CLUSTER) for cell in range(density.size)])[summit]
    owner[density.ravel() < floor] = NO_CLUSTER
    found, index = np.unique(owner[owner >= 0], return_inverse=True)
    sizes = np.bincount(index, counts.ravel()[owner >= 0])
    order = np.argsort(-sizes, kind="stable")[:_MAX_CLUSTERS]
    names = np.full(density.size, NO_CLUSTER, np.int16)
    names[found[order]] = np.arange(len(order))
    labels.ravel()[owner >= 0] = names[owner[owner >= 0]]
    return labels


def _uphill(density: np.ndarray) -> np.ndarray:
    """The flat cell (n,) of the local maximum that each cell reaches by its highest neighbours."""
    padded = np.pad(density, 1, constant_values=-1.0)
    best, target = density.ravel().copy(), np.arange(density.size)
    cells = np.pad(target.reshape(density.shape), 1)
    for step in itertools.product((0, 1, 2), repeat=density.ndim):
        view = tuple(slice(start, start + num) for start, num in zip(step, density.shape, strict=True))
        other, number = padded[view].ravel(), cells[view].ravel()
        higher = other > best
        best[higher], target[higher] = other[higher], number[higher]
    while not np.array_equal(target, target[target]):
        target = target[target]
    return target


class _Peaks:
    """The peaks of a density map, as they appear and meet from its highest level down."""

    def __init__(self, density: np.ndarray, kernel_cells: float) -> None:
        self.density, self.kernel_cells = density, kernel_cells
        self.into: dict[int, int] = {}  # peaks that became part of a higher one

    def owners(self, summits: np.ndarray, floor: float) -> dict[int, int]:
        """For each local maximum (flat cells (n,)) above the floor the peak that it belongs to, which may be itself."""
        from scipy import ndimage

        height = self.density.ravel()
        structure = np.ones((3,) * self.density.ndim, int)
        live = np.empty(0, np.int64)  # of each component of the level above its highest peak
        for level in _levels(height.max(), floor):
            labels = ndimage.label(self.density >= level, structure)[0].ravel()
            new = summits[(height[summits] >= level) & ~np.isin(summits, [*self.into, *live])]
            candidates = np.concatenate([live, new]).astype(np.int64)
            order = np.lexsort((candidates, -height[candidates], labels[candidates]))
            candidates = candidates[order]
            first = np.append(True, np.diff(labels[candidates]) > 0)
            leads = candidates[np.maximum.accumulate(np.where(first, np.arange(len(candidates)), 0))]
            for peak, lead in zip(candidates[~first].tolist(), leads[~first].tolist(), strict=True):
                self.into[peak] = peak if self._stands_out(height[peak], level) else lead
            live = candidates[first]
        found = dict.fromkeys(live.tolist(), NO_CLUSTER) | self.into
        return {peak: self._settled(peak) for peak in found if self._stands_out(height[self._settled(peak)], floor)}

    def _settled(self, peak: int) -> int:
        while self.into.get(peak, peak) != peak:
            peak = self.into[peak]
        return peak

    def _stands_out(self, peak: float, saddle: float) -> bool:
        """Whether a peak is more than noise on the saddle (both in stars per cell)."""
        noise = np.sqrt(saddle / self.kernel_cells)
        return bool(peak >= _PROMINENCE * saddle and peak - saddle >= _SIGMAS * noise)


def _levels(top: float, floor: float) -> np.ndarray:
    """Levels of density, falling from just below the highest to the floor."""
    num = int(np.ceil(np.log2(top / floor) * _LEVELS_PER_OCTAVE))
    return np.maximum(top * 2.0 ** (-np.arange(1, num + 1) / _LEVELS_PER_OCTAVE), floor)


@dataclass
class Ridge:
    """The ridge of the density: points in cells, float64 (R, D), from one end of the main body to the other, evenly.

    Stars within `width` cells are on it: as far as the density was smoothed.
    """

    points: np.ndarray
    width: float = 2.0

    @property
    def position(self) -> np.ndarray:
        """Way along the ridge from 0 to 1, (R,)."""
        return np.linspace(0.0, 1.0, len(self.points))


def trace_ridge(counts: np.ndarray, colour: np.ndarray | None = None, num_points: int = 64) -> Ridge:
    """The ridge of counts (K,) or (K, K): no points where there is no density.

    The main body is the densest cells that hold 97 % of the stars, in one piece. The ridge leads from where it is
    densest among its bluest stars to where it is among its reddest, by the mean `colour` per cell (NaN: not known);
    without colours between the two cells that are farthest apart inside it. A step costs its length over the square of
    the density (Dijkstra 1959), so that the way along a crest is shorter than the one beside it.
    """
    density = smoothed(counts)
    floor = max(_LEAST_STARS / _kernel_cells(counts), _level_holding(_BODY_STARS, density, counts))
    body = _main_body(density, floor, counts)
    cells, width = np.argwhere(body), 2.0 * kernel_width(int(counts.sum()))
    if len(cells) < 2:
        return Ridge(np.empty((0, counts.ndim)))
    if counts.ndim == 1:
        return Ridge(np.linspace(cells[0], cells[-1], num_points).astype(np.float64), width)
    ends = None if colour is None else _colour_ends(_smooth_colour(colour, counts)[body], counts[body], density[body])
    path = cells[_dearest_path(cells, density[body], ends)].astype(np.float64)
    if ends is None and path[0, 0] > path[-1, 0]:
        path = path[::-1]
    return Ridge(_evenly(_smooth_path(path), num_points), width)


def _level_holding(share: float, density: np.ndarray, counts: np.ndarray) -> float:
    """The density above which the cells hold this share of the stars. Beyond it colours are those of a few strays."""
    order = np.argsort(-density, axis=None, kind="stable")
    above = np.cumsum(counts.ravel()[order])
    last = min(int(np.searchsorted(above, share * above[-1])), above.size - 1)
    return float(density.ravel()[order[last]])


def _main_body(density: np.ndarray, floor: float, counts: np.ndarray) -> np.ndarray:
    """Mask of the connected cells above the floor that hold most stars."""
    from scipy import ndimage

    labels, num = ndimage.label(density >= floor, np.ones((3,) * density.ndim, int))
    if not num:
        return np.zeros(density.shape, bool)
    stars = ndimage.sum_labels(counts, labels, range(1, num + 1))
    mask: np.ndarray = labels == 1 + int(np.argmax(stars))
    return mask


def _smooth_colour(colour: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean colours of the stars under the kernel of the density: of one cell they are those of a few stars."""
    from scipy import ndimage

    known = np.isfinite(colour)
    stars, sums = np.where(known, counts, 0.0), np.where(known, colour, 0.0) * counts
    width = kernel_width(int(counts.sum()))
    weight, total = (ndimage.gaussian_filter(values, width, mode="constant", truncate=4.0) for values in (stars, sums))
    return np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), np.nan)


def _colour_ends(colour: np.ndarray, counts: np.ndarray, density: np.ndarray) -> tuple[int, int] | None:
    """Of cells (n,) the densest of those that hold the bluest, and of those that hold the reddest stars."""
    order = np.argsort(np.where(np.isfinite(colour), colour, np.inf), kind="stable")[: np.isfinite(colour).sum()]
    above = np.cumsum(counts[order])
    if len(order) < 2:
        return None
    first, last = np.searchsorted(above, [_COLOUR_ENDS * above[-1], (1 - _COLOUR_ENDS) * above[-1]])
    blue, red = order[: first + 1], order[min(last, len(order) - 1) :]
    return int(blue[np.argmax(density[blue])]), int(red[np.argmax(density[red])])


def _dearest_path(cells: np.ndarray, density: np.ndarray, ends: tuple[int, int] | None) -> np.ndarray:
    """Indices of the cells (n, 2) along the ridge, whose densities are (n,)."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import dijkstra

    one, two, length = _neighbours(cells)
    shape = (len(cells), len(cells))

    def graph(cost: np.ndarray) -> object:
        return coo_matrix((cost, (one, two)), shape=shape).tocsr()

    if ends is None:
        farthest = [int(np.argmax(density))]
        for _ in range(3):  # the farthest from the farthest
            distance = dijkstra(graph(length), directed=False, indices=farthest[-1])
            farthest.append(int(np.argmax(np.where(np.isfinite(distance), distance, -1.0))))
        ends = (farthest[-2], farthest[-1])
    dear = np.square(density.max() / density)
    cost = length * 0.5 * (dear[one] + dear[two])
    _, before = dijkstra(graph(cost), directed=False, indices=ends[0], return_predecessors=True)
    path = [ends[1]]
    while before[path[-1]] >= 0:
        path.append(int(before[path[-1]]))
    return np.array(path[::-1])


def _neighbours(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of touching cells (n, 2), as two arrays of indices, and their distances."""
    size = int(cells.max()) + 3
    number = np.full((size, size), -1)
    number[cells[:, 0] + 1, cells[:, 1] + 1] = np.arange(len(cells))
    found = []
    for step in ((0, 1), (1, -1), (1, 0), (1, 1)):
        other = number[cells[:, 0] + 1 + step[0], cells[:, 1] + 1 + step[1]]
        one = np.flatnonzero(other >= 0)
        found.append((one, other[one], np.full(len(one), np.hypot(*step))))
    one, two, length = (np.concatenate(part) for part in zip(*found, strict=True))
    return one, two, length


def _smooth_path(path: np.ndarray) -> np.ndarray:
    """A path of cells (n, 2) without its steps; the ends stay."""
    from scipy import ndimage

    smooth: np.ndarray = ndimage.gaussian_filter1d(path, _RIDGE_SMOOTH_CELLS, axis=0, mode="nearest")
    smooth[0], smooth[-1] = path[0], path[-1]
    return smooth


def _evenly(path: np.ndarray, num_points: int) -> np.ndarray:
    """Points (R, 2) at equal distances along a path (n, 2)."""
    way = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    wanted = np.linspace(0.0, way[-1], num_points)
    return np.stack([np.interp(wanted, way, path[:, axis]) for axis in range(path.shape[1])], axis=1)
