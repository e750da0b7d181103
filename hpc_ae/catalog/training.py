"""The training and validation rows of a star catalog, as one rank needs them: resident, or streamed in the same order.

With errors the rows are (N, 2 B): the magnitudes of a star, then their errors, 0 where the catalog has no usable one.
Shape letters: N stars, B bands, S steps, n rows of this rank's share of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from hpc_ae.catalog.catalog import Catalog
from hpc_ae.catalog.partition import (
    BLOCK_ROWS,
    WINDOW_BLOCKS,
    BatchPlan,
    PartitionOrder,
    validation_mask,
)
from hpc_ae.catalog.schema import Caution
from hpc_ae.errors import InputError

MOST_ERROR = 1.0
"""What a magnitude error counts at most, in mag: beyond, it says that the star was not seen in that band."""
_DOUBTFUL_ID = int(Caution.ID_MISSING | Caution.ID_REPEATED | Caution.ID_DAMAGED)


def count_training_rows(catalog: Catalog, shards: Iterable[int], fraction: float) -> np.ndarray:
    """Training rows of each shard, int64 (num_shards,); counted for `shards`, 0 for the others."""
    counts = np.zeros(len(catalog.shards), np.int64)
    for index in shards:
        counts[index] = int(_training_mask(catalog, index, fraction).sum())
    return counts


def held_out_mask(catalog: Catalog, index: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """(good and held out, good and not) of a shard's stars, bool (N,) each.

    By the hash of objid; of the row in the catalog where the id is missing, damaged or repeated, as many stars may
    share such an id.
    """
    arrays = catalog.read_shard(index, ["objid", "quality", "caution"])
    rows = np.arange(len(arrays["objid"])) + catalog.offsets[index]
    keys = np.where(arrays["caution"] & _DOUBTFUL_ID, rows, arrays["objid"])
    good, held_out = arrays["quality"] == 0, validation_mask(keys, fraction)
    return good & held_out, good & ~held_out


def _training_mask(catalog: Catalog, index: int, fraction: float) -> np.ndarray:
    return held_out_mask(catalog, index, fraction)[1]


def check_errors(catalog: Catalog) -> None:
    """InputError where a catalog has no magnitude errors, of which training is to draw noise."""
    if "magnitude_error" not in catalog.columns:
        raise InputError(
            "the catalog has no magnitude errors to draw noise from",
            where=f"{catalog.directory}, train.noise",
            got=f"columns {', '.join(catalog.columns)}",
            expected="magnitude_error",
            fix="say train.noise=0.05 (mag) or train.noise=none, or ingest the raw files with their errors",
        )


def usable_errors(magnitude_error: np.ndarray) -> np.ndarray:
    """Magnitude errors (N, B) in mag, 0 where they are not finite and positive, at most MOST_ERROR."""
    usable = np.isfinite(magnitude_error) & (magnitude_error > 0)
    return np.where(usable, np.minimum(magnitude_error, np.float32(MOST_ERROR)), np.float32(0))


def _read_rows(catalog: Catalog, index: int, errors: bool, rows: slice = slice(None)) -> np.ndarray:
    """Magnitudes float32 (N, B) of a shard, with their errors (N, 2 B)."""
    arrays = catalog.read_shard(index, ["magnitude", "magnitude_error"] if errors else ["magnitude"], rows)
    if not errors:
        return arrays["magnitude"]
    return np.concatenate([arrays["magnitude"], usable_errors(arrays["magnitude_error"])], axis=1)


def row_width(catalog: Catalog, errors: bool) -> int:
    """Numbers of one training row."""
    return len(catalog.bands) * (2 if errors else 1)


def load_training_rows(
    catalog: Catalog,
    counts: np.ndarray,
    plan: BatchPlan,
    partitions: list[int],
    fraction: float,
    errors: bool = False,
) -> np.ndarray:
    """Magnitudes float32 (N, B) of the training rows of `partitions`, one after the other; with errors (N, 2 B)."""
    num_rows = sum(plan.size(partition) for partition in partitions)
    rows = np.empty((num_rows, row_width(catalog, errors)), np.float32)
    ends = np.cumsum(counts)
    targets = np.concatenate([[0], np.cumsum([plan.size(partition) for partition in partitions])])
    bounds = [plan.bounds(partition) for partition in partitions]
    for index, end in enumerate(ends):
        first = int(end - counts[index])
        overlaps = [part for part, (start, stop) in enumerate(bounds) if start < end and stop > first]
        if not overlaps:
            continue
        values = _read_rows(catalog, index, errors)[_training_mask(catalog, index, fraction)]
        for part in overlaps:
            start, stop = max(bounds[part][0], first), min(bounds[part][1], int(end))
            target = int(targets[part]) + start - bounds[part][0]
            rows[target : target + stop - start] = values[start - first : stop - first]
    return rows


def load_validation_rows(catalog: Catalog, shards: Iterable[int], fraction: float, errors: bool = False) -> np.ndarray:
    """Magnitudes float32 (N, B) of the good held-out stars of some shards; with errors (N, 2 B)."""
    parts = [np.empty((0, row_width(catalog, errors)), np.float32)]
    for index in shards:
        held_out = held_out_mask(catalog, index, fraction)[0]
        parts.append(_read_rows(catalog, index, errors)[held_out])
    return np.concatenate(parts)


class StreamedRows:
    """Batches read from disk, window by window: the same rows in the same order as the resident ones.

    Holds one window (131,072 rows) of each partition, and one bit for each star to know the training rows.
    """

    def __init__(
        self,
        catalog: Catalog,
        counts: np.ndarray,
        plan: BatchPlan,
        partitions: list[int],
        fraction: float,
        errors: bool = False,
    ) -> None:
        self.catalog, self.plan, self.partitions, self.fraction = catalog, plan, partitions, fraction
        self.errors, self.width = errors, row_width(catalog, errors)
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        self._masks: dict[int, np.ndarray] = {}

    def read_range(self, start: int, stop: int) -> np.ndarray:
        """Training rows start to stop of the catalog: float32 (stop - start, B or 2 B)."""
        parts = []
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        for shard in range(first, len(self.catalog.shards)):
            if self.starts[shard] >= stop:
                break
            low, high = max(0, start - self.starts[shard]), min(stop, self.starts[shard + 1]) - self.starts[shard]
            rows = np.flatnonzero(self._mask(shard))[low:high]
            if len(rows):
                span = slice(int(rows[0]), int(rows[-1]) + 1)
                parts.append(_read_rows(self.catalog, shard, self.errors, span)[rows - rows[0]])
        return np.concatenate(parts)

    def _mask(self, shard: int) -> np.ndarray:
        if shard not in self._masks:
            self._masks[shard] = np.packbits(_training_mask(self.catalog, shard, self.fraction))
        return np.unpackbits(self._masks[shard], count=self.catalog.shards[shard].num_stars)

    def chunks(self, epoch: int, chunk_steps: int, first_step: int) -> Iterator[np.ndarray]:
        """Magnitudes float32 (S, n, B), with errors (S, n, 2 B), of the steps of an epoch from `first_step` on."""
        windows = [
            _Window(self, PartitionOrder(self.plan, epoch, partition), partition) for partition in self.partitions
        ]
        for start in range(first_step, self.plan.steps_per_epoch, chunk_steps):
            stop = min(start + chunk_steps, self.plan.steps_per_epoch)
            low, high = start * self.plan.slice_rows, stop * self.plan.slice_rows
            shape = (stop - start, self.plan.slice_rows, self.width)
            yield np.concatenate([window.rows(low, high).reshape(shape) for window in windows], axis=1)


class _Window:
    """The current window of one partition, read block by block."""

    def __init__(self, source: StreamedRows, order: PartitionOrder, partition: int) -> None:
        self.source, self.order = source, order
        self.first_row = source.plan.bounds(partition)[0]
        self._index = -1
        self._values = np.empty((0, source.width), np.float32)

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
        return self.source.read_range(self.first_row + start, self.first_row + stop)
