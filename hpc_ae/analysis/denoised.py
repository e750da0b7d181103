"""How much noise a reconstruction takes away, per band and magnitude: against a known truth, or without one.

Without a truth a star's own errors make two measurements of one: with noise e drawn from them, x + s e and x - e / s
have independent errors (of 1 + s^2 and 1 + 1 / s^2 times the variance), so that the reconstruction of the first may be
judged by the second: the mean of (reconstruction - second)^2 less the second's own variance is that of its squared
error to the truth, for whatever the network does (Pang et al. 2021; Gaussian errors that are right are all it takes).

Arithmetic on arrays. Tallies add up over shards. Shape letters: N stars, B bands, M magnitude bins, H histogram bins.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

_SIZE_EDGES = np.geomspace(1e-4, 1e2, 481)  # of histograms of |deviation|: bins of 3 %
_ONE_SIGMA = 0.6827


def noise_pair(
    magnitude: np.ndarray, errors: np.ndarray, normals: np.ndarray, strength: float = 0.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two measurements (N, B) in mag with independent errors, and the variance (N, B) in mag^2 of the second.

    magnitude and errors (N, B) in mag, normals (N, B) standard normal numbers.
    """
    noise = errors * normals
    first, second = magnitude + strength * noise, magnitude - noise / strength
    return first, second, np.square(errors, dtype=np.float64) * (1 + 1 / strength**2)


@dataclass
class Deviations:
    """Deviations from something by band and bin: number, sum, sum of squares (B, M), histogram of sizes (B, M, H)."""

    num: np.ndarray
    total: np.ndarray
    square: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(
        cls, values: np.ndarray, keys: np.ndarray, edges: np.ndarray, variance: np.ndarray | None = None
    ) -> Deviations:
        """Tally values (N, B) by keys (N, B) within edges (M + 1,); NaN values are left out.

        `variance` (N, B): what is taken off each square, as that of the thing that the values deviate from.
        """
        shape = (values.shape[1], len(edges) - 1)
        tally = cls(np.zeros(shape), np.zeros(shape), np.zeros(shape), np.zeros((*shape, len(_SIZE_EDGES) + 1)))
        squares = np.square(values, dtype=np.float64) - (0.0 if variance is None else variance)
        for band in range(shape[0]):
            place = np.searchsorted(edges, keys[:, band], side="right") - 1
            used = (place >= 0) & (place < shape[1]) & np.isfinite(squares[:, band])
            place, one = place[used], values[used, band]
            tally.num[band] = np.bincount(place, minlength=shape[1])
            tally.total[band] = np.bincount(place, one, minlength=shape[1])
            tally.square[band] = np.bincount(place, squares[used, band], minlength=shape[1])
            size = np.searchsorted(_SIZE_EDGES, np.abs(one))
            np.add.at(tally.sizes[band], (place, size), 1)
        return tally

    def __add__(self, other: Deviations) -> Deviations:
        """The tally of both sets of stars."""
        return Deviations(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    @property
    def mean(self) -> np.ndarray:
        """Mean deviation (B, M), NaN where there is no star."""
        return _divided(self.total, self.num)

    @property
    def rms(self) -> np.ndarray:
        """Root mean square (B, M); 0 where the variance taken off is more than the squares."""
        return np.asarray(np.sqrt(np.maximum(_divided(self.square, self.num), 0.0)))

    @property
    def one_sigma(self) -> np.ndarray:
        """The size (B, M) that 68 % of the deviations do not exceed, to 3 %: what a Gaussian's sigma is."""
        share = _divided(np.cumsum(self.sizes, axis=-1), self.num[..., None])
        place = np.clip((share < _ONE_SIGMA).sum(axis=-1), 1, len(_SIZE_EDGES) - 1)
        middle = np.sqrt(_SIZE_EDGES[place - 1] * _SIZE_EDGES[place])
        return np.asarray(np.where(self.num > 0, middle, np.nan))


def _divided(sums: np.ndarray, num: np.ndarray) -> np.ndarray:
    missing = np.full(np.broadcast(sums, num).shape, np.nan)
    return np.asarray(np.divide(sums, num, out=missing, where=num > 0))
