"""Any raw file: recognise it by its content, unpack it, scan it, read a piece of it."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hpc_ae.catalog.readers.columns import BadValue, StarRows, clean_text, is_text
from hpc_ae.catalog.readers.conversion import Reading, convert
from hpc_ae.catalog.readers.known import Columns
from hpc_ae.catalog.readers.mapping import understand
from hpc_ae.catalog.readers.names import RAW_PREFIX
from hpc_ae.catalog.readers.parquet import open_parquet, read_parquet, scan_parquet
from hpc_ae.catalog.readers.rawfile import Piece, RawFile, Scan, bad_value, unreadable, wrong_count
from hpc_ae.catalog.readers.text import count_rows, count_tasks, cut_text, open_text, read_text, scan_text
from hpc_ae.errors import InputError
from hpc_ae.files import write_error

_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_UNPACK_BYTES = 1 << 20
_HEAD_BYTES = 1 << 23
HEAD_ROWS = 1_000
_FOREIGN = {
    b"SIMPLE  =": "a FITS file",
    b"\x89HDF": "an HDF5 file",
    b"PK\x03\x04": "a zip archive or spreadsheet",
    b"BZh": "a bzip2 file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"\xfd7zXZ": "an xz file",
}


def is_packed(path: Path) -> bool:
    """Whether `unpack` must come before `open_raw`, by the first bytes. InputError where the file cannot be read."""
    return bool(compression_name(path))


def compression_name(path: Path) -> str:
    """What a raw file is compressed with; empty for nothing. InputError where it cannot be read."""
    return "gzip" if _head(path).startswith(_GZIP) else ""


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise InputError("a raw file is a directory", where=path, expected="CSV (plain or gzip) or Parquet files")
    if path.exists() and not path.is_file():
        raise InputError("a raw file is a pipe or a device", where=path, expected="a file, as it is read twice")
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError as error:
        raise InputError(
            f"cannot read a raw file: {error.strerror}", where=path, expected="a file that you may read"
        ) from error


def unpack(path: Path, data_path: Path) -> None:
    """Decompress a gzip file to `data_path`; InputError where it is damaged or cut short."""
    written = 0
    try:
        with gzip.open(path) as source, data_path.open("xb", buffering=0) as target:
            os.fchmod(target.fileno(), 0o600)
            while block := _next_block(source, path):
                view = memoryview(block)
                while view:
                    view = view[target.write(view) :]
                written += len(block)
    except OSError as error:
        raise write_error(data_path, written + _UNPACK_BYTES, error) from error


def unpack_head(path: Path, data_path: Path) -> None:
    """As `unpack`, but of a long gzip file of text only the beginning, up to a whole line."""
    data = b""
    if compression_name(path) == "gzip":
        with gzip.open(path) as source:
            while len(data) < _HEAD_BYTES and (block := _next_block(source, path)):
                data += block
    if len(data) < _HEAD_BYTES or b"\0" in data or data.lstrip().startswith(b"<"):
        unpack(path, data_path)
    else:
        data_path.write_bytes(data[: data.rfind(b"\n") + 1])


def _next_block(source: gzip.GzipFile, path: Path) -> bytes:
    try:
        return source.read(_UNPACK_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise unreadable(path, f"a damaged gzip file: {error}") from error


def open_raw(path: Path, data_path: Path, mapping: Mapping[str, str], reading: Reading | None = None) -> RawFile:
    """Recognise a raw file by its content and decide what its columns are.

    InputError where it is neither CSV nor Parquet, lacks a band, or it is unclear what a column holds.
    """
    return map_raw(open_tables(path, data_path)[0], mapping, reading or Reading())


def open_tables(path: Path, data_path: Path) -> list[RawFile]:
    """The tables of a raw file, recognised by its content, no column wanted yet. InputError where it is none."""
    head = _head(data_path)
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise unreadable(path, what, "convert it to CSV or Parquet")
    return [open_parquet(path, data_path) if head.startswith(_PARQUET) else open_text(path, data_path)]


def map_raw(raw: RawFile, mapping: Mapping[str, str], reading: Reading) -> RawFile:
    """The raw file with its columns understood; InputError where they are not."""

    def head(indices: list[int]) -> list[np.ndarray]:
        return [_numbers(values) for values in read_head(raw, indices)]

    found = understand(Columns(raw.path, raw.columns, raw.units), mapping, reading, head)
    return replace(raw, wanted=found.wanted, conversion=found.conversion, reasons=found.reasons, notes=found.notes)


def read_head(raw: RawFile, indices: Sequence[int], num_rows: int = HEAD_ROWS) -> list[pa.ChunkedArray]:
    """The first values of some columns as they stand in the file (text, where it is text), `num_rows` at most.

    Reads the beginning of the file only. InputError where it cannot be read.
    """
    names = [f"{RAW_PREFIX}{index}" for index in indices]
    piece = head_piece(replace(raw, wanted=dict(zip(names, indices, strict=True))), num_rows)
    if not names or not piece.stop:
        return [pa.chunked_array([pa.array([], pa.float64())]) for _ in indices]
    batches = [batch for _, batch in read_batches(piece)]
    return [pa.chunked_array([part for batch in batches for part in batch[name].chunks]) for name in names]


def head_piece(raw: RawFile, num_rows: int) -> Piece:
    """The first rows of a raw file, `num_rows` at most."""
    scan = scan_head(raw)
    stop = min(num_rows, scan.num_rows)
    return Piece(0, scan.raw, 0, stop, scan.mark(0), scan.mark(stop))


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """float64 (N,), NaN for what is no number."""
    if is_text(column.type):
        text, reads = clean_text(column)
        column = pc.if_else(reads, text, pa.scalar(None, text.type)).cast(pa.float64())
    elif not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return np.full(len(column), np.nan)
    return np.asarray(column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy())


def scan_head(raw: RawFile) -> Scan:
    """A scan of the whole file where its format tells the number of rows, of the first segment of a text."""
    if raw.kind != "csv":
        return Scan(raw, raw.num_rows) if raw.num_rows >= 0 else scan_parquet(raw)
    short = cut_text(raw)
    return scan_text(short, [num for task in count_tasks(short) for num in count_rows(task)])


def read_batches(piece: Piece) -> Iterator[tuple[int, dict[str, pa.ChunkedArray]]]:
    """Yield (first row in the file, columns by the names of `wanted`) for the rows of a piece."""
    return read_parquet(piece) if piece.raw.kind == "parquet" else read_text(piece)


def read_piece(piece: Piece, rows: StarRows, at: int) -> int:
    """Fill `rows` from row `at` on with the rows of a piece; return how many.

    InputError where a value is no number, a row is ragged, or not every row that was counted is there.
    """
    num_rows = 0
    for first_row, batch in read_batches(piece):
        length = len(next(iter(batch.values())))
        if num_rows + length > piece.stop - piece.start:
            raise wrong_count(piece.raw, piece.start + num_rows + length, piece.stop)
        try:
            rows.fill(at + num_rows, batch)
            convert(piece.raw.conversion, rows, slice(at + num_rows, at + num_rows + length), batch)
            num_rows += length
        except BadValue as bad:
            raise bad_value(piece.raw, bad.name, first_row + bad.row + 1, bad.text) from None
        except pa.ArrowException as error:
            raise unreadable(piece.raw.path, f"after row {first_row:,}: {error}") from error
    if num_rows != piece.stop - piece.start:
        raise wrong_count(piece.raw, piece.start + num_rows, piece.stop)
    return num_rows
