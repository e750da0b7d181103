"""HDF5 tables in bounded memory: compound datasets, a dataset per column, pandas and PyTables, and our own shards.

A file is opened without trust: see catalog/trust.py. Names that pandas keeps in a pickle are read without running it.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from hpc_ae.catalog.readers.arrays import number_array, text_array
from hpc_ae.catalog.readers.rawfile import BATCH_BYTES, BATCH_ROWS, Batches, Piece, RawFile, element_names, unreadable
from hpc_ae.catalog.schema import STAR_FORMAT, Quality
from hpc_ae.catalog.trust import KNOWN_FILTERS, find_outward_link, is_elsewhere, overclaimed_bytes, unknown_filters

_MAGIC = b"\x89HDF\r\n\x1a\n"
_USER_BLOCKS = (0, *(512 << shift for shift in range(7)))
_MOST_OBJECTS = 20_000
_MOST_DEPTH = 16
_CACHE_BYTES = 1 << 24
_ASTROPY_META = "__table_column_meta__"
_ASTROPY_UNIT = re.compile(r"\{name: ([^,}]+), unit: ([^,}]+)")
_MASK = ".mask"  # astropy's companion of a column with missing values
_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, AttributeError)


@dataclass(frozen=True)
class H5Column:
    """One column: a dataset, or a field of a compound one, or one element of an array; `mask` names what is missing."""

    dataset: str
    field: str | None = None
    element: int | None = None
    mask: H5Column | None = None
    flagged: bool = False  # of our own shards: NaN is a missing value where the quality says so


@dataclass
class _Table:
    """Columns of one length, as they are found."""

    label: str
    num_rows: int
    names: list[str] = field(default_factory=list)
    columns: list[H5Column] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)


def is_hdf5(head: bytes) -> bool:
    """Whether a file is HDF5 by its first bytes; 512 and more of the user's may stand before."""
    return any(head[at : at + len(_MAGIC)] == _MAGIC for at in _USER_BLOCKS)


def open_hdf5(path: Path, data_path: Path) -> list[RawFile]:
    """The tables of an HDF5 file; InputError where it is damaged, or leads to other files."""
    try:
        with h5py.File(data_path, "r", locking=False) as file:
            tables = list(_find_tables(path, file))
            own = _text(file.attrs.get("format", "")) == STAR_FORMAT
    except _ERRORS as error:
        raise unreadable(path, f"a damaged HDF5 file: {error}") from error
    if not tables:
        raise unreadable(path, "an HDF5 file without a table", "one is a compound dataset, or columns of one length")
    return [
        RawFile(
            path,
            data_path,
            "hdf5",
            tuple(table.names),
            units=tuple(table.units.get(name, "") for name in table.names),
            dtypes=tuple(table.types),
            num_rows=table.num_rows,
            table=table.label,
            dialect="a shard of a star catalog" if own else f"HDF5, {table.label}",
            layout=tuple(table.columns),
        )
        for table in tables
    ]


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _find_tables(path: Path, file: h5py.File) -> Iterator[_Table]:
    """Every compound dataset, and in every group the datasets of one length."""
    own = _text(file.attrs.get("format", "")) == STAR_FORMAT
    for group, datasets in _walk(path, file):
        if "axis0" in group and "axis1" in group and (table := _pandas_blocks(group)):
            yield table
            continue
        units = _astropy_units(group)
        flagged = own and "quality" in datasets and not _danger(datasets["quality"])
        by_length: dict[int, _Table] = {}
        for name, dataset in datasets.items():
            if name.endswith(_ASTROPY_META) or not dataset.shape:
                continue
            if dataset.dtype.names:
                if dataset.ndim == 1:
                    yield _compound(dataset, units)
                continue
            label = f"columns of {len(dataset)} rows in {group.name}"
            _add_dataset(by_length.setdefault(len(dataset), _Table(label, len(dataset))), name, dataset, flagged)
        yield from (_with_masks(table) for table in by_length.values())


def _walk(path: Path, file: h5py.File) -> Iterator[tuple[h5py.Group, dict[str, h5py.Dataset]]]:
    """Every group with its datasets, after checking that no name leads out of the file."""
    waiting = [(file["/"], 0)]
    num_objects = 0
    while waiting:
        group, depth = waiting.pop(0)
        datasets = {}
        for name in (name for name in group if not name.startswith("_i_")):  # PyTables' indexes
            num_objects += 1
            if num_objects > _MOST_OBJECTS or depth > _MOST_DEPTH:
                raise unreadable(path, f"more than {_MOST_OBJECTS:,} names, or groups deeper than {_MOST_DEPTH}")
            place = f"{group.name.rstrip('/')}/{name}"
            if link := find_outward_link(group, name):
                raise unreadable(path, f"{place} is a {link}", "links are not followed: copy what they lead to")
            item = group[name]
            if isinstance(item, h5py.Group):
                waiting.append((item, depth + 1))
            elif isinstance(item, h5py.Dataset):
                if is_elsewhere(item):
                    raise unreadable(path, f"the data of {place} lie in another file", "name the files that hold them")
                datasets[name] = item
        yield group, datasets


