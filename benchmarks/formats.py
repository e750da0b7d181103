"""Ingest of raw files of every kind, made of one simulated catalog: time with start-up, memory, size.

python benchmarks/formats.py [--stars 5000000] [--formats fits fits.gz blanks csv csv.bz2 csv.zst] [--folder DIR]

About 5 minutes and 4 GB of disk. Each file is removed after its ingest, and each catalog is compared with the first by
its ids and magnitudes.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from common import hpc_ae, measured, report

from hpc_ae import open_catalog

FORMATS = ("fits", "fits.gz", "blanks", "csv", "csv.bz2", "csv.zst")
DELIMITERS = {"blanks": " ", "csv": ","}


def write_text(catalog_dir: Path, path: Path, delimiter: str) -> None:
    """A star catalog as delimited text: objid, ra, dec, u..z, err_u..err_z."""
    catalog = open_catalog(catalog_dir)
    with path.open("wb") as file:
        for index in range(len(catalog.shards)):
            stars = catalog.read_shard(index, ["objid", "ra", "dec", "magnitude", "magnitude_error"])
            columns: dict[str, Any] = {name: stars[name] for name in ("objid", "ra", "dec")}
            for place, band in enumerate(catalog.bands):
                columns[band] = stars["magnitude"][:, place]
                columns[f"err_{band}"] = stars["magnitude_error"][:, place]
            options = pa.csv.WriteOptions(include_header=index == 0, delimiter=delimiter, quoting_style="none")
            pa.csv.write_csv(pa.table(columns), file, options)


def make_raw(folder: Path, stars: Path, name: str) -> Path:
    """The catalog as a raw file of a kind."""
    path = folder / f"raw.{name}"
    base, _, packing = name.partition(".")
    plain = folder / f"raw.{base}" if packing else path
    if base == "fits":
        hpc_ae("export", str(stars), str(plain), "--to", "fits")
    else:
        write_text(stars, plain, DELIMITERS[base])
    if packing:
        with plain.open("rb") as source, open_packed(path, packing) as target:
            shutil.copyfileobj(source, target, 1 << 20)
        plain.unlink()
    return path


def open_packed(path: Path, packing: str) -> Any:
    """A file that compresses what is written to it, quickly."""
    if packing == "gz":
        return gzip.open(path, "wb", 1)
    return bz2.open(path, "wb", 1) if packing == "bz2" else pa.CompressedOutputStream(str(path), "zstd")


def compare(stars: Path, made: Path) -> None:
    """Exit where a catalog does not have the ids and magnitudes of the one that its raw file was made of."""
    first, second = open_catalog(stars), open_catalog(made)
    for index in range(len(first.shards)):
        one, two = (catalog.read_shard(index, ["objid", "magnitude"]) for catalog in (first, second))
        for name in one:
            if not np.array_equal(one[name], two[name], equal_nan=name == "magnitude"):
                raise SystemExit(f"shard {index}: {name} of {made} is not that of {stars}")


def main() -> None:
    """Each format once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stars", type=int, default=5_000_000)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--folder", type=Path, default=None, help="keeps the catalog, and uses one that is there")
    arguments = parser.parse_args()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="hpc_ae-formats-"))).absolute()
    stars, out = folder / f"stars-{arguments.stars}", folder / "out"
    if not (stars / "manifest.json").exists():
        hpc_ae("simulate", str(stars), "--stars", str(arguments.stars))
    for name in arguments.formats:
        path = make_raw(folder, stars, name)
        num_bytes = path.stat().st_size
        usage = measured("ingest", str(path), "--out", str(out), "--workers", "2")
        report(f"ingest, {name}", **usage.rates(arguments.stars, num_bytes), raw_gb=num_bytes / 1e9)
        compare(stars, out)
        shutil.rmtree(out)
        path.unlink()
    if arguments.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
