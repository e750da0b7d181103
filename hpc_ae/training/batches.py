"""The batches of one rank, step after step, whether its rows are resident or streamed.

Shape letters: N rows held, B bands, S steps, n rows of this rank's share of a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hpc_ae.training.data import TrainingData
from hpc_ae.training.partition import epoch_batches, row_shifts

_CHUNK_ROWS = 1 << 20


@dataclass(frozen=True)
class Chunk:
    """Some steps: magnitudes (N, B), with errors (N, 2 B), and which of these rows each step takes, (S, n).

    `numbers` (S, n): the rows' numbers among all training rows, where noise needs them.
    """

    rows: Tensor
    index: Tensor
    numbers: Tensor | None

    def steps(self, start: int, stop: int) -> Chunk:
        """Steps start to stop of these."""
        numbers = None if self.numbers is None else self.numbers[start:stop]
        return Chunk(self.rows, self.index[start:stop], numbers)


def chunks(data: TrainingData, first_step: int, num_steps: int, numbered: bool) -> Iterator[Chunk]:
    """The steps from `first_step` to the last of `num_steps`, some at a time, on the device."""
    left = num_steps - first_step
    chunk_steps = max(1, _CHUNK_ROWS // (data.plan.slice_rows * len(data.partitions)))
    first_epoch, first_of_epoch = divmod(first_step, data.plan.steps_per_epoch)
    for epoch in itertools.count(first_epoch):
        for chunk in _epoch(data, epoch, chunk_steps, first_of_epoch, numbered):
            yield chunk.steps(0, left)
            left -= len(chunk.index)
            if left <= 0:
                return
        first_of_epoch = 0


def _epoch(data: TrainingData, epoch: int, chunk_steps: int, first_step: int, numbered: bool) -> Iterator[Chunk]:
    device = data.measured.device
    shifts = row_shifts(data.plan, data.partitions)
    order = epoch_batches(data.plan, epoch, data.partitions, chunk_steps, first_step)
    if isinstance(data.rows, Tensor):
        for rows in order:
            numbers = torch.from_numpy(rows + shifts).to(device) if numbered else None
            yield Chunk(data.rows, torch.from_numpy(rows).to(device), numbers)
        return
    for values in data.rows.chunks(epoch, chunk_steps, first_step):
        num_steps, share, width = values.shape
        numbers = torch.from_numpy(next(order) + shifts).to(device) if numbered else None
        index = torch.arange(num_steps * share, device=device).reshape(num_steps, share)
        yield Chunk(torch.from_numpy(values.reshape(-1, width)).to(device), index, numbers)
