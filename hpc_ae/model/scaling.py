"""Scaling: network input = (magnitude - mean) / std, per band.

Shape letters: N stars, B bands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hpc_ae.errors import InputError

_SMALLEST_STD = 1.0e-6  # mag; float32 resolves no less at these magnitudes


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


def standard_scaling(
    statistics: dict[str, dict[str, Any]], bands: Sequence[str], where: object
) -> tuple[list[float], list[float]]:
    """Mean and std in mag of each band, of a catalog's `statistics`; InputError where a band does not vary."""
    for band in bands:
        if not (statistics[band]["std"] or 0.0) > _SMALLEST_STD:
            raise InputError(
                f"band {band} is constant: all good stars have the same magnitude",
                where=where,
                got=f"mean {statistics[band]['mean']}, std {statistics[band]['std']} mag",
                expected="magnitudes that vary",
                fix=f"if that is right, say model.scaling.divide=20; else ingest anew with --map {band}=COLUMN",
            )
    return [statistics[band]["mean"] for band in bands], [statistics[band]["std"] for band in bands]
