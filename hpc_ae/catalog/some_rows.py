"""Some stars of a catalog in memory: their columns as arrays, and as a table of astropy, Arrow or pandas.

Shape letters: n stars.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpc_ae.catalog.fields import Field, split_arrays, split_field
from hpc_ae.catalog.shard import Arrays
from hpc_ae.errors import InputError

if TYPE_CHECKING:
    from astropy.table import Table
    from pandas import DataFrame

    from hpc_ae.catalog.arrow import ArrowTable


class SomeRows(dict[str, np.ndarray]):
    """{name: (n,) or (n, width)}, with what is known of the columns."""

    def __init__(self, fields: Sequence[Field], arrays: Arrays, catalog_digest: str) -> None:
        super().__init__((field.name, arrays[field.name]) for field in fields)
        self.fields = list(fields)
        self.catalog_digest = catalog_digest

    def to_table(self, *, split: bool = False) -> Table:
        """An astropy Table with units, descriptions and UCDs; `split` makes columns `magnitude_u`, ... of vectors."""
        from hpc_ae.catalog.tables import make_table

        return make_table(*self._parts(split), {"catalog_digest": self.catalog_digest})

    def to_arrow(self, *, split: bool = False) -> ArrowTable:
        """An Arrow table; units and UCDs in its fields' metadata."""
        from hpc_ae.catalog.arrow import arrow_schema, arrow_table

        fields, arrays = self._parts(split)
        return arrow_table(arrow_schema(fields, {"catalog_digest": self.catalog_digest}), arrays)

    def to_pandas(self) -> DataFrame:
        """A data frame of one column for each element of a vector; InputError where pandas is not installed."""
        try:
            import pandas
        except ImportError as error:
            raise InputError(
                "pandas is not installed", fix="pip install pandas, or take to_arrow() or to_table()"
            ) from error
        return pandas.DataFrame(self._parts(split=True)[1])

    def _parts(self, split: bool) -> tuple[list[Field], Arrays]:
        if not split:
            return self.fields, dict(self)
        return [part for field in self.fields for part in split_field(field)], split_arrays(self.fields, dict(self))
