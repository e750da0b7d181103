"""HDF5 tables in bounded memory: compound datasets, a dataset per column, pandas and PyTables, and our own shards.

A file is opened without trust: see catalog/trust.py. Its rows are read in hdf5_rows.py.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from hpc_ae.catalog.schema import STAR_FORMAT
from hpc_ae.catalog.trust import find_outward_link, is_elsewhere
from hpc_ae.readers.astropy_notes import MASK, column_notes, named_elements, said_elements
from hpc_ae.readers.hdf5_columns import H5Column, H5Table, danger_of, dtype_of, with_masks
from hpc_ae.readers.hdf5_fill import fill_values
from hpc_ae.readers.hdf5_pandas import fixed_frame, frame_names, is_fixed_frame
from hpc_ae.readers.hdf5_rows import HDF5_ERRORS
from hpc_ae.readers.hdf5_vaex import add_vaex_column, vaex_place
from hpc_ae.readers.raw_file import BATCH_BYTES, RawFile, unreadable
from hpc_ae.readers.surveys import common_names

_MAGIC = b"\x89HDF\r\n\x1a\n"
_USER_BLOCKS = (0, *(512 << shift for shift in range(7)))
_MOST_OBJECTS = 20_000
_MOST_DEPTH = 16
_ASTROPY_META = ".__table_column_meta__"
_BANDS = ("bands", "filters", "band_names")  # attributes that say what the columns of a matrix are
_ERROR = re.compile(r"(?i)err|sigma|ivar|^e_")


def is_hdf5(head: bytes) -> bool:
    """Whether a file is HDF5 by its first bytes; 512 and more of the user's may stand before."""
    return any(head[at : at + len(_MAGIC)] == _MAGIC for at in _USER_BLOCKS)


def open_hdf5(path: Path, data_path: Path) -> list[RawFile]:
    """The tables of an HDF5 file; InputError where it is damaged, or leads to other files."""
    try:
        with h5py.File(data_path, "r", locking=False) as file:
            tables = list(_find_tables(path, file))
            own = _text(file.attrs.get("format", "")) == STAR_FORMAT
    except HDF5_ERRORS as error:
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
            elements=frozenset(table.elements),
        )
        for table in tables
    ]


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _find_tables(path: Path, file: h5py.File) -> Iterator[H5Table]:
    """Every compound dataset, and in every group the datasets of one length."""
    own = _text(file.attrs.get("format", "")) == STAR_FORMAT
    vaex: dict[str, H5Table] = {}
    for group, datasets in _walk(path, file):
        if place := vaex_place(group, datasets):
            num_rows = len(datasets["data"]) if datasets["data"].shape else 0
            table = vaex.setdefault(place, H5Table(f"vaex table {posixpath.dirname(place)}", num_rows))
            add_vaex_column(table, group, datasets)
            continue
        if is_fixed_frame(group):
            yield fixed_frame(group, datasets)
            continue
        by_length: dict[int, H5Table] = {}
        for name, dataset in datasets.items():
            if name.endswith(_ASTROPY_META) or not dataset.shape:
                continue
            if isinstance(dataset.id.get_type(), h5py.h5t.TypeCompoundID):
                if dataset.ndim == 1:
                    yield _compound(dataset, datasets.get(name + _ASTROPY_META))
                continue
            label = f"columns of {len(dataset)} rows in {group.name}"
            table = by_length.setdefault(len(dataset), H5Table(label, len(dataset)))
            _add_dataset(table, name, dataset, own and group.name == "/")
        _add_strangers(list(by_length.values()))
        yield from (with_masks(table) for table in by_length.values())
    yield from vaex.values()


def _add_strangers(tables: list[H5Table]) -> None:
    """To the columns of one length add ids, positions, redshifts and errors beside them that have another, as columns
    that are not read: to take the stars without them would be to lose them.
    """
    found = [
        (table, name)
        for table in tables
        for name in table.names
        if name.lower() in common_names() or (_ERROR.search(name) and table.num_rows > 1)
    ]
    for table in tables:
        for other, name in found:
            if other is not table and name not in table.names:
                table.names.append(name)
                table.columns.append(H5Column(""))
                table.types.append(f"another table: {other.num_rows:,} rows where this one has {table.num_rows:,}")


