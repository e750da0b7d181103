"""Integers as planes of bytes, and columns of any type: the bits of each number, or of its difference to the last.

Shape letters: N stars, B bands, P planes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hpc_ae.errors import DamageError

DELTA = ".delta"
_MOST_PLANES = 8


def zigzag(values: np.ndarray) -> np.ndarray:
    """Signed integers as unsigned ones, small where they are small: int64 to uint64 of the same shape."""
    return np.asarray((values << 1) ^ (values >> 63)).view(np.uint64)


def unzigzag(values: np.ndarray) -> np.ndarray:
    """The inverse of `zigzag`."""
    signed = values.view(np.int64)
    return np.asarray(((values >> np.uint64(1)).view(np.int64)) ^ -(signed & 1))


def to_planes(values: np.ndarray) -> np.ndarray:
    """Unsigned integers uint64 (N,) as planes of bytes, lowest first: uint8 (P, N), P the least that holds them all."""
    num_planes = (int(values.max(initial=0)).bit_length() + 7) // 8
    return np.ascontiguousarray(values.astype("<u8").view(np.uint8).reshape(-1, 8).T[:num_planes])


def from_planes(planes: Sequence[np.ndarray], num: int) -> np.ndarray:
    """uint64 (num,) of planes uint8 (num,) each."""
    if len(planes) > _MOST_PLANES or any(len(plane) != num for plane in planes):
        raise DamageError("byte planes of wrong number or length", got=[len(plane) for plane in planes], expected=num)
    padded = np.zeros((num, 8), np.uint8)
    for index, plane in enumerate(planes):
        padded[:, index] = plane
    return padded.view("<u8").reshape(num).astype(np.uint64)


def column_streams(name: str, values: np.ndarray, *, delta: bool) -> dict[str, np.ndarray]:
    """Planes uint8 (P, N) by stream of a column (N,) or (N, B) of any type of 8, 4 or 2 bytes.

    With `delta` the differences of neighbours (the first to 0), small where neighbours are alike.
    """
    columns = [values] if values.ndim == 1 else list(values.T)
    names = [name] if values.ndim == 1 else [f"{name}_{index}" for index in range(len(columns))]
    streams = {}
    for one, column in zip(names, columns, strict=True):
        bits = _bits(column)
        streams[one + DELTA * delta] = to_planes(zigzag(_differences(bits).view(np.int64)) if delta else bits)
    return streams


def column_of_streams(
    streams: Mapping[str, Sequence[np.ndarray]], name: str, dtype: str, shape: tuple[int, ...]
) -> np.ndarray:
    """The column that `column_streams` took apart: (N,) or (N, B)."""
    if len(shape) == 1:
        return _column(streams, name, np.dtype(dtype), shape[0])
    parts = [_column(streams, f"{name}_{index}", np.dtype(dtype), shape[0]) for index in range(shape[1])]
    return np.stack(parts, axis=1)


def _column(streams: Mapping[str, Sequence[np.ndarray]], name: str, dtype: np.dtype, num: int) -> np.ndarray:
    if name + DELTA in streams:
        bits = np.cumsum(unzigzag(from_planes(streams[name + DELTA], num)).view(np.uint64), dtype=np.uint64)
    else:
        bits = from_planes(streams[name], num)
    narrow = bits.astype(f"<u{dtype.itemsize}")
    if not np.array_equal(narrow, bits):
        raise DamageError("a number has more bits than its type", got=name, expected=str(dtype))
    return narrow.view(dtype)


def _bits(column: np.ndarray) -> np.ndarray:
    """The bits of each number as uint64 (N,)."""
    values = np.ascontiguousarray(column)
    return values.view(f"<u{values.dtype.itemsize}").astype(np.uint64)


def _differences(bits: np.ndarray) -> np.ndarray:
    """Each number minus the one before it, modulo 2^64: uint64 (N,)."""
    differences = bits.copy()
    differences[1:] -= bits[:-1]
    return differences
