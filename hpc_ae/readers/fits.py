"""FITS tables in bounded memory: astropy reads the headers, numpy the rows of any range.

astropy's own FITS_rec converts whole columns and keeps them; cfitsio opens file names that name programs and hosts. So
the walk from header to header is ours, and each size that a header claims is compared with the file's before its use.
"""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from astropy.io.fits import Header
from astropy.io.fits.verify import VerifyError

from hpc_ae.readers.arrays import bit_array, number_array, text_array, type_of
from hpc_ae.readers.astropy_notes import find_masks, named_elements
from hpc_ae.readers.raw_file import (
    BATCH_BYTES,
    BATCH_ROWS,
    Batches,
    Piece,
    RawFile,
    element_names,
    unreadable,
)

_BLOCK = 2880
_MOST_HEADER_BLOCKS = 2000
_MOST_HDUS = 1000
_MOST_FIELDS = 999  # the standard's own limit
_MOST_ROW_BYTES = 1 << 26
# Letter of TFORM: type of an element. L, X, A have their own meaning; the rest is never read.
_TYPES = {"L": "S1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
_SIZES = {"C": 8, "M": 16, "P": 8, "Q": 16}
_POINTLESS = (b"", b"0", b"NaN", b"nan", b"NAN", b"Inf", b"-Inf", b"inf", b"-inf")  # the same wherever the point is
_FORM = re.compile(r"(\d*)([LXBIJKAEDCMPQ])(.*)")
_TEXT_FORM = re.compile(r"([AIFED])(\d{1,9})(?:\.(\d{1,9}))?")


@dataclass(frozen=True)
class FitsColumn:
    """One column, or one element of an array column, of a record: TFORM's letter, TSCAL, TZERO, TNULL."""

    field: str
    element: int | None
    letter: str
    scale: float = 1.0
    zero: float = 0.0
    null: int | str | None = None
    decimals: int = 0  # of a number in a text table
    mask: FitsColumn | None = None  # astropy's companion that says where there is no value

    def read(self, records: np.ndarray) -> pa.Array:
        """The values (n,) of this column in `records` (n,), null where its mask says so."""
        values = self._read(records)
        if self.mask is None:
            return values
        return pc.if_else(self.mask.read(records).fill_null(True), pa.scalar(None, values.type), values)

    def _read(self, records: np.ndarray) -> pa.Array:
        values = records[self.field]
        if self.letter == "X":
            return bit_array(values, self.element or 0)
        if self.element is not None:
            values = values[:, self.element]
        if self.letter in ("A", "text"):
            return self._read_text(values)
        if self.letter == "L":
            return pa.array(values == b"T", mask=~np.isin(values, (b"T", b"F")))
        missing = values == self.null if self.null is not None else None
        return number_array(_scaled(values, self.scale, self.zero), missing)

    def _read_text(self, values: np.ndarray) -> pa.Array:
        if self.letter == "A":
            return text_array(values)
        numbers = np.char.replace(np.char.strip(values), b"D", b"E")
        missing = numbers == str(self.null).encode() if self.null is not None else np.zeros(len(numbers), bool)
        if self.decimals:  # Fortran puts the point before the last digits, others do not: an error that shows the value
            pointless = (np.char.find(numbers, b".") < 0) & ~missing & ~np.isin(numbers, _POINTLESS)
            if pointless.any():
                marked = np.char.add(numbers, f" without a point, in a column of {self.decimals} decimals".encode())
                numbers = np.where(pointless, marked, numbers)
        return text_array(numbers, missing)


@dataclass(frozen=True)
class FitsTable:
    """Where the rows of a table lie, and how a row is made."""

    data_start: int
    dtype: np.dtype
    columns: tuple[FitsColumn | None, ...]  # None: nothing that can be read as numbers or text


def _scaled(values: np.ndarray, scale: float, zero: float) -> np.ndarray:
    """Stored values to physical ones; unsigned integers exactly, whatever else is scaled in double precision."""
    native = values.astype(values.dtype.newbyteorder("="))
    if scale == 1 and zero == 0:
        return native
    bits = 8 * native.itemsize
    if scale == 1 and native.dtype.kind == "i" and zero == 2.0 ** (bits - 1):
        unsigned = np.dtype(f"u{native.itemsize}")
        return np.asarray(native.view(unsigned) ^ unsigned.type(1 << (bits - 1)))
    if scale == 1 and native.dtype.kind in "iu" and bits < 64 and zero == int(zero) and abs(zero) < 2**62:
        return native.astype(np.int64) + int(zero)
    return native.astype(np.float64) * scale + zero


def open_fits(path: Path, data_path: Path) -> list[RawFile]:
    """The tables of a FITS file, binary and text; InputError where a header is damaged or claims more than there is."""
    tables = []
    with data_path.open("rb", buffering=0) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        size = file.seek(0, os.SEEK_END)
        position = 0
        for index in range(_MOST_HDUS + 1):
            if position >= size or not _is_header(path, file, position, index):
                break
            if index == _MOST_HDUS:
                raise unreadable(path, f"more than {_MOST_HDUS:,} HDUs")
            header, data_start = _read_header(path, file, position)
            try:
                num_bytes = _data_bytes(header)
                if num_bytes < 0 or data_start + num_bytes > size:
                    raise unreadable(path, _too_short(header, index, size - data_start))
                if _is_table(header):
                    tables.append(_open_table(path, data_path, header, data_start, f"HDU {index}"))
            except (ValueError, TypeError, KeyError, OverflowError, MemoryError, VerifyError) as error:
                raise unreadable(path, f"the header of HDU {index}: {error}") from error
            position = data_start + -(-num_bytes // _BLOCK) * _BLOCK
    if not tables:
        raise unreadable(
            path, "a FITS file without a table", "name a file with a table; images contain no rows of stars"
        )
    return tables


def _is_header(path: Path, file: BinaryIO, position: int, index: int) -> bool:
    """Whether a header begins here; after the last HDU zeros may follow, everything else is damage."""
    file.seek(position)
    begin = file.read(_BLOCK)
    if begin.startswith(b"XTENSION" if index else b"SIMPLE  ="):
        return True
    if begin.strip(b"\0 "):
        raise unreadable(path, f"byte {position:,} should begin HDU {index}, and does not: {begin[:40]!r}")
    return False


def _read_header(path: Path, file: BinaryIO, position: int) -> tuple[Header, int]:
    """The header at `position` and the offset of its data."""
    file.seek(position)
    blocks: list[bytes] = []
    while len(blocks) < _MOST_HEADER_BLOCKS and len(block := file.read(_BLOCK)) == _BLOCK:
        blocks.append(block)
        if any(block[at : at + 80].rstrip() == b"END" for at in range(0, _BLOCK, 80)):
            text = b"".join(blocks)
            try:
                return Header.fromstring(text), position + len(text)
            except Exception as error:  # whatever astropy makes of foreign bytes
                raise unreadable(path, f"the header at byte {position:,}: {error}") from error
    raise unreadable(path, f"the header at byte {position:,} has no END: the file is cut short or damaged")


def _is_table(header: Header) -> bool:
    """Whether an HDU is a table, and no image that was compressed into one."""
    is_table = str(header.get("XTENSION", "")).strip() in ("BINTABLE", "TABLE", "A3DTABLE")
    return is_table and header.get("ZIMAGE") is not True


def _number(header: Header, key: str, default: int | None = None) -> int:
    value = header[key] if default is None else header.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < (-64 if key == "BITPIX" else 0):
        raise ValueError(f"{key} is {value!r}")
    return value


def _data_bytes(header: Header) -> int:
    """Size of the data behind a header, without the filling up to a block."""
    num_axes = _number(header, "NAXIS")
    if not num_axes:
        return 0
    axes = [_number(header, f"NAXIS{axis + 1}") for axis in range(min(num_axes, _MOST_FIELDS))]
    if axes[0] == 0 and header.get("GROUPS") is True:
        axes = axes[1:]
    product = 1
    for length in axes:
        product *= length
    count = _number(header, "GCOUNT", 1) * (_number(header, "PCOUNT", 0) + product)
    return abs(_number(header, "BITPIX")) // 8 * count


def _too_short(header: Header, index: int, left: int) -> str:
    """What a header claims and the file has not."""
    shape = [header.get(f"NAXIS{axis}") for axis in (2, 1)]
    claim = f"{shape[0]} rows of {shape[1]} bytes" if "TFIELDS" in header else "more data"
    return f"HDU {index} declares {claim}, and {left:,} bytes are left: the file is cut short or its header wrong"


def _open_table(path: Path, data_path: Path, header: Header, data_start: int, hdu: str) -> RawFile:
    """The columns of one table; ValueError where its header contradicts itself."""
    is_text = str(header["XTENSION"]).strip() == "TABLE"
    row_bytes, num_rows = _number(header, "NAXIS1"), _number(header, "NAXIS2")
    num_fields = _number(header, "TFIELDS")
    if num_fields > _MOST_FIELDS or row_bytes > _MOST_ROW_BYTES or _number(header, "BITPIX") != 8:
        raise ValueError(f"{num_fields} columns in rows of {row_bytes} bytes")
    if header.get("ZTABLE") is True:
        raise unreadable(path, f"{hdu} is a tile-compressed table", "unpack it with funpack")
    layout = _Layout(header, row_bytes)
    for number in range(1, num_fields + 1):
        (layout.add_text if is_text else layout.add_binary)(number)
    layout.tie_masks()
    dtype = layout.dtype(is_text)
    named = f"{hdu} ({str(header['EXTNAME']).strip()})" if header.get("EXTNAME") else hdu
    return RawFile(
        path,
        data_path,
        "fits",
        tuple(layout.names),
        units=tuple(layout.units),
        dtypes=tuple(layout.types),
        num_rows=num_rows if num_fields else 0,
        table=named,
        dialect=f"FITS {'text' if is_text else 'binary'} table, {named}",
        layout=FitsTable(data_start, dtype, tuple(layout.columns)),
        elements=frozenset(layout.elements),
    )


class _Layout:
    """The fields of a record, gathered from TFORM and its companions."""

    def __init__(self, header: Header, row_bytes: int) -> None:
        self.header, self.row_bytes = header, row_bytes
        self.fields: list[tuple[str, Any, int]] = []  # name, type, offset
        self.offset = 0
        self.names: list[str] = []
        self.units: list[str] = []
        self.types: list[str] = []
        self.columns: list[FitsColumn | None] = []
        self.elements: list[str] = []  # names that are not TTYPE's

    def dtype(self, is_text: bool) -> np.dtype:
        """The record; ValueError where it is not as long as the header says."""
        if not is_text and self.offset != self.row_bytes:
            raise ValueError(f"rows of {self.row_bytes} bytes, and columns of {self.offset}")
        names, formats, offsets = zip(*self.fields, strict=True) if self.fields else ((), (), ())
        record: Any = {"names": names, "formats": formats, "offsets": offsets, "itemsize": self.row_bytes}
        return np.dtype(record) if self.fields else np.dtype(f"V{self.row_bytes}")

    def add_binary(self, number: int) -> None:
        """Column `number` of a binary table."""
        form = str(self.header[f"TFORM{number}"]).strip()
        found = _FORM.fullmatch(form)
        if found is None:
            raise ValueError(f"TFORM{number} is {form!r}")
        repeat, letter = int(found[1] or 1), found[2]
        kind: Any = _TYPES.get(letter)
        size = repeat if letter == "A" else -(-repeat // 8) if letter == "X" else repeat * _SIZES.get(letter, 0)
        size = repeat * np.dtype(kind).itemsize if kind else size
        if self.offset + size > self.row_bytes:
            raise ValueError(f"TFORM{number} is {form!r} in rows of {self.row_bytes} bytes")
        field = f"f{number}"
        if letter == "A":
            is_array = "," in self._text(f"TDIM{number}") or (found[3].isdecimal() and int(found[3][:9]) != repeat)
            elements = element_names(self._name(number), 1) if size and not is_array else []
            kind = f"S{size}"
        else:
            elements = named_elements(self._name(number), repeat, ()) if repeat and letter not in _SIZES else []
            if letter == "X" and len(elements) > 1:  # five bits are no bands
                elements = [f"{self._name(number)}_{bit + 1}" for bit in range(repeat)]
            kind = ("u1", (size,)) if letter == "X" else kind if repeat == 1 else (kind, (repeat,))
        if elements:
            self.fields.append((field, kind, self.offset))
        self.offset += size
        scale, zero, null = self._scaling(number, letter)
        many = letter == "X" or len(elements) > 1
        made = [FitsColumn(field, index if many else None, letter, scale, zero, null) for index in range(len(elements))]
        self._add(number, elements, made, f"{form} of FITS")

    def _scaling(self, number: int, letter: str) -> tuple[float, float, int | None]:
        """TSCAL, TZERO and TNULL; ValueError where they are no numbers, or TSCAL leaves nothing of the values."""
        if letter not in "BIJKED":
            return 1.0, 0.0, None
        scale, zero = (float(self.header.get(f"{key}{number}", usual)) for key, usual in (("TSCAL", 1), ("TZERO", 0)))
        null = self.header.get(f"TNULL{number}")
        if not (np.isfinite([scale, zero]).all() and scale):
            raise ValueError(f"TSCAL{number} is {scale}, TZERO{number} is {zero}")
        return scale, zero, int(null) if null is not None and letter in "BIJK" else None

    def add_text(self, number: int) -> None:
        """Column `number` of a text (ASCII) table."""
        form = str(self.header[f"TFORM{number}"]).strip()
        found = _TEXT_FORM.fullmatch(form)
        start = _number(self.header, f"TBCOL{number}") - 1
        if found is None or start < 0 or start + int(found[2]) > self.row_bytes or not int(found[2]):
            raise ValueError(f"TFORM{number} is {form!r}, TBCOL{number} is {start + 1}")
        self.fields.append((f"f{number}", f"S{found[2]}", start))
        null = self._text(f"TNULL{number}")
        if self.header.get(f"TSCAL{number}", 1) != 1 or self.header.get(f"TZERO{number}", 0) != 0:
            self._add(number, [], [], f"scaled {form} of FITS")
            return
        letter = "A" if found[1] == "A" else "text"
        column = FitsColumn(f"f{number}", None, letter, null=null or None, decimals=int(found[3] or 0))
        self._add(number, [self._name(number)], [column], "")

    def tie_masks(self) -> None:
        """Take astropy's mask columns away and tie each to its column, which is not read where it is no truth value."""
        masks, unfit, every = find_masks(self.names, self.types)
        for place, at in masks.items():
            column = self.columns[place]
            self.columns[place] = None if column is None else replace(column, mask=self.columns[at])
        for place, at in unfit.items():
            self.columns[place] = None
            self.types[place] = f"masked by {self.names[at]}, which is {self.types[at]}"
        kept = [index for index in range(len(self.names)) if index not in every]
        self.names, self.types, self.units = (
            [values[index] for index in kept] for values in (self.names, self.types, self.units)
        )
        self.columns = [self.columns[index] for index in kept]

    def _add(self, number: int, elements: list[str], made: list[FitsColumn], type_name: str) -> None:
        """Note the elements of a column, or that it cannot be read."""
        record = np.dtype([(name, kind) for name, kind, _ in self.fields[-1:]])
        types = [type_of(column.read(np.zeros(1, record))) for column in made] if elements else [type_name]
        self.names += elements or [self._name(number)]
        self.elements += elements if len(elements) > 1 else []
        self.columns += made or [None]
        self.types += types
        self.units += [self._text(f"TUNIT{number}")] * len(types)

    def _name(self, number: int) -> str:
        return self._text(f"TTYPE{number}") or f"col{number}"

    def _text(self, key: str) -> str:
        return str(self.header.get(key, "")).strip()


def read_fits(piece: Piece) -> Batches:
    """Yield (first row in the file, columns by our names) for the rows of a piece, some MiB at a time."""
    table: FitsTable = piece.raw.layout
    row_bytes = table.dtype.itemsize
    step = max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, row_bytes)))
    with piece.raw.data_path.open("rb", buffering=0) as file:
        for row in range(piece.start, piece.stop, step):
            num_rows = min(step, piece.stop - row)
            data = _read_at(file, table.data_start + row * row_bytes, num_rows * row_bytes)
            if len(data) != num_rows * row_bytes:
                raise unreadable(piece.raw.path, f"the file ends after row {row + len(data) // row_bytes:,}")
            records = np.frombuffer(data, table.dtype)
            yield row, {name: _column(table.columns[index], records) for name, index in piece.raw.wanted.items()}


def _column(column: FitsColumn | None, records: np.ndarray) -> pa.ChunkedArray:
    """The values (n,); words instead where they are not read, which `check_types` refuses and `inspect` shows."""
    return pa.chunked_array([pa.repeat("not read", len(records)) if column is None else column.read(records)])


def _read_at(file: BinaryIO, start: int, num_bytes: int) -> bytes:
    file.seek(start)
    parts = []
    while num_bytes and (part := file.read(num_bytes)):
        parts.append(part)
        num_bytes -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
