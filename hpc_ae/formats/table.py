"""What every writer is given and does: a table's description, and rows of it as records of exact types.

Shape letters: N rows.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from hpc_ae.catalog.fields import Field
from hpc_ae.catalog.shard import Arrays
from hpc_ae.catalog.tables import make_table
from hpc_ae.errors import InputError


@dataclass(frozen=True)
class TableInfo:
    """A table to be written: name, columns, number of rows; `notes` say where it came from, `flags` what bits mean."""

    name: str
    fields: tuple[Field, ...]
    num_rows: int
    notes: Mapping[str, str]
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        if not names or len(set(names)) < len(names):
            raise InputError("a table needs columns, each once", where="--columns", got=", ".join(names) or "none")

    @property
    def names(self) -> list[str]:
        """Names of the columns in order."""
        return [field.name for field in self.fields]

    def field(self, name: str) -> Field:
        """The column of a name."""
        return next(field for field in self.fields if field.name == name)


class Writer(Protocol):
    """Writes a table's rows as they come; the file is complete after `close`."""

    def append(self, arrays: Arrays) -> None:
        """Write some rows: one (N,) or (N, width) array for each column."""

    def close(self) -> None:
        """Write what is left, and end the file."""

    def abandon(self) -> None:
        """Let go of what is open: the output is given up."""


def astropy_yaml(info: TableInfo) -> list[str]:
    """The lines of YAML in which astropy keeps units, descriptions and meta of HDF5 and Parquet tables."""
    from astropy.table.meta import get_yaml_from_table

    empty = {field.name: np.empty((0, *field.shape), field.dtype) for field in info.fields}
    table = make_table(info.fields, empty, info.notes)
    if info.flags:
        table.meta["flags"] = list(info.flags)
    return [str(line) for line in get_yaml_from_table(table)]


def create_file(path: Path) -> BinaryIO:
    """A new file, mode 0600, open for writing; FileExistsError where the name is taken."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w+b")


def record_dtype(fields: Sequence[Field], order: str, stored: Mapping[str, str] | None = None) -> np.dtype:
    """The packed record of some columns in byte order '<' or '>'; `stored` maps a type to another: {"u2": "i4"}."""
    kinds = [np.dtype(field.dtype).str[1:] for field in fields]
    return np.dtype(
        [
            (field.name, order + (stored or {}).get(kind, kind), field.shape)
            for field, kind in zip(fields, kinds, strict=True)
        ]
    )


def fill_records(dtype: np.dtype, arrays: Arrays) -> np.ndarray:
    """Records (N,) of some arrays, by name; integers are converted to wider ones only."""
    names = [name for name in dtype.names or () if name in arrays]
    records = np.zeros(len(arrays[names[0]]), dtype)
    for name in names:
        records[name] = arrays[name]
    return records
