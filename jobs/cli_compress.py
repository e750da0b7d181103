"""What `hpc-ae export --to compressed` and `--to catalog` do with the options of export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpc_ae.errors import InputError

if TYPE_CHECKING:
    from hpc_ae.compress import Compressed

MaxError = Annotated[
    str | None,
    typer.Option(
        metavar="MAG|u=MAG,...|none",
        help="Compressed: the largest error of a magnitude, 0.01 mag by default; 0 loses nothing; none keeps no "
        "residuals: what the model makes of the latents.",
    ),
]
LatentBits = Annotated[
    int | None, typer.Option(min=0, max=16, help="Compressed: bits of a latent; as few as pay otherwise.")
]
ModelPlace = Annotated[Path | None, typer.Option(help="Compressed: the model that encoded, where it has moved.")]
WriteWorkers = Annotated[int, typer.Option(min=1, help="Compressed, catalog: worker processes.")]

DEFAULT_MAX_ERROR = "0.01"
_OF_TABLES = ("good", "join", "files", "drop_unplaced")


def refuse_others(given: dict[str, Any], names: tuple[str, ...]) -> None:
    """InputError where an option was given that the format does not have."""
    for name in names:
        if given[name]:
            option = f"--{name.replace('_', '-')}"
            raise InputError("the format has no such option", where=option, got=f"--to {given['to']}")


def write_compressed(given: dict[str, Any]) -> None:
    """Compress an encoding and say what it came to; `given` has the options of export by name."""
    refuse_others(given, _OF_TABLES)
    from hpc_ae.catalog.catalog import open_catalog
    from hpc_ae.compress import CompressSettings, compress, parse_max_error

    columns = given["columns"]
    chosen = None if columns is None else tuple(name.strip() for name in columns.split(","))
    max_error = parse_max_error(given["max_error"] or DEFAULT_MAX_ERROR, open_catalog(given["directory"]).bands)
    settings = CompressSettings(max_error, given["latent_bits"], chosen, given["overwrite"])
    places = {"stars": given["stars"], "model": given["model"]}
    done = compress(given["directory"], given["out"], settings, **places, num_workers=given["workers"])
    if done is not None:
        typer.echo(f"{given['out']}: {_account(done)}", err=True)


def _account(done: Compressed) -> str:
    bits = ", ".join(f"{name} {done.bits_per_star(name):.2f}" for name in done.column_bytes)
    errors = ", ".join(f"{band} {most:.4g} ({done.rms[band]:.4g})" for band, most in done.most.items())
    return (
        f"{done.num_stars:,} stars, {done.num_bytes / 1e6:,.1f} MB with {done.model_bytes / 1e3:,.1f} kB of model; "
        f"latents of {done.latent_bits} bits\n"
        f"bits per star: {bits}\n"
        f"largest error (root mean square) in mag: {errors}; every block was decoded and compared, star by star"
    )


def write_catalog(given: dict[str, Any]) -> None:
    """Restore the star catalog that a compressed catalog holds; `given` has the options of export by name."""
    refuse_others(given, (*_OF_TABLES, "columns", "stars", "max_error", "latent_bits", "model"))
    from hpc_ae.decompress import decompress

    num = decompress(given["directory"], given["out"], overwrite=given["overwrite"], num_workers=given["workers"])
    if num is not None:
        typer.echo(f"{num:,} stars of {given['directory']} in {given['out']}", err=True)
