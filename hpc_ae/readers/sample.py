"""The beginning of a raw file for people to look at: its dialect, and of each column its type, missing values and
first values. Needs no knowledge of what the columns are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hpc_ae.catalog.quality import find_sentinels
from hpc_ae.readers.first_rows import read_first
from hpc_ae.readers.open_raw import compression_name, unpack
from hpc_ae.readers.packed import decompress_head
from hpc_ae.readers.raw_file import RawFile
from hpc_ae.readers.star_rows import clean_text, is_text
from hpc_ae.record import Record

_LOOK_BYTES = 1 << 16
_HEAD_BYTES = 1 << 23
_INTEGER = r"^-?[0-9]+$"


@dataclass(frozen=True)
class ColumnSample:
    """Of one column in the first rows: `type` (of text: integer, number or text by what it says), how many are empty
    (null, or a word for no value), NaN, and sentinels such as -9999, and the first values as text.
    """

    type: str
    num_rows: int
    num_empty: int
    num_nan: int
    num_sentinels: int
    values: tuple[str, ...]

    @property
    def num_missing(self) -> int:
        """All rows without a value."""
        return self.num_empty + self.num_nan + self.num_sentinels


class Dialect(Record):
    """What a text is written in: `comment_lines` are those around the header. Of formats that say all this themselves
    nothing is said.
    """

    delimiter: str | None = None
    comment_lines: int | None = None
    line_end: str | None = None
    byte_order_mark: bool | None = None
    encoding: str | None = None
    quoted: bool | None = None


def sample_columns(raw: RawFile, num_rows: int, num_values: int) -> list[ColumnSample]:
    """A sample of every column from the first `num_rows` rows; InputError where the file cannot be read."""
    columns = read_first(raw, range(len(raw.columns)), num_rows)
    return [_sample(column, num_values) for column in columns]


def _sample(column: pa.ChunkedArray, num_values: int) -> ColumnSample:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    values = tuple(_shown(value, column.type) for value in column[:num_values].to_pylist())
    kind, numbers, num_empty = _read(column)
    num_nan = int(np.isnan(numbers).sum())
    # Of the sentinels those that are negative: fiber 999 and a right ascension of 99.9 are values.
    num_sentinels = int((find_sentinels(numbers.astype(np.float32)) & (numbers < 0)).sum())
    return ColumnSample(kind, len(column), num_empty, num_nan, num_sentinels, values)


def _shown(value: Any, kind: pa.DataType) -> str:
    if value is None:
        return ""
    if pa.types.is_float32(kind):
        return str(np.float32(value))  # the shortest text that is the same number
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _read(column: pa.ChunkedArray) -> tuple[str, np.ndarray, int]:
    """The type in words, the numbers of a column of numbers (float64, no empty ones), and how many are empty."""
    none = np.empty(0)
    if not is_text(column.type):
        is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        numbers = column.drop_null().cast(pa.float64(), safe=False).to_numpy() if is_number else none
        return str(column.type), numbers, column.null_count
    text, reads = clean_text(column)
    given = text.drop_null()
    if not len(given):
        return "empty", none, text.null_count
    if not pc.all(reads).as_py():
        return "text", none, text.null_count
    whole = pc.all(pc.match_substring_regex(given, _INTEGER)).as_py()
    return "integer" if whole else "number", given.cast(pa.float64()).to_numpy(), text.null_count


def unpack_head(path: Path, data_path: Path) -> None:
    """As `unpack`, but of a long compressed text only the beginning, up to a whole line. InputError as of `unpack`."""
    compression = compression_name(path)
    data = decompress_head(path, compression, _HEAD_BYTES) if compression else b""
    if len(data) < _HEAD_BYTES or b"\0" in data or data.lstrip().startswith(b"<"):
        unpack(path, data_path)
    else:
        data_path.write_bytes(data[: data.rfind(b"\n") + 1])


def dialect_of(raw: RawFile) -> Dialect:
    """What the beginning of a text says of how it is written."""
    if raw.kind != "csv":
        return Dialect()
    with raw.data_path.open("rb") as file:
        head = file.read(raw.data_start)
        body = file.read(_LOOK_BYTES)
    above = [line for line in head.removeprefix(b"\xef\xbb\xbf").splitlines() if line.strip()]
    comments = [line for line in above if line.startswith((b"#", b"%", b"!"))]
    return Dialect(
        delimiter=raw.delimiter,
        comment_lines=len(comments) - (len(comments) == len(above)),  # the names may stand in one
        line_end="CRLF" if b"\r\n" in (body or head) else "LF",
        byte_order_mark=head.startswith(b"\xef\xbb\xbf"),
        encoding=_encoding(head + body),
        quoted=b'"' in head + body,
    )


def _encoding(data: bytes) -> str:
    if data.isascii():
        return "ASCII"
    for cut in range(4):  # the last character may be cut
        try:
            data[: len(data) - cut].decode()
        except UnicodeDecodeError:
            continue
        return "UTF-8"
    return "other than UTF-8"
