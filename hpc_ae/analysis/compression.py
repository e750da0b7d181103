"""Magnitudes as small integers: a grid of the asked-for error, a prediction from quantised latents, and what is left.

Everything that a decoder does is arithmetic on integers, so it gives the same bits on every machine; the one thing that
it is told in floating point, the model's prediction, is made reproducible by `hpc_ae.model.exact`.
Shape letters: N stars, B bands, L latent dimensions, C cells of the latent space, P byte planes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hpc_ae.errors import DamageError

MAGNITUDE_LIMITS = (0.0, 30.0)
LEAST_ERROR, MOST_ERROR = 1e-5, 1.0
MOST_LATENT_BITS = 16
_MARGIN = 2.0**-19  # twice the rounding of a magnitude below 32 to float32
_CELL_BITS = 6
_ONE = 12  # coefficients are integers in units of 2^-12
_MOST_COEFFICIENT = 1 << 17
_MOST_CONSTANT = 1 << 45
_MOST_INPUT = 1 << 24
_ROUNDS = 6
_ORDER_STARS = 16_384
_TRIED_RINGS = 3
_LEAST_STARS = 200
_MOST_PLANES = 8


@dataclass(frozen=True)
class Grid:
    """Magnitudes (N, B) to integers and back: multiples of a step for a band of maximum error > 0, in mag; for 0 the
    bits of the float32 in the order of their values, so that nothing is lost.
    """

    max_error: tuple[float, ...]

    def steps(self) -> np.ndarray:
        """Step per band in mag, float64 (B,); 0 where nothing is lost. With float32's rounding the error is kept."""
        return np.array([2.0 * (error - _MARGIN) if error else 0.0 for error in self.max_error])

    def to_integers(self, magnitude: np.ndarray) -> np.ndarray:
        """int64 (N, B) of magnitude (N, B), float32 or float64, inside MAGNITUDE_LIMITS."""
        values = np.empty(magnitude.shape, np.int64)
        for band, step in enumerate(self.steps()):
            column = magnitude[:, band]
            values[:, band] = np.rint(column.astype(np.float64) / step) if step else _ordered(column)
        return values

    def to_magnitudes(self, integers: np.ndarray) -> np.ndarray:
        """float32 (N, B) in mag of int64 (N, B); DamageError where one stands for no magnitude."""
        magnitude = np.empty(integers.shape, np.float32)
        for band, step in enumerate(self.steps()):
            column = integers[:, band]
            if step:
                magnitude[:, band] = np.clip(column * step, *MAGNITUDE_LIMITS)
            else:
                magnitude[:, band] = _from_ordered(column)
        return magnitude


def _ordered(values: np.ndarray) -> np.ndarray:
    """Integers in the order of the float32 `values` (N,), one for each float32: int64 (N,)."""
    bits = np.ascontiguousarray(values, np.float32).view(np.int32)
    return np.asarray(bits ^ ((bits >> 31) & 0x7FFFFFFF), np.int64)


def _from_ordered(integers: np.ndarray) -> np.ndarray:
    narrow = integers.astype(np.int32)
    if not np.array_equal(narrow, integers):
        raise DamageError("a residual leads to no magnitude", got="an integer of more than 32 bits")
    return np.asarray((narrow ^ ((narrow >> 31) & 0x7FFFFFFF)).view(np.float32))


