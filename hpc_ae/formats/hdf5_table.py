"""HDF5 as `astropy.table.Table.read` opens it: one compound dataset, and beside it what astropy says of its columns.

Shape letters: N rows.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from hpc_ae.catalog.shard import CHUNK_ROWS, Arrays
from hpc_ae.formats.table import TableInfo, astropy_yaml, create_file, fill_records, record_dtype


class Hdf5Writer:
    """Writes a table as the only compound dataset of an HDF5 file."""

    def __init__(self, path: Path, info: TableInfo) -> None:
        self._dtype = record_dtype(info.fields, "<")
        create_file(path).close()
        self._file = h5py.File(path, "w", libver=("v110", "v110"))
        chunk = max(1, min(CHUNK_ROWS, info.num_rows))
        self._rows = self._file.create_dataset(
            info.name, (info.num_rows,), self._dtype, chunks=(chunk,), maxshape=(None,), fletcher32=True
        )
        lines = np.array([line.encode() for line in astropy_yaml(info)])
        self._file.create_dataset(f"{info.name}.__table_column_meta__", data=lines)
        self._num_done = 0

    def append(self, arrays: Arrays) -> None:
        """Write some rows: one (N,) or (N, width) array for each column."""
        records = fill_records(self._dtype, arrays)
        with _named_errors():
            self._rows[self._num_done : self._num_done + len(records)] = records
        self._num_done += len(records)

    def close(self) -> None:
        """End the file."""
        with _named_errors():
            self._file.close()

    def abandon(self) -> None:
        """Let go of the file."""
        self._file.close()


@contextlib.contextmanager
def _named_errors() -> Iterator[None]:
    """HDF5 hides the number of an error in a text: give it to the error that is raised."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        found = re.search(r"errno = (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number)) from error


def read_hdf5_column(path: Path, info: TableInfo, name: str) -> Iterator[np.ndarray]:
    """One column of a file that Hdf5Writer wrote, chunk by chunk: (N,) or (N, width)."""
    with h5py.File(path, "r", locking=False) as file:
        rows = file[info.name]
        for start in range(0, len(rows), CHUNK_ROWS):
            yield rows.fields(name)[start : start + CHUNK_ROWS]
