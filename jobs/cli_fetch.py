"""The command `hpc-ae fetch`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpc_ae.errors import InputError

if TYPE_CHECKING:
    from hpc_ae.fetch import Extraction


def fetch(
    out: Annotated[Path, typer.Argument(metavar="OUT.csv", help="The CSV file to make; it appears when complete.")],
    stars: Annotated[
        int | None, typer.Option(min=1, help="Most rows to fetch; otherwise the query's TOP (the lecture's: 255000).")
    ] = None,
    all_rows: Annotated[bool, typer.Option("--all", help="Every row of the query, regardless of its TOP.")] = False,
    release: Annotated[str, typer.Option(help="SDSS data release: dr16, dr18, ...")] = "dr18",
    url: Annotated[str | None, typer.Option(help="Another address of SqlSearch; {release} may be in it.")] = None,
    sql: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file with one SELECT; otherwise the lecture's query.")
    ] = None,
    key: Annotated[
        str, typer.Option(help="The column of integers that pages are cut by: p.objid, p.htmid.")
    ] = "p.objid",
    above: Annotated[int | None, typer.Option(help="Only rows whose key is greater.")] = None,
    until: Annotated[int | None, typer.Option(help="Only rows whose key is at most this.")] = None,
    page_rows: Annotated[int, typer.Option(min=1, max=500_000, help="Most rows of one answer.")] = 50_000,
    pause: Annotated[
        float, typer.Option(min=0.0, help="Seconds between requests; SkyServer allows 60 queries a minute.")
    ] = 2.0,
    retries: Annotated[int, typer.Option(min=0, help="Tries after a failed request, with growing pauses.")] = 8,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds that one answer may take.")] = 900.0,
    restart: Annotated[bool, typer.Option("--restart", help="Discard what an unfinished fetch has so far.")] = False,
    show_sql: Annotated[bool, typer.Option("--show-sql", help="Print the first page's SQL and send nothing.")] = False,
) -> None:
    """Fetch a SQL query's rows from SkyServer, in pages; the same command continues where a killed one was."""
    from hpc_ae.fetch import fetch as fetch_stars
    from hpc_ae.skyserver.client import Manners

    if all_rows and stars is not None:
        raise InputError("--all and --stars exclude each other", where="command line", expected="one of them")
    extraction = _extraction(sql, key, _address(release, url), stars, all_rows=all_rows)
    extraction = _bounded(extraction, page_rows, above, until)
    if show_sql:
        typer.echo(extraction.page_sql(min(page_rows, extraction.num_stars or page_rows), above))
        return
    manners = Manners(pause_seconds=pause, retries=retries, timeout_seconds=timeout)
    done = fetch_stars(out, extraction, manners, restart=restart)
    repeated = f"{done.num_repeated:,} rows share a key with another; " if done.num_repeated else ""
    typer.echo(f"{out}: {done.num_rows:,} rows; {repeated}next: hpc-ae ingest {out} --out catalog", err=True)


def _address(release: str, url: str | None) -> str:
    """The address of SqlSearch for a data release, SkyServer's own where none is given."""
    import re

    from hpc_ae.skyserver.client import URL

    if not re.fullmatch(r"[a-z0-9_-]{1,40}", release):
        raise InputError("not a data release", where="--release", got=release, expected="dr18, dr16, ...")
    return (url or URL).replace("{release}", release)


def _extraction(sql: Path | None, key: str, address: str, stars: int | None, *, all_rows: bool) -> Extraction:
    """The query of a file, or the lecture's, at an address."""
    from hpc_ae.fetch import Extraction
    from hpc_ae.skyserver.query import lecture_query, parse_query

    try:
        text = lecture_query() if sql is None else sql.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("cannot read the query", where=sql, got=str(error)[:200], expected="a text file") from error
    query = parse_query(text, key, sql or "the lecture's query")
    return Extraction(address, query, None if all_rows else stars or query.top)


def _bounded(extraction: Extraction, page_rows: int, above: int | None, until: int | None) -> Extraction:
    from dataclasses import replace

    if above is not None and until is not None and above >= until:
        raise InputError("no key is within the bounds", where="--above, --until", got=f"{above}, {until}")
    return replace(extraction, page_rows=page_rows, above=above, until=until)
