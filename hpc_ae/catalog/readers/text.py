"""Delimited text in bounded memory: find the header, count rows by segment, read any range of rows.

A row ends at a newline, unless the line is blank. Rows are counted by newlines and read by pyarrow; both must agree.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from hpc_ae.catalog.readers.columns import NULL_WORDS
from hpc_ae.catalog.readers.names import RAW_PREFIX
from hpc_ae.catalog.readers.rawfile import Mark, Piece, RawFile, Scan, bad_value, unreadable, wrong_count
from hpc_ae.catalog.schema import DEFAULT_BANDS
from hpc_ae.errors import InputError

SEGMENT_BYTES = 1 << 20  # a mark each: what a shard must search to find its first row
TASK_BYTES = 1 << 28
CHUNK_BYTES = 1 << 22
_HEAD_BYTES = 1 << 20
_TAIL_BYTES = 1 << 16
_LOOK_BACK = 2
_NEWLINE, _RETURN = 10, 13
_TYPES = {"objid": pa.int64(), "ra": pa.float64(), "dec": pa.float64()}
_ERROR = re.compile(r"In CSV column #(\d+): (?:Row #(\d+): )?(?:.*invalid value '(.*)')?", re.DOTALL)
_DELIMITERS = (",", "\t", ";", "|")


def open_text(path: Path, data_path: Path) -> RawFile:
    """Find delimiter, header and the beginning of the data; InputError where there is no header line."""
    with data_path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        data_stop = file.seek(0, os.SEEK_END)
    start = 3 if head.startswith(b"\xef\xbb\xbf") else 0
    if not head[start:].strip():
        raise unreadable(path, "an empty file", "name a file with a header line and stars")
    if b"\0" in head:
        raise unreadable(path, "binary content or UTF-16 text", "save it as UTF-8 text, or convert it to Parquet")
    if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
        raise unreadable(path, head[:200].decode(errors="replace"), "this is a web page or XML, fetch the data again")
    line, data_start = _header(head, start)
    text = line.decode(errors="replace").strip().lstrip("#").strip(" ")
    if "\r" in text or (data_start == len(head) < data_stop):
        raise unreadable(path, "no line feed after the header", "convert the line ends to LF or CRLF")
    delimiter = next((mark for mark in _DELIMITERS if mark in text), "")
    if not delimiter and len(text.split()) >= len(DEFAULT_BANDS):
        raise InputError(
            "the columns of a raw file are not separated",
            where=path,
            got=f"a header that looks whitespace-separated: {text[:120]!r}",
            expected="commas, tabs, ; or | between the columns",
            fix="replace the blanks between columns by commas, in the header and in every row",
        )
    delimiter = delimiter or ","
    columns = tuple(name.strip() for name in next(csv.reader([text], delimiter=delimiter)))
    data_stop = _before_comments(data_path, data_start, data_stop, text.count(delimiter), delimiter)
    return RawFile(path, data_path, "csv", columns, {}, delimiter, data_start, data_stop)


def _before_comments(path: Path, start: int, stop: int, num_marks: int, delimiter: str) -> int:
    """Where the data ends before trailing lines such as `#end`; one with as many fields as the header is a row."""
    first = max(start, stop - _TAIL_BYTES)
    with path.open("rb", buffering=0) as file:
        tail = _read_at(file.fileno(), first, stop)
    end = len(tail)
    while line := tail[:end].rstrip(b"\r\n"):
        begin = line.rfind(b"\n") + 1
        is_whole = begin > 0 or first == start
        if not is_whole or line[begin : begin + 1] != b"#" or line[begin:].count(delimiter.encode()) == num_marks:
            break
        end = begin
    return first + end


def _header(head: bytes, start: int) -> tuple[bytes, int]:
    """The header line and the offset after it: the first line that is blank or comment no more (`#Table1`).

    Where numbers follow the comments at once, the last comment is the header.
    """
    comment, comment_stop = b"", start
    while start < len(head):
        stop = head.find(b"\n", start) + 1 or len(head)
        line = head[start:stop]
        if line.startswith(b"#"):
            comment, comment_stop = line, stop
        elif line.strip():
            return (comment, comment_stop) if comment and _has_number(line) else (line, stop)
        start = stop
    return comment, comment_stop


def _has_number(line: bytes) -> bool:
    return any(re.fullmatch(rb"\s*[+-]?[0-9][0-9.eE+-]*\s*", part) for part in re.split(rb"[,\t;|]", line))


def row_ends(data: np.ndarray, look_back: int) -> np.ndarray:
    """Positions of the newlines in uint8 `data`, from `look_back` on, that end a row; blank lines are none."""
    ends = look_back + np.flatnonzero(data[look_back:] == _NEWLINE)
    before, second = data[ends - 1], data[ends - 2]
    blank = (before == _NEWLINE) | ((before == _RETURN) & (second == _NEWLINE))
    return ends[~blank] if blank.any() else ends


def cut_text(raw: RawFile) -> RawFile:
    """The file up to the last whole line of its first segment: what a look at its beginning needs."""
    stop = min(raw.data_start + SEGMENT_BYTES, raw.data_stop)
    if stop == raw.data_stop:
        return raw
    with raw.data_path.open("rb", buffering=0) as file:
        size = _read_at(file.fileno(), raw.data_start, stop).rfind(b"\n") + 1
    return replace(raw, data_stop=raw.data_start + size)


def count_tasks(raw: RawFile) -> list[tuple[Path, int, int]]:
    """The stretches of a file that `count_rows` is called on."""
    return [
        (raw.data_path, start, min(start + TASK_BYTES, raw.data_stop))
        for start in range(raw.data_start, raw.data_stop, TASK_BYTES)
    ]


def count_rows(task: tuple[Path, int, int]) -> list[int]:
    """Number of row ends in each segment of a stretch (path, first byte, one past the last)."""
    path, start, stop = task
    with path.open("rb", buffering=0) as file:
        return [
            len(row_ends(_segment(file.fileno(), offset, min(stop, offset + SEGMENT_BYTES)), _LOOK_BACK))
            for offset in range(start, stop, SEGMENT_BYTES)
        ]


def _segment(descriptor: int, start: int, stop: int) -> np.ndarray:
    """Bytes `start` to `stop` of a file with the two bytes before them."""
    return np.frombuffer(_read_at(descriptor, start - _LOOK_BACK, stop), np.uint8)


def _read_at(descriptor: int, start: int, stop: int) -> bytes:
    parts = []
    while start < stop and (part := os.pread(descriptor, stop - start, start)):
        parts.append(part)
        start += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def scan_text(raw: RawFile, counts: list[int]) -> Scan:
    """Rows and marks of a file from the counts of its segments; a last line without newline is a row."""
    before = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    marks = [Mark(raw.data_start + index * SEGMENT_BYTES, int(num)) for index, num in enumerate(before[:-1])]
    with raw.data_path.open("rb", buffering=0) as file:
        last = _read_at(file.fileno(), max(raw.data_start, raw.data_stop - 1), raw.data_stop)
    return Scan(raw, int(before[-1]) + (last not in (b"", b"\n")), tuple(marks))


def read_text(piece: Piece) -> Iterator[tuple[int, dict[str, pa.ChunkedArray]]]:
    """Yield (first row in the file, columns by our names) for the rows of a piece, some MiB at a time."""
    with piece.raw.data_path.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        position = _locate(descriptor, piece, piece.low, piece.start)
        stop = _locate(descriptor, piece, piece.high, piece.stop)
        parser = _Parser(piece.raw)
        row = piece.start
        while position < stop:
            chunk = _read_at(descriptor, position, min(stop, position + CHUNK_BYTES))
            size = len(chunk) if position + len(chunk) >= stop else chunk.rfind(b"\n") + 1
            if not size:
                raise unreadable(piece.raw.path, f"a line longer than {CHUNK_BYTES} bytes after row {row:,}")
            table = parser.parse(pa.py_buffer(chunk).slice(0, size), row)
            yield row, {name: _valid(table.column(str(index))) for name, index in piece.raw.wanted.items()}
            row += table.num_rows
            position += size


def _valid(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text without bytes that are no UTF-8: they become the replacement character."""
    if pa.types.is_string(column.type):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            values = column.cast(pa.binary()).to_pylist()
            texts = [None if value is None else value.decode(errors="replace") for value in values]
            return pa.chunked_array([pa.array(texts, pa.string())])
    return column


