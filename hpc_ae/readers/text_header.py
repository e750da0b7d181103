"""The beginning of a text table: comments, the line of column names, what separates them, and where units are said: in
a line under the names (VizieR: above dashes; others: behind #), or in the comments of an ECSV file.
"""

from __future__ import annotations

import csv
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hpc_ae.catalog.schema import DEFAULT_BANDS
from hpc_ae.errors import InputError
from hpc_ae.readers.astropy_notes import MASK
from hpc_ae.readers.raw_file import RawFile, unreadable
from hpc_ae.readers.text_fixed import bounds_of, cut_line
from hpc_ae.readers.text_listed import listed_names

BLANK = " "  # stands for any run of blanks and tabs
_HEAD_BYTES = 1 << 20
_TAIL_BYTES = 1 << 16
_DELIMITERS = (",", "\t", ";", "|")
_WORDS = {",": "CSV", "\t": "TSV", ";": "CSV with ;", "|": "CSV with |", BLANK: "whitespace-separated table"}
_NUMBER = re.compile(r"[+-]?[0-9][0-9.eE+-]*")
_BLANK_LINES = re.compile(rb"(?:[ \t]*\r?\n)+")
_COMMENT = (b"#", b"%", b"!")
_SEPARATOR_LINE = re.compile(rb'"?sep=[,;|\t]"?\r?\n', re.IGNORECASE)  # as Excel writes it before all else
_ECSV = re.compile(rb"# %ECSV ")
_YAML_LIST = re.compile(r"^datatype:\n((?:[- ].*\n)+)", re.MULTILINE)
_RULE = re.compile(r"[-\s|;,]*-{2,}[-\s|;,]*")  # the dashes under VizieR's names and units

_DASHES = re.compile(r"-+")


def open_text(path: Path, data_path: Path) -> RawFile:
    """Find delimiter, header and the beginning of the data; InputError where there is no header line."""
    with data_path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        data_stop = file.seek(0, os.SEEK_END)
    start = 3 if head.startswith(b"\xef\xbb\xbf") else 0
    start = found.end() if (found := _SEPARATOR_LINE.match(head, start)) else start
    _check_is_text(path, head, start)
    line, units_line, data_start = _find_header(head, start)
    text = line.decode(errors="replace").strip("\r\n").lstrip("#%!").strip(" ")
    if "\r" in text or (data_start == len(head) < data_stop):
        raise unreadable(path, "no line feed after the header", "convert the line ends to LF or CRLF")
    below = _Below(units_line, data_start) if units_line else _skip_units(head, data_start, len(_fields(line)))
    units_line, data_start = below.units, below.data_start
    names = line.decode(errors="replace").strip("\r\n")
    bounds = bounds_of(below.rule, names, _whole_lines(head, data_start)) if below.rule else ()
    delimiter = BLANK if bounds else _choose_delimiter(path, text, _line_at(head, data_start))
    if delimiter == BLANK and (found := _BLANK_LINES.match(head, data_start)):
        data_start = found.end()
    columns = tuple(cut_line(names, bounds) if bounds else (name.strip() for name in split_line(text, delimiter)))
    if 2 * sum(_NUMBER.fullmatch(name) is not None for name in columns) > len(columns):
        fix = "put a line of names before the first star, which would be lost otherwise"
        raise unreadable(path, f"numbers where the names of the columns should be: {text[:120]!r}", fix)
    units = tuple(unit.strip() for unit in split_line(units_line, delimiter)) if units_line else ()
    units = tuple(cut_line(units_line, bounds)) if bounds and units_line else units
    if masks := [name for name in columns if name.removesuffix(MASK) in {*columns} - {name}]:
        fix = "write it with astropy's own choice for text, where a masked value is empty"
        raise unreadable(path, f"column {masks[0]}, which says where another one has no value", fix)
    is_ecsv = _ECSV.match(head, start) is not None
    if is_ecsv:
        said = _ecsv_units(path, head[start:data_start])
        units = tuple(said.get(name, "") for name in columns)
    words = "table of fixed width" if bounds else _WORDS[delimiter]
    data_stop = _before_comments(data_path, data_start, data_stop, len(columns), delimiter)
    return RawFile(
        path,
        data_path,
        "csv",
        columns,
        delimiter=delimiter,
        data_start=data_start,
        data_stop=data_stop,
        units=units if len(units) == len(columns) else (),
        dialect=f"ECSV, {words}" if is_ecsv else words,
        layout=bounds or None,
        notes=_cut_short(data_path, data_start, data_stop),
    )


def _cut_short(path: Path, start: int, stop: int) -> tuple[str, ...]:
    """A note where the last line has no end: the file may be cut short in the middle of a value."""
    with path.open("rb", buffering=0) as file:
        if read_at(file.fileno(), max(start, stop - 1), stop) in (b"", b"\n"):
            return ()
        tail = read_at(file.fileno(), max(start, stop - _TAIL_BYTES), stop)
    row = tail.rpartition(b"\n")[2].decode(errors="replace")[:120]
    return (f"the last row has no line end, so it may be cut short: {row}",)


def _whole_lines(head: bytes, start: int) -> list[str]:
    """Some lines from `start` on, as far as they are whole."""
    lines = head[start : start + _TAIL_BYTES].decode(errors="replace").split("\n")
    return [line.rstrip("\r") for line in lines[:-1]]


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
        expected="as many fields in every row as names, separated by spaces, commas, tabs, ; or |",
        fix="put commas between the columns, in the header and in every row; a name must not contain a space, "
        "and a value must not be empty",
    )


def _line_at(head: bytes, start: int) -> str:
    """The first line with content from `start` on."""
    rest = head[start : start + _TAIL_BYTES].lstrip(b"\r\n")
    return rest.partition(b"\n")[0].decode(errors="replace").rstrip("\r")


