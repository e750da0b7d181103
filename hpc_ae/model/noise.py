"""Noise for training: normal numbers that depend on (seed, step, row) alone, so on no rank, thread or restart.

Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3") with the counter (row
low, row high, step, block) and the key (seed, "nois") gives four words for each block of four bands; Box and Muller's
transform makes a pair of normal numbers of each pair of words, none above 5.8. `kernels/noise.h` has the same in C++,
equal to 2e-6. Shape letters: S steps, n rows of a batch, N rows held, B bands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_KEY = 0x6E6F6973
_ROUNDS = 10
_WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class Noise:
    """Gaussian noise on what the network sees of some steps.

    What it is to answer stays as the catalog has it; with `echo` the same noise is taken off it. Where the noise is
    that of the star's own errors the two are then independent measurements of the star, each with twice its variance,
    and the answer with the least squared error is the mean of the truth (Pang, Zheng, Quan & Ji 2021, "Recorrupted-to-
    Recorrupted"); without echo it is the mean of the catalog's value, whose noise the network sees too.

    `row` (S, n): the number, among all training rows, of each row of the batches; `step`: the number of the first step.
    `sigma` in mag; None: each star's own errors, in the columns behind its magnitudes.
    """

    seed: int
    sigma: float | None
    row: Tensor
    step: int
    echo: bool = False

    def of_step(self, index: int) -> Noise:
        """That of step `index` of these alone, its rows (1, n)."""
        return replace(self, row=self.row[index : index + 1], step=self.step + index)

    def draw(self, rows: Tensor, index: Tensor) -> Tensor:
        """The noise (S, n, B) in mag of the rows `index` (S, n) of (N, B), or (N, 2 B) with errors."""
        if self.sigma is not None:
            return self.normals(rows.shape[1]) * self.sigma
        num_bands = rows.shape[1] // 2
        return self.normals(num_bands) * rows[:, num_bands:][index]

    def normals(self, num_bands: int) -> Tensor:
        """Standard normal numbers, float32 (S, n, B)."""
        num_steps = self.row.shape[0]
        step = torch.arange(self.step, self.step + num_steps, device=self.row.device)[:, None].expand_as(self.row)
        low, high = self.row & _WORD, (self.row >> 32) & _WORD
        pairs: list[Tensor] = []
        for block in range(-(-num_bands // 4)):
            words = philox((low, high, step & _WORD, torch.full_like(low, block)), (self.seed & _WORD, _KEY))
            pairs += [*box_muller(words[0], words[1]), *box_muller(words[2], words[3])]
        return torch.stack(pairs[:num_bands], dim=-1)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Four words of 32 bits, as int64, of counters of the same form: Philox4x32-10."""
    c0, c1, c2, c3 = counter
    key0, key1 = key
    for _ in range(_ROUNDS):
        even, odd = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]  # the product's 64 bits, whatever its sign
        c0, c1 = ((odd >> 32) & _WORD) ^ c1 ^ key0, odd & _WORD
        c2, c3 = ((even >> 32) & _WORD) ^ c3 ^ key1, even & _WORD
        key0, key1 = (key0 + _WEYL[0]) & _WORD, (key1 + _WEYL[1]) & _WORD
    return [c0, c1, c2, c3]


def box_muller(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent standard normal numbers, float32, of two words of 32 bits."""
    uniform = ((first >> 9).float() + 0.5) * 2.0**-23
    turn = (second - ((second >> 31) << 32)).float() * 2.0**-31  # the word as a signed one
    radius, angle = torch.sqrt(torch.log(uniform) * -2.0), turn * math.pi
    return radius * torch.cos(angle), radius * torch.sin(angle)