@dataclass(frozen=True)
class LatentGrid:
    """Latents (N, L) to integers of `bits` bits: equal steps from `low` to `high`, (L,) each; what lies outside goes to
    the ends.
    """

    bits: int
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, latent: np.ndarray, bits: int, tail: float = 1e-3) -> LatentGrid:
        """A grid over finite latents (N, L) but for a share `tail` at each end."""
        if not len(latent):
            return cls(bits, (0.0,) * latent.shape[1], (1.0,) * latent.shape[1])
        low, high = np.quantile(latent.astype(np.float64), [tail, 1.0 - tail], axis=0)
        high = np.maximum(high, low + 1e-6 * np.maximum(1.0, np.abs(low)))
        return cls(bits, tuple(low.tolist()), tuple(high.tolist()))

    def _steps(self) -> np.ndarray:
        return np.asarray((np.array(self.high) - np.array(self.low)) / max(1, (1 << self.bits) - 1))

    def to_integers(self, latent: np.ndarray) -> np.ndarray:
        """int64 (N, L) from 0 to 2^bits - 1; a latent that is not finite becomes 0."""
        with np.errstate(invalid="ignore", over="ignore"):
            places = np.rint((latent.astype(np.float64) - np.array(self.low)) / self._steps())
        places = np.where(np.isfinite(latent), places, 0.0)
        return np.asarray(np.clip(places, 0, (1 << self.bits) - 1), np.int64)

    def to_latents(self, integers: np.ndarray) -> np.ndarray:
        """float64 (N, L) of int64 (N, L)."""
        return np.asarray(np.array(self.low) + integers * self._steps())

    def cells(self, integers: np.ndarray) -> np.ndarray:
        """Number of the cell of the latent space of each star, int64 (N,) below `num_cells`: the leading bits."""
        top = self._cell_bits
        cell = np.zeros(len(integers), np.int64)
        for column in integers.T[:_CELL_BITS]:
            cell = (cell << top) | (column >> (self.bits - top))
        return cell

    @property
    def _cell_bits(self) -> int:
        return min(self.bits, _CELL_BITS // min(len(self.low), _CELL_BITS))

    @property
    def num_cells(self) -> int:
        """C, 64 at most."""
        return 1 << (self._cell_bits * min(len(self.low), _CELL_BITS))


@dataclass(frozen=True)
class BandPredictor:
    """What the difference in one band says of the next, linear within each cell of the latent space.

    `order` is that of the bands, `table` int64 (C, B, B): row i of a cell has the coefficients of the i bands before
    the i-th, then the constant, in units of 2^-12. `spread` uint8 (C, B) is the class of size of what is left, for the
    i-th band: numbers of one class are coded together.
    """

    order: tuple[int, ...]
    table: np.ndarray
    spread: np.ndarray

    @classmethod
    def fitted(cls, difference: np.ndarray, cell: np.ndarray, num_cells: int) -> BandPredictor:
        """The predictor of differences int64 (N, B) in cells (N,), by least absolute deviations."""
        head = slice(_ORDER_STARS)
        trials = [
            cls._of_order(order, difference[head], cell[head], num_cells) for order in _orders(difference.shape[1])
        ]
        best = min(trials, key=lambda trial: trial._cost(difference[head], cell[head]))
        return cls._of_order(best.order, difference, cell, num_cells)

    @classmethod
    def _of_order(
        cls, order: tuple[int, ...], difference: np.ndarray, cell: np.ndarray, num_cells: int
    ) -> BandPredictor:
        num_bands = len(order)
        table = np.zeros((num_cells, num_bands, num_bands), np.int64)
        if len(cell):
            inputs = np.clip(difference[:, list(order)], -_MOST_INPUT, _MOST_INPUT).astype(np.float64)
            table[:] = _fit(inputs)
            for index in np.flatnonzero(np.bincount(cell, minlength=num_cells) >= _LEAST_STARS):
                table[index] = _fit(inputs[cell == index])
        predictor = cls(order, table, np.zeros((num_cells, num_bands), np.uint8))
        return replace(predictor, spread=predictor._spreads(difference, cell))

    def _cost(self, difference: np.ndarray, cell: np.ndarray) -> float:
        """About how many bytes differences (N, B) in cells (N,) take."""
        left = zigzag(self.encode(difference, cell).T.reshape(-1))
        return sum(_entropy_bytes(to_planes(left[places])) for places in self.classes(cell).values())

    def classes(self, cell: np.ndarray) -> dict[str, np.ndarray]:
        """Name and places in the flattened (B, N) of what is left, of each class of size that occurs; cell is (N,)."""
        spread = self.spread[cell].T.reshape(-1)
        places = np.argsort(spread, kind="stable")
        classes, starts = np.unique(spread[places], return_index=True)
        stops = [*starts[1:], len(places)]
        return {f"residual_{one}": places[low:high] for one, low, high in zip(classes, starts, stops, strict=False)}

    def _spreads(self, difference: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Class of the mean size of what is left, half an octave each, uint8 (C, B)."""
        left = np.abs(self.encode(difference, cell)).astype(np.float64)
        num = np.bincount(cell, minlength=len(self.table))
        means = [np.bincount(cell, column, len(self.table)) / np.maximum(num, 1) for column in left.T]
        classes = np.rint(2.0 * np.log2(np.column_stack(means) + 0.1)) + 8
        return np.asarray(np.clip(classes, 0, 255), np.uint8)

    def encode(self, difference: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """What is left of differences (N, B), int64 in the order of the bands."""
        left = np.empty_like(difference)
        for place, band in enumerate(self.order):
            left[:, place] = difference[:, band] - self._predict(place, difference, cell)
        return left

    def decode(self, left: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """The differences (N, B), int64, of what `encode` left."""
        difference = np.zeros_like(left)
        for place, band in enumerate(self.order):
            difference[:, band] = left[:, place] + self._predict(place, difference, cell)
        return difference

    def _predict(self, place: int, difference: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Rounded prediction int64 (N,) for the band at `place` in the order, from those before it."""
        row = self.table[:, place]
        total = row[cell, place] + (1 << (_ONE - 1))
        for before in range(place):
            total += row[cell, before] * np.clip(difference[:, self.order[before]], -_MOST_INPUT, _MOST_INPUT)
        return np.asarray(total >> _ONE)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"order": list(self.order), "table": self.table.tolist(), "spread": self.spread.tolist()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any], num_cells: int, num_bands: int) -> BandPredictor:
        """What `to_json` gave; ValueError where it is not of this shape or its numbers are beyond the limits."""
        order = tuple(record["order"])
        table, spread = np.array(record["table"]), np.array(record["spread"])
        if sorted(order) != list(range(num_bands)) or table.shape != (num_cells, num_bands, num_bands):
            raise ValueError(f"a predictor of order {order[:9]} and shape {table.shape}")
        if table.dtype != np.int64 or np.abs(table).max(initial=0) > _MOST_CONSTANT:
            raise ValueError("a predictor whose numbers are no integers or too large")
        if (
            spread.shape != (num_cells, num_bands)
            or spread.dtype != np.int64
            or not ((spread >= 0) & (spread < 256)).all()
        ):
            raise ValueError("a predictor whose classes are none")
        return cls(order, table, spread.astype(np.uint8))


