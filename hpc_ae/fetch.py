"""VERB fetch: the rows of a SQL query on SkyServer to a CSV file, in pages, going on where an earlier command stopped.

A page is the rows with the lowest keys above the last one. Several rows may share a key (a star with several spectra),
and a page may end between them: so the rows of a page's last key are not kept, but asked for again with the next page.
No row can get lost or come twice that way, in whatever order the server sends rows of one key. A short page is not yet
the end, as a server may cap or cut an answer without saying so: at the end the next page has nothing new, and there is
no row with a greater key.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from hpc_ae.errors import InputError, WorkError
from hpc_ae.runtime.progress import Progress
from hpc_ae.secrets import shared_text
from hpc_ae.skyserver.answer import BadAnswer, Table
from hpc_ae.skyserver.client import Client, Manners
from hpc_ae.skyserver.partial import PartialFile, is_complete
from hpc_ae.skyserver.query import MOST_PAGE_ROWS, PagedQuery
from hpc_ae.skyserver.records import FetchQuery, FetchState

_END_TRIES = 3
_INTEGER = re.compile(r"-?[0-9]{1,19}")


@dataclass(frozen=True)
class Extraction:
    """What is fetched: rows of a query with above < key <= until, num_stars of them at most (None: all)."""

    url: str
    query: PagedQuery
    num_stars: int | None
    page_rows: int = 50_000
    above: int | None = None
    until: int | None = None

    def record(self) -> FetchQuery:
        """What decides the content of the file."""
        above, until = (None if bound is None else str(bound) for bound in (self.above, self.until))
        return FetchQuery(
            url=shared_text(self.url),
            sql=self.query.text,
            key=self.query.key,
            num_stars=self.num_stars,
            above=above,
            until=until,
        )

    def page_sql(self, num_rows: int, above: int | None) -> str:
        """The SQL of a page: at most num_rows rows whose keys are greater than `above`."""
        return self.query.page(num_rows, above, self.until)


def fetch(out: Path, extraction: Extraction, manners: Manners, *, restart: bool = False) -> FetchState:
    """Write `out` as CSV with a header and return its numbers of rows and pages.

    A killed or failed fetch goes on with the same call; `restart` throws away what it had. InputError where the query
    or the address is wrong or `out` is something else, WorkError where SkyServer does not answer or the disk is full.
    """
    if (record := is_complete(out, extraction.record())) is not None:
        print(f"fetch: {out} already exists and is complete", file=sys.stderr, flush=True)
        return record.state
    with (
        contextlib.closing(Client(extraction.url, manners)) as client,
        PartialFile(out, extraction.record(), restart=restart) as partial,
    ):
        with Progress("fetch", extraction.num_stars or 0, "stars") as progress:
            state = partial.state
            progress.start_at(state.num_rows)
            try:
                while not state.complete:
                    state = _fetch_page(partial, state, extraction, client)
                    progress.update(state.num_rows, f"page {state.num_pages}")
            except KeyboardInterrupt:
                _say_kept(partial.state)
                raise
        partial.publish()
    return state


def _say_kept(state: FetchState) -> None:
    print(
        f"fetch: {state.num_rows:,} stars are kept; the same command continues from there", file=sys.stderr, flush=True
    )


def _fetch_page(partial: PartialFile, state: FetchState, extraction: Extraction, client: Client) -> FetchState:
    """Ask for the next page, keep its rows, and return the state after it."""
    left = None if extraction.num_stars is None else extraction.num_stars - state.num_rows
    for _ in range(_END_TRIES):
        page = _ask_page(state, extraction, client, left)
        if left is not None and len(page.rows) >= left:
            return _keep_page(partial, state, page, left, complete=True)
        if not page.is_one_key or str(page.keys[-1]) != state.last_key:
            return _keep_page(partial, state, page, page.last_begins)
        above = page.keys[-1]
        check = _PageCheck(extraction, state.looking_further(), 1, above)
        if not client.ask(extraction.page_sql(1, above), 1, check).rows:
            return _keep_page(partial, state, page, len(page.rows), complete=True)
    raise WorkError(
        "the server leaves rows out",
        where=shared_text(extraction.url),
        got=f"{len(page.rows)} rows of key {above} and none of the greater keys that there are",
        expected=f"up to {extraction.page_rows} rows",
        fix="where it has a limit of its own, a key with fewer rows of one value may do: --key",
    )


def _ask_page(state: FetchState, extraction: Extraction, client: Client, left: int | None) -> _Page:
    """The next page: the rows of the last key again, and what follows. Larger than asked where one key fills it."""
    above = extraction.above if state.last_key is None else int(state.last_key) - 1
    asked = extraction.page_rows
    while True:
        asked = asked if left is None else min(asked, left)
        page = client.ask(extraction.page_sql(asked, above), asked, _PageCheck(extraction, state, asked, above))
        if not (page.is_full and page.is_one_key) or asked == left:
            return page
        if asked >= MOST_PAGE_ROWS:
            raise WorkError(
                f"more than {MOST_PAGE_ROWS:,} rows have one key",
                where=extraction.query.key,
                got=page.keys[-1],
                fix="page by a column with fewer rows of one value: --key p.objid",
            )
        asked = min(2 * asked, MOST_PAGE_ROWS)


@dataclass(frozen=True)
class _Page:
    """A checked answer: the rows in ascending order of their keys."""

    header: list[str]
    rows: list[list[str]]
    keys: list[int]
    is_full: bool

    @property
    def last_begins(self) -> int:
        """The number of rows before those of the last key."""
        return next((i for i, key in enumerate(self.keys) if key == self.keys[-1]), 0)

    @property
    def is_one_key(self) -> bool:
        """Whether all rows have one key."""
        return bool(self.keys) and self.last_begins == 0


def _keep_page(
    partial: PartialFile, state: FetchState, page: _Page, num_kept: int, *, complete: bool = False
) -> FetchState:
    """Write the first rows of a page; the state says where to go on."""
    if not page.rows:  # nothing at all: what has no rows has no last key whose rows would be here again
        partial.discard()
        raise InputError("the query has no rows", where=partial.query.sql, fix="check its conditions and bounds")
    after = FetchState(
        num_rows=state.num_rows + num_kept,
        num_pages=state.num_pages + 1,
        num_repeated=state.num_repeated + num_kept - len(set(page.keys[:num_kept])),
        header=page.header,
        last_key=str(page.keys[-1]),
        pending=0 if complete else len(page.rows) - num_kept,
        complete=complete,
    )
    lines = ([page.header] if partial.num_bytes == 0 else []) + page.rows[:num_kept]
    partial.append(_csv_bytes(lines), after)
    return after


def _csv_bytes(rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


@dataclass(frozen=True)
class _PageCheck:
    """Whether an answer is the page that was asked for: BadAnswer where it is not, and may be the next time."""

    extraction: Extraction
    state: FetchState
    asked: int
    above: int | None

    def __call__(self, table: Table) -> _Page:
        """The checked page."""
        header = table.header or self.state.header or []
        if not table.rows and not self.state.pending:
            return _Page(header, [], [], False)
        self._check_header(table)
        if len(table.rows) > self.asked:
            raise BadAnswer("more rows than requested", got=len(table.rows), expected=f"at most {self.asked}")
        keys = self._keys(table)
        self._check_order(keys)
        return _Page(header, table.rows, keys, len(keys) == self.asked)

    def _check_header(self, table: Table) -> None:
        names = [name.lower() for name in table.header]
        before, selected = self.state.header, self.extraction.query.column_names()
        if before is not None and before != table.header and table.header:
            raise BadAnswer("other columns than before", got=",".join(table.header)[:300], expected=",".join(before))
        if selected is not None and names:
            fits = len(names) == len(selected)
            fits = fits and all(want in ("", name) for want, name in zip(selected, names, strict=True))
            if not fits:
                expected = ",".join(want or "(any)" for want in selected)
                raise BadAnswer("other columns than requested", got=",".join(names)[:300], expected=expected)

    def _keys(self, table: Table) -> list[int]:
        key = self.extraction.query.key_column
        names = [name.lower() for name in table.header]
        if names and key.lower() not in names:
            raise InputError(
                "the key is not among the columns",
                where=f"--key {self.extraction.query.key}",
                got=",".join(table.header)[:300],
                expected=f"a column {key}, by which pages are cut",
                fix="select it in the query, or name another with --key",
            )
        texts = [row[names.index(key.lower())] for row in table.rows]
        wrong = next((text for text in texts if not _INTEGER.fullmatch(text)), None)
        if wrong is not None:
            raise InputError(
                "the key is not an integer",
                where=f"--key {self.extraction.query.key}",
                got=wrong[:60],
                expected="whole numbers such as p.objid or p.htmid",
            )
        return [int(text) for text in texts]

    def _check_order(self, keys: list[int]) -> None:
        """In order, above the last page, within the bounds, and with the rows that the last page has shown already."""
        last_key, pending = self.state.last_key, self.state.pending
        if any(low > high for low, high in itertools.pairwise(keys)):
            raise BadAnswer(
                "the rows are not in the order of the key", expected=f"ORDER BY {self.extraction.query.key}"
            )
        above, until = self.above, self.extraction.until
        if keys and ((above is not None and keys[0] <= above) or (until is not None and keys[-1] > until)):
            raise BadAnswer(
                "rows that were not requested", got=f"{keys[0]} to {keys[-1]}", expected=f"keys above {above}"
            )
        if not pending or last_key is None:
            return
        if keys[:pending] != [int(last_key)] * pending:
            raise BadAnswer(
                "the answer leaves out rows that came before",
                got=f"{keys[:pending].count(int(last_key))} of key {last_key}",
                expected=pending,
            )
