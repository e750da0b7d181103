"""The rows of a table in an HDF5 file, some MiB at a time."""

from __future__ import annotations

import math
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from hpc_ae.catalog.schema import Caution, Quality
from hpc_ae.readers.arrays import number_array, text_array
from hpc_ae.readers.hdf5_columns import H5Column, chunk_bytes
from hpc_ae.readers.hdf5_fill import find_filled
from hpc_ae.readers.raw_file import BATCH_BYTES, BATCH_ROWS, Batches, Piece, unreadable, wrong_count

_CACHE_BYTES = 1 << 24  # of each dataset
_MOST_CACHE_BYTES = 1 << 29  # of all of them, where their chunks are larger: a chunk is unpacked once
_TEXT_ROWS = 4_096  # of texts of varying length nobody says how long they are
HDF5_ERRORS = (
    *(OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError, AttributeError, ArithmeticError),
)


def read_hdf5(piece: Piece) -> Batches:
    """Yield (first row in the file, columns by our names) for the rows of a piece, some MiB at a time."""
    columns: dict[str, H5Column] = {name: piece.raw.layout[index] for name, index in piece.raw.wanted.items()}
    parts = [part for column in columns.values() for part in (column, column.mask) if part and part.dataset]
    try:
        cache_bytes = _cache_bytes(piece, {part.dataset for part in parts})
        with h5py.File(piece.raw.data_path, "r", locking=False, rdcc_nbytes=cache_bytes) as file:
            datasets = {part.dataset: file[part.dataset] for part in parts}
            for dataset in datasets.values():
                if len(dataset) != piece.raw.num_rows:
                    raise wrong_count(piece.raw, len(dataset), piece.raw.num_rows)
            step = _step(list(datasets.values()))
            for row in range(piece.start, piece.stop, step):
                source = _Rows(file, slice(row, min(piece.stop, row + step)), parts)
                yield row, {name: pa.chunked_array([source.column(column)]) for name, column in columns.items()}
    except HDF5_ERRORS as error:
        raise unreadable(piece.raw.path, f"a damaged HDF5 file: {error}") from error


def _cache_bytes(piece: Piece, names: set[str]) -> int:
    """Bytes of the cache of each dataset: as many as its chunk has, if that is possible for all of them."""
    with h5py.File(piece.raw.data_path, "r", locking=False) as file:
        largest = max((chunk_bytes(file[name]) for name in names), default=0)
    return max(_CACHE_BYTES, min(2 * largest, _MOST_CACHE_BYTES // max(1, len(names))))


def _step(datasets: list[h5py.Dataset]) -> int:
    """Rows to read at once."""
    row_bytes: int = sum(dataset.dtype.itemsize * math.prod(dataset.shape[1:]) for dataset in datasets)
    most = _TEXT_ROWS if any(dataset.dtype.hasobject for dataset in datasets) else BATCH_ROWS
    return max(1, min(most, 4 * BATCH_BYTES // max(1, row_bytes)))


class _Rows:
    """A range of rows of a file; what several columns share is read once."""

    def __init__(self, file: h5py.File, rows: slice, parts: list[H5Column]) -> None:
        self.file, self.rows = file, rows
        self.known: dict[str, np.ndarray] = {}
        self.fields: dict[str, list[str]] = {}
        for part in parts:
            names = self.fields.setdefault(part.dataset, [])
            if part.field is not None and part.field not in names:
                names.append(part.field)

    def column(self, column: H5Column) -> pa.Array:
        """The values (n,) of a column; null where its mask says so, or where it is one that is not read."""
        if not column.dataset:
            return pa.nulls(self.rows.stop - self.rows.start)
        values = self._values(column)
        missing = self._values(column.mask).astype(bool) if column.mask else None
        if column.fills:
            filled = find_filled(values, column.fills)
            missing = filled if missing is None else missing | filled
        if column.flagged:
            if column.dataset == "/objid":
                return self._own_ids(values)
            missing = self._own_missing(self._read(column.dataset), column.element or 0)
        if values.dtype.kind == "S":
            return text_array(values, missing)
        if values.dtype.kind == "O":
            texts = [None if item is None else _text(item) for item in values.tolist()]
            return pa.array(texts, pa.string(), mask=missing)
        return number_array(values, missing)

    def _own_missing(self, values: np.ndarray, element: int) -> np.ndarray:
        """Which (n,) of the magnitudes (n, B) of a shard of our own had no value; where it flagged NaN beside that, and
        nothing else tells them apart, the first one of a star.
        """
        quality, nan = self._read("/quality"), np.isnan(values)
        missing = nan & ((quality & np.uint16(Quality.MISSING)) != 0)[:, None]
        both = ((quality & np.uint16(Quality.NON_FINITE)) != 0) & ~np.isinf(values).any(1)
        missing[both] &= np.arange(values.shape[1]) == nan[both].argmax(1)[:, None]
        return np.asarray(missing[:, element])

    def _own_ids(self, values: np.ndarray) -> pa.Array:
        """Ids of a shard of our own; in text, those that lost digits once say so: 1240000000000000000E0."""
        damaged = (self._read("/caution") & np.uint16(Caution.ID_DAMAGED)) != 0
        if not damaged.any():
            return number_array(values)
        texts = [f"{value}E0" if bad else str(value) for value, bad in zip(values.tolist(), damaged, strict=True)]
        return pa.array(texts, pa.string())

    def _values(self, column: H5Column) -> np.ndarray:
        values = self._read(column.dataset)
        values = values if column.field is None else values[column.field]
        return values if column.element is None else values[:, column.element]

    def _read(self, name: str) -> np.ndarray:
        if name not in self.known:
            source: Any = self.file[name]
            self.known[name] = (source.fields(self.fields[name]) if self.fields.get(name) else source)[self.rows]
        return self.known[name]


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
