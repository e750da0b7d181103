"""Angles in text as 12:34:56.7, 12 34 56.7 or 12h34m56.7s."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hpc_ae.readers.star_rows import NULL_WORDS, BadValue, clean_text, is_text

_SECONDS = (
    r"^(?P<sign>[+-]?)(?P<whole>[0-9]{1,3})[:hHdD° ] *(?P<minutes>[0-9]{1,2})[:mM'′ ] *"
    r"(?P<seconds>[0-9]{1,2}(?:\.[0-9]*)?) *[sS\"″]?$"
)


_IN_TEXT = re.compile(rb"[0-9](:|h|d|\xc2\xb0| ) *[0-9]{1,2}(:|m|'|\xe2\x80\xb2| ) *[0-9]", re.IGNORECASE)


def may_hold_angles(text: bytes) -> bool:
    """Whether there may be such an angle in a text: a look that spares nearly all files the reading of their rows."""
    return _IN_TEXT.search(text) is not None


def is_sexagesimal(column: pa.ChunkedArray) -> bool:
    """Whether a column is of text, and of such angles alone: one among numbers is a wrong value."""
    if not is_text(column.type):
        return False
    text, reads = clean_text(column)
    angles = pc.match_substring_regex(text, _SECONDS)
    return bool(pc.any(angles).as_py()) and not pc.any(reads).as_py()


def read_angles(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """What such text says in its own unit, hours or degrees: float64 (N,), null where it has no value.

    BadValue where it is something else: among such angles a plain number may be hours as well as degrees.
    """
    if not is_text(column.type):  # a stretch of a text file that reads as numbers
        is_number = np.flatnonzero(~_nulls(column.combine_chunks()))
        if len(is_number):
            raise BadValue(name, int(is_number[0]), str(column[int(is_number[0])].as_py()))
        return column.cast(pa.float64())
    text = pc.utf8_trim_whitespace(column.combine_chunks())
    parts = pc.extract_regex(text, _SECONDS)
    is_none = np.asarray(pc.is_in(text, pa.array(NULL_WORDS, text.type)).to_numpy(False)) | _nulls(text)
    read = ~_nulls(parts)
    whole, minutes, seconds = (_numbers(parts, part) for part in ("whole", "minutes", "seconds"))
    wrong = ~is_none & ~(read & (minutes < 60) & (seconds <= 60))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise BadValue(name, row, str(text[row].as_py()))
    sign = np.where(pc.equal(pc.struct_field(parts, "sign"), "-").fill_null(False).to_numpy(False), -1.0, 1.0)
    values = sign * (whole + minutes / 60 + seconds / 3600)
    return pa.chunked_array([pa.array(values, mask=is_none)])


def _numbers(parts: pa.StructArray, name: str) -> np.ndarray:
    return np.asarray(pc.struct_field(parts, name).cast(pa.float64()).fill_null(0.0).to_numpy(False))


def _nulls(values: pa.Array) -> np.ndarray:
    return np.asarray(values.is_null().to_numpy(False))
