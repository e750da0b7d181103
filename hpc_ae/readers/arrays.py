"""numpy values of any byte order and type to Arrow arrays, as all readers hand them on."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def number_array(values: np.ndarray, missing: np.ndarray | None = None) -> pa.Array:
    """Numbers or truth values (n,) as an Arrow array in native order; null where `missing` (n,) is true."""
    native = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    return pa.array(native, mask=missing if missing is not None and missing.any() else None)


def text_array(values: np.ndarray, missing: np.ndarray | None = None) -> pa.Array:
    """Byte strings of fixed length (n,) as Arrow text up to the first NUL, without the blanks behind; what is not UTF-8
    reads as Latin-1.
    """
    mask = missing if missing is not None and missing.any() else None
    whole = np.char.rstrip(np.ascontiguousarray(values))
    if len(whole) and whole.itemsize:
        data = whole.view(np.uint8).reshape(len(whole), -1)
        if (data < 128).all() and not (np.diff((data == 0).astype(np.int8)) < 0).any():  # no NUL before a character
            return pa.array(whole.astype("U"), pa.string(), mask=mask)
    return pa.array([_decode(item) for item in whole.tolist()], pa.string(), mask=mask)


def _decode(item: bytes) -> str:
    text = item.split(b"\0", 1)[0].rstrip()
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")


def bit_array(values: np.ndarray, bit: int) -> pa.Array:
    """Bit `bit`, counted from the most significant of the first byte, of uint8 (n, bytes), as truth values (n,)."""
    return pa.array((values[:, bit // 8] >> (7 - bit % 8)) & 1 == 1)


def type_of(array: pa.Array) -> str:
    """The name of an array's type."""
    return str(array.type)
