"""What `hpc-ae export --to compressed` and `--to catalog` do with the options of export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    int | None, typer.Option(min=0, max=16, help="Compressed: bits of a latent; by default as few as pay off.")
]
ModelPlace = Annotated[Path | None, typer.Option(help="Compressed: the model that encoded, if it has moved.")]
WriteWorkers = Annotated[int, typer.Option(min=1, help="Compressed, catalog: worker processes.")]

DEFAULT_MAX_ERROR = "0.01"


@dataclass(frozen=True)
class Target:
    """What every format needs: from where to where, by how many processes, and over what is there or not."""

    directory: Path
    out: Path
    workers: int
    overwrite: bool


@dataclass(frozen=True)
class TableOptions:
    """Options that tables alone have."""

    good: bool
    join: bool
    files: int | None
    drop_unplaced: bool

    def given(self) -> dict[str, object]:
        """Each as a user types it, with its value."""
        return {
            "--good": self.good,
            "--join": self.join,
            "--files": self.files,
            "--drop-unplaced": self.drop_unplaced,
        }


@dataclass(frozen=True)
class CompressOptions:
    """Options of a compressed catalog; a table has the first two as well."""

    columns: tuple[str, ...] | None
    stars: Path | None
    max_error: str | None
    latent_bits: int | None
    model: Path | None

    def given(self) -> dict[str, object]:
        """Each that a table does not have, as a user types it, with its value."""
        return {"--max-error": self.max_error, "--latent-bits": self.latent_bits, "--model": self.model}


def column_names(text: str | None) -> tuple[str, ...] | None:
    """The names of a list with commas."""
    return None if text is None else tuple(name.strip() for name in text.split(","))


def refuse_others(to: str, others: dict[str, object]) -> None:
    """InputError where an option was given that the format does not have."""
    for option, value in others.items():
        if value:
            raise InputError("the format has no such option", where=option, got=f"--to {to}")


def write_compressed(target: Target, options: CompressOptions) -> None:
    """Compress an encoding and say what it came to."""
    from hpc_ae.catalog.catalog import open_catalog
    from hpc_ae.compress import CompressSettings, compress, parse_max_error

    max_error = parse_max_error(options.max_error or DEFAULT_MAX_ERROR, open_catalog(target.directory).bands)
    settings = CompressSettings(max_error, options.latent_bits, options.columns, target.overwrite)
    places = {"stars": options.stars, "model": options.model}
    done = compress(target.directory, target.out, settings, **places, num_workers=target.workers)
    if done is not None:
        typer.echo(f"{target.out}: {_account(done)}", err=True)


def _account(done: Compressed) -> str:
    bits = ", ".join(f"{name} {done.bits_per_star(name):.2f}" for name in done.column_bytes)
    errors = ", ".join(f"{band} {most:.4g} ({done.rms[band]:.4g})" for band, most in done.most.items())
    return (
        f"{done.num_stars:,} stars, {done.num_bytes / 1e6:,.1f} MB with {done.model_bytes / 1e3:,.1f} kB of model; "
        f"latents of {done.latent_bits} bits\n"
        f"bits per star: {bits}\n"
        f"largest error (root mean square) in mag: {errors}; every block was decoded and compared, star by star"
    )


def write_catalog(target: Target) -> None:
    """Restore the star catalog that a compressed catalog holds."""
    from hpc_ae.decompress import decompress

    num = decompress(target.directory, target.out, overwrite=target.overwrite, num_workers=target.workers)
    if num is not None:
        typer.echo(f"{num:,} stars of {target.directory} in {target.out}", err=True)
