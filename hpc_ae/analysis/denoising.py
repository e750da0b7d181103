"""Reconstructions as denoised magnitudes: how uncertain they are, and how near to the truth they come.

A reconstruction r of a star's magnitudes x = t + n (truth and noise) misses the truth for two reasons: some of the
noise goes through the network, J n with J its derivative at the star, and the network does not know every star, the
misfit. The noise part of r - x is (J - 1) n: where the errors are known, what r - x has beyond it is the misfit, and no
truth is needed to learn it. (To first order this is Stein's unbiased estimate of risk, 1981.)

Arithmetic on arrays. Shape letters: N stars, B bands, C cells, M magnitude bins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

_LEAST_STARS = 100
_END_SHARES = (1 / 256, 1 / 128, 1 / 64, 1 / 32, 1 / 16, 1 / 8)  # of the stars in the bins of magnitude at either end
_LEAST_BIN, _MIDDLE_BIN, _MOST_MIDDLE = 30, 400, 4
_MOST_COLOURS, _COLOUR_STARS = 8, 400
_LEAST_CELL = 100
_ROWS = 16_384
_ONE_SIGMA = 0.6827
_BISECTIONS = 24


@dataclass(frozen=True)
class Uncertainty:
    """A table over cells of reconstructed magnitude and colour.

    The first and last bins have fewer stars than the others: the brightest, the faintest and the strange ones, which
    the model knows least, are there.

    uncertainty^2 = sum over bands of gain x the star's own error^2, + misfit^2.
    """

    magnitude_edges: np.ndarray  # (m - 1,) of the middle band, mag
    colour_edges: np.ndarray  # (m, k - 1) within each bin of magnitude, mag
    gain: np.ndarray  # (C, B, B), C = m k: [c, b, j] of band b from the noise in band j
    misfit: np.ndarray  # (C, B) mag
    error: np.ndarray  # (C, B) median error of the catalog, mag: for stars without an error

    def of(self, reconstruction: np.ndarray, errors: np.ndarray | None) -> np.ndarray:
        """Standard uncertainty float32 (N, B) in mag of reconstruction (N, B).

        `errors` (N, B) in mag; where one is not positive, or there are none (None), the cell's usual one stands for it.
        """
        result = np.empty(reconstruction.shape, np.float32)
        gain, square = np.ascontiguousarray(self.gain.transpose(1, 2, 0)), np.square(self.misfit.T)
        for start in range(0, len(result), _ROWS):
            rows = slice(start, start + _ROWS)
            cell = self.cells(reconstruction[rows])
            known = self._errors(cell, None if errors is None else errors[rows])
            squares = np.square(known.T)  # band after band: 3 times as fast as an einsum over the stars' own tables
            for band, gains in enumerate(gain):
                total = square[band].take(cell)
                for own, other in zip(squares, gains, strict=True):
                    total += other.take(cell) * own
                result[rows, band] = np.sqrt(total)
        return result

    def combine(
        self, magnitude: np.ndarray, errors: np.ndarray, reconstruction: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best of both, magnitude + weight (reconstruction - magnitude), and its uncertainty: float32 (N, B), mag.

        The weight makes the expected squared error least: 0 where the catalog is much better than the model, near 1
        where it is much worse. A star that is in any band more than 3 times as far from its reconstruction as expected
        is none that the model knows: it keeps its magnitudes and errors.
        """
        cell = self.cells(reconstruction)
        own = np.square(self._errors(cell, errors))
        follows = np.sqrt(np.diagonal(self.gain, axis1=1, axis2=2))[cell]
        distance = np.square(self.of(reconstruction, errors)) + own * (1 - 2 * follows)  # mean of (r - x)^2
        distance = np.maximum(distance, np.square(1 - follows) * own) + np.float32(1e-12)
        residual = reconstruction - magnitude
        known = (np.square(residual) <= 9 * distance).all(axis=1)
        taken = np.clip((1 - follows) * own, 0, distance) * known[:, None]
        weight = taken / distance
        left = np.sqrt(np.maximum(own - weight * taken, 0))
        return np.asarray(magnitude + weight * residual, np.float32), np.asarray(left, np.float32)

    def _errors(self, cell: np.ndarray, errors: np.ndarray | None) -> np.ndarray:
        """Errors (n, B) of stars of some cells (n,), the usual ones where a star has none."""
        usual = self.error[cell]
        return usual if errors is None else np.where(errors > 0, errors, usual)

    def cells(self, reconstruction: np.ndarray) -> np.ndarray:
        """The cell of each star, int (N,), by its reconstruction (N, B)."""
        magnitude, colour = _axes(reconstruction)
        row = np.searchsorted(self.magnitude_edges, magnitude)
        column = np.zeros_like(row)
        for edges in self.colour_edges.T:
            column += colour > edges[row]
        found: np.ndarray = row * (1 + self.colour_edges.shape[1]) + column
        return found

    def record(self) -> dict[str, list[Any]]:
        """As JSON holds it."""
        digits = np.vectorize(lambda value: float(f"{value:.4g}"), otypes=[float])
        return {
            name: (digits(values) if (values := getattr(self, name)).size else values).tolist() for name in _names()
        }


def _names() -> list[str]:
    """Of the table's arrays."""
    return [one.name for one in fields(Uncertainty)]


