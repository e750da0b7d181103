"""Scaling: network input = (magnitude - mean) / std, per band. The fused kernel does the same: `load_tile` in
kernels/network.h.

Shape letters: N stars, B bands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hpc_ae.errors import InputError


class Scaling(nn.Module):
    """Holds `mean` and `std` (B,) in mag, saved with the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(map(math.isfinite, [*mean, *std])) or not all(value > 0 for value in std):
            raise InputError(
                "the scaling does not fit the bands",
                where="model.scaling",
                got=f"mean {list(mean)}, std {list(std)}",
                expected="one mean and one positive std per band (a catalog whose magnitudes vary)",
            )
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, magnitude: Tensor) -> Tensor:
        """Magnitudes (N, B) to network input (N, B)."""
        return (magnitude - self.mean) / self.std

    def inverse(self, scaled: Tensor) -> Tensor:
        """Network output (N, B) to magnitudes (N, B)."""
        return scaled * self.std + self.mean
