"""Which rank trains on which rows, in which order: pure arithmetic, the same for any world size.

The training rows are cut in catalog order into C partitions, equal to one row. Global batch k takes slice k of every
partition's order; rank r owns the partitions c with c % world_size == r. A partition is made of blocks of BLOCK_ROWS
rows; each epoch permutes the blocks, then the rows inside windows of WINDOW_BLOCKS blocks, so that a reader that
streams needs one window at a time.

Shape letters: C partitions, S steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hpc_ae.errors import InputError

BLOCK_ROWS = 8_192
WINDOW_BLOCKS = 16


@dataclass(frozen=True)
class BatchPlan:
    """Everything that decides the sequence of global batches."""

    num_rows: int
    num_partitions: int
    batch_size: int
    seed: int
    replacement: bool = False

    @property
    def slice_rows(self) -> int:
        """Rows that one partition gives to one global batch."""
        return self.batch_size // self.num_partitions

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch: what the smallest partition can give."""
        return (self.num_rows // self.num_partitions) // self.slice_rows

    def bounds(self, partition: int) -> tuple[int, int]:
        """First and one-past-last training row of a partition."""
        return (
            partition * self.num_rows // self.num_partitions,
            (partition + 1) * self.num_rows // self.num_partitions,
        )

    def size(self, partition: int) -> int:
        """Number of rows of a partition."""
        start, stop = self.bounds(partition)
        return stop - start


def owned_partitions(rank: int, world_size: int, num_partitions: int) -> list[int]:
    """The partitions of one rank, ascending."""
    return list(range(rank, num_partitions, world_size))


def valid_batch_sizes(batch_size: int, num_partitions: int) -> tuple[int, int]:
    """The multiples of `num_partitions` next below (at least one) and above `batch_size`."""
    below = max(1, batch_size // num_partitions) * num_partitions
    return below, (batch_size // num_partitions + 1) * num_partitions


def check_cut(batch_size: int, num_partitions: int, world_size: int) -> None:
    """InputError with the way out where the global batch cannot be cut as partitions and ranks need it."""
    if batch_size % num_partitions:
        below, above = valid_batch_sizes(batch_size, num_partitions)
        raise InputError(
            "train.batch_size is not a multiple of train.partitions",
            where="train.batch_size",
            got=f"{batch_size} over {num_partitions} partitions",
            expected=f"{below} or {above}, the nearest multiples"
            if below != above
            else f"{above}, the smallest valid size",
        )
    if world_size > num_partitions:
        raise InputError(
            "more ranks than partitions",
            where="train.partitions",
            got=f"{world_size} ranks, {num_partitions} partitions",
            fix=f"set train.partitions to {world_size} or more, and batch_size to a multiple of it",
        )


def check_enough(plan: BatchPlan) -> None:
    """InputError where there are not the stars of one global batch."""
    if plan.num_rows // plan.num_partitions < plan.slice_rows:
        raise InputError(
            "fewer training stars than one batch",
            where="train.batch_size",
            got=f"{plan.num_rows} good stars that are not held out",
            expected=f"at least {plan.batch_size}",
            fix="use more stars, or a smaller train.batch_size (and train.partitions)",
        )


def _generator(*key: int) -> np.random.Generator:
    """A generator of its own for each key; a key must not end in 0 where a shorter one exists (zeros are padding)."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(key)))


class PartitionOrder:
    """The order of one partition in one epoch, made window by window."""

    def __init__(self, plan: BatchPlan, epoch: int, partition: int) -> None:
        self.key = (plan.seed, epoch, partition)
        num_rows = plan.size(partition)
        num_blocks = -(-num_rows // BLOCK_ROWS)
        self.blocks = _generator(*self.key).permutation(num_blocks)
        sizes = np.minimum(BLOCK_ROWS, num_rows - self.blocks * BLOCK_ROWS)
        self.ends = np.cumsum(sizes)[
            np.minimum(np.arange(WINDOW_BLOCKS, num_blocks + WINDOW_BLOCKS, WINDOW_BLOCKS), num_blocks) - 1
        ]
        self._cached = (-1, np.empty(0, np.int64))

    def window(self, index: int) -> np.ndarray:
        """Rows (local to the partition) of one window, in order: int64 (rows of the window,)."""
        if self._cached[0] != index:
            start = 0 if index == 0 else int(self.ends[index - 1])
            blocks = self.blocks[index * WINDOW_BLOCKS : (index + 1) * WINDOW_BLOCKS]
            rows = (blocks[:, None] * BLOCK_ROWS + np.arange(BLOCK_ROWS)).ravel()
            rows = rows if len(rows) == self.ends[index] - start else self._without_padding(blocks, rows)
            self._cached = (index, _generator(*self.key, index + 1).permutation(rows))
        return self._cached[1]

    def _without_padding(self, blocks: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Drop the rows past the end that the partition's short last block does not have."""
        return rows[rows < self.num_rows]

    @property
    def num_rows(self) -> int:
        """Rows of the partition."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Positions start to stop of the order: int64 (stop - start,)."""
        parts = []
        first, last = np.searchsorted(self.ends, [start, max(start, stop - 1)], side="right")
        for index in range(int(first), int(last) + 1):
            offset = 0 if index == 0 else int(self.ends[index - 1])
            parts.append(self.window(index)[max(0, start - offset) : stop - offset])
        return np.concatenate(parts)


class DrawnOrder:
    """Rows of one partition drawn with replacement, for one epoch."""

    def __init__(self, plan: BatchPlan, epoch: int, partition: int) -> None:
        generator = _generator(plan.seed, epoch, partition)
        self._rows = generator.integers(0, plan.size(partition), plan.steps_per_epoch * plan.slice_rows)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Positions start to stop of the order: int64 (stop - start,)."""
        return self._rows[start:stop]


def epoch_batches(
    plan: BatchPlan, epoch: int, partitions: list[int], chunk_steps: int, first_step: int = 0
) -> Iterator[np.ndarray]:
    """Rows of the batches of an epoch, `chunk_steps` steps at a time.

    Yields int64 (S, len(partitions) * slice_rows): row indices into the concatenation of `partitions`, for the steps
    from `first_step` of the epoch on.
    """
    offsets = np.concatenate([[0], np.cumsum([plan.size(partition) for partition in partitions])])
    make_order = DrawnOrder if plan.replacement else PartitionOrder
    orders = [make_order(plan, epoch, partition) for partition in partitions]
    for start in range(first_step, plan.steps_per_epoch, chunk_steps):
        stop = min(start + chunk_steps, plan.steps_per_epoch)
        parts = []
        for index in range(len(partitions)):
            low, high = start * plan.slice_rows, stop * plan.slice_rows
            rows = orders[index].rows(low, high) + offsets[index]
            parts.append(rows.reshape(stop - start, plan.slice_rows))
        yield np.concatenate(parts, axis=1)


def row_shifts(plan: BatchPlan, partitions: list[int]) -> np.ndarray:
    """What makes rows of `epoch_batches` numbers of training rows, added: int64 (slice_rows * partitions,)."""
    offsets = np.cumsum([0, *(plan.size(partition) for partition in partitions[:-1])])
    firsts = np.array([plan.bounds(partition)[0] for partition in partitions], np.int64)
    return np.repeat(firsts - offsets, plan.slice_rows)