@dataclass(frozen=True)
class _Below:
    """What stands between names and data: the line of units, where the data begin, and a rule of dashes."""

    units: str
    data_start: int
    rule: str = ""


def _skip_units(head: bytes, start: int, num_columns: int) -> _Below:
    """A line of dashes with or without units above it, as VizieR writes them, or lines behind # that hold no number."""
    units = ""
    at = start
    for _ in range(2):
        stop = head.find(b"\n", at) + 1
        line = head[at:stop].decode(errors="replace").strip("\r\n")
        if not stop:
            break
        if _is_rule(line):
            return _Below(units, stop, line)
        units, at = line, stop
    units, at = "", start
    while head.startswith(b"#", at) and (stop := head.find(b"\n", at) + 1):
        fields = _fields(head[at:stop])
        if len(fields) == num_columns:
            if _has_number(head[at:stop]) or sum(map(bool, fields)) < 2:  # a row of a table of names such as #7
                break
            units = head[at:stop].decode(errors="replace").strip("\r\n").lstrip("#%!").strip(" ")
        at = stop
    return _Below(units, at)


def _is_rule(line: str) -> bool:
    """Whether a line is of dashes alone; where each field is `--` it is a star without any value."""
    return _RULE.fullmatch(line) is not None and any(len(run) != len("--") for run in _DASHES.findall(line))


def _ecsv_units(path: Path, head: bytes) -> dict[str, str]:
    """Column to unit, as the comments of an ECSV file (YAML) say. InputError where they cannot be read."""
    lines = [line[1:].removeprefix(b" ").rstrip(b"\r") for line in head.split(b"\n") if line.startswith(b"#")]
    found = _YAML_LIST.search(b"\n".join(lines).decode(errors="replace") + "\n")
    try:
        entries: Any = yaml.load(found[1], yaml.BaseLoader) if found else None
        said: dict[str, str] = {entry["name"]: entry.get("unit", "") for entry in entries}
        if not all(isinstance(word, str) for pair in said.items() for word in pair):
            raise TypeError("a name or unit that is not text")
        return said
    except (yaml.YAMLError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise unreadable(path, f"an ECSV file whose header is not understood: {error}") from error


def _before_comments(path: Path, start: int, stop: int, num_fields: int, delimiter: str) -> int:
    """Where the data ends before trailing lines such as `#end`; one with as many fields as the header is a row.

    Trailing lines of blanks are none either, unless they are tabs between empty fields.
    """
    blanks = b" " if delimiter == "\t" else b" \t"
    first = max(start, stop - _TAIL_BYTES)
    with path.open("rb", buffering=0) as file:
        tail = read_at(file.fileno(), first, stop)
    end = len(tail)
    while line := tail[:end].rstrip(b"\r\n"):
        begin = line.rfind(b"\n") + 1
        is_whole = begin > 0 or first == start
        if is_whole and not line[begin:].strip(blanks):
            end = begin
            continue
        if not is_whole or line[begin : begin + 1] != b"#" or _num_fields(line[begin:], delimiter) == num_fields:
            break
        end = begin
    return first + end


def _num_fields(line: bytes, delimiter: str) -> int:
    return len(line.split()) if delimiter == BLANK else line.count(delimiter.encode()) + 1


def _find_header(head: bytes, start: int) -> tuple[bytes, str, int]:
    """The header line, the units that a comment under it holds ("" for none), and the offset after them.

    The header is the first line that is blank or comment no more (`#Table1`). Where numbers follow the comments at
    once, it is what the comments list line by line, else the last comment, or the one before that has as many
    fields, where the last repeats itself as units do.
    """
    comments: list[tuple[bytes, int]] = []  # with the offsets after them
    while start < len(head):
        stop = head.find(b"\n", start) + 1 or len(head)
        line = head[start:stop]
        if line.startswith(_COMMENT):
            if line.strip(b"#%! \r\n\t"):
                comments.append((line, stop))
        elif line.strip():
            if not comments or not _has_number(line):
                return line, "", stop
            listed = listed_names([one for one, _ in comments], len(line.split()))
            if listed is not None:
                return " ".join(listed.names).encode(), " ".join(listed.units), start
            return *_names_and_units([one for one, _ in comments[-2:]]), start
        start = stop
    return (*_names_and_units([one for one, _ in comments[-2:]]), comments[-1][1]) if comments else (b"", "", start)


def _names_and_units(comments: list[bytes]) -> tuple[bytes, str]:
    """Which of the last two comments has the names, and the line of units, "" for none."""
    names, units = _fields(comments[0]), _fields(comments[-1])
    if len(names) == len(units) == len(set(names)) > len(set(units)):
        return comments[0], comments[-1].decode(errors="replace").strip("\r\n").lstrip("#%!").strip(" ")
    return comments[-1], ""


def _fields(line: bytes) -> list[str]:
    """The fields of a line whose delimiter is not known yet; blanks separate where nothing else does."""
    text = line.decode(errors="replace").strip("\r\n").lstrip("#%!").strip(" ")
    parts = re.split(r"[,\t;|]", text)
    return [part.strip().strip('"') for part in (parts if len(parts) > 1 else text.split())]


def _has_number(line: bytes) -> bool:
    """Whether a field of a line is a number."""
    return any(_NUMBER.fullmatch(field) for field in _fields(line))


def read_at(descriptor: int, start: int, stop: int) -> bytes:
    """Bytes `start` to `stop` of a file, fewer where it ends."""
    parts = []
    while start < stop and (part := os.pread(descriptor, stop - start, start)):
        parts.append(part)
        start += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
