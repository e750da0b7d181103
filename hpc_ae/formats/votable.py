"""VOTable: XML around a BINARY2 stream, written as the rows come; and the XML alone, as VOParquet carries it.

Shape letters: N rows.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from hpc_ae.catalog.fields import Field
from hpc_ae.catalog.shard import Arrays
from hpc_ae.errors import WorkError, printable
from hpc_ae.formats.table import TableInfo, create_file, fill_records, record_dtype

_TYPES = {"i8": "long", "i4": "int", "i2": "short", "u2": "int", "u1": "unsignedByte", "f8": "double", "f4": "float"}
_WIDER = {"u2": "i4"}  # VOTable has no unsigned 16-bit integers
_START = b'<STREAM encoding="base64">\n'
_END = b"</STREAM></BINARY2></DATA>\n"
_TAIL = "</TABLE>\n</RESOURCE>\n</VOTABLE>\n"
_LINE_BYTES = 3 << 18  # of the stream on one line: three bytes are four letters


class VotableWriter:
    """Writes a table as the only one of a VOTable document, in BINARY2."""

    def __init__(self, path: Path, info: TableInfo) -> None:
        self._file = create_file(path)
        self._dtype = _dtype(info)
        self._rest = b""
        self._file.write(_head(info).encode() + b"<DATA><BINARY2>" + _START)

    def append(self, arrays: Arrays) -> None:
        """Write some rows: one (N,) or (N, width) array for each column."""
        data = self._rest + fill_records(self._dtype, arrays).tobytes()
        whole = len(data) // 3 * 3
        view = memoryview(data)
        for start in range(0, whole, _LINE_BYTES):
            self._file.write(binascii.b2a_base64(view[start : min(start + _LINE_BYTES, whole)]))
        self._rest = data[whole:]

    def close(self) -> None:
        """Write the last bytes of the stream and the closing tags."""
        with self._file:
            self._file.write(binascii.b2a_base64(self._rest) + _END + _TAIL.encode())

    def abandon(self) -> None:
        """Let go of the file."""
        self._file.close()


def _dtype(info: TableInfo) -> np.dtype:
    """The record of BINARY2: a bit for each column that is null, of which there are none, then the values."""
    record = record_dtype(info.fields, ">", _WIDER)
    num_masks = (len(info.fields) + 7) // 8
    return np.dtype([("", np.uint8, (num_masks,)), *((name, record[name]) for name in record.names or ())])


def votable_without_data(info: TableInfo) -> str:
    """The document of a table with no DATA: what a VOParquet file says of its columns."""
    return _head(info) + _TAIL


def _head(info: TableInfo) -> str:
    """The document up to and with the last FIELD."""
    notes = [f"<INFO name={quoteattr(key)} value={_attribute(text)}/>\n" for key, text in info.notes.items()]
    return "".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>\n',
            '<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">\n<RESOURCE type="results">\n',
            *notes,  # the schema wants them before COOSYS
            '<COOSYS ID="icrs" system="ICRS"/>\n',
            f'<TABLE name={_attribute(info.name)} nrows="{info.num_rows}">\n',
            f"<DESCRIPTION>{_text('; '.join(info.flags))}</DESCRIPTION>\n" if info.flags else "",
            *(_field(field) for field in info.fields),
        ]
    )


def _field(field: Field) -> str:
    attributes = {"name": field.name, "datatype": _TYPES[np.dtype(field.dtype).str[1:]]}
    if field.elements:
        attributes["arraysize"] = str(len(field.elements))
    attributes |= {key: text for key, text in (("unit", field.unit), ("ucd", field.ucd)) if text}
    if field.name in ("ra", "dec"):
        attributes["ref"] = "icrs"
    words = " ".join(f"{key}={_attribute(text)}" for key, text in attributes.items())
    return f"<FIELD {words}>\n<DESCRIPTION>{_text(field.description)}</DESCRIPTION>\n</FIELD>\n"


def _attribute(text: str) -> str:
    return quoteattr(printable(text))  # XML has no control characters, not even escaped


def _text(text: str) -> str:
    return escape(printable(text))


def read_votable_column(path: Path, info: TableInfo, name: str) -> Iterator[np.ndarray]:
    """One column of a file that VotableWriter wrote, line by line of its stream: (N,) or (N, width)."""
    dtype, rest = _dtype(info), b""
    with path.open("rb") as file:
        if not any(line.endswith(_START) for line in file):
            raise WorkError("the written VOTable has no stream", where=path)
        for line in file:
            if line == _END:
                break
            data = rest + binascii.a2b_base64(line)
            whole = len(data) // dtype.itemsize
            yield np.frombuffer(data, dtype, whole)[name]
            rest = data[whole * dtype.itemsize :]
    if rest:
        raise WorkError("the written VOTable ends within a row", where=path, got=f"{len(rest)} bytes too many")
