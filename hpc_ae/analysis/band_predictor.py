"""Each band's difference to the model predicted from those of the bands before it, in integers.

Shape letters: N stars, B bands, C cells of the latent space, P byte planes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

from hpc_ae.analysis.planes import to_planes, zigzag
from hpc_ae.record import Record

_ONE = 12  # coefficients are integers in units of 2^-12
_MOST_COEFFICIENT = 1 << 17
_MOST_CONSTANT = 1 << 45
_MOST_INPUT = 1 << 24
_ROUNDS = 6
_ORDER_STARS = 16_384
_TRIED_RINGS = 3
_LEAST_STARS = 200


class PredictorRecord(Record):
    """What a manifest says of a BandPredictor."""

    order: list[int]
    table: list[list[list[int]]]
    spread: list[list[int]]


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

    def record(self) -> PredictorRecord:
        """As a manifest has it."""
        return PredictorRecord(order=list(self.order), table=self.table.tolist(), spread=self.spread.tolist())

    @classmethod
    def of_record(cls, record: PredictorRecord, num_cells: int, num_bands: int) -> BandPredictor:
        """The predictor of a record; ValueError where it is not of this shape or its numbers are beyond the limits."""
        order, table, spread = tuple(record.order), np.array(record.table), np.array(record.spread)
        if sorted(order) != list(range(num_bands)) or table.shape != (num_cells, num_bands, num_bands):
            raise ValueError(f"a predictor of order {order[:9]} and shape {table.shape}")
        if table.dtype != np.int64 or np.abs(table).max(initial=0) > _MOST_CONSTANT:
            raise ValueError("a predictor whose numbers are too large")
        if spread.shape != (num_cells, num_bands) or not ((spread >= 0) & (spread < 256)).all():
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