def read_uncertainty(record: dict[str, list[Any]] | None, num_bands: int) -> Uncertainty | None:
    """The table of a model's record, None where there is none for so many bands."""
    try:
        arrays = {name: np.array((record or {})[name], np.float32) for name in _names()}
    except (KeyError, TypeError, ValueError):
        return None
    num_rows = arrays["magnitude_edges"].size + 1
    num_cells = num_rows + arrays["colour_edges"].size
    shapes = {
        "magnitude_edges": (num_rows - 1,),
        "colour_edges": (num_rows, num_cells // num_rows - 1),
        "gain": (num_cells, num_bands, num_bands),
        "misfit": (num_cells, num_bands),
        "error": (num_cells, num_bands),
    }
    whole = all(arrays[name].shape == shape and np.isfinite(arrays[name]).all() for name, shape in shapes.items())
    return Uncertainty(**arrays) if whole else None


def fit_uncertainty(
    magnitude: np.ndarray, errors: np.ndarray, reconstruction: np.ndarray, derivative: np.ndarray
) -> Uncertainty | None:
    """The table that makes 68 % of |reconstruction - magnitude| less than they should be in each cell and band.

    magnitude, errors (0 where there is none) and reconstruction (N, B) in mag, of stars that the model was not trained
    on, derivative (N, B, B). Stars without an error in some band are left out; None where fewer than 100 are left.
    """
    used = (errors > 0).all(axis=1) & np.isfinite(reconstruction).all(axis=1) & np.isfinite(derivative).all(axis=(1, 2))
    magnitude, errors, reconstruction, derivative = (
        values[used] for values in (magnitude, errors, reconstruction, derivative)
    )
    if len(magnitude) < _LEAST_STARS:
        return None
    num_bands = magnitude.shape[1]
    empty = np.zeros((0, num_bands), np.float32)
    magnitude_edges, colour_edges = (_digits(part) for part in _edges(reconstruction))
    table = Uncertainty(magnitude_edges, colour_edges, np.zeros((0, num_bands, num_bands), np.float32), empty, empty)
    cell = table.cells(reconstruction)
    residual = (reconstruction - magnitude).astype(np.float64)
    passed = np.square(derivative - np.eye(num_bands, dtype=np.float32))
    noise = np.einsum("nbj,nj->nb", passed, np.square(errors, dtype=np.float64))
    columns: dict[str, list[np.ndarray]] = {"gain": [], "misfit": [], "error": []}
    for stars in _stars_of_cells(cell, colour_edges.shape[1] + 1, len(colour_edges)):
        columns["gain"].append(np.square(np.abs(derivative[stars]).mean(axis=0)))  # a few wild stars weigh little
        columns["misfit"].append(_misfit(np.abs(residual[stars]), noise[stars]))
        columns["error"].append(np.median(errors[stars], axis=0))
    arrays = {name: _digits(np.stack(parts)) for name, parts in columns.items()}
    return Uncertainty(magnitude_edges, colour_edges, **arrays)


def _stars_of_cells(cell: np.ndarray, num_columns: int, num_rows: int) -> Iterator[np.ndarray]:
    """For each cell the stars that tell of it, bool (N,): its own, or all of its bin of magnitude where it has few."""
    for index in range(num_rows * num_columns):
        own = cell == index
        yield own if own.sum() >= _LEAST_CELL else cell // num_columns == index // num_columns


def _misfit(residual: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """m (B,) such that 68 % of |residual| (N, B) are below sqrt(noise + m^2); 0 where the noise alone does it."""
    low, high = np.zeros(residual.shape[1]), residual.max(axis=0)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        inside = (np.square(residual) <= noise + np.square(middle)).mean(axis=0)
        low, high = np.where(inside < _ONE_SIGMA, middle, low), np.where(inside < _ONE_SIGMA, high, middle)
    return np.asarray(high)


def _axes(reconstruction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude of the middle band, and the colour about it (g - i of ugriz), each (N,)."""
    num_bands = reconstruction.shape[1]
    return reconstruction[:, num_bands // 2], reconstruction[:, num_bands // 4] - reconstruction[:, 3 * num_bands // 4]


def _edges(reconstruction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges of the cells: (m - 1,) of magnitude, and of colour (m, k - 1) within each bin of magnitude."""
    magnitude, colour = _axes(reconstruction)
    num_stars = len(magnitude)
    edges = np.unique(np.quantile(magnitude, _magnitude_quantiles(num_stars)).astype(np.float32))
    edges = edges[edges < magnitude.max()]  # no bin is empty, however alike the stars are
    row = np.searchsorted(edges, magnitude)
    num_colours = int(np.clip(np.sqrt(num_stars / _COLOUR_STARS), 1, _MOST_COLOURS))
    quantiles = np.square(np.sin(np.arange(1, num_colours) / num_colours * np.pi / 2))
    parts = [np.quantile(colour[row == one], quantiles) for one in range(len(edges) + 1)]
    return edges, np.array(parts, np.float32).reshape(len(edges) + 1, num_colours - 1)


def _magnitude_quantiles(num_stars: int) -> np.ndarray:
    """Where bins of magnitude end: small ones at both ends, if they have 30 stars, up to four alike in the middle."""
    ends = np.cumsum([share for share in _END_SHARES if num_stars * share >= _LEAST_BIN])
    first = ends[-1] if len(ends) else 0.0
    num_middle = int(np.clip(num_stars * (1 - 2 * first) / _MIDDLE_BIN, 1, _MOST_MIDDLE))
    middle = np.linspace(first, 1 - first, num_middle + 1)[1:-1]
    return np.concatenate([ends, middle, 1 - ends[::-1]])


def _digits(values: np.ndarray) -> np.ndarray:
    """Rounded to four significant digits, so that JSON and memory hold the same, short numbers."""
    scale = 10.0 ** (3 - np.floor(np.log10(np.maximum(np.abs(values.astype(np.float64)), 1e-30))))
    return np.asarray(np.round(values * scale) / scale, np.float32)