def _danger(dataset: h5py.Dataset) -> str:
    """Why the values of a dataset are not read, as the type that it is listed with; "" where they are."""
    if unknown := unknown_filters(dataset):
        known = ", ".join(KNOWN_FILTERS.values())
        return f"compressed by a filter that is not read, number {unknown[0]} (of {known}: h5repack -f GZIP=4)"
    if num_bytes := overclaimed_bytes(dataset):
        return f"refused: {num_bytes:,} bytes declared, {dataset.id.get_storage_size():,} stored"
    return ""


def _arrow_type(dtype: np.dtype) -> str:
    """The type of the values that a column of `dtype` is read as; numpy's own name where it is not read."""
    if dtype.kind == "S" or h5py.check_string_dtype(dtype) is not None:
        return "string"
    if dtype.kind in "iufb" and dtype.itemsize <= 8:
        return str(pa.from_numpy_dtype(dtype.newbyteorder("=")))
    return f"{dtype} of HDF5"


def _add_field(table: _Table, name: str, column: H5Column, dtype: np.dtype, elements: list[str]) -> None:
    """Note one column, or the elements of an array one by one; without names of elements it cannot be read."""
    kind = _arrow_type(dtype)
    table.names += elements or [name]
    table.types += [kind] * len(elements) or [f"{kind} array of HDF5"]
    many = len(elements) > 1
    for index in range(max(1, len(elements))):
        table.columns.append(
            H5Column(column.dataset, column.field, index if many else None, None, column.flagged) if many else column
        )


def _compound(dataset: h5py.Dataset, units: dict[str, str]) -> _Table:
    """A compound dataset: a column for each field, of pandas' blocks one for each name that it notes."""
    table = _Table(f"dataset {dataset.name}", len(dataset), units=units)
    danger = _danger(dataset)
    for name in dataset.dtype.names:
        dtype, shape = dataset.dtype[name].base, dataset.dtype[name].shape
        elements = element_names(name, int(np.prod(shape))) if len(shape) <= 1 else []
        if name.startswith("values_block_") and shape:
            noted = _pickled_names(dataset.attrs.get(f"{name}_kind"))
            elements = noted if len(noted) == shape[0] else elements
        column = H5Column(dataset.name, name, 0 if shape == (1,) else None)
        _add_field(table, name, column, dtype, elements)
    if danger:
        table.types = [danger] * len(table.types)
    return _with_masks(table)


def _add_dataset(table: _Table, name: str, dataset: h5py.Dataset, own: bool) -> None:
    """A dataset (N,) as a column, (N, k) as k of them, called by its attribute `bands` where it has one."""
    width = dataset.shape[1] if dataset.ndim == 2 else 1
    elements = element_names(name, width) if dataset.ndim <= 2 and width else []
    bands = [_text(band) for band in np.atleast_1d(dataset.attrs.get("bands", []))]
    if len(bands) == width and dataset.ndim == 2:
        prefix = {"magnitude": "", "magnitude_error": "err_"}.get(name, f"{name}_") if own else f"{name}_"
        elements = [prefix + band for band in bands]
    column = H5Column(dataset.name, None, 0 if dataset.shape[1:] == (1,) else None, None, own and name == "magnitude")
    first = len(table.names)
    _add_field(table, name, column, dataset.dtype, elements)
    if danger := _danger(dataset):
        table.types[first:] = [danger] * (len(table.types) - first)
    unit = _text(dataset.attrs.get("unit", dataset.attrs.get("units", "")))
    table.units |= dict.fromkeys(table.names[first:], unit)


def _with_masks(table: _Table) -> _Table:
    """Take away astropy's mask columns and tie each to the column that it belongs to."""
    places = {name: index for index, name in enumerate(table.names)}
    masks = {
        name: table.columns[places[name + _MASK]]
        for name in table.names
        if name + _MASK in places and table.types[places[name + _MASK]] == "bool"
    }
    kept = [index for index, name in enumerate(table.names) if name.removesuffix(_MASK) not in masks or name in masks]
    columns = [
        H5Column(column.dataset, column.field, column.element, masks.get(name), column.flagged)
        for name, column in zip(table.names, table.columns, strict=True)
    ]
    table.names, table.types = [table.names[index] for index in kept], [table.types[index] for index in kept]
    table.columns = [columns[index] for index in kept]
    return table


