"""Parquet in bounded memory: rows from the footer, any range of rows batch by batch.

A file inside `key=value` directories (hive partitioning, HATS) has those keys as columns where it does not hold them.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from hpc_ae.catalog.readers.rawfile import BATCH_ROWS, Batches, Piece, RawFile, partition_dirs, unreadable

_BUFFER_BYTES = 1 << 20
_FREE_BYTES = 1 << 28
_MOST_RATIO = 1100  # deflate cannot do better than 1:1032
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


def open_parquet(path: Path, data_path: Path) -> RawFile:
    """Read the footer: columns, types, units where the fields have them; InputError where it is damaged."""
    try:
        with pq.ParquetFile(data_path) as file:
            schema, num_rows = file.schema_arrow, file.metadata.num_rows
            _check_sizes(path, file.metadata)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from error
    notes = [field.metadata or {} for field in schema]
    constants = {key: value for key, value in _partition(path).items() if key not in schema.names}
    return RawFile(
        path,
        data_path,
        "parquet",
        (*schema.names, *constants),
        units=(*(note.get(b"unit", b"").decode(errors="replace") for note in notes), *("" for _ in constants)),
        dtypes=(*map(_type_name, schema), *(str(value.type) for value in constants.values())),
        num_rows=num_rows,
        table=(schema.metadata or {}).get(b"table", b"").decode(errors="replace"),
        dialect=(schema.metadata or {}).get(b"dialect", b"Parquet").decode(errors="replace"),
        layout=tuple(constants.values()),
    )


def _type_name(field: pa.Field) -> str:
    """The type of a column as the file's writer knew it, where `convert_votable` could not keep it."""
    noted: bytes = (field.metadata or {}).get(b"dtype", b"")
    return noted.decode() or str(field.type)


def _check_sizes(path: Path, metadata: pq.FileMetaData) -> None:
    """InputError where pages would unpack to what no table of stars does."""
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for index in range(row_group.num_columns):
            column = row_group.column(index)
            size = column.total_uncompressed_size
            if size > _FREE_BYTES and size > _MOST_RATIO * column.total_compressed_size:
                raise unreadable(path, f"column {column.path_in_schema} that unpacks to {size:,} bytes")


def _partition(path: Path) -> dict[str, pa.Scalar]:
    """The keys of the directories that a file lies in: whole numbers where they are such, otherwise text."""
    stem = path.name.removesuffix(".parquet")
    parts = [*partition_dirs(path), *([stem] if "=" in stem.strip("=") else [])]
    values = {}
    for key, _, text in (part.partition("=") for part in parts):
        text = unquote(text)
        if text == _HIVE_NULL:
            values[key] = pa.scalar(None, pa.string())
        else:
            is_whole = text.lstrip("-").isdecimal() and len(text) < 19
            values[key] = pa.scalar(int(text), pa.int64()) if is_whole else pa.scalar(text)
    return values


def read_parquet(piece: Piece) -> Batches:
    """Yield (first row in the file, columns by our names) for the rows of a piece, batch by batch."""
    try:
        with pq.ParquetFile(piece.raw.data_path, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file:
            yield from _read_groups(file, piece)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(piece.raw.path, error) from error


def _read_groups(file: pq.ParquetFile, piece: Piece) -> Batches:
    groups, row = _groups_of(file.metadata, piece.start, piece.stop)
    raw = piece.raw
    own = len(raw.columns) - len(raw.layout)
    names = sorted({raw.columns[index] for index in raw.wanted.values() if index < own})
    for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=names, use_threads=False):
        low, high = max(piece.start - row, 0), min(piece.stop - row, batch.num_rows)
        if low < high:
            part = batch.slice(low, high - low)
            yield (
                row + low,
                {
                    name: _decoded(part[raw.columns[index]])
                    if index < own
                    else pa.chunked_array([pa.repeat(raw.layout[index - own], high - low)])
                    for name, index in raw.wanted.items()
                },
            )
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
