"""Rows of a catalog as an astropy Table, with units, descriptions and UCDs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpc_ae.catalog.fields import Field

if TYPE_CHECKING:
    from astropy.table import Table


def make_table(fields: Sequence[Field], arrays: Mapping[str, np.ndarray], notes: Mapping[str, str]) -> Table:
    """A Table of (N,) and (N, width) arrays, which it shares; `notes` become its meta, a UCD its column's."""
    from astropy.table import Table

    table = Table({field.name: arrays[field.name] for field in fields}, copy=False, meta=dict(notes))
    for field in fields:
        column = table[field.name]
        column.description = field.description
        if field.unit:
            column.unit = field.unit
        if field.ucd:
            column.meta["ucd"] = field.ucd
    return table
