"""encoding.h5: one virtual dataset per column over all shards of an encoding catalog, by relative file name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from hpc_ae.catalog.records import ShardRecord, ViewRecord
from hpc_ae.catalog.schema import ENCODING_COLUMNS, ENCODING_FORMAT, Column
from hpc_ae.files import digest_bytes, publish_bytes
from hpc_ae.layout import SHARD_NAME, VIEW_NAME


def write_view(
    directory: Path, shards: Sequence[ShardRecord], columns: Sequence[str], widths: dict[str, int]
) -> ViewRecord:
    """Publish `encoding.h5` and return its record for the manifest's field `view`.

    `widths` gives the length of B and L. A missing shard reads as NaN, -1 or 65535.
    """
    image = view_image(shards, columns, widths)
    publish_bytes(directory / VIEW_NAME, image)
    return ViewRecord(file=VIEW_NAME, num_bytes=len(image), digest=digest_bytes(image))


def view_image(shards: Sequence[ShardRecord], columns: Sequence[str], widths: dict[str, int]) -> bytes:
    """The bytes of a view, the same for the same arguments and HDF5 version."""
    with h5py.File("view", "w", driver="core", backing_store=False, libver=("v110", "v110")) as file:
        file.attrs["format"] = ENCODING_FORMAT
        for column in ENCODING_COLUMNS:
            if column.name in columns:
                _add_virtual(file, column, shards, widths)
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def _add_virtual(file: h5py.File, column: Column, shards: Sequence[ShardRecord], widths: dict[str, int]) -> None:
    tail = (widths[column.width],) if column.width else ()
    space = h5py.h5s.create_simple((sum(shard.num_stars for shard in shards), *tail))
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)  # create_virtual_dataset would store the time: other bytes each second
    properties.set_fill_value(np.array(column.fill, column.dtype))
    start = 0
    for shard in shards:
        rows = shard.num_stars
        if rows:
            space.select_hyperslab((start,) + (0,) * len(tail), (rows, *tail))
            source = h5py.h5s.create_simple((rows, *tail))
            properties.set_virtual(space, shard.file.encode(), column.name.encode(), source)
        start += rows
    space.select_all()
    h5py.h5d.create(file.id, column.name.encode(), h5py.h5t.py_create(np.dtype(column.dtype)), space, properties)
    dataset = file[column.name]
    if column.unit:
        dataset.attrs["unit"] = column.unit


@dataclass(frozen=True)
class ViewSource:
    """What one dataset of a view shows: its number of rows, and the files that it reads."""

    num_rows: int
    files: list[str]


def view_sources(path: Path) -> dict[str, ViewSource]:
    """For each dataset of a view: number of rows and the file names that it reads, none of which is opened.

    What is no virtual dataset over shards of the same directory has -1 rows; links are not followed.
    """
    found: dict[str, ViewSource] = {}
    with h5py.File(path, "r", locking=False) as file:
        for name in file:
            link = file.get(name, getlink=True)
            dataset = file[name] if isinstance(link, h5py.HardLink) else None
            if not isinstance(dataset, h5py.Dataset) or not dataset.is_virtual:
                found[name] = ViewSource(-1, [])
                continue
            sources = [source.file_name for source in dataset.virtual_sources()]
            safe = all(SHARD_NAME.fullmatch(source) for source in sources)
            found[name] = ViewSource(int(dataset.shape[0]) if safe else -1, sources)
    return found
