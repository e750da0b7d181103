"""Arrow columns to star columns: numbers from numbers or text, ids as exact int64, missing values told from NaN.

Shape letters: N stars, B bands.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hpc_ae.catalog.schema import DEFAULT_BANDS
from hpc_ae.readers.names import ERROR_PREFIX, EXTINCTION_PREFIX, RAW_PREFIX

NULL_WORDS = ("", "null", "NULL", "Null", "None", "none", "NA", "N/A", "n/a", "#N/A", "<NA>", "--", "\\N")
_NUMBER = r"^-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$|^(?i:nan|[+-]?inf|[+-]?infinity)$"
_INTEGER = r"^-?[0-9]+$"
_POINT_ZERO = r"^(-?[0-9]+)\.0*$"
_EXACT_DIGITS = {"halffloat": 11, "float": 24}  # bits of a whole number that a float holds, of a double 53
_INT64_LIMIT = 2.0**63


class BadValue(ValueError):
    """Text where a number should be, at `row` of the batch (counted from 0)."""

    def __init__(self, name: str, row: int, text: str) -> None:
        super().__init__(name, row, text)
        self.name, self.row, self.text = name, row, text


class StarRows:
    """The raw columns of N stars, filled batch by batch; a column that is not in a batch is missing there.

    `known` (N, B) has the states of bands that have no magnitude for a reason that the file gives.
    """

    def __init__(self, num_rows: int, names: Collection[str], bands: Sequence[str] = DEFAULT_BANDS) -> None:
        self.bands = tuple(bands)
        self.names = {name for name in names if not name.startswith(RAW_PREFIX)} | {"objid", "ra", "dec"}
        self.objid = np.empty(num_rows, np.int64)
        self.damaged = np.zeros(num_rows, bool)
        self.ra = np.empty(num_rows)
        self.dec = np.empty(num_rows)
        self.redshift = np.empty(num_rows, np.float32)
        self.magnitude = np.empty((num_rows, len(self.bands)), np.float32)
        self.missing = np.zeros(self.magnitude.shape, bool)
        self.known = np.zeros(self.magnitude.shape, np.uint8)
        self.magnitude_error = self._per_band(ERROR_PREFIX)
        self.extinction = self._per_band(EXTINCTION_PREFIX)
        self.turned = np.zeros(num_rows, bool)  # whether ra was negative in the file
        self.kept = np.ones(num_rows, bool)  # whether the row is one of those asked for

    def _per_band(self, prefix: str) -> np.ndarray:
        """(N, B), or (0, B) where no raw file has such columns."""
        num_rows = len(self.objid) if any(name.startswith(prefix) for name in self.names) else 0
        return np.full((num_rows, len(self.bands)), np.nan, np.float32)  # some bands may have no such column

    def fill(self, at: int, batch: Mapping[str, pa.ChunkedArray]) -> int:
        """Store a batch from row `at` on; return its number of rows. BadValue where text is no number."""
        num_rows = len(next(iter(batch.values())))
        rows = slice(at, at + num_rows)
        for name in self.names - batch.keys():
            self.values(name)[rows] = -1 if name == "objid" else np.nan
        for name, column in batch.items():
            if name not in self.names:  # a column that only decides which rows are kept
                continue
            if name == "objid":
                self.objid[rows], self.damaged[rows] = read_ids(column)
                continue
            target = self.values(name)
            target[rows], missing = read_numbers(name, column, target.dtype)
            if missing is not None and name in self.bands:
                self.missing[rows, self.bands.index(name)] = missing
        return num_rows

    def values(self, name: str) -> np.ndarray:
        """The (N,) array of a column, by our name."""
        if name in self.bands:
            return self.magnitude[:, self.bands.index(name)]
        for prefix, target in ((ERROR_PREFIX, self.magnitude_error), (EXTINCTION_PREFIX, self.extinction)):
            if name.startswith(prefix):
                return target[:, self.bands.index(name.removeprefix(prefix))]
        found: np.ndarray = getattr(self, name)
        return found


def read_numbers(name: str, column: pa.ChunkedArray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray | None]:
    """Values (N,) of a column, NaN where it has none, and where that is: (N,) bool, or None for nowhere."""
    wanted = pa.from_numpy_dtype(dtype)
    if is_text(column.type):
        column = _clean(name, column).cast(wanted)
    elif not pa.types.is_floating(column.type) and not pa.types.is_integer(column.type):
        column = column.cast(pa.float64(), safe=False)  # of decimals; float32 at once is off by a bit
    missing = column.is_null().to_numpy() if column.null_count else None
    with np.errstate(over="ignore"):
        return _plain(column, np.nan).astype(dtype, copy=False), missing


def read_ids(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Ids int64 (N,), -1 where there is none, and which of them lost digits, bool (N,)."""
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.string())
    if is_text(column.type):
        return _ids_of_text(column)
    if pa.types.is_floating(column.type):
        limit = 2.0 ** _EXACT_DIGITS.get(str(column.type), 53)
        return _ids_of_floats(_plain(column, np.nan).astype(np.float64), limit)
    if pa.types.is_unsigned_integer(column.type):
        values = _plain(column.cast(pa.uint64()), np.uint64(2**64 - 1))
        beyond = (values >= np.uint64(2**63)) & ~_nulls(column)
        return np.where(values >= np.uint64(2**63), -1, values.astype(np.int64)), beyond
    ids = _plain(column.cast(pa.int64()), -1)
    return ids, np.zeros(len(ids), bool)


