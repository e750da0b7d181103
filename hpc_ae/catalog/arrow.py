"""Rows of a catalog as Arrow: exact types, and unit, UCD and description of each column in its metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from hpc_ae.catalog.fields import Field

ArrowTable = pa.Table


def arrow_schema(fields: Sequence[Field], notes: Mapping[str, str]) -> pa.Schema:
    """The schema of some fields, a vector as a list of fixed length; `notes` become its metadata."""
    return pa.schema([_arrow_field(field) for field in fields], metadata=dict(notes) or None)


def _arrow_field(field: Field) -> pa.Field:
    kind = pa.from_numpy_dtype(np.dtype(field.dtype))
    if field.elements:
        kind = pa.list_(kind, len(field.elements))
    texts = {"unit": field.unit, "ucd": field.ucd, "description": field.description}
    metadata = {key: text for key, text in texts.items() if text}
    return pa.field(field.name, kind, nullable=False, metadata=metadata or None)


def arrow_table(schema: pa.Schema, arrays: Mapping[str, np.ndarray]) -> pa.Table:
    """A table of (N,) and (N, width) arrays; memory is shared with them where it can be."""
    columns = []
    for field in schema:
        values = np.ascontiguousarray(arrays[field.name])
        if pa.types.is_fixed_size_list(field.type):
            flat = pa.array(values.reshape(-1), field.type.value_type)
            columns.append(pa.FixedSizeListArray.from_arrays(flat, type=field.type))
        else:
            columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=schema)
