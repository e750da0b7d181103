"""Catalog: a directory of shards read as one table, with slicing across shards.

Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_ae.catalog.manifest import read_manifest
from hpc_ae.catalog.schema import columns_of
from hpc_ae.catalog.shard import Arrays, read_shard
from hpc_ae.errors import DamageError, InputError

if TYPE_CHECKING:
    from astropy.table import Table


class Catalog:
    """A star or encoding catalog, opened read-only.

    `catalog["latent"][1000:2000]` reads those rows of one column; `len(catalog)` is the number of stars.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any]) -> None:
        self.directory = directory
        self.manifest = manifest
        self.format: str = manifest["format"]
        self.num_stars: int = manifest["num_stars"]
        self.num_good: int = manifest["num_good"]
        self.bands: list[str] = list(manifest["bands"])
        self.shards: list[dict[str, Any]] = manifest["shards"]
        self.digest: str = manifest["catalog_digest"]
        self.offsets = np.concatenate([[0], np.cumsum([shard["num_stars"] for shard in self.shards])]).astype(np.int64)

    def __len__(self) -> int:
        return self.num_stars

    def __repr__(self) -> str:
        return (
            f"<{self.format} {self.directory}: {self.num_stars} stars, {self.num_good} good, {len(self.shards)} shards>"
        )

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in the order of the format."""
        return list(self.manifest["columns"])

    def shard_path(self, index: int) -> Path:
        """Path of shard `index`."""
        return self.directory / str(self.shards[index]["file"])

    def read_shard(self, index: int, names: Sequence[str], rows: slice = slice(None)) -> Arrays:
        """Columns of one shard: {name: (n,) or (n, width)}; DamageError where it has not the manifest's stars."""
        arrays = read_shard(self.shard_path(index), self.format, names, rows)
        expected = len(range(*rows.indices(self.shards[index]["num_stars"])))
        for name, values in arrays.items():
            if len(values) != expected:
                where = f"{self.shard_path(index)}, dataset {name}"
                raise DamageError(
                    "a shard has not the stars of its manifest", where=where, got=len(values), expected=expected
                )
        return arrays

    def iter_shards(self, names: Sequence[str]) -> Iterator[Arrays]:
        """Columns shard by shard, in bounded memory."""
        for index in range(len(self.shards)):
            yield self.read_shard(index, names)

    def read(self, names: Sequence[str], rows: slice = slice(None)) -> Arrays:
        """Columns of a range of stars across shards."""
        chosen = range(self.num_stars)[rows]
        if not chosen:
            return self._empty(names)
        first, last = min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1])
        parts = [
            self.read_shard(index, names, slice(int(low), int(high)))
            for index, low, high in self._overlaps(first, last + 1)
        ]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in names}
        if chosen.step == 1:
            return joined
        return {name: values[chosen[0] - first :: chosen.step] for name, values in joined.items()}

    def _overlaps(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """(shard, first row, one past the last row) of every shard that overlaps rows start to stop."""
        for index, offset in enumerate(self.offsets[:-1]):
            low, high = max(start - offset, 0), min(stop, self.offsets[index + 1]) - offset
            if low < high:
                yield index, low, high

    def _empty(self, names: Sequence[str]) -> Arrays:
        known = columns_of(self.format)
        widths = {"": (), "B": (len(self.bands),), "L": (int(self.manifest.get("latent", 0)),)}
        return {name: np.empty((0, *widths[known[name].width]), known[name].dtype) for name in names}

    def __getitem__(self, name: str) -> CatalogColumn:
        if name not in self.columns:
            raise InputError(
                "no such column", where=self.directory, got=name, expected=f"one of {', '.join(self.columns)}"
            )
        return CatalogColumn(self, name)

    def to_table(self, columns: Sequence[str] | None = None, rows: slice = slice(None)) -> Table:
        """An astropy Table of the columns (all by default) of a range of stars, with units."""
        from astropy.table import Table

        names = list(columns or self.columns)
        for name in names:
            self[name]
        table = Table(self.read(names, rows), copy=False)
        known = columns_of(self.format)
        for name in names:
            if known[name].unit:
                table[name].unit = known[name].unit
        return table


class CatalogColumn:
    """One column of a catalog; slicing reads just those rows."""

    def __init__(self, catalog: Catalog, name: str) -> None:
        self.catalog = catalog
        self.name = name

    def __len__(self) -> int:
        return self.catalog.num_stars

    def __getitem__(self, rows: slice | int) -> np.ndarray:
        if isinstance(rows, slice):
            return self.catalog.read([self.name], rows)[self.name]
        index = range(self.catalog.num_stars)[rows]
        return np.asarray(self.catalog.read([self.name], slice(index, index + 1))[self.name][0])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = self[:]
        return values if dtype is None else values.astype(dtype)


def open_catalog(directory: str | Path) -> Catalog:
    """Open a star or encoding catalog.

    InputError where there is none, DamageError where its manifest does not hold. Shards are checked as they are read.
    """
    path = Path(directory)
    return Catalog(path, read_manifest(path))