def _orders(num_bands: int) -> list[tuple[int, ...]]:
    """Orders of prediction worth a trial: from the middle band outwards, of two as far out either first."""
    middle = num_bands // 2
    rings = [[band for band in (middle - far, middle + far) if 0 <= band < num_bands] for far in range(1, middle + 1)]
    choices = [itertools.permutations(ring) if far < _TRIED_RINGS else [ring] for far, ring in enumerate(rings)]
    return [(middle, *itertools.chain(*chosen)) for chosen in itertools.product(*choices)]


def _entropy_bytes(planes: np.ndarray) -> float:
    """Bytes that a perfect code of single bytes would take for planes uint8 (P, n)."""
    total = 0.0
    for plane in planes:
        counts = np.bincount(plane, minlength=256)
        counts = counts[counts > 0]
        total -= float((counts * np.log2(counts / len(plane))).sum()) / 8.0
    return total


def _least_deviations(design: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The linear combination of the columns of design (N, K) nearest to target (N,) in absolute deviation: (K,)."""
    scale = np.sqrt(np.square(design).mean(axis=0)) + 1e-9
    scaled = design / scale
    weight = np.ones(len(target))
    for _ in range(_ROUNDS):  # weighted by 1 / |deviation|, so that tails mean little
        weighted = scaled * weight[:, None]
        # einsum, because a product would call BLAS, whose sums depend on its threads
        gram, moment = np.einsum("ni,nj->ij", weighted, scaled), np.einsum("ni,n->i", weighted, target)
        solution = np.linalg.lstsq(gram, moment, rcond=1e-12)[0] / scale
        deviation = np.abs(target - np.einsum("ni,i->n", design, solution))
        weight = 1.0 / (deviation + 0.1 * deviation.mean() + 1e-9)
    return np.asarray(np.nan_to_num(solution))


def _fit(inputs: np.ndarray) -> np.ndarray:
    """Coefficients int64 (B, B) of inputs (N, B): each column by those before it and a constant."""
    num_stars, num_bands = inputs.shape
    rows = np.zeros((num_bands, num_bands), np.int64)
    for place in range(num_bands):
        design = np.column_stack([inputs[:, :place], np.ones(num_stars)])
        scaled = np.rint(_least_deviations(design, inputs[:, place]) * (1 << _ONE))
        rows[place, :place] = np.clip(scaled[:-1], -_MOST_COEFFICIENT, _MOST_COEFFICIENT)
        rows[place, place] = np.clip(scaled[-1], -_MOST_CONSTANT, _MOST_CONSTANT)
    return rows


def zigzag(values: np.ndarray) -> np.ndarray:
    """Signed integers as unsigned ones, small where they are small: int64 to uint64 of the same shape."""
    return np.asarray((values << 1) ^ (values >> 63)).view(np.uint64)


def unzigzag(values: np.ndarray) -> np.ndarray:
    """The inverse of `zigzag`."""
    signed = values.view(np.int64)
    return np.asarray(((values >> np.uint64(1)).view(np.int64)) ^ -(signed & 1))


def to_planes(values: np.ndarray) -> np.ndarray:
    """Unsigned integers uint64 (N,) as planes of bytes, lowest first: uint8 (P, N), P the least that holds them all."""
    num_planes = (int(values.max(initial=0)).bit_length() + 7) // 8
    return np.ascontiguousarray(values.astype("<u8").view(np.uint8).reshape(-1, 8).T[:num_planes])


def from_planes(planes: Sequence[np.ndarray], num: int) -> np.ndarray:
    """uint64 (num,) of planes uint8 (num,) each."""
    if len(planes) > _MOST_PLANES or any(len(plane) != num for plane in planes):
        raise DamageError("byte planes of wrong number or length", got=[len(plane) for plane in planes], expected=num)
    padded = np.zeros((num, 8), np.uint8)
    for index, plane in enumerate(planes):
        padded[:, index] = plane
    return padded.view("<u8").reshape(num).astype(np.uint64)


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


def make_coder(
    max_error: Sequence[float] | None, latent_grid: LatentGrid, sample: Mapping[str, np.ndarray]
) -> MagnitudeCoder:
    """The coder for maximum errors per band in mag (None: no residuals), its predictor fitted to a sample.

    `sample` has `magnitude` (N, B), `latent` integers (N, L) and `predicted` (N, B) of good stars.
    """
    if max_error is None:
        return MagnitudeCoder(latent_grid, None, None)
    grid = Grid(tuple(max_error))
    difference = grid.to_integers(sample["magnitude"]) - grid.to_integers(_inside(sample["predicted"]))
    cell = latent_grid.cells(sample["latent"])
    predictor = BandPredictor.fitted(difference, cell, latent_grid.num_cells)
    return MagnitudeCoder(latent_grid, grid, predictor)
