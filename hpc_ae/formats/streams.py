"""Planes of bytes in Zstandard frames: one block is a directory of streams and their frames, read without trust.

A block: the length of its directory (4 bytes, little-endian), the directory (a frame of canonical JSON: name of a
stream to [bytes of a plane, [bytes of each plane's frame, ...]]), the frames in that order (by name).
Shape letters: n bytes of a plane, P planes.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import zstandard
from pydantic import Field, TypeAdapter, ValidationError

from hpc_ae.analysis.compression_table import Codec
from hpc_ae.errors import DamageError
from hpc_ae.files import canonical_json

LEVEL = 19  # measured in docs/results.md
FAST_LEVEL = 3
_MOST_PLANES = 8
_MOST_STREAMS = 4096
_MOST_DIRECTORY = 1 << 20
_LENGTH = struct.Struct("<I")
_Count = Annotated[int, Field(strict=True, ge=0, lt=1 << 40)]
_Sizes = Annotated[list[_Count], Field(max_length=_MOST_PLANES)]
_DIRECTORY = TypeAdapter(dict[str, tuple[_Count, _Sizes]])


def compressed(data: bytes | memoryview, level: int = LEVEL) -> bytes:
    """One frame, which says its content's size."""
    return zstandard.ZstdCompressor(level=level, write_checksum=False).compress(data)


def zstd_codec() -> Codec:
    """Ours, for tables."""
    return Codec("zstd", lambda data: len(compressed(data)))


def gzip_codec() -> Codec:
    """gzip at its best, to compare with."""
    return Codec("gzip", lambda data: len(gzip.compress(data, 9)))


def restored(frame: bytes | memoryview, num_bytes: int) -> bytes:
    """The content of a frame; DamageError where it does not say that it has `num_bytes`, before memory is taken."""
    try:
        size = zstandard.frame_content_size(frame)
        if size != num_bytes:
            raise DamageError("the size of a frame does not match its directory", got=size, expected=num_bytes)
        content = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DamageError("a frame cannot be decompressed", got=str(error)[:200]) from error
    if len(content) != num_bytes:
        raise DamageError("a frame is shorter than it says", got=len(content), expected=num_bytes)
    return content


def packed_size(streams: Mapping[str, np.ndarray], level: int = LEVEL) -> int:
    """Bytes of the frames of some streams, planes uint8 (P, n) by name."""
    return sum(len(compressed(plane.data, level)) for planes in streams.values() for plane in planes)


def pack_block(streams: Mapping[str, np.ndarray], levels: Mapping[str, int]) -> tuple[bytes, dict[str, int]]:
    """A block of streams, planes uint8 (P, n) by name; `levels` by name, LEVEL otherwise. Also bytes by stream."""
    directory, frames, sizes = {}, [], {}
    for name, planes in sorted(streams.items()):  # as canonical JSON sorts
        own = [compressed(plane.data, levels.get(name, LEVEL)) for plane in planes]
        directory[name] = [planes.shape[1], [len(frame) for frame in own]]
        sizes[name] = sum(map(len, own))
        frames += own
    head = compressed(canonical_json(directory))
    return b"".join([_LENGTH.pack(len(head)), head, *frames]), sizes


@dataclass(frozen=True)
class _Place:
    """A stream in a block: bytes of each of its planes, and where the planes' frames are."""

    num_bytes: int
    frames: list[slice]


class PackedBlock(Mapping[str, "list[np.ndarray]"]):
    """The streams of a block, each decompressed when it is asked for: name to planes uint8 (n,).

    DamageError where it claims more than `most_bytes` of content, or its parts do not fill it exactly.
    """

    def __init__(self, data: bytes | memoryview, most_bytes: int) -> None:
        self._data = memoryview(data)
        self._places: dict[str, _Place] = {}
        start, text = self._read_directory()
        try:
            directory = _DIRECTORY.validate_json(text)
        except ValidationError as error:
            raise DamageError("the directory of a block is wrong", got=str(error.errors()[0]["msg"])[:200]) from error
        total = 0
        for name, (num_bytes, sizes) in directory.items():
            slices = []
            for size in sizes:
                slices.append(slice(start, start + size))
                start += size
            total += num_bytes * len(sizes)
            self._places[name] = _Place(num_bytes, slices)
        if start != len(self._data) or total > most_bytes or len(directory) > _MOST_STREAMS:
            what = "a block does not match its directory"
            raise DamageError(what, got=f"{len(self._data)} bytes, {total} of content", expected=f"{start} bytes")

    def _read_directory(self) -> tuple[int, bytes]:
        """Where the frames begin, and the JSON object that the directory is."""
        if len(self._data) < _LENGTH.size:
            raise DamageError("a block is cut off", got=f"{len(self._data)} bytes")
        stop = _LENGTH.size + _LENGTH.unpack(self._data[: _LENGTH.size])[0]
        head = self._data[_LENGTH.size : stop]
        try:
            size = zstandard.frame_content_size(head)
            if not 0 <= size <= _MOST_DIRECTORY:
                raise DamageError("the directory of a block is too large", got=size, expected=_MOST_DIRECTORY)
            text = restored(head, size)
            directory = json.loads(text)
        except (zstandard.ZstdError, ValueError, RecursionError) as error:
            raise DamageError("a block has no directory", got=str(error)[:200]) from error
        if not isinstance(directory, dict):
            raise DamageError("a block has no directory", got=type(directory).__name__)
        return stop, text

    def __getitem__(self, name: str) -> list[np.ndarray]:
        if name not in self._places:
            raise DamageError("a stream is missing in a block", got=sorted(self._places)[:20], expected=name)
        place = self._places[name]
        return [np.frombuffer(restored(self._data[part], place.num_bytes), np.uint8) for part in place.frames]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
