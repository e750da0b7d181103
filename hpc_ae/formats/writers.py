"""The formats by name: a writer of each, a column read back from what it wrote, and whose output a directory is.

A format's library is imported when the format is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from hpc_ae.formats.table import TableInfo, Writer

FORMATS = ("fits", "parquet", "votable", "hdf5-table", "hats")


def open_writer(to: str, path: Path, info: TableInfo, num_files: int | None = None) -> Writer:
    """A writer of every format but HATS, which needs two passes. `num_files`: Parquet files in the directory `path`."""
    if to == "fits":
        from hpc_ae.formats.fits import FitsWriter

        return FitsWriter(path, info)
    if to == "votable":
        from hpc_ae.formats.votable import VotableWriter

        return VotableWriter(path, info)
    if to == "hdf5-table":
        from hpc_ae.formats.hdf5_table import Hdf5Writer

        return Hdf5Writer(path, info)
    from hpc_ae.formats.parquet import ParquetWriter

    return ParquetWriter(path, info, num_files)


def read_column(to: str, path: Path, info: TableInfo, name: str) -> Iterator[np.ndarray]:
    """One column of what a writer wrote, block by block: arrays (N,), flat or (N, width) where it is a vector."""
    if to == "fits":
        from hpc_ae.formats.fits import read_fits_column

        return read_fits_column(path, info, name)
    if to == "votable":
        from hpc_ae.formats.votable import read_votable_column

        return read_votable_column(path, info, name)
    if to == "hdf5-table":
        from hpc_ae.formats.hdf5_table import read_hdf5_column

        return read_hdf5_column(path, info, name)
    from hpc_ae.formats.parquet import read_parquet_column

    return read_parquet_column(sorted(path.rglob("*.parquet")) if path.is_dir() else [path], name)


def owner_of_dir(to: str, num_files: int | None) -> Callable[[Path], bool] | None:
    """For a format that is a directory: whether a directory is such an output; None for formats of one file."""
    if to == "hats":
        return lambda path: (path / "hats.properties").is_file() and (path / "partition_info.csv").is_file()
    if num_files is not None:
        return lambda path: all(one.match("part-[0-9]*.parquet") and one.is_file() for one in path.iterdir())
    return None
