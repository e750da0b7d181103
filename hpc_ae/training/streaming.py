"""Training rows read from disk window by window: the same rows in the same order as the resident ones.

Shape letters: B bands, S steps, n rows of this rank's share of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hpc_ae.catalog.catalog import Catalog
from hpc_ae.training.partition import BLOCK_ROWS, WINDOW_BLOCKS, BatchPlan, PartitionOrder
from hpc_ae.training.split import read_split
from hpc_ae.training.usable import RowKind


class TrainingStars:
    """The training rows of a catalog by their number. Holds one bit for each star of the shards that it has seen."""

    def __init__(self, catalog: Catalog, fraction: float, kind: RowKind) -> None:
        self.catalog, self.fraction, self.kind = catalog, fraction, kind
        self.width = kind.width(len(catalog.bands))
        self._masks: dict[int, np.ndarray] = {}

    def remember(self, shard: int, training: np.ndarray) -> None:
        """Note which stars of a shard are trained on, bool (N,), so that it need not be found again."""
        self._masks[shard] = np.packbits(training)

    def read(self, starts: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Training rows start to stop: float32 (stop - start, B or 2 B). `starts`: the number of each shard's first."""
        parts = [np.empty((0, self.width), np.float32)]
        first = int(np.searchsorted(starts, start, side="right")) - 1
        for shard in range(first, len(self.catalog.shards)):
            if starts[shard] >= stop:
                break
            low, high = max(0, start - starts[shard]), min(stop, starts[shard + 1]) - starts[shard]
            rows = np.flatnonzero(self._mask(shard))[low:high]
            if len(rows):
                span = slice(int(rows[0]), int(rows[-1]) + 1)
                arrays = self.catalog.read_shard(shard, self.kind.value_columns, span)
                parts.append(self.kind.rows_of(arrays, rows - rows[0]))
        return np.concatenate(parts)

    def _mask(self, shard: int) -> np.ndarray:
        if shard not in self._masks:
            self.remember(shard, read_split(self.catalog, shard, self.kind).training(self.fraction))
        return np.unpackbits(self._masks[shard], count=self.catalog.shards[shard].num_stars)


class StreamedRows:
    """Batches of the training rows of some partitions. Holds one window (131,072 rows) of each partition."""

    def __init__(self, stars: TrainingStars, starts: np.ndarray, plan: BatchPlan, partitions: list[int]) -> None:
        self.stars, self.starts, self.plan, self.partitions = stars, starts, plan, partitions

    def chunks(self, epoch: int, chunk_steps: int, first_step: int) -> Iterator[np.ndarray]:
        """Magnitudes float32 (S, n, B), with errors (S, n, 2 B), of the steps of an epoch from `first_step` on."""
        windows = [
            _Window(self, PartitionOrder(self.plan, epoch, partition), partition) for partition in self.partitions
        ]
        for start in range(first_step, self.plan.steps_per_epoch, chunk_steps):
            stop = min(start + chunk_steps, self.plan.steps_per_epoch)
            low, high = start * self.plan.slice_rows, stop * self.plan.slice_rows
            shape = (stop - start, self.plan.slice_rows, self.stars.width)
            yield np.concatenate([window.rows(low, high).reshape(shape) for window in windows], axis=1)


class _Window:
    """The current window of one partition, read block by block."""

    def __init__(self, source: StreamedRows, order: PartitionOrder, partition: int) -> None:
        self.source, self.order = source, order
        self.first_row = source.plan.bounds(partition)[0]
        self._index = -1
        self._values = np.empty((0, source.stars.width), np.float32)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Magnitudes of positions start to stop of the partition's order."""
        parts = []
        while start < stop:
            index = int(np.searchsorted(self.order.ends, start, side="right"))
            offset = 0 if index == 0 else int(self.order.ends[index - 1])
            end = min(stop, int(self.order.ends[index]))
            parts.append(self._load(index)[start - offset : end - offset])
            start = end
        return np.concatenate(parts)

    def _load(self, index: int) -> np.ndarray:
        if self._index != index:
            blocks = self.order.blocks[index * WINDOW_BLOCKS : (index + 1) * WINDOW_BLOCKS]
            values = [self._read_block(int(block)) for block in blocks]
            places = np.zeros(len(self.order.blocks), np.int64)
            places[blocks] = np.cumsum([0, *[len(block) for block in values[:-1]]])
            rows = self.order.window(index)
            self._values = np.concatenate(values)[places[rows // BLOCK_ROWS] + rows % BLOCK_ROWS]
            self._index = index
        return self._values

    def _read_block(self, block: int) -> np.ndarray:
        start = block * BLOCK_ROWS
        stop = min(start + BLOCK_ROWS, self.order.num_rows)
        return self.source.stars.read(self.source.starts, self.first_row + start, self.first_row + stop)
