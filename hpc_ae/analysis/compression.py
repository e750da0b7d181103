"""Magnitudes as small integers: a grid of the asked-for error, a prediction from quantised latents, and what is left.

Everything that a decoder does is arithmetic on integers, so it gives the same bits on every machine; the one thing that
it is told in floating point, the model's prediction, is made reproducible by `hpc_ae.model.exact`.
Shape letters: N stars, B bands, L latent dimensions, P byte planes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpc_ae.analysis.band_predictor import BandPredictor
from hpc_ae.analysis.grids import MAGNITUDE_LIMITS, Grid, LatentGrid
from hpc_ae.analysis.planes import from_planes, to_planes, unzigzag, zigzag
from hpc_ae.errors import DamageError


@dataclass(frozen=True)
class MagnitudeCoder:
    """All that turns good magnitudes and their latents into planes of bytes, and these into magnitudes.

    `grid` None: no residuals are kept, the magnitudes are what the model makes of the quantised latents.
    """

    latent_grid: LatentGrid
    grid: Grid | None
    predictor: BandPredictor | None

    def encode(self, magnitude: np.ndarray, latent: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
        """Planes uint8 (P, n) by name of magnitude (N, B) and latent integers (N, L); `predicted` float64 (N, B) is
        the model's magnitudes of these integers.
        """
        streams = {f"latent_{index}": to_planes(column) for index, column in enumerate(self._packed(latent))}
        if self.grid is None or self.predictor is None:
            return streams
        cell = self.latent_grid.cells(latent)
        difference = self.grid.to_integers(magnitude) - self._guess(predicted)
        left = zigzag(self.predictor.encode(difference, cell).T.reshape(-1))
        for name, places in self.predictor.classes(cell).items():
            streams[name] = to_planes(left[places])
        return streams

    def decode_latents(self, streams: Mapping[str, Sequence[np.ndarray]], num: int) -> np.ndarray:
        """Latent integers int64 (num, L)."""
        num_latent, bits = len(self.latent_grid.low), self.latent_grid.bits
        if num_latent * bits > 8:
            columns = [from_planes(streams[f"latent_{index}"], num).astype(np.int64) for index in range(num_latent)]
        else:
            joint = from_planes(streams["latent_0"], num).astype(np.int64)
            columns = [(joint >> (bits * index)) & ((1 << bits) - 1) for index in range(num_latent)]
        latent = np.column_stack(columns)
        if latent.min(initial=0) < 0 or latent.max(initial=0) >= 1 << bits:
            raise DamageError("a latent has more bits than it says", got=int(latent.max()), expected=f"{bits} bits")
        return latent

    def decode(
        self, streams: Mapping[str, Sequence[np.ndarray]], latent: np.ndarray, predicted: np.ndarray
    ) -> np.ndarray:
        """Magnitudes float32 (N, B) of planes, latent integers (N, L) and the model's magnitudes of these (N, B)."""
        if self.grid is None or self.predictor is None:
            return _inside(predicted).astype(np.float32)
        cell = self.latent_grid.cells(latent)
        left = np.empty(predicted.size, np.uint64)
        for name, places in self.predictor.classes(cell).items():
            left[places] = from_planes(streams[name], len(places))
        left = np.ascontiguousarray(unzigzag(left).reshape(predicted.shape[::-1]).T)
        return self.grid.to_magnitudes(self._guess(predicted) + self.predictor.decode(left, cell))

    def _packed(self, latent: np.ndarray) -> list[np.ndarray]:
        """Latents as columns uint64 (N,): one for all where they fit into a byte, else one for each dimension."""
        columns = [column.astype(np.uint64) for column in latent.T]
        if len(columns) * self.latent_grid.bits > 8:
            return columns
        joint = np.zeros(len(latent), np.uint64)
        for index, column in enumerate(columns):
            joint |= column << np.uint64(self.latent_grid.bits * index)
        return [joint]

    def _guess(self, predicted: np.ndarray) -> np.ndarray:
        assert self.grid is not None
        return self.grid.to_integers(_inside(predicted))


def _inside(predicted: np.ndarray) -> np.ndarray:
    """Predicted magnitudes (N, B) inside MAGNITUDE_LIMITS; 0 for what is no number."""
    return np.asarray(np.clip(np.where(np.isnan(predicted), 0.0, predicted), *MAGNITUDE_LIMITS))


@dataclass(frozen=True)
class CoderSample:
    """What a coder is fitted to: good stars with magnitude (N, B), latent integers (N, L), predicted (N, B)."""

    magnitude: np.ndarray
    latent: np.ndarray
    predicted: np.ndarray


def make_coder(max_error: Sequence[float] | None, latent_grid: LatentGrid, sample: CoderSample) -> MagnitudeCoder:
    """The coder for maximum errors per band in mag (None: no residuals), its predictor fitted to a sample."""
    if max_error is None:
        return MagnitudeCoder(latent_grid, None, None)
    grid = Grid(tuple(max_error))
    difference = grid.to_integers(sample.magnitude) - grid.to_integers(_inside(sample.predicted))
    cell = latent_grid.cells(sample.latent)
    predictor = BandPredictor.fitted(difference, cell, latent_grid.num_cells)
    return MagnitudeCoder(latent_grid, grid, predictor)
