"""Rows as text: CSV, TSV, JSON, or a table for people. Numbers are the shortest text that reads back as the same.

Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

import numpy as np

from hpc_ae.catalog.fields import Field, split_arrays, split_field
from hpc_ae.catalog.shard import Arrays

_LARGEST_EXACT = 2**53  # of the integers that a JSON reader with doubles keeps
Parts = Iterator[Arrays]


def _names(fields: Sequence[Field]) -> list[str]:
    return [part.name for field in fields for part in split_field(field)]


def _columns(fields: Sequence[Field], arrays: Arrays) -> list[np.ndarray]:
    return list(split_arrays(fields, arrays).values())


def _texts(values: np.ndarray, missing: str) -> list[str]:
    """Shortest text that reads back as the same number; `missing` for NaN."""
    if values.dtype.kind != "f":
        return [str(value) for value in values.tolist()]
    return [missing if text == "nan" else text for text in values.astype("U32").tolist()]


def write_separated(separator: str) -> Callable[[TextIO, Sequence[Field], Parts], None]:
    """A writer of CSV or TSV: one line of names, then a line a star; nothing between separators for NaN."""

    def write(file: TextIO, fields: Sequence[Field], parts: Parts) -> None:
        file.write(separator.join(_names(fields)) + "\n")
        for arrays in parts:
            texts = [_texts(values, "") for values in _columns(fields, arrays)]
            file.writelines(separator.join(row) + "\n" for row in zip(*texts, strict=True))

    return write


def write_json(file: TextIO, fields: Sequence[Field], parts: Parts) -> None:
    """A JSON array with one record a star; ids above 2^53 are strings, what is not finite is null."""
    keys = [f'"{name}": ' for name in _names(fields)]
    before = "[\n"
    for arrays in parts:
        columns = []
        for key, values in zip(keys, _columns(fields, arrays), strict=True):
            columns.append([key + text for text in _json_texts(values)])
        for row in zip(*columns, strict=True):
            file.write(f"{before}{{{', '.join(row)}}}")
            before = ",\n"
    file.write("[]\n" if before == "[\n" else "\n]\n")


def _json_texts(values: np.ndarray) -> list[str]:
    if values.dtype.kind == "f":
        return ["null" if text in ("nan", "inf", "-inf") else text for text in values.astype("U32").tolist()]
    return [f'"{value}"' if abs(value) > _LARGEST_EXACT else str(value) for value in values.tolist()]


def _form(field: Field) -> tuple[int, str]:
    """Width and format of a column for people: degrees to 7 decimals, magnitudes to 4, what has no unit (a probability
    may be 1e-6) to 5 digits, integers with room for those of their type but for flags, which are few.
    """
    dtype = np.dtype(field.dtype)
    if dtype.kind == "f":
        return (12, ".7f") if dtype.itemsize == 8 else (10, ".4f") if field.unit else (11, ".5g")
    return (3 if dtype == np.uint16 else len(str(np.iinfo(dtype).max)), "d")


def write_table(file: TextIO, fields: Sequence[Field], parts: Parts) -> None:
    """Aligned columns for people."""
    names = _names(fields)
    kinds = [_form(part) for field in fields for part in split_field(field)]
    widths = [max(len(name), width) for name, (width, _) in zip(names, kinds, strict=True)]
    file.write("  ".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True)) + "\n")
    for arrays in parts:
        columns = [values.tolist() for values in _columns(fields, arrays)]
        forms = [f"{{:>{width}{form}}}" for width, (_, form) in zip(widths, kinds, strict=True)]
        line = "  ".join(forms) + "\n"
        file.writelines(line.format(*row) for row in zip(*columns, strict=True))


# Writers of text by the name that `query --to` takes: file, columns, parts of the rows.
TEXT_WRITERS: dict[str, Callable[[TextIO, Sequence[Field], Parts], None]] = {
    "csv": write_separated(","),
    "tsv": write_separated("\t"),
    "json": write_json,
    "table": write_table,
}
