"""Which measured bands are hidden from the network in training: by counters, as the noise is.

What is hidden of a star depends on (seed, step, row) alone, so on no rank, thread or restart. Philox4x32-10 with the
counter (row low, row high, step, block) and the key (seed, "hide"): of block 0 the first word decides whether bands are
hidden, the second how many, 1 to as many as leave `least`; the bands with the smallest words of the blocks behind are
those. `kernels/hiding.h` has the same in C++, equal to the bit. Shape letters: S steps, n rows of a batch, B bands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hpc_ae.model.noise import Noise, philox

_KEY = 0x68696465
_WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class Hiding:
    """Bands that are hidden in some steps: a star of a batch has some hidden with the probability `share`, of which it
    keeps at least `least`. `row` (S, n) and `step` are those of `Noise`.
    """

    seed: int
    share: float
    least: int
    row: Tensor
    step: int

    @property
    def threshold(self) -> int:
        """Words below it hide bands, 0 to 2^32."""
        return round(self.share * 2.0**32)

    def of_step(self, index: int) -> Hiding:
        """That of step `index` of these alone, its rows (1, n)."""
        return replace(self, row=self.row[index : index + 1], step=self.step + index)

    def draw(self, measured: Tensor) -> Tensor:
        """Which bands are hidden, bool (S, n, B), of stars with these measured, bool (S, n, B)."""
        num_bands = measured.shape[2]
        num_steps = self.row.shape[0]
        step = torch.arange(self.step, self.step + num_steps, device=self.row.device)[:, None].expand_as(self.row)
        counter = (self.row & _WORD, (self.row >> 32) & _WORD, step & _WORD)
        words = [
            philox((*counter, torch.full_like(step, block)), (self.seed & _WORD, _KEY))
            for block in range(1 + -(-num_bands // 4))
        ]
        most = measured.sum(dim=2) - self.least
        num = torch.where((words[0][0] < self.threshold) & (most > 0), 1 + ((words[0][1] * most) >> 32), 0)
        order = torch.stack([word for block in words[1:] for word in block][:num_bands], dim=2)
        order = torch.where(measured, order * num_bands + torch.arange(num_bands, device=order.device), 1 << 62)
        rank = order.argsort(dim=2).argsort(dim=2)
        return measured & (rank < num[:, :, None])


@dataclass(frozen=True)
class Draws:
    """What chance does to the stars of some steps: noise on what is seen of them, bands that are hidden."""

    noise: Noise | None = None
    hiding: Hiding | None = None

    def of_step(self, index: int) -> Draws:
        """That of step `index` alone."""
        return Draws(
            None if self.noise is None else self.noise.of_step(index),
            None if self.hiding is None else self.hiding.of_step(index),
        )
