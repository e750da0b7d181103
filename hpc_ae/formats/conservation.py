"""Whether what was written is what was read: rows are counted and their ids summed, on the way in and read back.

Shape letters: N rows.
"""

from __future__ import annotations

import numpy as np

_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits in no order: the golden ratio in 64 bits
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_MASK = (1 << 64) - 1


class RowSum:
    """Number of rows and a sum over their ids, in which a changed id shows, and with `ordered` a changed order too."""

    def __init__(self, *, ordered: bool) -> None:
        self.ordered = ordered
        self.num_rows = 0
        self.total = 0

    def add(self, ids: np.ndarray) -> None:
        """Take the ids (N,) of some rows, int64 in any byte order."""
        values = ids.astype(np.int64).view(np.uint64)
        if self.ordered:
            values = values + (np.arange(self.num_rows, self.num_rows + len(ids), dtype=np.uint64) + 1) * _SPREAD
        values = (values ^ (values >> np.uint64(31))) * _MIX
        self.total = (self.total + int((values ^ (values >> np.uint64(29))).sum(dtype=np.uint64))) & _MASK
        self.num_rows += len(ids)

    def count(self, num_rows: int) -> None:
        """Take rows without ids."""
        self.num_rows += num_rows

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RowSum) and (self.num_rows, self.total) == (other.num_rows, other.total)

    __hash__ = None  # type: ignore[assignment]  # it changes
