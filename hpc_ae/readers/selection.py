"""Which rows are kept: `type=6`, `class=STAR`, `r<20`: comparisons of a column with a value, by pyarrow.compute.

A row without a value (empty, null, NaN) fulfils no condition. Shape letter: N stars.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hpc_ae.catalog.schema import MAGNITUDE_RANGE
from hpc_ae.errors import InputError
from hpc_ae.readers.star_rows import BadValue, clean_text, is_text

_OPERATORS = {
    "!=": pc.not_equal,
    "<=": pc.less_equal,
    ">=": pc.greater_equal,
    "=": pc.equal,
    "<": pc.less,
    ">": pc.greater,
}
_CONDITION = re.compile(r"\s*([^\s=<>!][^=<>!]*?)\s*(==|!=|<=|>=|=|<|>)\s*(.*?)\s*", re.DOTALL)
_INTEGER = re.compile(r"[+-]?\d+")
_WHOLE = r"^-?([0-9]{1,18}|[1-8][0-9]{18})$"  # what an int64 surely holds
_EXACT = 2**53
_TRUTH = {"true": 1, "false": 0}
_LOW, _HIGH = MAGNITUDE_RANGE
_RANGE = ((">=", _LOW), ("<=", _HIGH))
# The lecture's query says: WHERE u BETWEEN 0 AND 30 AND g BETWEEN 0 AND 30 AND ...
CUTS = {"lecture": _RANGE}


@dataclass(frozen=True)
class Condition:
    """`column` compared with `value`, which is a number where it reads as one."""

    text: str  # as the user wrote it
    column: str
    operator: str
    value: str

    @property
    def number(self) -> float | int | None:
        """The value as an exact integer or a float; None where it is text."""
        if _INTEGER.fullmatch(self.value):
            return int(self.value)
        try:
            return float(self.value)
        except ValueError:
            return None


def parse_condition(text: str) -> Condition:
    """`NAME=VALUE`, or with != < <= > >=. InputError where it is none, or orders text."""
    found = _CONDITION.fullmatch(text)
    if found is None or not found[3]:
        raise _wrong(text)
    condition = Condition(text, found[1], "=" if found[2] == "==" else found[2], found[3].strip("'\""))
    number = condition.number
    if (number is None and condition.operator not in ("=", "!=")) or number != number:
        raise _wrong(text)
    return condition


def cut_conditions(cuts: str | None, bands: Sequence[str]) -> list[Condition]:
    """The conditions on each band that a word of `--cuts` stands for."""
    limits = CUTS[cuts] if cuts else ()
    return [Condition(f"{band}{sign}{limit:g}", band, sign, f"{limit:g}") for band in bands for sign, limit in limits]


def _wrong(text: str) -> InputError:
    return InputError(
        "not a condition on a column",
        where="--keep",
        got=text,
        expected="NAME=VALUE, NAME!=VALUE, or NAME with <, <=, >, >= and a number, such as type=6, class=STAR, 'r<20'",
    )


def fulfils(condition: Condition, column: pa.ChunkedArray) -> np.ndarray:
    """Which rows of a column fulfil a condition: bool (N,).

    Text that reads as a number is compared as one (true is 1, false is 0), other text with the value as it stands,
    blanks around it aside.
    BadValue where text stands in a column that is ordered, InputError where a column of numbers is compared with text.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    if is_text(column.type):
        return _fulfils_text(condition, column)
    if pa.types.is_boolean(column.type):
        number = _TRUTH.get(condition.value.lower(), condition.number)
        column = column.cast(pa.int8())
    else:
        number = condition.number
    if number is None or not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise InputError(
            "a condition compares a column with something of another kind",
            where=f"--keep {condition.text}",
            got=f"values of type {column.type} in {condition.column}",
            expected="a number for a column of numbers",
        )
    return _compare(condition.operator, column, number)


def _compare(operator: str, column: pa.ChunkedArray, number: float | int) -> np.ndarray:
    """Exact for integers beyond 2^53: they are compared as integers where column and number are such."""
    if pa.types.is_integer(column.type) and isinstance(number, int) and abs(number) < 2**63:
        value = pa.scalar(number, pa.int64())
        column = column.cast(pa.decimal128(20, 0)) if column.type == pa.uint64() else column.cast(pa.int64())
        value = value.cast(pa.decimal128(20, 0)) if pa.types.is_decimal(column.type) else value
    elif pa.types.is_float32(column.type):  # 19.1 is what float32 has for it
        value = pa.scalar(np.float32(number), pa.float32())
    else:
        column, value = column.cast(pa.float64(), safe=False), pa.scalar(float(number))
    met = _OPERATORS[operator](column, value)
    if pa.types.is_floating(column.type):  # NaN is no value: not even unequal
        met = pc.and_(met, pc.invert(pc.is_nan(column)))
    return np.asarray(met.fill_null(False).to_numpy())


def _fulfils_text(condition: Condition, column: pa.ChunkedArray) -> np.ndarray:
    for word, digit in _TRUTH.items():  # a CSV of truths says what a Parquet file of them says
        same = pc.equal(pc.utf8_lower(pc.utf8_trim_whitespace(column)), word)
        column = pc.if_else(same, pa.scalar(str(digit), column.type), column)
    text, reads = clean_text(column)
    number = _TRUTH.get(condition.value.lower(), condition.number)
    if number is None:
        return np.asarray(_OPERATORS[condition.operator](text, condition.value).fill_null(False).to_numpy())
    bad = np.flatnonzero(~reads.fill_null(True).to_numpy())
    if len(bad) and condition.operator not in ("=", "!="):
        raise BadValue(condition.column, int(bad[0]), str(column[int(bad[0])].as_py()))
    numbers = pc.if_else(reads, text, pa.scalar(None, text.type))
    met = _compare(condition.operator, numbers.cast(pa.float64()), number)
    if isinstance(number, int) and _EXACT <= abs(number) < 2**63:
        whole = pc.match_substring_regex(text, _WHOLE).fill_null(False)
        exact = _compare(
            condition.operator, pc.if_else(whole, text, pa.scalar(None, text.type)).cast(pa.int64()), number
        )
        met = np.where(whole.to_numpy(), exact, met)
    if condition.operator == "!=":
        met[bad] = True  # text is a value, and another one
    return met
