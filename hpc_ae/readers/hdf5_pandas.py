"""Tables that pandas wrote into HDF5, in its fixed and its table format. What it pickles is read without running it."""

from __future__ import annotations

import pickletools

import h5py
import numpy as np

from hpc_ae.readers.hdf5_columns import H5Column, H5Table, danger_of, dtype_of
from hpc_ae.readers.raw_file import BATCH_BYTES

BLOCK = "values_block_"  # a field of pandas' tables that holds several columns
_MOST_BLOCKS = 10_000
_INDEX = "index"


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def pickled_texts(value: object) -> list[str]:
    """The texts in a pickled object in order, found without running it."""
    if not isinstance(value, bytes | str):
        return []
    try:
        steps = list(pickletools.genops(value if isinstance(value, bytes) else value.encode("latin-1")))
    except ValueError:
        return []
    return [text for operation, text, _ in steps if "UNICODE" in operation.name and isinstance(text, str)]


def block_names(dataset: h5py.Dataset, field: str) -> list[str]:
    """The columns that a block of a table in pandas' table format holds."""
    return pickled_texts(dataset.attrs.get(f"{field}_kind")) if field.startswith(BLOCK) else []


def index_name(dataset: h5py.Dataset) -> str:
    """What the index of a table in pandas' table format is called; `index` where it has no name."""
    texts = pickled_texts(dataset.parent.attrs.get("info"))
    return next((texts[at + 1] for at, text in enumerate(texts[:-1]) if text == "index_name"), _INDEX)


def is_fixed_frame(group: h5py.Group) -> bool:
    """Whether a group is a frame in pandas' fixed format."""
    return "axis0" in group and "axis1" in group and "block0_items" in group


def fixed_frame(group: h5py.Group, datasets: dict[str, h5py.Dataset]) -> H5Table:
    """A frame in pandas' fixed format: blocks (N, k) of values beside the names of their columns, and its index.

    What cannot be read (texts are pickled) is there with the reason.
    """
    index = datasets.get("axis1")
    num_rows = len(index) if index is not None and index.shape else 0
    table = H5Table(f"pandas frame {group.name}", num_rows)
    if index is not None and index.ndim == 1:
        name = _text(index.attrs.get("name", ""))
        name = _INDEX if name in ("", "N.") or pickled_texts(name) else name
        table.add(name, H5Column(index.name), dtype_of(index), [name], danger_of(index))
    for number in range(_MOST_BLOCKS):
        items, values = (datasets.get(f"block{number}_{what}") for what in ("items", "values"))
        if items is None or values is None:
            break
        _add_block(table, items, values)
    return table


def _add_block(table: H5Table, items: h5py.Dataset, values: h5py.Dataset) -> None:
    names, danger = [items.name], danger_of(items) or danger_of(values)
    if not danger and items.dtype.kind == "S" and items.ndim == 1 and items.nbytes <= BATCH_BYTES:
        names = [_text(name) for name in items[()].tolist()]
    else:
        danger = danger or "a block of pandas whose columns have no names"
    if not danger and values.shape != (table.num_rows, len(names)):
        what = "pickled objects" if values.ndim == 1 else f"shape {values.shape}"
        danger = f"a block of pandas of {what} (to_hdf with format='table' writes what can be read)"
    for element, name in enumerate(names):
        table.add(name, H5Column(values.name, None, element), dtype_of(values), [name], danger)


def frame_names(dataset: h5py.Dataset, field: str, shape: tuple[int, ...]) -> list[str] | None:
    """The columns in a field of a compound dataset, if it is one of pandas' own; else None."""
    if "values_cols" not in dataset.parent.attrs or "pandas_type" not in dataset.parent.attrs:
        return None
    if field == _INDEX and not shape:
        return [index_name(dataset)]
    names = block_names(dataset, field)
    return names if len(names) == int(np.prod(shape)) and len(shape) == 1 else None
