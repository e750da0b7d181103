"""One table of a VOTable: its fields, and the rows of its three serializations as batches of a Parquet file.

Cells of TABLEDATA stay text, which the columns of a catalog are read from as they are from CSV.
"""

from __future__ import annotations

import binascii
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hpc_ae.readers.arrays import bit_array, number_array, text_array
from hpc_ae.readers.astropy_notes import said_elements
from hpc_ae.readers.raw_file import BATCH_ROWS, element_names

_CELLS = 1 << 20  # of a batch
_BINARY_BYTES = 1 << 22
_MOST_ROW_BYTES = 1 << 24
_NUMPY = {"unsignedByte": "u1", "short": ">i2", "int": ">i4", "long": ">i8", "float": ">f4", "double": ">f8"}
_SIZES = {"boolean": 1, "char": 1, "unicodeChar": 2, "floatComplex": 8, "doubleComplex": 16} | {
    name: np.dtype(kind).itemsize for name, kind in _NUMPY.items()
}
_BINARY = {*_SIZES, "bit"}
_TRUE, _FALSE = ("T", "t", "1", "true", "True", "TRUE"), ("F", "f", "0", "false", "False", "FALSE")


class BadTable(Exception):
    """A table that contradicts itself: what of it, and how."""


@dataclass
class VoField:
    """A FIELD: its elements' names (none where they cannot be read), their number (-1: it varies from row to row)."""

    name: str
    datatype: str
    arraysize: str
    unit: str
    names: list[str]
    size: int
    null: str | None = None
    is_described: bool = False  # whether the field's description names the elements

    @staticmethod
    def of(attributes: dict[str, str], default_name: str) -> VoField:
        """The field of a FIELD element; BadTable where its size or type is none."""
        name = attributes.get("name") or attributes.get("ID") or default_name
        datatype, arraysize = attributes.get("datatype", ""), attributes.get("arraysize", "").strip()
        if datatype not in _BINARY:  # of no standard, but as text it can be read
            return VoField(name, datatype, arraysize, attributes.get("unit", ""), [name], -1)
        size = 1
        for part in arraysize.split("x") if arraysize and not arraysize.endswith("*") else []:
            if not part.isdecimal() or len(part) > 8:
                raise BadTable(f"field {name} has the arraysize {arraysize!r}")
            size *= int(part)
        if arraysize.endswith("*"):
            size = -1
        if datatype in ("char", "unicodeChar"):
            names = [name] if "x" not in arraysize else []
        else:
            readable = datatype in _NUMPY or datatype in ("boolean", "bit")
            names = element_names(name, size) if readable and size > 0 and "x" not in arraysize else []
        return VoField(name, datatype, arraysize, attributes.get("unit", ""), names, size)

    def describe(self, text: str) -> None:
        """Take the names of the elements from the field's description, where that says them."""
        said = said_elements(text.strip())
        if len(self.names) > 1 and len(said) == len(self.names):
            self.names = [f"{self.name}_{element}" for element in said]
            self.is_described = True

    @property
    def is_text(self) -> bool:
        """Whether the field holds characters."""
        return self.datatype not in (*_NUMPY, "boolean", "bit", "floatComplex", "doubleComplex")

    @property
    def item_bytes(self) -> int:
        """Bytes of an element of a varying array; of a bit field's bytes one."""
        return _SIZES.get(self.datatype, 1)

    @property
    def num_bytes(self) -> int:
        """Bytes of a value of fixed length in a binary row."""
        return -(-self.size // 8) if self.datatype == "bit" else self.size * self.item_bytes

    def arrow_fields(self, as_text: bool) -> list[pa.Field]:
        """The columns of this field in Parquet, with unit and type as their notes."""
        if self.is_text or not self.names:
            kind = pa.string() if self.names else pa.null()
        elif self.datatype in ("boolean", "bit"):
            kind = pa.bool_()
        else:
            kind = pa.from_numpy_dtype(np.dtype(_NUMPY[self.datatype]).newbyteorder("="))
        noted = str(kind) if self.names else f"{self.datatype}[{self.arraysize}] of VOTable"
        stored = pa.string() if as_text and kind not in (pa.null(), pa.bool_()) else kind
        notes = {"unit": self.unit, "dtype": noted}
        notes |= {"element": ""} if len(self.names) > 1 and not self.is_described else {}
        return [pa.field(name, stored, metadata=notes) for name in self.names or [self.name]]

    def text_columns(self, cells: list[str]) -> list[pa.Array]:
        """The columns of cells of TABLEDATA; BadTable where an array has another number of elements."""
        if not self.names:
            return [pa.nulls(len(cells))]
        if len(self.names) == 1:
            return [self._cells(cells)]
        split = _split_bits if self.datatype == "bit" else str.split
        rows = [split(cell) or [""] * len(self.names) for cell in cells]
        if any(len(row) != len(self.names) for row in rows):
            raise BadTable(f"field {self.name} does not have {len(self.names)} elements in every row")
        return [self._cells(list(column)) for column in zip(*rows, strict=True)]

    def _cells(self, cells: list[str]) -> pa.Array:
        if self.datatype in ("boolean", "bit"):
            return pa.array(
                [True if cell.strip() in _TRUE else False if cell.strip() in _FALSE else None for cell in cells],
                pa.bool_(),
            )
        if self.null is not None and not self.is_text:
            null = self.null, _number(self.null)
            marked = [cell.strip() == null[0] or (null[1] is not None and _number(cell) == null[1]) for cell in cells]
            return pa.array(cells, pa.string(), mask=np.array(marked, bool))
        if not self.is_text and "-" in cells:  # IRSA's word for no value
            return pa.array([None if cell == "-" else cell for cell in cells], pa.string())
        return pa.array(cells, pa.string())

    def binary_columns(self, values: np.ndarray, missing: np.ndarray | None) -> list[pa.Array]:
        """The columns of values (n,) or (n, size) of a binary table, bytes (n, bytes) of a bit field."""
        if self.datatype == "bit" and self.size == 1:  # the standard wants 0x80, astropy writes 0x08
            return [pa.array(values.reshape(-1) != 0, mask=missing)]
        if self.datatype == "bit":
            arrays = [bit_array(values.reshape(len(values), -1), bit) for bit in range(self.size)]
            return arrays if missing is None else [pa.array(one.to_numpy(False), mask=missing) for one in arrays]
        columns = [values] if values.ndim == 1 else [values[:, index] for index in range(self.size)]
        return [self._binary(column, missing) for column in columns]

    def _binary(self, values: np.ndarray, missing: np.ndarray | None) -> pa.Array:
        if self.datatype == "boolean":
            unknown = ~np.isin(values, (b"T", b"t", b"1", b"F", b"f", b"0"))
            return pa.array(np.isin(values, (b"T", b"t", b"1")), mask=unknown if missing is None else unknown | missing)
        if self.null is not None:
            null = _number(self.null)
            if null is None or (values.dtype.kind != "f" and isinstance(null, float)):
                raise BadTable(f"field {self.name} has a null value that is not one of its numbers: {self.null!r}")
            marked = values == (values.dtype.type(null) if isinstance(null, float) else null)
            missing = marked if missing is None else marked | missing
        return number_array(values, missing)


class VoTable:
    """A table on its way to Parquet."""

    def __init__(self, label: str, num_claimed: int | None) -> None:
        self.label, self.num_claimed = label, num_claimed
        self.fields: list[VoField] = []
        self.num_rows = 0
        self.writer: pq.ParquetWriter | None = None
        self.cells: list[list[str]] = []
        self.row: list[str] = []  # cells of the row that is being read
        self.is_binary = False
        self.base64 = ""
        self.is_ended = False  # by the padding of base64
        self.data = bytearray()

    def open(self, path: Path, serialization: str) -> None:
        """Begin the Parquet file (mode 0600); BadTable where a row would be empty or too long."""
        self.serialization = serialization
        self.is_binary = serialization != "TABLEDATA"
        self.mask_bytes = -(-len(self.fields) // 8) if serialization == "BINARY2" else 0
        if self.is_binary and (odd := [field.datatype for field in self.fields if field.datatype not in _BINARY]):
            raise BadTable(f"binary fields have the datatype {odd[0]!r}")
        if sum(max(1, field.num_bytes) for field in self.fields) > _MOST_ROW_BYTES or not self.fields:
            raise BadTable("rows are empty, or too long")
        if self.is_binary and not self._record().itemsize and all(field.size >= 0 for field in self.fields):
            raise BadTable("rows are empty")
        notes = {"table": self.label, "dialect": f"VOTable, {self.label}, {serialization}"}
        arrows = [arrow for field in self.fields for arrow in field.arrow_fields(not self.is_binary)]
        self.schema = pa.schema(arrows, metadata=notes)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        self.sink = os.fdopen(descriptor, "wb")
        self.writer = pq.ParquetWriter(self.sink, self.schema, compression="lz4")

    def close(self) -> None:
        """Close the file, whole or not."""
        if self.writer is not None:
            self.writer.close()
            self.sink.close()

    def finish(self) -> None:
        """Write what is left; BadTable where rows are missing."""
        self._flush_cells()
        if self.base64.strip():
            raise BadTable("stream of base64 ends within a group")
        if self.data:
            self._take_rows(whole=True)
        if self.data:
            raise BadTable(f"stream ends within a row, after row {self.num_rows:,}")
        if self.num_claimed is not None and self.num_claimed != self.num_rows:
            raise BadTable(f"{self.label} has {self.num_rows:,} rows, and claims {self.num_claimed:,}")

    def add_row(self) -> None:
        """The end of a row of TABLEDATA."""
        if len(self.row) != len(self.fields):
            raise BadTable(
                f"row {self.num_rows + len(self.cells) + 1:,} has {len(self.row)} cells, not {len(self.fields)}"
            )
        self.cells.append(self.row)
        self.row = []
        if len(self.cells) * len(self.fields) >= _CELLS or len(self.cells) >= BATCH_ROWS:
            self._flush_cells()

    def _flush_cells(self) -> None:
        if self.cells:
            columns = zip(*self.cells, strict=True)
            pairs = zip(self.fields, columns, strict=True)
            self._write([array for field, cells in pairs for array in field.text_columns(list(cells))])
            self.cells = []

    def _write(self, arrays: list[pa.Array]) -> None:
        assert self.writer is not None
        batch = pa.record_batch(arrays, schema=self.schema)
        self.num_rows += batch.num_rows
        self.writer.write_batch(batch)

    def add_base64(self, text: str) -> None:
        """A stretch of a binary stream."""
        text = "".join(text.split())
        if text and self.is_ended:
            raise BadTable("stream of base64 goes on after its end")
        whole = self.base64 + text
        usable = len(whole) - len(whole) % 4
        self.base64 = whole[usable:]
        self.is_ended = self.is_ended or whole[:usable].endswith("=")
        if self.is_ended and self.base64:
            raise BadTable("stream of base64 goes on after its end")
        self.data += binascii.a2b_base64(whole[:usable], strict_mode=True)
        if len(self.data) >= _BINARY_BYTES:
            self._take_rows(whole=False)

    def _take_rows(self, whole: bool) -> None:
        """Write the complete rows of the data so far; with `whole` no more will come."""
        if all(field.size >= 0 for field in self.fields):
            self._take_fixed()
        else:
            self._take_varying(whole)

    def _record(self) -> np.dtype:
        """A row without its varying fields."""
        parts: list[tuple[str, str] | tuple[str, str, tuple[int, ...]]] = [("mask", "u1", (self.mask_bytes,))]
        for index, field in enumerate(self.fields):
            if field.size < 0:
                continue
            kind = "S1" if field.datatype == "boolean" else _NUMPY.get(field.datatype, "u1")
            is_plain = field.datatype == "boolean" or field.datatype in _NUMPY
            shape = () if is_plain and field.size == 1 else (field.size if is_plain else field.num_bytes,)
            parts.append((f"f{index}", kind, shape))
        return np.dtype(parts)

    def _take_fixed(self) -> None:
        record = self._record()
        num_rows = len(self.data) // record.itemsize
        rows = np.frombuffer(bytes(self.data[: num_rows * record.itemsize]), record)
        del self.data[: num_rows * record.itemsize]
        for first in range(0, num_rows, BATCH_ROWS):
            self._write_records(rows[first : first + BATCH_ROWS], {})

    def _take_varying(self, whole: bool) -> None:
        """Walk row by row, as a row's length stands in the row; the fixed parts of all rows are put together."""
        data, steps = bytes(self.data), self._steps()
        fixed = bytearray()
        texts: dict[int, list[bytes]] = {index: [] for index, field in enumerate(self.fields) if field.size < 0}
        start = num_rows = 0
        while start < len(data):
            at, parts, found = start, [], []
            for index, num_bytes in steps:
                if index >= 0:
                    count = int.from_bytes(data[at : at + 4])
                    field = self.fields[index]
                    num_bytes = -(-count // 8) if field.datatype == "bit" else count * field.item_bytes
                    at += 4
                    found.append((index, data[at : at + num_bytes]))
                else:
                    parts.append(data[at : at + num_bytes])
                at += num_bytes
            if at > len(data):
                if at - start > _MOST_ROW_BYTES or whole:
                    raise BadTable(f"row {self.num_rows + num_rows + 1:,} claims {at - start:,} bytes")
                break
            fixed += b"".join(parts)
            for index, value in found:
                texts[index].append(value)
            start, num_rows = at, num_rows + 1
            if num_rows == BATCH_ROWS:
                self._write_records(_records(fixed, self._record(), num_rows), texts)
                fixed, texts, num_rows = bytearray(), {index: [] for index in texts}, 0
        del self.data[:start]
        if num_rows:
            self._write_records(_records(fixed, self._record(), num_rows), texts)

    def _steps(self) -> list[tuple[int, int]]:
        """A row as stretches: (-1, bytes) of fixed fields, (index, 0) of a varying one."""
        steps = [(-1, self.mask_bytes)]
        for index, field in enumerate(self.fields):
            if field.size < 0:
                steps.append((index, 0))
            elif steps[-1][0] < 0:
                steps[-1] = (-1, steps[-1][1] + field.num_bytes)
            else:
                steps.append((-1, field.num_bytes))
        return steps

    def _write_records(self, rows: np.ndarray, varying: dict[int, list[bytes]]) -> None:
        arrays: list[pa.Array] = []
        for index, field in enumerate(self.fields):
            missing = None
            if self.mask_bytes:
                missing = (rows["mask"][:, index // 8] >> (7 - index % 8)) & 1 == 1
            if not field.names:
                arrays.append(pa.nulls(len(rows)))
            elif not field.is_text:
                arrays += field.binary_columns(rows[f"f{index}"], missing)
            elif field.size < 0:
                encoding = "utf-8" if field.datatype == "char" else "utf-16-be"
                texts = [value.decode(encoding, "replace").split("\0", 1)[0] for value in varying[index]]
                arrays.append(pa.array(texts, pa.string(), mask=missing))
            else:
                arrays.append(_fixed_text(rows[f"f{index}"], field, missing))
        self._write(arrays)


def _number(text: str) -> int | float | None:
    """The number that a text says, integers exactly; None where it says none."""
    for read in (int, lambda text: int(text, 0), float):
        try:
            return read(text.strip())
        except ValueError:
            continue
    return None


def _split_bits(cell: str) -> list[str]:
    return list("".join(cell.split()))


def _records(data: bytearray, record: np.dtype, num_rows: int) -> np.ndarray:
    """Rows of `record`, which may have no bytes at all."""
    return np.frombuffer(bytes(data), record) if record.itemsize else np.empty(num_rows, record)


def _fixed_text(values: np.ndarray, field: VoField, missing: np.ndarray | None) -> pa.Array:
    """Characters of fixed length, bytes (n, bytes)."""
    if field.datatype == "char":
        return text_array(np.ascontiguousarray(values).view(f"S{field.num_bytes}")[:, 0], missing)
    texts = [row.tobytes().decode("utf-16-be", "replace").split("\0", 1)[0].rstrip() for row in values]
    return pa.array(texts, pa.string(), mask=missing)
