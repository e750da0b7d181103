"""Stars by which bands they lack. Shape letters: N stars, B bands."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def patterns(mask: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The different rows of a mask (N, B), B at most 62: each with the rows (n,) that are so, in one order for all."""
    keys = mask @ (1 << np.arange(mask.shape[1], dtype=np.int64))
    kinds, counts = np.unique(keys, return_counts=True)
    rows = np.split(np.argsort(keys, kind="stable"), np.cumsum(counts)[:-1])
    for kind, some in zip(kinds.tolist(), rows, strict=True):
        yield np.array([kind >> band & 1 for band in range(mask.shape[1])], bool), some
