"""The commands that put a catalog in sky order and take stars out of one."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import typer

from hpc_ae.errors import InputError
from hpc_ae.files import check_outside

if TYPE_CHECKING:
    from hpc_ae.query import Query, Selection

Workers = Annotated[int, typer.Option(min=1, help="Worker processes.")]
Format = Literal["table", "csv", "tsv", "json"]


def order(
    catalog: Annotated[Path, typer.Argument(metavar="CATALOG", help="A star catalog.")],
    out: Annotated[Path, typer.Option(help="The star catalog to make.")],
    shard_rows: Annotated[int, typer.Option(min=1, max=4_000_000, help="Stars in one shard.")] = 500_000,
    workers: Workers = 2,
) -> None:
    """Write a star catalog again in sky order (HEALPix), so that a cone is found without reading all of it."""
    from hpc_ae.order import order as make_catalog

    make_catalog(catalog, out, shard_rows, workers)


def query(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A star or encoding catalog.")],
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID|COLUMN]...", help="More values for --objid (numbers) and --columns."),
    ] = None,
    cone: Annotated[
        tuple[float, float, float] | None,
        typer.Option(metavar="RA DEC RADIUS_ARCMIN", help="Stars within a radius, in deg and arcmin."),
    ] = None,
    objid: Annotated[list[int] | None, typer.Option(metavar="ID ...", help="Stars with these ids.")] = None,
    columns: Annotated[
        list[str] | None, typer.Option(metavar="NAME ...", help="Only these columns, in this order.")
    ] = None,
    join: Annotated[bool, typer.Option("--join", help="With the columns of its stars, encoding and scores.")] = False,
    to: Annotated[Format | None, typer.Option(help="Default: a table on a terminal, else CSV.")] = None,
    json: Annotated[bool, typer.Option("--json", help="The same as --to json.")] = False,
    out: Annotated[Path | None, typer.Option(help="A file instead of standard output.")] = None,
    stars: Annotated[Path | None, typer.Option(help="The star catalog of an encoding, if it has moved.")] = None,
    workers: Workers = 2,
) -> int:
    """Rows of a catalog: the stars of a cone, or those with some ids. Status 1 where an id is not there."""
    from hpc_ae.query import open_query

    asked = open_query(directory, _selection(cone, objid or [], columns or [], more or [], join), stars)
    if out is not None:
        check_outside(out, [directory, *([stars] if stars else [])])
    kind = "json" if json else to or ("csv" if out or not sys.stdout.isatty() else "table")
    return _answer(asked, kind, out, workers)


def _selection(
    cone: tuple[float, float, float] | None, objid: list[int], columns: list[str], more: list[str], join: bool
) -> Selection:
    """The words behind the options are ids where they are numbers, else columns: `--objid 1 2 --columns objid ra`."""
    from hpc_ae.catalog.sky import Cone
    from hpc_ae.query import Selection

    ids = [word for word in more if word.isdecimal()]
    names = [
        name for words in (*columns, *(word for word in more if not word.isdecimal())) for name in words.split(",")
    ]
    if (ids and not objid) or (len(ids) < len(more) and not columns):
        raise InputError(
            "words that belong to no option",
            got=" ".join(more),
            expected="DIR, then --objid ID ... or --columns NAME ...",
        )
    chosen = None if cone is None else Cone(*cone)
    return Selection(chosen, (*objid, *map(int, ids)), tuple(filter(None, names)), join)


def _answer(asked: Query, kind: str, out: Path | None, workers: int) -> int:
    """Write the stars; say on standard error how many there are and how many shards were opened."""
    from hpc_ae.catalog.rows_text import TEXT_WRITERS
    from hpc_ae.query import run_query

    def write(fields: Sequence[Any], parts: Iterator[Any]) -> None:
        with _opened(out) as file:
            TEXT_WRITERS[kind](file, fields, parts)

    if not run_query(asked, write, workers):
        return 0
    num_shards = len(asked.catalog.shards)
    text = f"query: {asked.num_found:,} stars; opened {len(asked.shards)} of {num_shards} shards"
    if not asked.narrowed:
        text += " (no sky order: hpc-ae order makes cone searches fast)"
    print(text, file=sys.stderr)
    if asked.missing:
        some = ", ".join(map(str, sorted(asked.missing)[:5]))
        print(f"query: {len(asked.missing)} of the ids do not exist: {some}", file=sys.stderr)
    return 1 if asked.missing else 0


@contextmanager
def _opened(out: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that has its name when it is complete."""
    if out is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    from hpc_ae.files import published_text

    with published_text(out) as file:
        yield file
