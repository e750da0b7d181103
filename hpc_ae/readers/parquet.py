"""Parquet in bounded memory: rows from the footer, any range of rows batch by batch.

A file inside `key=value` directories (hive partitioning, HATS) has those keys as columns where it does not hold them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hpc_ae.readers.astropy_notes import MASK, column_notes, find_masks, named_elements, said_elements
from hpc_ae.readers.raw_file import BATCH_BYTES, BATCH_ROWS, Batches, Piece, RawFile, partition_dirs, unreadable
from hpc_ae.readers.votable import field_units

_BUFFER_BYTES = 1 << 20
_FREE_BYTES = 1 << 28
_MOST_TEXT = 1 << 20
_MOST_RATIO = 1100  # deflate cannot do better than 1:1032
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_WHOLE = re.compile(r"-?[0-9]{1,18}")
PARQUET_ERRORS = (pa.ArrowException, OSError, LookupError, OverflowError)


@dataclass(frozen=True)
class _Place:
    """Where a column is: its number in the file (-1: `constant` in all rows), which element of a list, its mask."""

    index: int
    element: int | None = None
    mask: _Place | None = None
    constant: pa.Scalar | None = None


@dataclass
class _Column:
    name: str
    place: _Place
    type: str
    unit: str = ""
    is_element: bool = False  # and called so by nothing but convention


def open_parquet(path: Path, data_path: Path) -> RawFile:
    """Read the footer: columns, types, units where the fields have them; InputError where it is damaged."""
    try:
        with pq.ParquetFile(data_path) as file:
            schema, num_rows = file.schema_arrow, file.metadata.num_rows
            _check_sizes(path, file.metadata)
    except PARQUET_ERRORS as error:
        raise unreadable(path, error) from error
    columns = _with_masks(_columns(schema, is_ours=path != data_path))
    for key, value in partition_values(path).items():
        if key not in schema.names:
            columns.append(_Column(key, _Place(-1, constant=value), str(value.type)))
    notes = _texts(schema.metadata) if path != data_path else {}  # `convert_votable` noted them
    return RawFile(
        path,
        data_path,
        "parquet",
        tuple(column.name for column in columns),
        units=tuple(column.unit for column in columns),
        dtypes=tuple(column.type for column in columns),
        num_rows=num_rows,
        table=notes.get("table", ""),
        dialect=notes.get("dialect", "Parquet"),
        layout=tuple(column.place for column in columns),
        elements=frozenset(column.name for column in columns if column.is_element),
    )


def _texts(metadata: dict[bytes, bytes] | None) -> dict[str, str]:
    pairs = (metadata or {}).items()
    return {key.decode(errors="replace"): text.decode(errors="replace") for key, text in pairs}


def _columns(schema: pa.Schema, is_ours: bool) -> list[_Column]:
    """The columns of a file, elements of lists of fixed length one by one. Units stand in the fields, in astropy's
    notes, or in the VOTable of a VOParquet.
    """
    meta = _texts(schema.metadata)
    units = field_units(meta.get("IVOA.VOTable-Parquet.content", ""))
    noted = column_notes(meta.get("table_meta_yaml", ""))
    found = []
    for index, field in enumerate(schema):
        own = _texts(field.metadata)
        note = noted.get(field.name, {}) | own
        unit, kind = note.get("unit") or units.get(field.name, ""), field.type
        description = note.get("description") or noted.get(field.name.removesuffix(MASK), {}).get("description", "")
        elements = [field.name]
        if pa.types.is_fixed_size_list(kind):
            elements = named_elements(field.name, kind.list_size, said_elements(description)) or elements
            kind = kind.value_type if len(elements) == field.type.list_size else kind
        shown = own.get("dtype", str(kind)) if is_ours else str(kind)  # what `convert_votable` could not keep
        is_list = kind != field.type
        is_element = ("element" in own if is_ours else is_list) and not said_elements(description)
        found += [
            _Column(name, _Place(index, element if is_list else None), shown, unit, is_element)
            for element, name in enumerate(elements)
        ]
    return found


def _with_masks(columns: list[_Column]) -> list[_Column]:
    """Take away astropy's mask columns and tie each to its column, which is not read where the mask is no truth."""
    masks, unfit, every = find_masks([column.name for column in columns], [column.type for column in columns])
    for place, at in masks.items():
        columns[place].place = replace(columns[place].place, mask=columns[at].place)
    for place, at in unfit.items():
        columns[place].place = _Place(-1, constant=pa.scalar(None))
        columns[place].type = f"masked by {columns[at].name}, which is {columns[at].type}"
    return [column for index, column in enumerate(columns) if index not in every]


def _check_sizes(path: Path, metadata: pq.FileMetaData) -> None:
    """InputError where pages would unpack to what no table of stars does, or the numbers of rows contradict."""
    num_rows = 0
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        num_rows += row_group.num_rows
        for index in range(row_group.num_columns):
            column = row_group.column(index)
            size = column.total_uncompressed_size
            if size > _FREE_BYTES and size > _MOST_RATIO * column.total_compressed_size:
                raise unreadable(path, f"column {column.path_in_schema} that unpacks to {size:,} bytes")
    if num_rows != metadata.num_rows:
        raise unreadable(path, f"{metadata.num_rows:,} rows claimed, {num_rows:,} in its row groups")


