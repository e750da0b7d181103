"""Ingest of the formats that are not text: time and peak memory of the largest process, each in a fresh process.

python benchmarks/tables.py [--stars 5000000] [--workers 1] [--folder DIR]

About 2 minutes and 3 GB of disk. The files are what `hpc-ae export` writes: compound HDF5, VOTable in BINARY2,
FITS, 100 Parquet files in a directory; and HDF5 compressed by gzip with a dataset for each column.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import h5py
from common import bytes_in, hpc_ae, measured, report

from hpc_ae import open_catalog

NUM_FILES = 100
FORMATS = {
    "hdf5-table": ["--to", "hdf5-table"],
    "votable": ["--to", "votable"],
    "fits": ["--to", "fits"],
    "parquet-tree": ["--to", "parquet", "--files", str(NUM_FILES)],
}


def write_columns(catalog_dir: Path, path: Path) -> None:
    """A dataset for each column, compressed by gzip."""
    catalog = open_catalog(catalog_dir)
    options = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    with h5py.File(path, "w") as file:
        for name in ("objid", "ra", "dec"):
            file.create_dataset(name, data=catalog[name][:], chunks=True, **options)
        for prefix, name in (("", "magnitude"), ("err_", "magnitude_error")):
            values = catalog[name][:]
            for index, band in enumerate(catalog.bands):
                file.create_dataset(prefix + band, data=values[:, index], chunks=True, **options)


def main() -> None:
    """Make a catalog, write it in each format, ingest each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stars", type=int, default=5_000_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="hpc_ae-formats-"))
    stars, out = folder / "stars", folder / "again"
    if not stars.exists():
        hpc_ae("simulate", str(stars), "--stars", str(options.stars))
    for name in (*FORMATS, "hdf5-columns"):
        path = folder / name
        if not path.exists():
            if name in FORMATS:
                hpc_ae("export", str(stars), str(path), *FORMATS[name])
            else:
                write_columns(stars, path)
        num_bytes = bytes_in(path) if path.is_dir() else path.stat().st_size
        shutil.rmtree(out, ignore_errors=True)
        usage = measured("ingest", str(path), "--out", str(out), "--workers", str(options.workers))
        report(f"ingest of {name}", **usage.rates(options.stars, num_bytes + bytes_in(out)))
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
