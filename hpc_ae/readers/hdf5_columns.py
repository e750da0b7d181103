"""What the tables of an HDF5 file are made of: columns, how each is read or why it is not, and their masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import h5py
import numpy as np
import pyarrow as pa

from hpc_ae.catalog.trust import KNOWN_FILTERS, overclaimed_bytes, unknown_filters
from hpc_ae.readers.astropy_notes import find_masks

MOST_CHUNK_BYTES = 1 << 28  # HDF5 unpacks a chunk whole
_PACKED = ("scale_factor", "add_offset")  # netCDF: the values are others than those stored


@dataclass(frozen=True)
class H5Column:
    """One column: a dataset ("" where its values are not read), a field of a compound one, an element of an array.

    `mask` names what is missing, `fills` are numbers that stand for no value; `flagged` says that a shard of our own
    has more to say of it than the values.
    """

    dataset: str
    field: str | None = None
    element: int | None = None
    mask: H5Column | None = None
    flagged: bool = False
    fills: tuple[int | float, ...] = ()


@dataclass
class H5Table:
    """Columns of one length, as they are found."""

    label: str
    num_rows: int
    names: list[str] = field(default_factory=list)
    columns: list[H5Column] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)
    elements: set[str] = field(default_factory=set)  # that are called so by nothing but convention

    def add(self, name: str, column: H5Column, dtype: np.dtype | None, elements: Sequence[str], danger: str) -> None:
        """Note one column, or the elements of an array one by one; it is not read where `danger` says why, where it
        is of no type that is known, or where it is an array without names of its elements.
        """
        kind = arrow_type(dtype)
        if not kind or not elements:
            danger = danger or f"{dtype} {'' if elements else 'array '}of HDF5"
        many = len(elements) > 1
        for index, element in enumerate(elements or [name]):
            part = replace(column, element=index) if many else column
            self.names.append(element)
            self.columns.append(H5Column("") if danger else part)
            self.types.append(danger or kind)


def arrow_type(dtype: np.dtype | None) -> str:
    """The type of the values that a column of `dtype` is read as; "" where it is not read."""
    if dtype is None:
        return ""
    if dtype.kind == "S" or h5py.check_string_dtype(dtype) is not None:
        return "string"
    if dtype.kind in "iufb" and dtype.itemsize <= 8:
        return str(pa.from_numpy_dtype(dtype.newbyteorder("=")))
    return ""


def dtype_of(dataset: h5py.Dataset) -> np.dtype | None:
    """The type of a dataset; None where numpy has none for it, such as times or floats of 128 bits."""
    try:
        found: np.dtype = dataset.dtype
    except (TypeError, ValueError):
        return None
    return found


def danger_of(dataset: h5py.Dataset) -> str:
    """Why the values of a dataset are not read, as the type that it is listed with; "" where they are."""
    dtype = dtype_of(dataset)
    if dtype is None:
        return "an HDF5 type that numpy does not have"
    if unknown := unknown_filters(dataset):
        known = ", ".join(KNOWN_FILTERS.values())
        return f"compressed by a filter that is not read, number {unknown[0]} (of {known}: h5repack -f GZIP=4)"
    if num_bytes := overclaimed_bytes(dataset):
        return f"refused: {num_bytes:,} bytes declared, {dataset.id.get_storage_size():,} stored"
    if (num_bytes := chunk_bytes(dataset)) > MOST_CHUNK_BYTES:
        return f"refused: chunks of {num_bytes:,} bytes (h5repack -l CHUNK=65536 makes them smaller)"
    if packed := [name for name in _PACKED if name in dataset.attrs]:
        return f"packed by netCDF's {packed[0]}, which is not applied"
    return ""


def chunk_bytes(dataset: h5py.Dataset) -> int:
    """Bytes of one chunk; 0 where there are none."""
    return int(np.prod(dataset.chunks, dtype=float)) * dataset.dtype.itemsize if dataset.chunks else 0


def with_masks(table: H5Table) -> H5Table:
    """Take away astropy's mask columns and tie each to its column, which is not read where the mask is not."""
    masks, unfit, every = find_masks(table.names, table.types)
    for place, at in masks.items():
        table.columns[place] = replace(table.columns[place], mask=table.columns[at])
    for place, at in unfit.items():
        table.columns[place] = H5Column("")
        table.types[place] = f"masked by {table.names[at]}, which is {table.types[at]}"
    kept = [index for index in range(len(table.names)) if index not in every]
    table.names = [table.names[index] for index in kept]
    table.types = [table.types[index] for index in kept]
    table.columns = [table.columns[index] for index in kept]
    return table