def _locate(descriptor: int, piece: Piece, mark: Mark, row: int) -> int:
    """Offset of the byte after the `row`-th row."""
    raw = piece.raw
    if row == 0:
        return raw.data_start
    stop = min(mark.offset + SEGMENT_BYTES, raw.data_stop)
    ends = row_ends(_segment(descriptor, mark.offset, stop), _LOOK_BACK)
    index = row - mark.num_rows - 1
    if index < len(ends):
        return mark.offset - _LOOK_BACK + int(ends[index]) + 1
    if index == len(ends) and stop == raw.data_stop:
        return raw.data_stop
    raise wrong_count(raw, mark.num_rows + len(ends), row)


def _type_of(name: str) -> pa.DataType:
    return pa.string() if name.startswith(RAW_PREFIX) else _TYPES.get(name, pa.float32())


class _Parser:
    """pyarrow.csv with explicit header and types; a column that is not plain numbers is read as text."""

    def __init__(self, raw: RawFile) -> None:
        self.raw = raw
        # A column that is wanted twice is parsed as text where a condition needs it as it stands, and named by its use.
        self.names = {index: name for name, index in reversed(raw.wanted.items())}
        self.types = {str(index): _type_of(name) for name, index in raw.wanted.items()}

    def parse(self, data: pa.Buffer, first_row: int) -> pa.Table:
        """The wanted columns of whole lines, called by their index; InputError names row and column."""
        while True:
            bad_rows: list[pa.csv.InvalidRow] = []
            try:
                return self._read(data, bad_rows)
            except pa.ArrowInvalid as error:
                if bad_rows:
                    raise self._ragged(bad_rows[0], first_row) from None
                self._relax(str(error), first_row)

    def _read(self, data: pa.Buffer, bad_rows: list[pa.csv.InvalidRow]) -> pa.Table:
        def refuse(row: pa.csv.InvalidRow) -> str:
            bad_rows.append(row)
            return "error"

        names = [str(index) for index in range(len(self.raw.columns))]
        return pa.csv.read_csv(
            pa.BufferReader(data),
            pa.csv.ReadOptions(column_names=names, use_threads=False, block_size=data.size + 1),
            pa.csv.ParseOptions(delimiter=self.raw.delimiter, invalid_row_handler=refuse),
            pa.csv.ConvertOptions(
                column_types=self.types,
                include_columns=list(self.types),
                null_values=list(NULL_WORDS),
                strings_can_be_null=True,
                check_utf8=False,
            ),
        )

    def _relax(self, message: str, first_row: int) -> None:
        """Have the column that failed read as text; InputError where it was text already."""
        found = _ERROR.match(message)
        if found is None or found[1] not in self.types:
            raise unreadable(self.raw.path, f"after row {first_row:,}: {message}")
        if self.types[found[1]] == pa.string():
            row = first_row + int(found[2] or 1)
            raise bad_value(self.raw, self.names[int(found[1])], row, found[3] or message)
        self.types[found[1]] = pa.string()

    def _ragged(self, row: pa.csv.InvalidRow, first_row: int) -> InputError:
        number = f"{first_row + row.number:,}" if row.number else f"after {first_row:,}"
        return InputError(
            "a row has another number of fields than the header",
            where=f"{self.raw.path}, row {number}",
            got=f"{row.actual_columns} fields: {row.text[:120]}",
            expected=f"{row.expected_columns} fields: {', '.join(self.raw.columns[:60])}",
            fix="correct the row; a quoted field must not hold a line break",
        )
