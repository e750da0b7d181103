"""What an HDF5 file of unknown origin may not do: reach another file, load code, or claim more than it stores."""

from __future__ import annotations

import math

import h5py

KNOWN_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
_MOST_COMPRESSION = 1100  # deflate cannot do better than 1:1032
_COMPRESSING = {1, 32000}
_FREE_CHUNK_BYTES = 1 << 24
_MOST_UNPACKED_BYTES = 1 << 30  # of a compressed dataset: that of 4,000,000 stars and 64 latents


def find_outward_link(group: h5py.Group, name: str) -> str:
    """The kind of link by which `name` would lead out of its place in the file; "" for an ordinary one."""
    link = group.get(name, getlink=True)
    return "" if isinstance(link, h5py.HardLink) else type(link).__name__


def is_elsewhere(dataset: h5py.Dataset) -> bool:
    """Whether a dataset's data lie in another file: external storage, or a virtual dataset."""
    return bool(dataset.external) or bool(dataset.is_virtual)


def unknown_filters(dataset: h5py.Dataset) -> list[int]:
    """Numbers of the filters that HDF5 would look for in a plugin."""
    return [number for number in _filters(dataset) if number not in KNOWN_FILTERS]


def overclaimed_bytes(dataset: h5py.Dataset) -> int:
    """The bytes that a dataset declares where that is more than it stores could become; 0 where all is well."""
    stored = dataset.id.get_storage_size() * (_MOST_COMPRESSION if _COMPRESSING & set(_filters(dataset)) else 1)
    chunk_bytes = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize if len(dataset) else 0
    declared = max(dataset.nbytes, chunk_bytes)
    return declared if stored < declared else 0


def too_large(dataset: h5py.Dataset) -> str:
    """How a dataset would take more memory than what it holds needs: HDF5 unpacks a chunk whole, whatever part of it is
    asked for. "" where all is well.
    """
    chunk_bytes = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    if chunk_bytes > max(dataset.nbytes, _FREE_CHUNK_BYTES):
        return f"a chunk of {chunk_bytes:,} bytes for {dataset.nbytes:,} bytes of data"
    if _COMPRESSING & set(_filters(dataset)) and dataset.nbytes > _MOST_UNPACKED_BYTES:
        return f"{dataset.nbytes:,} bytes unpacked"
    return ""


def _filters(dataset: h5py.Dataset) -> list[int]:
    creation = dataset.id.get_create_plist()
    return [creation.get_filter(index)[0] for index in range(creation.get_nfilters())]
