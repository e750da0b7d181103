"""Parquet in bounded memory: rows from the footer, any range of rows batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hpc_ae.catalog.readers.names import RAW_PREFIX
from hpc_ae.catalog.readers.rawfile import Piece, RawFile, Scan, bad_value, unreadable

BATCH_ROWS = 65_536
_BUFFER_BYTES = 1 << 20
_NO_NUMBERS = (pa.types.is_nested, pa.types.is_temporal, pa.types.is_binary, pa.types.is_boolean)


def open_parquet(path: Path, data_path: Path) -> RawFile:
    """Read the footer's column names; InputError where it is damaged."""
    try:
        with pq.ParquetFile(data_path) as file:
            return RawFile(path, data_path, "parquet", tuple(file.schema_arrow.names))
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from error


def scan_parquet(raw: RawFile) -> Scan:
    """Number of rows, from the footer; InputError where a wanted column does not hold numbers or text."""
    with pq.ParquetFile(raw.data_path) as file:
        for name, index in raw.wanted.items():
            kind = file.schema_arrow.field(index).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if not name.startswith(RAW_PREFIX) and any(is_kind(kind) for is_kind in _NO_NUMBERS):
                raise bad_value(raw, name, 1, f"values of type {kind}")
        return Scan(raw, file.metadata.num_rows)


def read_parquet(piece: Piece) -> Iterator[tuple[int, dict[str, pa.ChunkedArray]]]:
    """Yield (first row in the file, columns by our names) for the rows of a piece, batch by batch."""
    try:
        with pq.ParquetFile(piece.raw.data_path, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file:
            yield from _read_groups(file, piece)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(piece.raw.path, error) from error


def _read_groups(file: pq.ParquetFile, piece: Piece) -> Iterator[tuple[int, dict[str, pa.ChunkedArray]]]:
    groups, row = _groups_of(file.metadata, piece.start, piece.stop)
    names = sorted({piece.raw.columns[index] for index in piece.raw.wanted.values()})
    size = min(BATCH_ROWS, piece.stop - row)  # no more than the first rows where only these are looked at
    for batch in file.iter_batches(size, row_groups=groups, columns=names, use_threads=False):
        low, high = max(piece.start - row, 0), min(piece.stop - row, batch.num_rows)
        if low < high:
            part = batch.slice(low, high - low)
            columns = {name: _decoded(part[piece.raw.columns[index]]) for name, index in piece.raw.wanted.items()}
            yield row + low, columns
        row += batch.num_rows
        if row >= piece.stop:
            return


def _groups_of(metadata: pq.FileMetaData, start: int, stop: int) -> tuple[list[int], int]:
    """The row groups that hold rows `start` to `stop`, and the first row of the first of them."""
    groups: list[int] = []
    first = row = 0
    for index in range(metadata.num_row_groups):
        num_rows = metadata.row_group(index).num_rows
        if row < stop and row + num_rows > start:
            first = first if groups else row
            groups.append(index)
        row += num_rows
    return groups, first


def _decoded(column: pa.Array) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return pa.chunked_array([column])