def _walk(path: Path, file: h5py.File) -> Iterator[tuple[h5py.Group, dict[str, h5py.Dataset]]]:
    """Every group with its datasets, after checking that no name leads out of the file."""
    waiting = [(file["/"], 0)]
    num_objects = 0
    while waiting:
        group, depth = waiting.pop(0)
        datasets = {}
        for name in group:
            if isinstance(name, bytes):
                raise unreadable(path, f"a name in {group.name} that is not UTF-8: {name!r}", "rename it")
            if name.startswith("_i_"):  # PyTables' indexes
                continue
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


def _compound(dataset: h5py.Dataset, meta: h5py.Dataset | None) -> H5Table:
    """A compound dataset: a column for each field, of pandas' blocks one for each name that it notes."""
    notes = _astropy_notes(meta)
    units = {name: note.get("unit", "") for name, note in notes.items()}
    table = H5Table(f"dataset {dataset.name}", len(dataset), units=units)
    danger, dtype = danger_of(dataset), dtype_of(dataset)
    if dtype is None:
        kind = dataset.id.get_type()
        for name in (_text(kind.get_member_name(index)) for index in range(kind.get_nmembers())):
            table.add(name, H5Column(dataset.name, name), None, [name], danger)
        return table
    for name in dtype.names or ():
        base, shape = dtype[name].base, dtype[name].shape
        said = said_elements(notes.get(name.removesuffix(MASK), {}).get("description", ""))
        elements = named_elements(name, int(np.prod(shape)), said) if len(shape) <= 1 else []
        names = frame_names(dataset, name, shape)
        column = H5Column(dataset.name, name, 0 if shape == (1,) else None)
        first = len(table.names)
        table.add(name, column, base, elements if names is None else names, danger)
        units |= dict.fromkeys(table.names[first:], units.get(name, ""))
        table.elements |= set(elements) if names is None and shape and not said else set()
    return with_masks(table)


def _add_dataset(table: H5Table, name: str, dataset: h5py.Dataset, own: bool) -> None:
    """A dataset (N,) as a column, (N, k) as k of them, called by an attribute such as `bands` where it has one."""
    width = dataset.shape[1] if dataset.ndim == 2 else 1
    bands = _bands(dataset)
    elements = named_elements(name, width, bands) if dataset.ndim <= 2 else []
    if own and len(bands) == width and (prefix := {"magnitude": "", "magnitude_error": "err_"}.get(name)) is not None:
        elements = [prefix + band for band in bands]
    flagged = own and name in ("magnitude", "objid")
    dtype, first = dtype_of(dataset), len(table.names)
    element = 0 if dataset.shape[1:] == (1,) else None
    column = H5Column(dataset.name, None, element, None, flagged, fill_values(dataset, dtype))
    table.add(name, column, dtype, elements, danger_of(dataset))
    table.elements |= set(elements) if width > 1 and not bands else set()
    unit = _text(dataset.attrs.get("unit", dataset.attrs.get("units", "")))
    table.units |= dict.fromkeys(table.names[first:], unit)


def _bands(dataset: h5py.Dataset) -> list[str]:
    """What an attribute of a matrix says of its columns: texts, one text with commas or blanks, or `ugriz`."""
    for attribute in _BANDS:
        if attribute in dataset.attrs:
            names = [_text(name).strip() for name in np.atleast_1d(dataset.attrs[attribute]).tolist()]
            if len(names) == 1 and dataset.ndim == 2 and dataset.shape[1] > 1:
                parts = re.split(r"[\s,;]+", names[0])
                return list(names[0]) if len(parts) == 1 else parts
            return names
    return []


def _astropy_notes(meta: h5py.Dataset | None) -> dict[str, dict[str, str]]:
    """What astropy notes beside its tables, by column."""
    if meta is None or meta.ndim > 1 or danger_of(meta) or meta.dtype.kind != "S" or meta.nbytes > BATCH_BYTES:
        return {}
    return column_notes("\n".join(_text(line) for line in np.atleast_1d(meta[()]).tolist()))