def partition_values(path: Path) -> dict[str, pa.Scalar]:
    """The keys of the directories that a file lies in: whole numbers where they are such, otherwise text."""
    stem = path.name.removesuffix(".parquet")
    parts = [*partition_dirs(path), *([stem] if "=" in stem.lstrip("=") else [])]
    values = {}
    for key, _, text in (part.partition("=") for part in parts):
        text = unquote(text)
        if text == _HIVE_NULL:
            values[unquote(key)] = pa.scalar(None, pa.string())
        else:
            values[unquote(key)] = pa.scalar(int(text), pa.int64()) if _WHOLE.fullmatch(text) else pa.scalar(text)
    return values


def read_parquet(piece: Piece) -> Batches:
    """Yield (first row in the file, columns by our names) for the rows of a piece, batch by batch."""
    try:
        with pq.ParquetFile(piece.raw.data_path) as file:
            texts = [field.name for field in file.schema_arrow if _is_text(field.type)]
        with pq.ParquetFile(
            piece.raw.data_path, pre_buffer=False, buffer_size=_BUFFER_BYTES, read_dictionary=texts
        ) as file:
            yield from _read_groups(file, piece)
    except PARQUET_ERRORS as error:
        raise unreadable(piece.raw.path, error) from error


def _read_groups(file: pq.ParquetFile, piece: Piece) -> Batches:
    groups, row = _groups_of(file.metadata, piece.start, piece.stop)
    wanted: dict[str, _Place] = {name: piece.raw.layout[index] for name, index in piece.raw.wanted.items()}
    parts = [part for place in wanted.values() for part in (place, place.mask) if part and part.index >= 0]
    all_names = file.schema_arrow.names
    names = sorted({all_names[part.index] for part in parts})
    size = _batch_rows(file.metadata, groups)
    batches = file.iter_batches(size, row_groups=groups, columns=names, use_threads=False)
    for batch in itertools.chain.from_iterable(map(_slices, batches)):
        low, high = max(piece.start - row, 0), min(piece.stop - row, batch.num_rows)
        if low < high:
            at = _positions({part.index for part in parts}, all_names, batch.schema.names)
            part = batch.slice(low, high - low)
            yield row + low, {name: pa.chunked_array([_values(part, place, at)]) for name, place in wanted.items()}
        row += batch.num_rows
        if row >= piece.stop:
            return


def _batch_rows(metadata: pq.FileMetaData, groups: list[int]) -> int:
    """How many rows to read at a time: fewer where a row is long, by what the row groups say that they unpack to."""
    longest = 1.0
    for group in groups:
        row_group = metadata.row_group(group)
        columns = [row_group.column(index) for index in range(row_group.num_columns)]
        size = sum(column.total_uncompressed_size for column in columns)
        longest = max(longest, size / max(1, row_group.num_rows))
    return max(1, min(BATCH_ROWS, int(BATCH_BYTES / longest)))


def _positions(indices: set[int], all_names: list[str], names: list[str]) -> dict[int, int]:
    """Where the columns of a file, by number, are in a batch of some of them: columns that share a name are all there,
    in the order that the file has them.
    """
    found = {}
    for index in indices:
        places = [place for place, name in enumerate(names) if name == all_names[index]]
        found[index] = places[all_names[:index].count(all_names[index])]
    return found


def _values(batch: pa.RecordBatch, place: _Place, at: dict[int, int]) -> pa.Array:
    """The values (n,) of a column in a batch, null where its mask says so."""
    if place.index < 0:
        return pa.repeat(place.constant, batch.num_rows)
    column = batch.column(at[place.index])
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if place.element is not None:
        column = pc.list_element(column, place.element)
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        column = _as_text(column)
    if place.mask is not None:
        column = pc.if_else(_values(batch, place.mask, at), pa.scalar(None, column.type), column)
    return column


def _as_text(column: pa.Array) -> pa.Array:
    """Bytes as the text that they are to some writers; what is no UTF-8 gets the replacement character."""
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        texts = [None if value is None else value.decode(errors="replace") for value in column.to_pylist()]
        return pa.array(texts, pa.string())


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind))


def _slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """A batch in parts of few enough rows: each has the whole text of its dictionary when it is decoded.

    OverflowError where a text is longer than any number or name can be.
    """
    longest = 1
    for column in batch.columns:
        if pa.types.is_dictionary(column.type) and _is_text(column.type.value_type) and len(column.dictionary):
            longest = max(longest, pc.max(pc.binary_length(column.dictionary)).as_py() or 0)
    if longest > _MOST_TEXT:
        raise OverflowError(f"a text of {longest:,} bytes in one row")
    step = max(1, BATCH_BYTES // longest)
    for start in range(0, batch.num_rows, step):
        yield batch.slice(start, step)


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
