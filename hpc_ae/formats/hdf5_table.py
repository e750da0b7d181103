"""HDF5 as `astropy.table.Table.read` opens it: one compound dataset, and beside it what astropy says of its columns.

Shape letters: N rows.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpc_ae.catalog.shard import CHUNK_ROWS, Arrays
from hpc_ae.formats.table import TableInfo, astropy_yaml, create_file, fill_records, record_dtype


class Hdf5Writer:
    """Writes a table as the only compound dataset of an HDF5 file."""

    def __init__(self, path: Path, info: TableInfo) -> None:
        self._dtype = record_dtype(info.fields, "<")
        self._disk = _Disk(path)
        self._file = h5py.File(self._disk, "w", libver=("v110", "v110"))
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
        self._rows[self._num_done : self._num_done + len(records)] = records
        self._num_done += len(records)
        self._disk.check()

    def close(self) -> None:
        """End the file."""
        self._file.close()
        self._disk.file.close()
        self._disk.check()

    def abandon(self) -> None:
        """Let go of the file."""
        with contextlib.suppress(Exception):
            self._file.close()
        self._disk.file.close()


class _Disk:
    """The file below HDF5, which crashes the process where a write fails: it is told that all went well, and the first
    error is kept for `check` to raise.
    """

    def __init__(self, path: Path) -> None:
        with create_file(path) as file:
            self.file = os.fdopen(os.dup(file.fileno()), "w+b", buffering=0)
        self.error: OSError | None = None

    def check(self) -> None:
        """Raise the first error there was."""
        if self.error is not None:
            raise self.error

    def _try(self, work: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return work(*arguments)
        except OSError as error:
            self.error = self.error or error
            return None

    def write(self, data: memoryview) -> int:
        """Write all bytes, or keep the error."""
        left = memoryview(data).cast("B")
        while left and self.error is None:
            left = left[self._try(self.file.write, left) or 0 :]
        return len(data)

    def truncate(self, size: int) -> None:
        """Make the file so long."""
        self._try(self.file.truncate, size)

    def flush(self) -> None:
        """Nothing is buffered."""

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        return int(self._try(self.file.seek, place, whence) or 0)

    def tell(self) -> int:
        """Where the file is."""
        return self.file.tell()

    def read(self, num_bytes: int = -1) -> bytes:
        """Read what is there."""
        return self._try(self.file.read, num_bytes) or b""

    def readinto(self, buffer: memoryview) -> int:
        """Read what is there."""
        return int(self._try(self.file.readinto, buffer) or 0)


def read_hdf5_column(path: Path, info: TableInfo, name: str) -> Iterator[np.ndarray]:
    """One column of a file that Hdf5Writer wrote, chunk by chunk: (N,) or (N, width)."""
    with h5py.File(path, "r", locking=False) as file:
        rows = file[info.name]
        for start in range(0, len(rows), CHUNK_ROWS):
            yield rows.fields(name)[start : start + CHUNK_ROWS]
