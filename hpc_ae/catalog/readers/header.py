"""The beginning of a text table: comments, the line of column names, what separates them, and lines of units."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

from hpc_ae.catalog.readers.rawfile import RawFile, unreadable
from hpc_ae.catalog.schema import DEFAULT_BANDS
from hpc_ae.errors import InputError

BLANK = " "  # stands for any run of blanks and tabs
_HEAD_BYTES = 1 << 20
_TAIL_BYTES = 1 << 16
_DELIMITERS = (",", "\t", ";", "|")
_WORDS = {",": "CSV", "\t": "TSV", ";": "CSV with ;", "|": "CSV with |", BLANK: "whitespace-separated table"}
_NUMBER = re.compile(r"[+-]?[0-9][0-9.eE+-]*")
_RULE = re.compile(r"[-\s|;,]*-{2,}[-\s|;,]*")  # the dashes under VizieR's names and units


def open_text(path: Path, data_path: Path) -> RawFile:
    """Find delimiter, header and the beginning of the data; InputError where there is no header line."""
    with data_path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        data_stop = file.seek(0, os.SEEK_END)
    start = 3 if head.startswith(b"\xef\xbb\xbf") else 0
    _check_is_text(path, head, start)
    line, data_start = _find_header(head, start)
    text = line.decode(errors="replace").strip("\r\n").lstrip("#").strip(" ")
    if "\r" in text or (data_start == len(head) < data_stop):
        raise unreadable(path, "no line feed after the header", "convert the line ends to LF or CRLF")
    units_line, data_start = _skip_rule(head, data_start)
    first_row = _line_at(head, data_start)
    delimiter = _choose_delimiter(path, text, first_row)
    columns = tuple(name.strip() for name in split_line(text, delimiter))
    units = tuple(unit.strip() for unit in split_line(units_line, delimiter)) if units_line else ()
    return RawFile(
        path,
        data_path,
        "csv",
        columns,
        delimiter=delimiter,
        data_start=data_start,
        data_stop=_before_comments(data_path, data_start, data_stop, len(columns), delimiter),
        units=units if len(units) == len(columns) else (),
        dialect=_WORDS[delimiter],
    )


def _check_is_text(path: Path, head: bytes, start: int) -> None:
    if not head[start:].strip():
        raise unreadable(path, "an empty file", "name a file with a header line and stars")
    if head[257:262] == b"ustar":
        raise unreadable(path, "a tar archive", "unpack it, and name the files in it")
    if b"\0" in head:
        raise unreadable(path, "binary content or UTF-16 text", "save it as UTF-8 text, or convert it to Parquet")
    if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
        raise unreadable(path, head[:200].decode(errors="replace"), "this is a web page or XML, fetch the data again")


def split_line(text: str, delimiter: str) -> list[str]:
    """The fields of a line, without their quotes."""
    if delimiter == BLANK:
        return next(csv.reader([" ".join(text.split())], delimiter=BLANK), [])
    return next(csv.reader([text], delimiter=delimiter), [])


def _choose_delimiter(path: Path, header: str, first_row: str) -> str:
    """What separates header and first row into equally many fields; a comma where nothing separates them.

    InputError where only blanks could, and do not.
    """
    present = [mark for mark in _DELIMITERS if mark in header.strip()]
    counts = {mark: len(split_line(header, mark)) for mark in (*present, BLANK)}
    for mark, count in counts.items():
        if count > 1 and (not first_row.strip() or len(split_line(first_row, mark)) == count):
            return mark
    if present or counts[BLANK] < len(DEFAULT_BANDS):
        return present[0] if present else ","
    raise InputError(
        "the columns of a raw file are not separated",
        where=path,
        got=f"a header that looks whitespace-separated, with {counts[BLANK]} names: {header[:120]!r}, "
        f"and a first row with {len(split_line(first_row, BLANK))} fields: {first_row.strip()[:120]!r}",
        expected="as many fields in every row as names, between blanks, commas, tabs, ; or |",
        fix="put commas between the columns, in the header and in every row; a name must not hold a blank, "
        "and a value must not be left blank",
    )


def _line_at(head: bytes, start: int) -> str:
    """The first line with content from `start` on."""
    rest = head[start : start + _TAIL_BYTES].lstrip(b"\r\n")
    return rest.partition(b"\n")[0].decode(errors="replace").rstrip("\r")


def _skip_rule(head: bytes, start: int) -> tuple[str, int]:
    """The line of units (if any) before a line of dashes, as VizieR writes them, and where the data begin after it."""
    units = ""
    at = start
    for _ in range(2):
        stop = head.find(b"\n", at) + 1
        line = head[at:stop].decode(errors="replace").strip("\r\n")
        if not stop:
            break
        if _RULE.fullmatch(line):
            return units, stop
        units, at = line, stop
    return "", start


def _before_comments(path: Path, start: int, stop: int, num_fields: int, delimiter: str) -> int:
    """Where the data ends before trailing lines such as `#end`; one with as many fields as the header is a row."""
    first = max(start, stop - _TAIL_BYTES)
    with path.open("rb", buffering=0) as file:
        tail = read_at(file.fileno(), first, stop)
    end = len(tail)
    while line := tail[:end].rstrip(b"\r\n"):
        begin = line.rfind(b"\n") + 1
        is_whole = begin > 0 or first == start
        if not is_whole or line[begin : begin + 1] != b"#" or _num_fields(line[begin:], delimiter) == num_fields:
            break
        end = begin
    return first + end


def _num_fields(line: bytes, delimiter: str) -> int:
    return len(line.split()) if delimiter == BLANK else line.count(delimiter.encode()) + 1


def _find_header(head: bytes, start: int) -> tuple[bytes, int]:
    """The header line and the offset after it: the first line that is blank or comment no more (`#Table1`).

    Where numbers follow the comments at once, the last comment is the header.
    """
    comment, comment_stop = b"", start
    while start < len(head):
        stop = head.find(b"\n", start) + 1 or len(head)
        line = head[start:stop]
        if line.startswith(b"#"):
            if line.strip(b"# \r\n\t"):
                comment, comment_stop = line, stop
        elif line.strip():
            return (comment, stop - len(line)) if comment and _has_number(line) else (line, stop)
        start = stop
    return comment, comment_stop


def _has_number(line: bytes) -> bool:
    """Whether a field of a line is a number; blanks separate where nothing else does."""
    text = line.decode(errors="replace")
    parts = re.split(r"[,\t;|]", text)
    return any(_NUMBER.fullmatch(part.strip()) for part in (parts if len(parts) > 1 else text.split()))


def read_at(descriptor: int, start: int, stop: int) -> bytes:
    """Bytes `start` to `stop` of a file, fewer where it ends."""
    parts = []
    while start < stop and (part := os.pread(descriptor, stop - start, start)):
        parts.append(part)
        start += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
