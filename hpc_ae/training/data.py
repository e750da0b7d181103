"""The data of one rank's training: plan, rows and held-out stars, from one pass over the shards.

How many of the good stars are trained on decides where the partitions begin, and is known when all shards have been
read. A rank alone keeps every training row, so it needs no second look. One of several keeps those that lie in its
partitions or near their edges: how far an edge can be from where it is expected follows from chance, as held-out stars
are chosen by a hash. Shape letters: N stars, B bands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hpc_ae.runtime.distributed import Group
from hpc_ae.runtime.prefetch import prefetched
from hpc_ae.sections import TrainSection
from hpc_ae.training.partition import BatchPlan, check_enough, owned_partitions
from hpc_ae.training.split import SplitShard, read_shards
from hpc_ae.training.streaming import StreamedRows, TrainingStars
from hpc_ae.training.usable import UsableStars

_OVERHEAD_BYTES = 1 << 30  # of a rank beside its rows
_SIGMAS = 6.0  # an edge is farther off once in a billion times; the rows are read again then


@dataclass(frozen=True)
class TrainingData:
    """What one rank trains on and measures with.

    `rows`: those of its partitions, resident on the device, or streamed. `held_out`: its share (N, B), with errors
    (N, 2 B), of the `num_held_out` held-out stars of all ranks; `measured`: their magnitudes (N, B) on the device.
    """

    plan: BatchPlan
    partitions: list[int]
    rows: Tensor | StreamedRows
    held_out: np.ndarray
    measured: Tensor
    num_held_out: int


@dataclass(frozen=True)
class Piece:
    """Training rows that were kept: `num` of shard `shard` from its row `first` on, in the store from `place` on."""

    shard: int
    first: int
    num: int
    place: int


def load_data(usable: UsableStars, train: TrainSection, seed: int, group: Group) -> TrainingData:
    """Read each shard that this rank needs once.

    InputError where there are not the stars of one global batch.
    """
    catalog, ranks = usable.catalog, group.ranks
    partitions = owned_partitions(ranks.rank, ranks.world_size, train.partitions)
    read = _OnePass(usable, train, list(range(ranks.rank, len(catalog.shards), ranks.world_size)))
    windows = likely_windows(partitions, train.partitions, usable.num_stars, train.validation_fraction)
    streamed = read.expected_bytes(windows) + _OVERHEAD_BYTES > train.memory_limit_bytes
    read.run([] if streamed else windows)
    counts = group.sum(read.counts)
    starts = np.concatenate([[0], np.cumsum(counts)])
    plan = BatchPlan(int(starts[-1]), train.partitions, train.batch_size, seed, train.sampling == "replacement")
    check_enough(plan)
    rows: Tensor | StreamedRows
    if streamed:
        rows = StreamedRows(read.stars, starts, plan, partitions)
    else:
        rows = torch.from_numpy(read.take(starts, [plan.bounds(one) for one in partitions])).to(group.device)
    held_out = np.concatenate(read.held_out)
    measured = torch.from_numpy(np.ascontiguousarray(held_out[:, : len(catalog.bands)])).to(group.device)
    return TrainingData(plan, partitions, rows, held_out, measured, int(group.sum(np.array([len(held_out)]))[0]))


def likely_windows(partitions: list[int], num_partitions: int, num_good: int, fraction: float) -> list[tuple[int, int]]:
    """Where the rows of some partitions lie among the good stars of a catalog, in ascending ranges that do not touch.

    Of the first k of G good stars a share of 1 - f is trained on, give or take sqrt(f (1 - f) k (1 - k / G)).
    """
    margin = math.ceil(_SIGMAS / 2 * math.sqrt(num_good * fraction / (1 - fraction))) + 1
    windows: list[tuple[int, int]] = []
    for partition in partitions:
        start, stop = (edge * num_good // num_partitions for edge in (partition, partition + 1))
        start, stop = max(0, start - margin), min(num_good, stop + margin)
        if windows and start <= windows[-1][1]:
            start = windows.pop()[0]
        windows.append((start, stop))
    return windows


class _OnePass:
    """What one pass over the shards finds. `counted`: the shards whose training rows and held-out stars are this
    rank's to count and to hold; of others it takes training rows alone.
    """

    def __init__(self, usable: UsableStars, train: TrainSection, counted: list[int]) -> None:
        catalog = usable.catalog
        self.catalog, self.usable, self.counted = catalog, usable.counts, set(counted)
        self.fraction = train.validation_fraction
        self.measured_fraction = min(self.fraction, train.validation_stars / max(1, usable.num_stars))
        self.kind = usable.kind
        self.held_kind = self.kind.with_errors("magnitude_error" in catalog.columns)
        self.stars = TrainingStars(catalog, self.fraction, self.kind)
        self.counts = np.zeros(len(catalog.shards), np.int64)  # training rows of each counted shard
        self.held_out = [np.empty((0, self.held_kind.width(len(catalog.bands))), np.float32)]
        self.pieces: list[Piece] = []
        self.store = np.empty((0, self.stars.width), np.float32)
        self.num_stored = 0

    def expected_bytes(self, windows: list[tuple[int, int]]) -> float:
        """Of the training rows among the good stars of some ranges."""
        return sum(stop - start for start, stop in windows) * (1 - self.fraction) * 4 * self.stars.width

    def run(self, windows: list[tuple[int, int]]) -> None:
        """Read the counted shards and those with good stars in the windows, whose training rows are kept."""
        self.store = np.empty((sum(stop - start for start, stop in windows), self.stars.width), np.float32)
        ends = np.cumsum(self.usable)
        firsts = ends - self.usable
        inside: dict[int, list[tuple[int, int]]] = {}
        for index, (first, end) in enumerate(zip(firsts, ends, strict=True)):
            parts = [(max(start, first) - first, min(stop, end) - first) for start, stop in windows]
            inside[index] = [(int(low), int(high)) for low, high in parts if low < high]
        indices = [index for index, parts in inside.items() if parts or index in self.counted]
        for shard in prefetched(read_shards(self.catalog, indices, self.held_kind, self.usable)):
            self._look_at(shard, inside[shard.index])

    def _look_at(self, shard: SplitShard, parts: list[tuple[int, int]]) -> None:
        """Take from a shard what this rank needs. `parts`: ranges of its good stars whose training rows are kept."""
        training = shard.split.training(self.fraction)
        if shard.index in self.counted:
            self.counts[shard.index] = np.count_nonzero(training)
            held_out = np.flatnonzero(shard.split.held_out(self.measured_fraction))
            self.held_out.append(self.held_kind.rows_of(shard.arrays, held_out))
        self.stars.remember(shard.index, training)
        good = np.flatnonzero(shard.split.good) if parts else np.empty(0, np.int64)
        for low, high in parts:
            first_row = int(good[low])
            rows = np.flatnonzero(training[first_row : int(good[high - 1]) + 1]) + first_row
            end = self.num_stored + len(rows)
            self.store[self.num_stored : end] = self.kind.rows_of(shard.arrays, rows)
            before = int(np.count_nonzero(training[:first_row]))
            self.pieces.append(Piece(shard.index, before, len(rows), self.num_stored))
            self.num_stored = end

    def take(self, starts: np.ndarray, ranges: list[tuple[int, int]]) -> np.ndarray:
        """The training rows of ascending ranges, one after the other, moved together where they are in the store."""
        store, end = self.store, 0
        for start, stop in ranges:
            for piece in self.pieces:
                first = int(starts[piece.shard]) + piece.first
                low, high = max(start, first), min(stop, first + piece.num)
                if low < high:
                    place = piece.place + low - first
                    if place > end:
                        store[end : end + high - low] = store[place : place + high - low]
                    end += high - low
        if end == sum(stop - start for start, stop in ranges):
            return store[:end]
        self.store = np.empty((0, self.stars.width), np.float32)
        return np.concatenate([self.stars.read(starts, start, stop) for start, stop in ranges])
