"""Any raw file: recognise it by its content, unpack it, choose its table, read a piece of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hpc_ae.errors import InputError
from hpc_ae.readers.batches import read_batches
from hpc_ae.readers.columns import Columns
from hpc_ae.readers.conversion import Conversion, convert
from hpc_ae.readers.first_rows import read_first
from hpc_ae.readers.fits import open_fits
from hpc_ae.readers.hdf5 import is_hdf5, open_hdf5
from hpc_ae.readers.mapping import Look, understand
from hpc_ae.readers.names import ERROR_PREFIX, number_word
from hpc_ae.readers.packed import compression_of, decompress
from hpc_ae.readers.parquet import open_parquet
from hpc_ae.readers.raw_file import (
    FORMATS,
    Piece,
    RawFile,
    bad_value,
    check_types,
    unreadable,
    wrong_count,
)
from hpc_ae.readers.sexagesimal import is_sexagesimal, may_hold_angles
from hpc_ae.readers.star_rows import BadValue, StarRows, clean_text, is_text
from hpc_ae.readers.text_header import open_text
from hpc_ae.readers.votable import convert_votable, converted_paths, is_cut_short
from hpc_ae.reading import Reading

_HEAD_BYTES = 1 << 16
_ROWS_BYTES = 1 << 12
_FITS = b"SIMPLE  ="
_PARQUET = b"PAR1"
_VOTABLE = re.compile(rb"<(\w+:)?VOTABLE[\s>]")
_OVERFLOW = "the service says that it cut its answer short (OVERFLOW): there are more rows than these"
ALL_TABLES = "all"
_MAYBE_TEXT = ("", "string", "large_string", "string_view", "binary", "large_binary")
_FOREIGN = {
    b"PK\x03\x04": "a zip archive or spreadsheet",
    b"\x1f\x9d": "a file of the old program compress (.Z)",
    b"Obj\x01": "an Avro file",
    b"ARROW1": "an Arrow file",
    b"\x04\x22\x4d\x18": "a file of the program lz4",
    b"\x93NUMPY": "a numpy file",
    b"SQLite format 3": "an SQLite database",
}


def is_packed(path: Path) -> bool:
    """Whether `unpack` must come before `open_raw`: a compressed file, or a VOTable. InputError where it is none."""
    head = _head(path)
    return bool(compression_of(head)) or _is_votable(head)


def compression_name(path: Path) -> str:
    """What a raw file is compressed with; "" for nothing. InputError where it cannot be read."""
    return compression_of(_head(path))


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise InputError("a raw file is a directory", where=path, expected=f"files: {FORMATS}")
    if path.exists() and not path.is_file():
        raise InputError("a raw file is a pipe or a device", where=path, expected="a file, because it is read twice")
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as error:
        raise InputError(
            f"cannot read a raw file: {error.strerror}", where=path, expected="a file that you may read"
        ) from error


def _is_votable(head: bytes) -> bool:
    return head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<") and _VOTABLE.search(head) is not None


def unpack(path: Path, data_path: Path) -> None:
    """Decompress a file to `data_path`; a VOTable, which has no places to go to, becomes Parquet, a file per table.

    Further tables are called `data_path` with .1, .2, ... behind. InputError where the file is damaged or cut short.
    """
    compression = compression_of(_head(path))
    if not compression:
        convert_votable(path, path, data_path)
        return
    decompress(path, compression, data_path)
    head = _head(data_path)
    if compression_of(head):
        raise unreadable(path, "a compressed file inside a compressed file", "unpack it once")
    if _is_votable(head):
        xml_path = data_path.with_name(data_path.name + "-xml")
        data_path.rename(xml_path)
        convert_votable(path, xml_path, data_path)
        xml_path.unlink()


def open_tables(path: Path, data_path: Path) -> list[RawFile]:
    """The tables of a raw file, recognised by its content; `data_path` is what `unpack` made of it, or `path`.

    InputError where it is nothing that is read here, or is damaged.
    """
    head = _head(data_path)
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise unreadable(path, what, "convert it to CSV or Parquet")
    if head.startswith(_PARQUET):
        parts = converted_paths(data_path) if data_path != path else [data_path]
        notes = (_OVERFLOW,) if data_path != path and is_cut_short(data_path) else ()
        return [replace(open_parquet(path, part), notes=notes) for part in parts]
    if head.startswith(_FITS):
        return open_fits(path, data_path)
    if is_hdf5(head):
        return open_hdf5(path, data_path)
    return [open_text(path, data_path)]


def open_raw(
    path: Path, data_path: Path, mapping: Mapping[str, str], reading: Reading, *, notice: bool = True
) -> list[RawFile]:
    """Recognise a raw file by its content, choose the table that has the bands, and map its columns; several tables
    where the user wants all of them.

    InputError where it is no table, a band is missing, or several of its tables have them.
    """
    tables = choose_tables(open_tables(path, data_path), mapping, reading, notice=notice)
    for table in tables:
        check_types(table)
    return tables


def choose_tables(
    tables: Sequence[RawFile], mapping: Mapping[str, str], reading: Reading, *, notice: bool = True
) -> list[RawFile]:
    """The table that `choose_table` takes; with `--table all` each of those whose columns are understood."""
    if (reading.table or "").lower() != ALL_TABLES:
        return [choose_table(tables, mapping, reading, notice=notice)]
    found, left_out, errors = [], [], []
    for table in tables:
        try:
            found.append(_map_columns(table, mapping, reading, notice=notice))
        except InputError as error:
            left_out.append(table.table)
            errors.append(error)
    if not found:
        raise errors[0] if len(errors) == 1 else _no_choice(tables, 0, reading)
    note = f"{len(found)} tables are taken, one behind the other: {', '.join(table.table for table in found[:20])}"
    notes = [note, *([f"tables without the bands are left out: {', '.join(left_out[:20])}"] if left_out else [])]
    return [replace(found[0], notes=(*notes, *found[0].notes)), *found[1:]]


def choose_table(
    tables: Sequence[RawFile], mapping: Mapping[str, str], reading: Reading, *, notice: bool = True
) -> RawFile:
    """The table that `reading` names, else the only one whose columns are understood, mapped; InputError asks."""
    named = [table for table in tables if not reading.table or is_called(table, reading.table)]
    found, errors = [], []
    for table in named:
        try:
            found.append(_map_columns(table, mapping, reading, notice=notice))
        except InputError as error:
            errors.append(error)
    if len(named) == 1 and errors:
        raise errors[0]
    if len(found) != 1:
        raise _no_choice(tables, len(found), reading)
    return found[0]


def _map_columns(raw: RawFile, mapping: Mapping[str, str], reading: Reading, *, notice: bool = True) -> RawFile:
    """The raw file with its columns understood; with `notice` its first values may raise doubts, as notes.

    InputError where the columns are not understood.
    """

    def first(indices: list[int]) -> list[np.ndarray]:
        return [Conversion(reading).numbers(values) for values in read_first(raw, indices)]

    def is_text_angle(index: int) -> bool:
        if raw.dtypes[index] not in _MAYBE_TEXT or (raw.kind == "csv" and not may_hold_angles(_first_bytes(raw))):
            return False
        return is_sexagesimal(read_first(raw, [index])[0])

    def has_words(index: int) -> bool:
        if raw.dtypes[index] not in _MAYBE_TEXT:
            return False
        values = read_first(raw, [index])[0]
        return is_text(values.type) and bool(pc.any(pc.invert(clean_text(values)[1])).as_py())

    columns = Columns(raw.path, raw.columns, raw.units, raw.table)
    found = understand(columns, mapping, reading, Look(first, is_text_angle, has_words), notice=notice)
    bands = found.survey.band_names
    notes = [*raw.notes, *_array_note(raw, found.wanted, bands), *found.notes, *_absences(found.wanted, bands)]
    return replace(
        raw,
        wanted=found.wanted,
        conversion=found.conversion,
        survey=found.survey,
        has_states=found.has_states,
        reasons=found.reasons,
        notes=tuple(notes),
    )


def _first_bytes(raw: RawFile) -> bytes:
    """The first rows of a text."""
    with raw.data_path.open("rb") as file:
        file.seek(raw.data_start)
        return file.read(_ROWS_BYTES)


def _absences(wanted: Mapping[str, int], bands: Sequence[str]) -> list[str]:
    """What the star catalog will not have."""
    found = [] if "objid" in wanted else ["no column of ids: they will be row numbers"]
    found += [] if {"ra", "dec"} <= wanted.keys() else ["no column of ra and dec: positions will be missing"]
    has_errors = any(ERROR_PREFIX + band in wanted for band in bands)
    return found + ([] if has_errors else [f"no errors of all {number_word(len(bands))} bands: there will be none"])


def _array_note(raw: RawFile, wanted: Mapping[str, int], bands: Sequence[str]) -> list[str]:
    """Five elements of an array might be other things than bands, such as apertures: so it is said."""
    names = [raw.columns[wanted[band]] for band in bands]
    array = names[0].removesuffix(f"_{bands[0]}")
    if not all(name in raw.elements and name.startswith(f"{array}_") for name in names):
        return []
    return [f"the bands are the five elements of the array column {array}, in the order {', '.join(bands)}"]


def is_called(table: RawFile, name: str) -> bool:
    """Whether `--table NAME` means a table: `HDU 2 (STARS)` is called so, and HDU 2, 2, or stars; one without a name is
    meant by any.
    """
    label, wanted = table.table.strip().lower(), name.strip().lower()
    number, _, inner = label.partition(" (")
    short = {label, number, number.removeprefix("hdu "), inner.removesuffix(")"), label.partition(" ")[2]}
    return not label or wanted in short or label.endswith(f" in {wanted}")


def _no_choice(tables: Sequence[RawFile], num_found: int, reading: Reading) -> InputError:
    """The error of a file of several tables, none or more than one of which is meant; it lists them."""
    listed = [f"{table.table} with {', '.join(table.columns[:12])}" for table in tables]
    named = f" called {reading.table}" if reading.table else ""
    more = f", all of them with --table {ALL_TABLES}" if num_found > 1 else ""
    return InputError(
        f"{num_found} of the {len(tables)} tables of a file{named} have the bands",
        where=tables[0].path,
        got="; ".join(listed[:20])[:2000],
        expected="one table with the bands",
        fix=f"choose with --table NAME{more}, or with --map NAME=COLUMN a column that only one of them has",
    )


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
            batch = piece.raw.conversion.readable(batch)
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
