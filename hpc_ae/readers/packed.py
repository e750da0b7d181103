"""Compressed raw files: gzip, bzip2, xz and zstd, in as many streams or frames as they have, in bounded memory.

A file is unpacked once, beside the catalog, as rows are read by number and a compressed stream has no places to go to.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Protocol

import pyarrow as pa

from hpc_ae.files import write_error
from hpc_ae.readers.raw_file import unreadable

_BLOCK_BYTES = 1 << 20
_FREE_BYTES = 1 << 28  # so much may come of anything
_MOST_MEMORY = 1 << 28  # of an xz decoder; xz -9 makes what takes a quarter of it
_MOST_RATIO = 300  # tables of stars shrink to a tenth; zeros that are to fill a disk to a thousandth and less


class _Reader(Protocol):
    def read(self, size: int) -> bytes: ...

    def close(self) -> None: ...


class _Decompressor(Protocol):
    """Of the standard library: bz2's and lzma's, which read one stream."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Streams:
    """One stream after the other. `bz2.open` and `lzma.open` take what they cannot read after the first for the end."""

    def __init__(self, path: Path, make: Callable[[], _Decompressor]) -> None:
        self.file: BinaryIO = path.open("rb")
        self.make, self.stream = make, make()
        self.rest = b""

    def close(self) -> None:
        self.file.close()

    def read(self, size: int) -> bytes:
        """At most `size` bytes, b"" at the end. EOFError where the last stream is cut short, OSError for damage."""
        while True:
            if self.stream.eof:
                rest = self.stream.unused_data
                while not (rest := rest.lstrip(b"\0")):  # what xz may fill up with, and tapes do
                    if not (rest := self.file.read(_BLOCK_BYTES)):
                        return b""
                self.rest, self.stream = rest, self.make()
            if self.stream.needs_input and not self.rest:
                self.rest = self.file.read(_BLOCK_BYTES)
                if not self.rest:
                    raise EOFError("it ends within a stream")
            data, self.rest = self.stream.decompress(self.rest, size), b""
            if data:
                return data


def _open_bzip2(path: Path) -> _Reader:
    return _Streams(path, bz2.BZ2Decompressor)


def _open_xz(path: Path) -> _Reader:
    return _Streams(path, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _MOST_MEMORY))


def _open_zstd(path: Path) -> _Reader:
    reader: _Reader = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
    return reader


_READERS: dict[str, tuple[re.Pattern[bytes], Callable[[Path], _Reader]]] = {
    "gzip": (re.compile(rb"\x1f\x8b"), gzip.open),
    "bzip2": (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), _open_bzip2),
    "xz": (re.compile(rb"\xfd7zXZ\0"), _open_xz),
    "zstd": (re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), _open_zstd),  # or a frame to skip
}


def compression_of(head: bytes) -> str:
    """gzip, bzip2, xz or zstd by the first bytes of a file, "" for none of them."""
    return next((name for name, (magic, _) in _READERS.items() if magic.match(head)), "")


def decompress_head(path: Path, compression: str, num_bytes: int) -> bytes:
    """The first bytes of the content of a compressed file, `num_bytes` and less than a MiB more, or all of it.

    InputError where it is damaged or cut short before them.
    """
    parts, size = [], 0
    for block in _blocks(path, compression):
        parts.append(block)
        size += len(block)
        if size >= num_bytes:
            break
    return b"".join(parts)


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
                    raise unreadable(path, got, "this is not a table of stars; if it is one, unpack it yourself")
                yield block
    except (EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, OSError) as error:
        raise unreadable(path, f"a damaged {compression} file: {error}") from error
