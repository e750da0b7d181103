"""The command export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from hpc_ae.errors import InputError
from hpc_ae.jobs.cli_compress import (
    CompressOptions,
    LatentBits,
    MaxError,
    ModelPlace,
    TableOptions,
    Target,
    WriteWorkers,
    column_names,
    refuse_others,
    write_catalog,
    write_compressed,
)

Join = Annotated[bool, typer.Option("--join", help="Stars, encoding and scores, as far as there are, in one table.")]
Format = Literal["fits", "parquet", "votable", "hdf5-table", "hats", "compressed", "catalog"]


_ENDS: dict[str, Format] = {
    **{".fits": "fits", ".fit": "fits", ".parquet": "parquet", ".pq": "parquet", ".vot": "votable"},
    **{".votable": "votable", ".xml": "votable", ".h5": "hdf5-table", ".hdf5": "hdf5-table"},
}


def _format_of(out: Path) -> Format:
    """The format that a file's name says; InputError where it says none."""
    found = _ENDS.get(out.suffix.lower())
    if found is None:
        query = "; hpc-ae query writes CSV" if out.suffix.lower() in (".csv", ".tsv") else ""
        raise InputError(
            "the format of an export is not known by its name",
            where=out,
            expected=f"a name that ends in {', '.join(_ENDS)}, or --to",
            fix=f"--to {', '.join(get_args(Format))}{query}",
        )
    return found


def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A star, encoding or compressed catalog.")],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="The file to write; a directory for HATS, --files, compressed and catalog."),
    ],
    to: Annotated[
        Format | None,
        typer.Option(
            help="FITS, Parquet, VOTable, HDF5 for astropy, HATS for lsdb; compressed: an encoding with bounded error; "
            "catalog: a compressed one back to a star catalog. By default by OUT's name (.fits, .parquet, .vot, .h5)."
        ),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="These columns only, in this order; magnitude_u works too.")
    ] = None,
    good: Annotated[bool, typer.Option("--good", help="Good stars (quality 0) only.")] = False,
    join: Join = False,
    stars: Annotated[Path | None, typer.Option(help="The star catalog to join, if it has moved.")] = None,
    vectors: Annotated[
        Literal["split", "keep"],
        typer.Option(help="magnitude_u, magnitude_g, ... as columns, or magnitude as a vector column."),
    ] = "split",
    files: Annotated[
        int | None, typer.Option(min=1, help="Parquet: OUT is a directory of this many files of equal size.")
    ] = None,
    threshold: Annotated[int, typer.Option(min=1, help="HATS: maximum number of rows in a file.")] = 1_000_000,
    drop_unplaced: Annotated[
        bool, typer.Option("--drop-unplaced", help="HATS: leave out stars without a position.")
    ] = False,
    max_error: MaxError = None,
    latent_bits: LatentBits = None,
    model: ModelPlace = None,
    workers: WriteWorkers = 2,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
) -> None:
    """Write a catalog for astropy, TOPCAT, pandas or lsdb, or compressed; it is read back and compared."""
    to, chosen = to or _format_of(out), column_names(columns)
    of_tables = TableOptions(good, join, files, drop_unplaced)
    compressing = CompressOptions(chosen, stars, max_error, latent_bits, model)
    target = Target(directory, out, workers, overwrite)
    if to == "compressed":
        refuse_others(to, of_tables.given())
        return write_compressed(target, compressing)
    if to == "catalog":
        refuse_others(to, of_tables.given() | {"--columns": columns, "--stars": stars} | compressing.given())
        return write_catalog(target)
    refuse_others(to, compressing.given())
    from hpc_ae.export import ExportSettings
    from hpc_ae.export import export as write

    settings = ExportSettings(
        to, compressing.columns, good, vectors == "split", files, threshold, drop_unplaced, overwrite
    )
    done = write(directory, out, settings, join=join, stars=stars)
    left_out = [f"{done.num_bad:,} left out by --good"] if good else []
    left_out += [f"{done.num_unplaced:,} left out without a position"] if done.num_unplaced else []
    account = ", ".join([f"{done.num_stars:,} stars in {directory}", f"{done.num_rows:,} rows in {out}", *left_out])
    same = "rows and ids" if done.ids_compared else "number of rows (no ids were exported)"
    typer.echo(f"{account}; {done.num_bytes / 1e6:,.1f} MB, read back: the same {same}", err=True)
