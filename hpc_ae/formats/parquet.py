"""Parquet, in one file or several, with the headers that TOPCAT (VOParquet) and astropy (YAML) read units from.

Shape letters: N rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hpc_ae.catalog.arrow import arrow_schema, arrow_table
from hpc_ae.catalog.shard import Arrays
from hpc_ae.formats.table import TableInfo, astropy_yaml, create_file
from hpc_ae.formats.votable import votable_without_data

GROUP_ROWS = 262_144
PART_PATTERN = "part-[0-9]*.parquet"


def parquet_schema(info: TableInfo) -> pa.Schema:
    """The schema of a table's files with all that is known of it as metadata."""
    notes = {
        **info.notes,
        **({"flags": "; ".join(info.flags)} if info.flags else {}),
        "table_meta_yaml": "\n".join(astropy_yaml(info)),
        "IVOA.VOTable-Parquet.version": "1.0",
        "IVOA.VOTable-Parquet.content": votable_without_data(info),
    }
    return arrow_schema(info.fields, notes)


class ParquetWriter:
    """Writes a table as a Parquet file, or with `num_files` as a directory of that many with nearly equal rows."""

    def __init__(self, path: Path, info: TableInfo, num_files: int | None = None) -> None:
        self._schema = parquet_schema(info)
        self._paths = [path] if num_files is None else [path / f"part-{i:05d}.parquet" for i in range(num_files)]
        edges = [info.num_rows * index // len(self._paths) for index in range(len(self._paths) + 1)]
        self._sizes = [high - low for low, high in pairwise(edges)]
        self._writer: pq.ParquetWriter | None = None
        self._place, self._num_in_file = -1, 0
        self._open_next()

    def append(self, arrays: Arrays) -> None:
        """Write some rows: one (N,) or (N, width) array for each column."""
        table = arrow_table(self._schema, arrays)
        while len(table):
            while self._num_in_file == self._sizes[self._place] and self._place + 1 < len(self._paths):
                self._open_next()
            room = self._sizes[self._place] - self._num_in_file
            part = table.slice(0, room if self._place + 1 < len(self._paths) else len(table))
            assert self._writer is not None
            self._writer.write_table(part, row_group_size=GROUP_ROWS)
            self._num_in_file += len(part)
            table = table.slice(len(part))

    def _open_next(self) -> None:
        self._close_file()
        self._place, self._num_in_file = self._place + 1, 0
        self._writer = open_parquet_file(self._paths[self._place], self._schema)

    def _close_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def close(self) -> None:
        """End the last file; those that no row was left for are there too, without rows."""
        while self._place + 1 < len(self._paths):
            self._open_next()
        self._close_file()

    def abandon(self) -> None:
        """Let go of the file."""
        self._close_file()


def open_parquet_file(path: Path, schema: pa.Schema, footers: list[Any] | None = None) -> pq.ParquetWriter:
    """A writer of a new file, mode 0600, that adds its footer to `footers`.

    Only flags get a dictionary: for ids and floats it costs time and gains nothing.
    """
    create_file(path).close()
    words = [field.name for field in schema if pa.types.is_uint16(field.type)]
    return pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=words or False, metadata_collector=footers)


def read_parquet_column(paths: Sequence[Path], name: str) -> Iterator[np.ndarray]:
    """One column of Parquet files, batch by batch: (N,), or flat where it is a vector."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=[name]):
                column = batch.column(0)
                flat = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
                yield flat.to_numpy(zero_copy_only=False)
