"""Dataclasses of arrays as {name: array} and back: what a part of the work leaves on disk for the next one."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import numpy as np

Packed = TypeVar("Packed")
_JSON = "json:"  # before the name of what is no array: numbers, texts, None and tuples of them


def pack(value: Any) -> dict[str, np.ndarray]:
    """The fields of a dataclass as arrays by dotted name; they may be dataclasses, lists and dictionaries too."""
    return _pack(value, "")


def _pack(value: Any, name: str) -> dict[str, np.ndarray]:
    if isinstance(value, np.ndarray | np.generic):
        return {name: np.asarray(value)}
    if is_dataclass(value):
        items = [(field.name, getattr(value, field.name)) for field in fields(value)]
    elif isinstance(value, dict):
        items = [(f"{key}", item) for key, item in value.items()]
    elif isinstance(value, list):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {_JSON + name: np.frombuffer(json.dumps(value).encode(), np.uint8)}
    prefix = f"{name}." if name else ""
    found: dict[str, np.ndarray] = {}
    for key, item in items:
        found |= _pack(item, prefix + key)
    return found


def unpack(like: Packed, arrays: Mapping[str, np.ndarray]) -> Packed:
    """What `pack` was given, of the type and with the lists of `like`; KeyError where something is missing.

    A dictionary of `like` may be empty: then it gets what there is under its name.
    """
    found: Packed = _unpack(like, arrays, "")
    return found


def _unpack(like: Any, arrays: Mapping[str, np.ndarray], name: str) -> Any:
    prefix = f"{name}." if name else ""
    if isinstance(like, np.ndarray):
        return arrays[name]
    if is_dataclass(like) and not isinstance(like, type):
        values = {field.name: _unpack(getattr(like, field.name), arrays, prefix + field.name) for field in fields(like)}
        return type(like)(**values)
    if isinstance(like, dict):
        keys = [key.removeprefix(prefix) for key in arrays if key.startswith(prefix)]
        return {key: arrays[prefix + key] for key in keys}
    if isinstance(like, list):
        return [_unpack(item, arrays, f"{prefix}{index}") for index, item in enumerate(like)]
    if name and _JSON + name not in arrays and isinstance(like, bool) and not like:
        return like  # what an earlier version had no word for
    value = json.loads(arrays[_JSON + name].tobytes())
    return tuple(value) if isinstance(value, list) else value


MOST_NPZ_BYTES = 1 << 31


def npz_bytes(arrays: Mapping[str, np.ndarray], *, compress: bool = False) -> bytes:
    """The bytes of an .npz file: the same for the same arrays. Compressed quickly, as most of a map is empty."""
    memory = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(memory, "w", kind, compresslevel=1) as file:
        for name, values in arrays.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(values, order="C"), allow_pickle=False)
    return memory.getvalue()


def read_npz(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; ValueError where it holds none, or something else."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as listed:
            num_bytes = sum(member.file_size for member in listed.infolist())
        if num_bytes > MOST_NPZ_BYTES:
            raise ValueError(f"an .npz file that unpacks to {num_bytes:,} bytes")
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, OSError, KeyError, EOFError, MemoryError) as error:
        raise ValueError(f"not an .npz file: {error}") from error
