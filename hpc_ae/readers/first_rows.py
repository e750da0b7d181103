"""The first rows of a raw file, which are enough to decide what it is and to show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from hpc_ae.readers.batches import read_batches, scan_head
from hpc_ae.readers.names import RAW_PREFIX
from hpc_ae.readers.raw_file import Piece, RawFile

FIRST_ROWS = 1_000


def read_first(raw: RawFile, indices: Sequence[int], num_rows: int = FIRST_ROWS) -> list[pa.ChunkedArray]:
    """The first values of some columns as they stand in the file (text, where it is text), `num_rows` at most.

    Reads the beginning of the file only. InputError where it cannot be read.
    """
    names = [f"{RAW_PREFIX}{index}" for index in indices]
    piece = first_piece(replace(raw, wanted=dict(zip(names, indices, strict=True))), num_rows)
    if not names or not piece.stop:
        return [pa.chunked_array([pa.array([], pa.float64())]) for _ in indices]
    batches = [batch for _, batch in read_batches(piece)]
    return [pa.chunked_array([part for batch in batches for part in batch[name].chunks]) for name in names]


def first_piece(raw: RawFile, num_rows: int) -> Piece:
    """The first rows of a raw file, `num_rows` at most."""
    scan = scan_head(raw)
    stop = min(num_rows, scan.num_rows)
    return Piece(0, scan.raw, 0, stop, scan.mark(0), scan.mark(stop))
