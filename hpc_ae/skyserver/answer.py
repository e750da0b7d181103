"""What SkyServer answers: a table as CSV, or one of its many ways to say that something is wrong.

Its errors come as JSON {"ErrorMessage": ...} with status 500 or 400, as an HTML page with status 200 ("Skyserver
Error"), as a table of one column `error_message` with status 200 (so it says "Maximum 60 queries allowed per minute"),
and from the machines in front of it as HTML with 502-504.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser

from hpc_ae.errors import InputError, WorkError, printable
from hpc_ae.secrets import shared_text

RATE_WINDOW_SECONDS = 61.0  # SkyServer counts the queries of the last 60 seconds
_BUSY = {408, 425, 429, 502, 503, 504}
_MOST_TEXT = 400
_MOST_FIELD = 1 << 24
_TABLE_MARK = re.compile(r"(?:\s*#[ \t]*Table[ \t]*\d*[^\n]*\n)?\s*", re.IGNORECASE)
_ERROR_LINE = re.compile(r"(?:error_message\b|[\"']?(?:#\s*)?error\b)", re.IGNORECASE)
_NOTHING = re.compile(r"no (?:objects|rows|entries|data) (?:have been |were )?found", re.IGNORECASE)
_RATE = re.compile(r"queries allowed per minute", re.IGNORECASE)
_SQL_FAULT = re.compile(
    r"incorrect syntax|invalid (?:column|object) name|ambiguous column|could not be bound|must be a select"
    r"|limit is +top|multi-part identifier|conversion failed|cannot find either|not a recognized|permission was denied"
    r"|divide by zero|is not contained in|does not exist|unclosed quotation|specified multiple times"
    r"|arithmetic overflow",
    re.IGNORECASE,
)


class BadAnswer(WorkError):
    """An answer that is not the one asked for: asking again later may help. `wait_seconds`: how long at least."""

    def __init__(self, what: str, *, got: object = "", expected: object = "", wait_seconds: float = 0.0) -> None:
        super().__init__(what, got=got, expected=expected)
        self.wait_seconds = wait_seconds


@dataclass(frozen=True)
class Table:
    """Column names and rows of an answer, every value as the text that came."""

    header: list[str]
    rows: list[list[str]]


def read_answer(status: int, text: str, wait_seconds: float = 0.0) -> Table:
    """The table of an answer with an HTTP status; `wait_seconds` is what its Retry-After says.

    InputError where SkyServer says that the query or the address is wrong; BadAnswer where it has another trouble,
    sends no table, or a row does not have one value for each column.
    """
    complaint = find_complaint(text)
    said = complaint or (f"HTTP status {status}: {clean(text)}" if status != 200 else "")
    if _RATE.search(said):
        raise BadAnswer(
            "SkyServer counts too many queries", got=said, wait_seconds=max(wait_seconds, RATE_WINDOW_SECONDS)
        )
    if status in _BUSY:
        raise BadAnswer(f"SkyServer is busy (HTTP status {status})", got=said, wait_seconds=wait_seconds)
    if _SQL_FAULT.search(said):
        raise InputError("SkyServer refuses the query", got=said, fix="correct the query; SkyServer's message is above")
    if 400 <= status < 500:
        raise InputError(
            f"SkyServer refuses the request (HTTP status {status})",
            got=said,
            fix="check --release, --url and the query",
        )
    if said:
        raise BadAnswer("SkyServer answers with an error", got=said, wait_seconds=wait_seconds)
    if _NOTHING.match(text.strip()):
        return Table([], [])
    return _read_table(text)


def find_complaint(text: str) -> str:
    """What SkyServer says is wrong, cleaned and cut, where an answer is an error; "" where it may be a table."""
    start = text.lstrip("\ufeff \t\r\n")
    if start.startswith("{"):
        return _json_message(start)
    if start.startswith("<"):
        return clean(_page_text(start)) or "an HTML page without text"
    body = start[_end_of_mark(start) :]
    if _ERROR_LINE.match(body) and not _is_column_list(body):
        return clean(body.removeprefix("error_message"))
    return ""


def _is_column_list(body: str) -> bool:
    """Whether a first line that begins with `error` is a header after all, such as error_u,error_g."""
    names = body.splitlines()[0].split(",")
    return len(names) > 1 and all(re.fullmatch(r"\w+", name.strip('" ')) for name in names)


def _end_of_mark(text: str) -> int:
    match = _TABLE_MARK.match(text)
    return match.end() if match else 0


def _json_message(text: str) -> str:
    try:
        record = json.loads(text)
        return clean(str(next(record[name] for name in ("ErrorMessage", "Error Message", "error") if name in record)))
    except (ValueError, StopIteration, RecursionError):
        return clean(text)


class _Page(HTMLParser):
    """The text of an HTML page, without scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._hidden = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: object) -> None:
        """Scripts and styles are not shown."""
        self._hidden = tag if tag in ("script", "style") else self._hidden

    def handle_endtag(self, tag: str) -> None:
        """What follows is shown again."""
        self._hidden = "" if tag == self._hidden else self._hidden

    def handle_data(self, data: str) -> None:
        """Text between tags."""
        if not self._hidden:
            self.texts.append(data)


def _page_text(text: str) -> str:
    try:
        return " ".join(_Page(text).texts)
    except (AssertionError, ValueError):  # what Python's parser says of some damaged pages
        return text


def clean(text: str) -> str:
    """One printable line of at most 400 letters: what comes must not steer a terminal, nor a token stay in a log."""
    words = " ".join(shared_text(printable(text[: 8 * _MOST_TEXT])).split())
    return words if len(words) <= _MOST_TEXT else words[:_MOST_TEXT] + " ..."


def _read_table(text: str) -> Table:
    body = text.removeprefix("\ufeff")
    body = body[_end_of_mark(body) :]
    if not body:
        raise BadAnswer("the answer is empty", got=f"{len(text)} letters", expected="a table with a header")
    if not body.endswith("\n"):
        raise BadAnswer("the answer is cut off", got=clean(body[-80:]), expected="a line end after the last row")
    rows = _rows(body)
    header = next(rows)
    if any(not name.strip() for name in header) or len({name.lower() for name in header}) < len(header):
        raise BadAnswer("not a header of a table", got=clean(",".join(header)), expected="one name for each column")
    return Table(header, list(_checked(rows, len(header))))


def _rows(body: str) -> Iterator[list[str]]:
    csv.field_size_limit(_MOST_FIELD)
    try:
        yield from csv.reader(io.StringIO(body, newline=""), strict=True)
    except csv.Error as error:
        raise BadAnswer("the answer is not CSV", got=str(error), expected="values and commas") from error


def _checked(rows: Iterator[list[str]], num_columns: int) -> Iterator[list[str]]:
    for number, row in enumerate(rows, 1):
        if not row:
            continue
        if len(row) != num_columns:
            raise BadAnswer(
                "a row of the answer does not have one value for each column",
                got=f"row {number}: {len(row)} values: {clean(','.join(row))}",
                expected=f"{num_columns} values",
            )
        yield row
