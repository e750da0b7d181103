"""Any raw file: recognise it by its content, unpack it, scan it, read a piece of it."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from hpc_ae.catalog.readers.columns import BadValue, StarRows
from hpc_ae.catalog.readers.mapping import map_columns
from hpc_ae.catalog.readers.parquet import open_parquet, read_parquet
from hpc_ae.catalog.readers.rawfile import Piece, RawFile, bad_value, unreadable, wrong_count
from hpc_ae.catalog.readers.text import open_text, read_text
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


def is_gzip(path: Path) -> bool:
    """Whether a raw file is gzip, by its first bytes. InputError where it cannot be read."""
    return _head(path).startswith(_GZIP)


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


def open_raw(path: Path, data_path: Path, mapping: Mapping[str, str]) -> RawFile:
    """Recognise a raw file by its content and map its columns.

    InputError where it is neither CSV nor Parquet, or lacks a band.
    """
    head = _head(data_path)
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise unreadable(path, what, "convert it to CSV or Parquet")
    raw = open_parquet(path, data_path) if head.startswith(_PARQUET) else open_text(path, data_path)
    return replace(raw, wanted=map_columns(path, raw.columns, mapping))


def read_piece(piece: Piece, rows: StarRows, at: int) -> int:
    """Fill `rows` from row `at` on with the rows of a piece; return how many.

    InputError where a value is no number, a row is ragged, or not every row that was counted is there.
    """
    batches = read_parquet(piece) if piece.raw.kind == "parquet" else read_text(piece)
    num_rows = 0
    for first_row, batch in batches:
        length = len(next(iter(batch.values())))
        if num_rows + length > piece.stop - piece.start:
            raise wrong_count(piece.raw, piece.start + num_rows + length, piece.stop)
        try:
            num_rows += rows.fill(at + num_rows, batch)
        except BadValue as bad:
            raise bad_value(piece.raw, bad.name, first_row + bad.row + 1, bad.text) from None
        except pa.ArrowException as error:
            raise unreadable(piece.raw.path, f"after row {first_row:,}: {error}") from error
    if num_rows != piece.stop - piece.start:
        raise wrong_count(piece.raw, piece.start + num_rows, piece.stop)
    return num_rows
