"""FITS binary tables: headers by astropy, rows appended as big-endian records, the data sum kept as they go by.

Shape letters: N rows.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from astropy.io import fits

from hpc_ae.catalog.fields import Field
from hpc_ae.catalog.shard import Arrays
from hpc_ae.errors import WorkError
from hpc_ae.formats.table import TableInfo, create_file, fill_records, record_dtype

_BLOCK = 2880  # a FITS file is made of blocks of this many bytes
_TYPES = {"i8": "K", "i4": "J", "i2": "I", "u2": "I", "u1": "B", "f8": "D", "f4": "E"}
_OFFSET = 32_768  # FITS has no unsigned columns: a value is stored less this, and TZERO says so
_READ_ROWS = 262_144
_WORDS_BYTES = 4
_CARD_TEXT = 72  # letters of a comment on one card


class FitsWriter:
    """Writes a table as the first extension of a FITS file."""

    def __init__(self, path: Path, info: TableInfo) -> None:
        self.info = info
        self._file = create_file(path)
        self._dtype = record_dtype(info.fields, ">", {"u2": "i2"})
        self._unsigned = [field.name for field in info.fields if field.dtype.endswith("u2")]
        self._sum = _DataSum()
        self._num_bytes = 0
        self._file.write(fits.PrimaryHDU().header.tostring().encode("ascii"))
        self._header_at = self._file.tell()
        self._file.write(_header(info, self._dtype.itemsize, 0))

    def append(self, arrays: Arrays) -> None:
        """Write some rows: one (N,) or (N, width) array for each column."""
        shifted = {name: arrays[name].astype(np.int32) - _OFFSET for name in self._unsigned}
        data = fill_records(self._dtype, {**arrays, **shifted}).view(np.uint8)
        self._sum.add(data)
        self._num_bytes += len(data)
        self._file.write(data.data)

    def close(self) -> None:
        """Fill the last block and write the header again, now with the data sum."""
        with self._file:
            self._file.write(bytes(-self._num_bytes % _BLOCK))
            self._file.seek(self._header_at)
            self._file.write(_header(self.info, self._dtype.itemsize, self._sum.value))

    def abandon(self) -> None:
        """Let go of the file."""
        self._file.close()


class _DataSum:
    """The sum of 32-bit big-endian words with end-around carry that FITS calls DATASUM, of bytes as they come."""

    def __init__(self) -> None:
        self._total = 0
        self._rest = b""

    def add(self, data: np.ndarray) -> None:
        """Add bytes (n,)."""
        missing = -len(self._rest) % _WORDS_BYTES if self._rest else 0
        head, data = data[:missing], data[missing:]
        whole = len(data) // _WORDS_BYTES * _WORDS_BYTES
        self._rest += head.tobytes()
        if len(self._rest) == _WORDS_BYTES:
            self._total += int.from_bytes(self._rest, "big")
            self._rest = b""
        self._total += int(data[:whole].view(">u4").sum(dtype=np.uint64))
        self._rest += data[whole:].tobytes()

    @property
    def value(self) -> int:
        """The sum of all so far, filled up with zeros."""
        total = self._total + int.from_bytes(self._rest.ljust(_WORDS_BYTES, b"\0"), "big")
        while total >> 32:
            total = (total & 0xFFFFFFFF) + (total >> 32)
        return total


def _header(info: TableInfo, row_bytes: int, data_sum: int) -> bytes:
    """The extension's header, of the same length whatever the sum."""
    header = fits.Header()
    for key, value, comment in (
        ("XTENSION", "BINTABLE", "binary table"),
        ("BITPIX", 8, "bytes"),
        ("NAXIS", 2, ""),
        ("NAXIS1", row_bytes, "bytes of a row"),
        ("NAXIS2", info.num_rows, "rows"),
        ("PCOUNT", 0, ""),
        ("GCOUNT", 1, ""),
        ("TFIELDS", len(info.fields), "columns"),
        ("LONGSTRN", "OGIP 1.0", "long texts go on in CONTINUE"),
        ("EXTNAME", info.name, ""),
        ("RADESYS", "ICRS", "of ra and dec"),
        ("DATASUM", str(data_sum), "sum of the data's 32-bit words"),
    ):
        header[key] = (value, comment)
    for number, field in enumerate(info.fields, 1):
        _add_column(header, number, field)
    if digest := info.notes.get("catalog_digest"):
        header["CATDIGST"] = (digest, "of the catalog")
    for line in info.flags:
        for part in textwrap.wrap(_ascii(line), _CARD_TEXT, subsequent_indent="  "):
            header.add_comment(part)
    for key, text in info.notes.items():
        header.add_history(_ascii(f"{key}: {text}"))
    return str(header.tostring()).encode("ascii")


def _add_column(header: fits.Header, number: int, field: Field) -> None:
    kind = np.dtype(field.dtype).str[1:]
    header[f"TTYPE{number}"] = _ascii(field.name)
    header[f"TFORM{number}"] = f"{len(field.elements) or ''}{_TYPES[kind]}"
    if kind == "u2":
        header[f"TSCAL{number}"], header[f"TZERO{number}"] = 1, _OFFSET
    for key, text in (("TUNIT", field.unit), ("TUCD", field.ucd), ("TCOMM", field.description)):
        if text:
            header[f"{key}{number}"] = _ascii(text)


def _ascii(text: str) -> str:
    """What a FITS header can hold of a text."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)


def read_fits_column(path: Path, info: TableInfo, name: str) -> Iterator[np.ndarray]:
    """One column of a file that FitsWriter wrote, block by block, (N,) or (N, width); unsigned ones as stored."""
    with fits.open(path) as hdus:
        place = hdus[1].fileinfo()["datLoc"]
        header = hdus[1].header
        num_rows, row_bytes = header["NAXIS2"], header["NAXIS1"]
    dtype = record_dtype(info.fields, ">", {"u2": "i2"})
    if dtype.itemsize != row_bytes or num_rows * row_bytes > path.stat().st_size - place:
        raise WorkError("the written FITS file does not have the number of rows in its header", where=path)
    with path.open("rb") as file:
        file.seek(place)
        for start in range(0, num_rows, _READ_ROWS):
            yield np.fromfile(file, dtype, min(_READ_ROWS, num_rows - start))[name]
