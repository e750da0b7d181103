"""Tables as vaex writes them into HDF5: a group for each column, with its values and their mask."""

from __future__ import annotations

import posixpath

import h5py

from hpc_ae.readers.hdf5_columns import H5Column, H5Table, danger_of, dtype_of
from hpc_ae.readers.hdf5_fill import fill_values

_UNREAD = {"indices": "text as vaex packs it", "null_bitmap": "masked by a bitmap, which is not read"}


def vaex_place(group: h5py.Group, datasets: dict[str, h5py.Dataset]) -> str:
    """The group of a table of vaex that this group is a column of; "" where it is none: /table/columns/NAME/data."""
    place = posixpath.dirname(group.name)
    return place if posixpath.basename(place) == "columns" and "data" in datasets else ""


def add_vaex_column(table: H5Table, group: h5py.Group, datasets: dict[str, h5py.Dataset]) -> None:
    """Add the column that a group is; with the reason, where its values are not read."""
    name, data, mask = posixpath.basename(group.name), datasets["data"], datasets.get("mask")
    danger = danger_of(data) or next((why for part, why in _UNREAD.items() if part in datasets), "")
    if data.ndim != 1 or len(data) != table.num_rows:
        danger = danger or f"of shape {data.shape} where the table has {table.num_rows:,} rows"
    if mask is not None and (danger_of(mask) or mask.shape != data.shape or mask.dtype.kind not in "biu"):
        danger = danger or f"masked by {mask.dtype} of shape {mask.shape}"
    dtype = dtype_of(data)
    tied = None if mask is None else H5Column(mask.name)
    table.add(name, H5Column(data.name, mask=tied, fills=fill_values(data, dtype)), dtype, [name], danger)
    unit = group.attrs.get("unit", "")
    table.units[name] = unit.decode(errors="replace") if isinstance(unit, bytes) else str(unit)
