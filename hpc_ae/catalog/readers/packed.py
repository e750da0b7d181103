"""Compressed raw files: gzip, bzip2, xz and zstd, in as many streams or frames as they have, in bounded memory.

A file is unpacked once, beside the catalog, as rows are read by number and a compressed stream has no places to go to.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from hpc_ae.catalog.readers.rawfile import unreadable
from hpc_ae.files import write_error

_BLOCK_BYTES = 1 << 20
_FREE_BYTES = 1 << 28  # so much may come of anything
_MOST_RATIO = 300  # tables of stars shrink to a tenth; zeros that are to fill a disk to a thousandth and less


class _Reader(Protocol):
    def read(self, size: int) -> bytes: ...

    def close(self) -> None: ...


def _open_zstd(path: Path) -> _Reader:
    reader: _Reader = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
    return reader


_READERS: dict[str, tuple[bytes, Callable[[Path], _Reader]]] = {
    "gzip": (b"\x1f\x8b", gzip.open),
    "bzip2": (b"BZh", bz2.open),
    "xz": (b"\xfd7zXZ\0", lzma.open),
    "zstd": (b"\x28\xb5\x2f\xfd", _open_zstd),
}


def compression_of(head: bytes) -> str:
    """gzip, bzip2, xz or zstd by the first bytes of a file, "" for none of them."""
    return next((name for name, (magic, _) in _READERS.items() if head.startswith(magic)), "")


def decompress(path: Path, compression: str, target_path: Path) -> None:
    """Write the content of a compressed file to a new `target_path` (mode 0600).

    InputError where it is damaged, cut short, or grows as no table does; WorkError where the disk is full.
    """
    written = 0
    try:
        with target_path.open("xb", buffering=0) as target:
            os.fchmod(target.fileno(), 0o600)
            for block in _blocks(path, compression):
                view = memoryview(block)
                while view:
                    view = view[target.write(view) :]
                written += len(block)
    except OSError as error:
        raise write_error(target_path, written + _BLOCK_BYTES, error) from error


def _blocks(path: Path, compression: str) -> Iterator[bytes]:
    """The content block by block; what goes wrong with the source is an InputError."""
    most = max(_FREE_BYTES, _MOST_RATIO * path.stat().st_size)
    try:
        with closing(_READERS[compression][1](path)) as source:
            while block := source.read(_BLOCK_BYTES):
                most -= len(block)
                if most < 0:
                    got = f"a {compression} file that unpacks to more than {_MOST_RATIO} times its size"
                    raise unreadable(path, got, "this is no table of stars; if it is, unpack it yourself")
                yield block
    except (EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, OSError) as error:
        raise unreadable(path, f"a damaged {compression} file: {error}") from error
