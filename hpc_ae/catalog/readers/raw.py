"""Any raw file: recognise it by its content, unpack it, read a piece of it."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from hpc_ae.catalog.readers.batches import read_batches
from hpc_ae.catalog.readers.columns import BadValue, StarRows
from hpc_ae.catalog.readers.conversion import Reading, convert
from hpc_ae.catalog.readers.head import map_raw
from hpc_ae.catalog.readers.parquet import open_parquet
from hpc_ae.catalog.readers.rawfile import Piece, RawFile, bad_value, unreadable, wrong_count
from hpc_ae.catalog.readers.text import open_text
from hpc_ae.errors import InputError
from hpc_ae.files import write_error

_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_UNPACK_BYTES = 1 << 20
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
    """What a raw file is compressed with, gzip; "" for nothing. InputError where it cannot be read."""
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


def _next_block(source: gzip.GzipFile, path: Path) -> bytes:
    try:
        return source.read(_UNPACK_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise unreadable(path, f"a damaged gzip file: {error}") from error


def open_raw(
    path: Path, data_path: Path, mapping: Mapping[str, str], reading: Reading | None = None, *, notice: bool = True
) -> RawFile:
    """Recognise a raw file by its content and decide what its columns are; `notice` as `map_raw` has it.

    InputError where it is neither CSV nor Parquet, lacks a band, or it is unclear what a column holds.
    """
    return map_raw(open_tables(path, data_path)[0], mapping, reading or Reading(), notice=notice)


def open_tables(path: Path, data_path: Path) -> list[RawFile]:
    """The tables of a raw file, recognised by its content, no column wanted yet. InputError where it is none."""
    head = _head(data_path)
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise unreadable(path, what, "convert it to CSV or Parquet")
    return [open_parquet(path, data_path) if head.startswith(_PARQUET) else open_text(path, data_path)]


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