def _ids_of_text(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Integers exactly, with .0 behind them too; float text such as 1.24E+18 as the integer that it says, damaged."""
    text = pc.replace_substring_regex(_clean("objid", column), _POINT_ZERO, r"\1")
    floats = _plain(text.cast(pa.float64()), np.nan)
    values, damaged = _ids_of_floats(floats, 2.0**53)
    whole = pc.match_substring_regex(text, _INTEGER).fill_null(False).to_numpy()
    damaged |= pc.match_substring_regex(text, "[eE]").fill_null(False).to_numpy()
    fits = whole & (values != -1)
    exact = text.filter(pa.array(fits))
    values[fits] = exact.cast(pa.int64()).to_numpy()
    damaged[fits] = False
    for index in np.flatnonzero(whole & (np.abs(floats) == _INT64_LIMIT)):  # as a float64 the largest ids are 2^63
        number = int(text[int(index)].as_py())
        if -(2**63) <= number < 2**63:
            values[index], damaged[index] = number, False
    return values, damaged


def _ids_of_floats(values: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers below `limit` (2^53 of a float64) are exact; from it on, digits are lost: 2^53 may have been one
    more. What no int64 holds becomes -1.
    """
    known = np.isfinite(values)
    inside = known & (np.abs(values) < _INT64_LIMIT)
    ids = np.where(inside, values, -1.0).astype(np.int64)
    with np.errstate(invalid="ignore"):
        damaged = known & ((np.abs(values) >= limit) | (values != np.trunc(values)))
    return ids, damaged


def is_text(kind: pa.DataType) -> bool:
    """Whether a column is of text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _clean(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text that reads as numbers, or null; else BadValue."""
    text, reads = clean_text(column)
    bad = np.flatnonzero(~reads.fill_null(True).to_numpy())
    if len(bad):
        raise BadValue(name, int(bad[0]), str(column[int(bad[0])].as_py()))
    return text


def clean_text(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Text trimmed, without a leading plus, null for the words of no value; and which of it reads as a number."""
    if pa.types.is_string_view(column.type):  # which Arrow can trim and compare as text of offsets alone
        column = column.cast(pa.large_string())
    text = pc.replace_substring_regex(pc.utf8_trim_whitespace(column), r"^\+", "")
    text = pc.if_else(pc.is_in(text, pa.array(NULL_WORDS, text.type)), pa.scalar(None, text.type), text)
    return text, pc.match_substring_regex(text, _NUMBER)


def _nulls(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.is_null().to_numpy())


def _plain(column: pa.ChunkedArray, fill: float | np.integer) -> np.ndarray:
    """A numeric column as (N,) with `fill` for nulls (integers with nulls stay integers)."""
    if column.null_count:
        if pa.types.is_integer(column.type) and isinstance(fill, float) and np.isnan(fill):
            column = column.cast(pa.float64(), safe=False)
        column = column.fill_null(pa.scalar(fill, column.type))
    return np.asarray(column.to_numpy())