def _astropy_units(group: h5py.Group) -> dict[str, str]:
    """Units as astropy notes them beside its tables."""
    for name in group:
        if name.endswith(_ASTROPY_META) and isinstance(group.get(name), h5py.Dataset):
            meta = group[name]
            if meta.dtype.kind == "S" and not _danger(meta) and meta.nbytes < BATCH_BYTES:
                text = "\n".join(_text(line) for line in np.atleast_1d(meta[()]).tolist())
                return dict(_ASTROPY_UNIT.findall(text))
    return {}


def _pickled_names(value: object) -> list[str]:
    """The texts in a pickled list of names, found without running it."""
    if not isinstance(value, bytes | str | np.bytes_):
        return []
    try:
        steps = list(pickletools.genops(value if isinstance(value, bytes) else value.encode("latin-1")))
    except ValueError:
        return []
    return [text for operation, text, _ in steps if "UNICODE" in operation.name and isinstance(text, str)]


def _pandas_blocks(group: h5py.Group) -> _Table | None:
    """pandas' fixed format: blocks (N, k) of values beside the names of their columns."""
    table = None
    for number in range(_MOST_DEPTH):
        items, values = (group.get(f"block{number}_{what}") for what in ("items", "values"))
        if not isinstance(items, h5py.Dataset) or not isinstance(values, h5py.Dataset) or values.ndim != 2:
            break
        table = table or _Table(f"pandas frame {group.name}", len(values))
        danger = _danger(values) or (_danger(items) or items.dtype.kind != "S" or items.nbytes > BATCH_BYTES)
        names = [] if danger else [_text(name) for name in items[()].tolist()]
        if len(values) != table.num_rows or len(names) != values.shape[1]:
            return None
        first = len(table.names)
        _add_field(table, "", H5Column(values.name, None, 0 if len(names) == 1 else None), values.dtype, names)
        table.names[first:] = names
    return table


def read_hdf5(piece: Piece) -> Batches:
    """Yield (first row in the file, columns by our names) for the rows of a piece, some MiB at a time."""
    columns: dict[str, H5Column] = {name: piece.raw.layout[index] for name, index in piece.raw.wanted.items()}
    try:
        with h5py.File(piece.raw.data_path, "r", locking=False, rdcc_nbytes=_CACHE_BYTES) as file:
            datasets = {column.dataset: file[column.dataset] for column in columns.values()}
            row_bytes = sum(dataset.dtype.itemsize * max(1, *dataset.shape[1:], 1) for dataset in datasets.values())
            step = max(1, min(BATCH_ROWS, 4 * BATCH_BYTES // max(1, row_bytes)))
            for row in range(piece.start, piece.stop, step):
                source = _Rows(file, slice(row, min(piece.stop, row + step)))
                yield row, {name: pa.chunked_array([source.column(column)]) for name, column in columns.items()}
    except _ERRORS as error:
        raise unreadable(piece.raw.path, f"a damaged HDF5 file: {error}") from error


class _Rows:
    """A range of rows of a file; what several columns share is read once."""

    def __init__(self, file: h5py.File, rows: slice) -> None:
        self.file, self.rows = file, rows
        self.known: dict[tuple[str, str | None], np.ndarray] = {}

    def column(self, column: H5Column) -> pa.Array:
        """The values (n,) of a column; null where its mask, or the quality of our own shards, says so."""
        values = self._values(column)
        missing = self._values(column.mask).astype(bool) if column.mask else None
        if column.flagged:
            flagged = (self._read("/quality", None) & np.uint16(Quality.MISSING)) != 0
            missing = np.isnan(values) & flagged
        if values.dtype.kind == "S":
            return text_array(values, missing)
        if values.dtype.kind == "O":
            texts = [None if item is None else _text(item) for item in values.tolist()]
            return pa.array(texts, pa.string(), mask=missing)
        return number_array(values, missing)

    def _values(self, column: H5Column) -> np.ndarray:
        values = self._read(column.dataset, column.field)
        return values if column.element is None else values[:, column.element]

    def _read(self, name: str, part: str | None) -> np.ndarray:
        if (name, part) not in self.known:
            source: Any = self.file[name]
            self.known[name, part] = (source if part is None else source.fields(part))[self.rows]
        return self.known[name, part]
