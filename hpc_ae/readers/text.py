"""Delimited text in bounded memory: count rows by segment, read any range of rows. Its header is text_header.py's.

A row ends at a newline, unless the line is blank. Rows are counted by newlines and read by pyarrow; both must agree.
Of a whitespace-separated table each run of blanks becomes one tab before pyarrow reads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from hpc_ae.errors import InputError
from hpc_ae.readers.names import RAW_PREFIX
from hpc_ae.readers.raw_file import Batches, Mark, Piece, RawFile, Scan, bad_value, unreadable, wrong_count
from hpc_ae.readers.star_rows import NULL_WORDS
from hpc_ae.readers.text_fixed import tabs_for_columns
from hpc_ae.readers.text_header import BLANK, read_at

SEGMENT_BYTES = 1 << 20  # a mark each: what a shard must search to find its first row
TASK_BYTES = 1 << 28
CHUNK_BYTES = 1 << 22
_LOOK_BACK = 2
_NEWLINE, _RETURN, _BLANK, _TAB, _QUOTE = 10, 13, 32, 9, 34
_TYPES = {"objid": pa.int64(), "ra": pa.float64(), "dec": pa.float64()}
_MORE_THAN_ONE_BLANK = (b"  ", b"\t", b"\n ", b" \n", b" \r", b'"')  # between fields
_BLANK_LINE = re.compile(rb"\n[ \t]+\r?\n")
_RAGGED = re.compile(r"CSV parse error: (?:Row #(\d+): )?Expected (\d+) columns, got (\d+): (.*)", re.DOTALL)
_ERROR = re.compile(r"In CSV column #(\d+): (?:Row #(\d+): )?(?:.*invalid value '(.*)')?", re.DOTALL)


def squeeze_blanks(data: bytes) -> pa.Buffer:
    """Lines with one tab for each run of blanks and tabs, and none at their ends; quotes keep what is in them."""
    if not data.startswith(b" ") and not any(mark in data for mark in _MORE_THAN_ONE_BLANK):
        return pa.py_buffer(data.replace(b" ", b"\t"))
    values = np.frombuffer(data, np.uint8)
    blank = (values == _BLANK) | (values == _TAB)
    quotes = values == _QUOTE
    if quotes.any():
        blank &= (np.cumsum(quotes, dtype=np.int32) & 1) == 0
    after = np.append(values[1:], np.uint8(_NEWLINE))
    last = np.append(~blank[1:], True)  # of a run
    kept = ~blank | (last & (after != _NEWLINE) & (after != _RETURN))
    values, blank = values[kept], blank[kept]
    values = np.where(blank, np.uint8(_TAB), values)
    first = np.append(True, values[:-1] == _NEWLINE)  # of a line
    return pa.py_buffer(values[~(blank & first)])


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
        size = read_at(file.fileno(), raw.data_start, stop).rfind(b"\n") + 1
    return replace(raw, data_stop=raw.data_start + size)


@dataclass(frozen=True)
class Stretch:
    """Bytes `start` to `stop` of a file, whose rows one task counts."""

    path: Path
    start: int
    stop: int


def count_tasks(raw: RawFile) -> list[Stretch]:
    """The stretches of a file that `count_rows` is called on."""
    return [
        Stretch(raw.data_path, start, min(start + TASK_BYTES, raw.data_stop))
        for start in range(raw.data_start, raw.data_stop, TASK_BYTES)
    ]


def count_rows(stretch: Stretch) -> list[int]:
    """Number of row ends in each segment of a stretch."""
    with stretch.path.open("rb", buffering=0) as file:
        return [
            len(row_ends(_segment(file.fileno(), offset, min(stretch.stop, offset + SEGMENT_BYTES)), _LOOK_BACK))
            for offset in range(stretch.start, stretch.stop, SEGMENT_BYTES)
        ]


def _segment(descriptor: int, start: int, stop: int) -> np.ndarray:
    """Bytes `start` to `stop` of a file with the two bytes before them."""
    return np.frombuffer(read_at(descriptor, start - _LOOK_BACK, stop), np.uint8)


def scan_text(raw: RawFile, counts: list[int]) -> Scan:
    """Rows and marks of a file from the counts of its segments; a last line without newline is a row."""
    before = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    marks = [Mark(raw.data_start + index * SEGMENT_BYTES, int(num)) for index, num in enumerate(before[:-1])]
    with raw.data_path.open("rb", buffering=0) as file:
        last = read_at(file.fileno(), max(raw.data_start, raw.data_stop - 1), raw.data_stop)
    return Scan(raw, int(before[-1]) + (last not in (b"", b"\n")), tuple(marks))


def read_text(piece: Piece) -> Batches:
    """Yield (first row in the file, columns by our names) for the rows of a piece, some MiB at a time."""
    with piece.raw.data_path.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        position = _locate(descriptor, piece, piece.low, piece.start)
        stop = _locate(descriptor, piece, piece.high, piece.stop)
        parser = _Parser(piece.raw)
        row = piece.start
        while position < stop:
            chunk = read_at(descriptor, position, min(stop, position + CHUNK_BYTES))
            size = len(chunk) if position + len(chunk) >= stop else chunk.rfind(b"\n") + 1
            if not size:
                raise unreadable(piece.raw.path, f"a line longer than {CHUNK_BYTES} bytes after row {row:,}")
            data = pa.py_buffer(chunk).slice(0, size)
            if piece.raw.delimiter == BLANK:
                _refuse_blank_lines(piece.raw, chunk[:size], row)
                data = _fixed(piece.raw, chunk[:size], row) if piece.raw.layout else squeeze_blanks(chunk[:size])
            table = parser.parse(data, row)
            yield row, {name: _valid(table.column(str(index))) for name, index in piece.raw.wanted.items()}
            row += table.num_rows
            position += size


def _fixed(raw: RawFile, lines: bytes, first_row: int) -> pa.Buffer:
    """Lines of fixed width as tabs; InputError for a value that stands between the columns."""
    data, misfit = tabs_for_columns(lines, raw.layout)
    if misfit is not None:
        raise InputError(
            "a value does not stand under the dashes of its column",
            where=f"{raw.path}, row {first_row + misfit + 1:,}",
            got=data.decode(errors="replace").splitlines()[misfit].replace("\t", " | ")[:200],
            expected="every value within its column, as in the rows before",
            fix="correct the row, or remove the line of dashes where every field has a value without blanks",
        )
    return pa.py_buffer(data)


def _refuse_blank_lines(raw: RawFile, lines: bytes, first_row: int) -> None:
    """InputError for a line of nothing but blanks, which was counted as a row."""
    lines = b"\n\n" + lines
    found = _BLANK_LINE.search(lines)
    if found is not None:
        row = first_row + 1 + len(row_ends(np.frombuffer(lines[: found.start() + 1], np.uint8), _LOOK_BACK))
        raise InputError(
            "a row contains only spaces",
            where=f"{raw.path}, row {row:,}",
            got="0 fields",
            expected=f"{len(raw.columns)} fields: {', '.join(raw.columns[:60])}",
            fix="remove the spaces; an empty line is not a row",
        )


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
        self.delimiter = "\t" if raw.delimiter == BLANK else raw.delimiter
        # A column that is wanted twice is parsed as text where a condition needs it as it stands, and named by its use.
        self.names = {index: name for name, index in reversed(raw.wanted.items())}
        self.types = {str(index): _type_of(name) for name, index in raw.wanted.items()}

    def parse(self, data: pa.Buffer, first_row: int) -> pa.Table:
        """The wanted columns of whole lines, called by their index; InputError names row and column."""
        while True:
            try:
                return self._read(data)
            except pa.ArrowInvalid as error:
                # The message, not invalid_row_handler, which is not called for a row that is no UTF-8.
                if ragged := _RAGGED.match(str(error)):
                    raise self._ragged(ragged, first_row) from None
                self._relax(str(error), first_row)

    def _read(self, data: pa.Buffer) -> pa.Table:
        names = [str(index) for index in range(len(self.raw.columns))]
        return pa.csv.read_csv(
            pa.BufferReader(data),
            pa.csv.ReadOptions(column_names=names, use_threads=False, block_size=data.size + 1),
            pa.csv.ParseOptions(delimiter=self.delimiter),
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

    def _ragged(self, found: re.Match[str], first_row: int) -> InputError:
        number = f"{first_row + int(found[1]):,}" if found[1] else f"after {first_row:,}"
        return InputError(
            "a row does not have as many fields as the header",
            where=f"{self.raw.path}, row {number}",
            got=f"{found[3]} fields: {found[4][:120]}",
            expected=f"{found[2]} fields: {', '.join(self.raw.columns[:60])}",
            fix="correct the row; a quoted field must not hold a line break",
        )
