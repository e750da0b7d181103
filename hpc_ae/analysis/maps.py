"""Maps of the latent plane and of the sky: counts and sums per cell that add up over shards.

The latent plane (each pair of the dimensions shown, or the only dimension) is counted on a fine grid and averaged on a
coarser one with the same window, so that a fine cell lies in one coarse cell. Cells are indexed from 1 with a border
around them (`LinearBins.padded_index`), where stars outside the window fall.
Shape letters: N stars, B bands, L latent dimensions, D dimensions shown, P pairs of them, X fine and K coarse cells
along a side, Q quantities, W pixels of the sky.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpc_ae.analysis.histogram import LinearBins

MAX_SHOWN = 4  # dimensions of which there are maps
FINE_CELLS = 1024
MEAN_CELLS = 256
_STARS_PER_PIXEL = 200  # of the sky, were it covered evenly
_SKY_ORDERS = (2, 7)
Indices = list[np.ndarray]


def shown_pairs(num_shown: int) -> list[tuple[int, ...]]:
    """The dimensions of each map, counted from 0: every pair, or the only one."""
    pairs = list(itertools.combinations(range(num_shown), 2))
    return [*pairs] if pairs else [(0,)]


def plane_shape(num_shown: int, cells: int) -> tuple[int, ...]:
    """Shape of one map."""
    return (cells,) if num_shown == 1 else (cells, cells)


def fine_indices(latent: np.ndarray, windows: Sequence[LinearBins]) -> Indices:
    """Padded fine indices int32 (N,) of each dimension shown, of latent (N, L); the windows have FINE_CELLS bins."""
    return [bins.padded_index(np.ascontiguousarray(latent[:, dim])) for dim, bins in enumerate(windows)]


def coarse_indices(fine: Indices, cells: int = MEAN_CELLS) -> Indices:
    """Padded indices on a grid of `cells` of the same window: 0 stays below it, the last one above."""
    shift = (FINE_CELLS // cells).bit_length() - 1
    return [(index + np.int32((1 << shift) - 1)) >> shift for index in fine]


def plane_cells(indices: Indices, dims: Sequence[int], cells: int) -> np.ndarray:
    """Flat padded cell int32 (N,) of the map of `dims`: of (cells + 2) or (cells + 2)^2."""
    if len(dims) == 1:
        return indices[dims[0]]
    flat: np.ndarray = indices[dims[0]] * np.int32(cells + 2) + indices[dims[1]]
    return flat


def crop(flat: np.ndarray, num_dims: int, cells: int) -> np.ndarray:
    """The map without its border, of flat padded cells."""
    if num_dims == 1:
        return flat[1:-1]
    return flat.reshape(cells + 2, cells + 2)[1:-1, 1:-1]


def pooled(counts: np.ndarray, cells: int) -> np.ndarray:
    """Counts on a grid of `cells` along a side, a divisor of what there are: a coarser level of the pyramid."""
    step = len(counts) // cells
    if counts.ndim == 1:
        coarse: np.ndarray = counts.reshape(cells, step).sum(axis=1)
    else:
        coarse = counts.reshape(cells, step, cells, step).sum(axis=(1, 3))
    return coarse


@dataclass
class LatentMaps:
    """Per map the stars of each fine cell, and sums of quantities over the stars of each coarse cell.

    `counts`: P of (X,) or (X, X) int64. `sums`: P of (Q, K) or (Q, K, K) float64, the last of them the redshift where
    there is one. `known`: P of (K,) or (K, K) int64, the stars whose redshift is known; of no length without it.
    """

    counts: list[np.ndarray]
    sums: list[np.ndarray]
    known: list[np.ndarray]

    @classmethod
    def none(cls, num_shown: int, num_quantities: int, has_redshift: bool) -> LatentMaps:
        """The maps of no stars; `num_quantities` without the redshift."""
        maps = range(len(shown_pairs(num_shown)))
        fine, coarse = plane_shape(num_shown, FINE_CELLS), plane_shape(num_shown, MEAN_CELLS)
        return cls(
            [np.zeros(fine, np.int64) for _ in maps],
            [np.zeros((num_quantities + has_redshift, *coarse)) for _ in maps],
            [np.zeros(coarse if has_redshift else 0, np.int64) for _ in maps],
        )

    def count(self, fine: Indices) -> None:
        """Count stars by their fine indices (N,): as many at once as there are, as the grid is large."""
        for counts, dims in zip(self.counts, shown_pairs(len(fine)), strict=True):
            size = (FINE_CELLS + 2) ** len(dims)
            flat = np.bincount(plane_cells(fine, dims, FINE_CELLS), minlength=size)
            counts += crop(flat, len(dims), FINE_CELLS)

    def add_sums(self, coarse: Indices, quantities: np.ndarray, redshift: np.ndarray | None) -> None:
        """Add finite quantities float64 (Q, N) of stars by their coarse indices, and redshifts (N,) where known."""
        for sums, known, dims in zip(self.sums, self.known, shown_pairs(len(coarse)), strict=True):
            cells = plane_cells(coarse, dims, MEAN_CELLS)
            size = (MEAN_CELLS + 2) ** len(dims)
            for total, values in zip(sums, quantities, strict=False):
                total += crop(np.bincount(cells, values, size), len(dims), MEAN_CELLS)
            if redshift is not None:
                has_value = np.isfinite(redshift)
                chosen, values = cells[has_value], redshift[has_value]
                known += crop(np.bincount(chosen, minlength=size), len(dims), MEAN_CELLS)
                sums[-1] += crop(np.bincount(chosen, values, size), len(dims), MEAN_CELLS)

    def add(self, other: LatentMaps) -> None:
        """Take in the maps of the next part."""
        for name in ("counts", "sums", "known"):
            for mine, more in zip(getattr(self, name), getattr(other, name), strict=True):
                mine += more

    def means(self, index: int) -> np.ndarray:
        """Means of the quantities (Q, K) or (Q, K, K) of map `index`; NaN where there is no star."""
        counts = pooled(self.counts[index], MEAN_CELLS)
        means = np.full(self.sums[index].shape, np.nan)
        np.divide(self.sums[index], counts, out=means, where=np.broadcast_to(counts > 0, means.shape))
        if len(known := self.known[index]):
            means[-1] = np.nan
            np.divide(self.sums[index][-1], known, out=means[-1], where=known > 0)
        return means


def sky_order(num_stars: int) -> int:
    """The order of the sky map of so many stars: pixels hold some hundred each, were the whole sky covered."""
    order = int(math.log(max(1.0, num_stars / (12 * _STARS_PER_PIXEL)), 4))
    return min(max(order, _SKY_ORDERS[0]), _SKY_ORDERS[1])


@dataclass
class SkyTally:
    """Per HEALPix pixel (nested) the stars, int64 (W,), and sums of error in mag and latents, float64 (1 + L, W)."""

    counts: np.ndarray
    sums: np.ndarray

    @classmethod
    def none(cls, order: int, num_latent: int) -> SkyTally:
        """The tally of no stars."""
        num = 12 << 2 * order
        return cls(np.zeros(num, np.int64), np.zeros((1 + num_latent, num)))

    def count(self, pixels: np.ndarray, values: np.ndarray) -> None:
        """Add stars by pixel int64 (N,), beyond the last one for those without a position; values (1 + L, N)."""
        placed = pixels < len(self.counts)
        if not placed.all():
            pixels, values = pixels[placed], values[:, placed]
        self.counts += np.bincount(pixels, minlength=len(self.counts))
        for total, row in zip(self.sums, values, strict=True):
            total += np.bincount(pixels, row, len(total))

    def add(self, other: SkyTally) -> None:
        """Take in the tally of the next part."""
        self.counts += other.counts
        self.sums += other.sums

    def means(self) -> np.ndarray:
        """Mean error in mag and mean latents per pixel, float64 (1 + L, W); NaN where there is no star."""
        means = np.full(self.sums.shape, np.nan)
        np.divide(self.sums, self.counts, out=means, where=np.broadcast_to(self.counts > 0, means.shape))
        return means
