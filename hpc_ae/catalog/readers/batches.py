"""The rows of a piece of a raw file, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from hpc_ae.catalog.readers.parquet import read_parquet, scan_parquet
from hpc_ae.catalog.readers.rawfile import Piece, RawFile, Scan
from hpc_ae.catalog.readers.text import count_rows, count_tasks, cut_text, read_text, scan_text


def read_batches(piece: Piece) -> Iterator[tuple[int, dict[str, pa.ChunkedArray]]]:
    """Yield (first row in the file, columns by the names of `wanted`) for the rows of a piece."""
    return read_parquet(piece) if piece.raw.kind == "parquet" else read_text(piece)


def scan_head(raw: RawFile) -> Scan:
    """A scan of the whole file where its format tells the number of rows, of the first segment of a text."""
    if raw.kind != "csv":
        return Scan(raw, raw.num_rows) if raw.num_rows >= 0 else scan_parquet(raw)
    short = cut_text(raw)
    return scan_text(short, [num for task in count_tasks(short) for num in count_rows(task)])
