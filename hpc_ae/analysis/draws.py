"""Which of two or more parts a row belongs to, by its own bits: the same in whatever order, shard or rank it comes."""

from __future__ import annotations

import numpy as np


def part_of(rows: np.ndarray, number: int) -> np.ndarray:
    """The part uint32 (N,), 0 to `number` - 1, of each of some rows float32 (N, k); equal rows have the same."""
    bits = np.ascontiguousarray(rows, dtype=np.float32).view(np.uint32).sum(axis=1, dtype=np.uint32)
    parts: np.ndarray = (bits * np.uint32(2654435761) >> np.uint32(16)) % np.uint32(number)
    return parts
