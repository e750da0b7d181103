"""The command line of raw files: the options that say how they are read, and `inspect`, which shows what they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hpc_ae.errors import InputError

if TYPE_CHECKING:
    from hpc_ae.readers.conversion import Reading

Raw = Annotated[
    list[str],
    typer.Argument(
        metavar="RAW...",
        help="Raw files: CSV, TSV, tables in blanks (plain, gzip, bzip2, xz, zstd), FITS, VOTable, HDF5, Parquet; "
        "directories of Parquet.",
    ),
]
MapOption = Annotated[
    list[str] | None,
    typer.Option(
        "--map", metavar="NAME=COLUMN", help="Which column is which, where the automatic mapping does not do."
    ),
]
Magnitudes = Annotated[
    str, typer.Option(metavar="FAMILY", help="Which magnitudes or fluxes: psfMag, modelMag, dered, flux, ...")
]
Flux = Annotated[
    Literal["maggy", "nanomaggy", "nJy", "uJy", "mJy", "Jy", "counts"] | None,
    typer.Option(help="The bands are fluxes in this."),
]
ZeroPoint = Annotated[
    str | None, typer.Option(metavar="Z", help="Magnitude of one count, or five with commas: with --flux counts.")
]
Asinh = Annotated[bool, typer.Option("--asinh", help="Fluxes to SDSS asinh magnitudes instead of Pogson's.")]
Deredden = Annotated[
    bool, typer.Option("--deredden", help="Subtract the file's extinction of each band, or of its E(B-V).")
]
Angles = Annotated[Literal["deg", "rad"] | None, typer.Option(help="The unit of ra and dec, where the file says none.")]
Table = Annotated[
    str | None, typer.Option(metavar="NAME", help="Which table of a file of several: an HDU's name or number, ...")
]
Keep = Annotated[
    list[str] | None,
    typer.Option(metavar="CONDITION", help="Keep only such rows: type=6, class=STAR, 'r<20'; several: all of them."),
]
Cuts = Annotated[Literal["lecture"] | None, typer.Option(help="Keep the lecture's: each band BETWEEN 0 AND 30.")]


def parse_mapping(entries: list[str]) -> dict[str, str]:
    """`name=column` entries of the command line as a mapping; InputError where one is none, or a name comes twice.

    An empty column says that the file has none, as in `objid=`.
    """
    mapping = {}
    for entry in entries:
        name, separator, column = entry.partition("=")
        if not separator or not name:
            raise InputError("not a mapping", where="--map", got=entry, expected="name=column, such as u=psfMag_u")
        if name in mapping:
            raise InputError("a name is mapped twice", where="--map", got=entry, expected=f"one column for {name}")
        mapping[name] = column
    return mapping


def make_reading(values: dict[str, object]) -> Reading:
    """The `Reading` of the options above, given by their names; other names are ignored."""
    from hpc_ae.readers.conversion import Reading

    zero_point = values["zero_point"]
    try:
        points = tuple(float(word) for word in str(zero_point).split(",")) if zero_point is not None else ()
    except ValueError:
        raise InputError(
            "not a list of numbers", where="--zero-point", got=zero_point, expected="25.1, or five with commas"
        ) from None
    return Reading(
        magnitudes=str(values["magnitudes"]),
        flux=str(values["flux"] or ""),
        zero_point=points,
        asinh=bool(values["asinh"]),
        deredden=bool(values["deredden"]),
        angles=str(values["angles"] or ""),
        table=str(values["table"] or ""),
        keep=tuple(values["keep"] or ()),  # type: ignore[arg-type]
        cuts=str(values["cuts"] or ""),
    )


def inspect(
    raw: Raw,
    map: MapOption = None,
    magnitudes: Magnitudes = "",
    flux: Flux = None,
    zero_point: ZeroPoint = None,
    asinh: Asinh = False,
    deredden: Deredden = False,
    angles: Angles = None,
    table: Table = None,
    keep: Keep = None,
    cuts: Cuts = None,
    rows: Annotated[int, typer.Option(min=1, max=100_000, help="Rows at the beginning that are looked at.")] = 1_000,
    json: Annotated[bool, typer.Option("--json", help="The findings as JSON on standard output.")] = False,
) -> int:
    """Show what ingest would understand of raw files: dialect, columns, mapping, units, missing values, five rows, and
    the command to type. Reads the beginning only, writes nothing. Status 2 where something must be said first.
    """
    from hpc_ae.inspect import findings_text, inspect_files
    from hpc_ae.jobs.stages import expand_paths

    reading = make_reading(dict(locals()))
    findings = inspect_files(expand_paths(raw), parse_mapping(map or []), reading, rows)
    if json:
        from json import dumps

        typer.echo(dumps(findings, indent=1, ensure_ascii=False))
    else:
        typer.echo(findings_text(findings))
    for entry in findings["files"]:
        if entry["question"]:
            typer.echo(f"hpc-ae: {entry['question']}", err=True)
    return 2 if any(entry["question"] for entry in findings["files"]) else 0
