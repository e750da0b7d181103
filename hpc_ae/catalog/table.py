"""A directory of shards read as one table, with slicing across shards.

Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np

from hpc_ae.catalog.fields import Field, field_of, no_such_column
from hpc_ae.catalog.manifest import of_kind
from hpc_ae.catalog.records import M, Manifest
from hpc_ae.catalog.schema import Column, columns_of
from hpc_ae.catalog.shard import CHUNK_ROWS, Arrays, open_shard, read_column
from hpc_ae.catalog.some_rows import SomeRows
from hpc_ae.errors import DamageError, InputError

if TYPE_CHECKING:
    from astropy.table import Table
    from pandas import DataFrame

    from hpc_ae.catalog.arrow import ArrowTable

RowChoice = slice | np.ndarray | Sequence[int]  # a range, a mask (N,), or row numbers
_MOST_LATENT = 65_536  # a manifest is not trusted with the memory for names


class ShardTable:
    """The rows of a catalog by number, shard, chunk or column; `Catalog` adds what asks another catalog too."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory = directory
        self.manifest = manifest
        self.format = manifest.format
        self.num_stars = manifest.num_stars
        self.num_good = manifest.num_good
        self.bands = list(manifest.bands)
        self.shards = manifest.shards
        self.digest = manifest.catalog_digest
        self.offsets = np.concatenate([[0], np.cumsum([shard.num_stars for shard in self.shards])]).astype(np.int64)
        self._columns = list(manifest.columns)

    def __len__(self) -> int:
        return self.num_stars

    def __repr__(self) -> str:
        return (
            f"<{self.format} {self.directory}: {self.num_stars} stars, {self.num_good} good, {len(self.shards)} shards>"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "directory": self.directory.absolute()}  # another process may stand elsewhere

    __iter__ = None  # else Python would read star by star; iter_chunks is the way

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in the order of the format, or those that were selected."""
        return list(self._columns)

    @property
    def schema(self) -> dict[str, Column]:
        """What the format knows of its columns, by name."""
        return columns_of(self.format)

    def manifest_as(self, kind: type[M]) -> M:
        """The manifest as that of a kind of catalog; InputError where this is another."""
        return of_kind(self.manifest, kind, self.directory)

    def fields(self, names: Sequence[str] | None = None) -> list[Field]:
        """Name, type, elements, unit, UCD and description of columns (all by default)."""
        num_latent = min(self.manifest.num_latent, _MOST_LATENT)
        elements = {"": (), "B": tuple(self.bands), "L": tuple(str(index + 1) for index in range(num_latent))}
        known = [self.schema[name] for name in self._chosen(names)]
        return [field_of(column, elements[column.width]) for column in known]

    def _chosen(self, names: Sequence[str] | None) -> list[str]:
        """`names`, all columns for None; InputError where one is not there."""
        chosen = self.columns if names is None else [names] if isinstance(names, str) else list(names)
        for name in chosen:
            if name not in self._columns:
                raise no_such_column(self.directory, name, self.fields(), "")
        return chosen

    def select(self, columns: Sequence[str]) -> Self:
        """The same catalog with these columns only, in this order."""
        selection = copy.copy(self)
        selection._columns = self._chosen(columns)
        return selection

    def shard_path(self, index: int) -> Path:
        """Path of shard `index`."""
        return self.directory / self.shards[index].file

    def read_shard(self, index: int, names: Sequence[str], rows: slice = slice(None)) -> Arrays:
        """Columns of one shard: {name: (n,) or (n, width)}; DamageError where the manifest has other numbers."""
        path, arrays = self.shard_path(index), {}
        with open_shard(path, self.format) as file:
            for name in names:
                if name in file:
                    self._check_shape(index, name, file[name].shape)
                arrays[name] = read_column(path, file, name, rows)
        return arrays

    def _check_shape(self, index: int, name: str, shape: tuple[int, ...]) -> None:
        """DamageError where a dataset has another shape than the manifest says, before it is read."""
        widths = {"": (), "B": (len(self.bands),), "L": (self.manifest.num_latent,)}
        expected = (self.shards[index].num_stars, *widths[columns_of(self.format)[name].width])
        where = f"{self.shard_path(index)}, dataset {name}"
        if shape[0] != expected[0]:
            what = "the number of stars in a shard does not match its manifest"
            raise DamageError(what, where=where, got=shape[0], expected=expected[0])
        if shape != expected:
            what = "the width of a dataset does not match the manifest"
            raise DamageError(what, where=where, got=shape[1:], expected=expected[1:])

    def iter_shards(self, names: Sequence[str]) -> Iterator[Arrays]:
        """Columns shard by shard, in bounded memory."""
        for index in range(len(self.shards)):
            yield self.read_shard(index, names)

    def iter_chunks(self, columns: Sequence[str] | None = None, rows: int = CHUNK_ROWS) -> Iterator[Arrays]:
        """Columns (all by default) of `rows` stars at a time, of fewer at the end, in bounded memory."""
        if rows < 1:
            raise InputError("a chunk needs at least one row", where="iter_chunks", got=rows, expected="1 or more")
        names = self._chosen(columns)
        return (self.read(names, slice(start, start + rows)) for start in range(0, self.num_stars, rows))

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
        return {field.name: np.empty((0, *field.shape), field.dtype) for field in self.fields(names)}

    def take(self, rows: np.ndarray | Sequence[int], columns: Sequence[str] | None = None) -> Arrays:
        """Columns (all by default) of single stars by row number (n,), in that order, or by a mask (N,); IndexError
        outside.
        """
        names, numbers = self._chosen(columns), np.asarray(rows)
        if numbers.dtype == bool and len(numbers) == self.num_stars:
            numbers = np.flatnonzero(numbers)
        if numbers.size and numbers.dtype.kind not in "iu":
            raise IndexError(f"rows by numbers of type {numbers.dtype}, not whole ones")
        wanted = numbers.astype(np.int64)
        wanted = np.where(wanted < 0, wanted + self.num_stars, wanted)
        if ((wanted < 0) | (wanted >= self.num_stars)).any():
            raise IndexError(f"a row outside 0 to {self.num_stars - 1}")
        taken = {field.name: np.empty((len(wanted), *field.shape), field.dtype) for field in self.fields(names)}
        shards = np.searchsorted(self.offsets, wanted, side="right") - 1
        for index in np.unique(shards):
            places = np.flatnonzero(shards == index)
            local = wanted[places] - self.offsets[index]
            low, high = int(local.min()), int(local.max()) + 1
            for name, values in self.read_shard(int(index), names, slice(low, high)).items():
                taken[name][places] = values[local - low]
        return taken

    @overload
    def __getitem__(self, key: str) -> CatalogColumn: ...
    @overload
    def __getitem__(self, key: int) -> Arrays: ...
    @overload
    def __getitem__(self, key: list[str] | tuple[str, ...]) -> Self: ...
    @overload
    def __getitem__(self, key: slice | list[int] | np.ndarray) -> SomeRows: ...
    def __getitem__(
        self, key: str | slice | int | list[str] | list[int] | tuple[str, ...] | np.ndarray
    ) -> CatalogColumn | SomeRows | Arrays | Self:
        if isinstance(key, str):
            return CatalogColumn(self, self._chosen([key])[0])
        if isinstance(key, list | tuple) and all(isinstance(name, str) for name in key):
            return self.select([str(name) for name in key])
        if isinstance(key, slice | list | tuple | np.ndarray):
            return self.some_rows(None, key if isinstance(key, slice) else np.asarray(key))
        return {name: values[0] for name, values in self.take([key]).items()}

    def some_rows(self, columns: Sequence[str] | None = None, rows: RowChoice = slice(None)) -> SomeRows:
        """Columns (all by default) of a range of stars, those of a mask (N,) or of row numbers."""
        fields = self.fields(columns)
        names = [field.name for field in fields]
        arrays = self.read(names, rows) if isinstance(rows, slice) else self.take(rows, names)
        return SomeRows(fields, arrays, self.digest)

    def to_table(
        self, columns: Sequence[str] | None = None, rows: RowChoice = slice(None), *, split: bool = False
    ) -> Table:
        """An astropy Table of `some_rows`, with units, descriptions and UCDs.

        `split` makes columns `magnitude_u`, `magnitude_g`, ... of vectors.
        """
        return self.some_rows(columns, rows).to_table(split=split)

    def to_arrow(
        self, columns: Sequence[str] | None = None, rows: RowChoice = slice(None), *, split: bool = False
    ) -> ArrowTable:
        """An Arrow table of `some_rows`; units, UCDs in its fields' metadata."""
        return self.some_rows(columns, rows).to_arrow(split=split)

    def to_pandas(self, columns: Sequence[str] | None = None, rows: RowChoice = slice(None)) -> DataFrame:
        """A data frame of `some_rows`, with a column for each element of a vector; InputError without pandas."""
        return self.some_rows(columns, rows).to_pandas()


class CatalogColumn:
    """One column of a catalog; slicing reads just those rows, an array of row numbers or a mask (N,) those. Compared
    with a number it is read whole: `catalog["quality"] == 0` is a mask (N,).
    """

    __hash__ = object.__hash__

    def __init__(self, catalog: ShardTable, name: str) -> None:
        self.catalog = catalog
        self.name = name

    def __len__(self) -> int:
        return self.catalog.num_stars

    def __repr__(self) -> str:
        return f"<column {self.name} of {self.catalog!r}>"

    def __getitem__(self, rows: slice | int | np.ndarray | list[int]) -> np.ndarray:
        if isinstance(rows, slice):
            return self.catalog.read([self.name], rows)[self.name]
        wanted = np.asarray(rows)
        if wanted.dtype == bool:
            if wanted.shape != (len(self),):
                raise IndexError(f"a mask of shape {wanted.shape} for {len(self)} stars")
            wanted = np.flatnonzero(wanted)
        values = self.catalog.take(np.atleast_1d(wanted), [self.name])[self.name]
        return values if wanted.ndim else np.asarray(values[0])

    def __eq__(self, other: object) -> np.ndarray:  # type: ignore[override]
        return np.asarray(self[:] == other)

    def __ne__(self, other: object) -> np.ndarray:  # type: ignore[override]
        return np.asarray(self[:] != other)

    def __lt__(self, other: Any) -> np.ndarray:
        return np.asarray(self[:] < other)

    def __le__(self, other: Any) -> np.ndarray:
        return np.asarray(self[:] <= other)

    def __gt__(self, other: Any) -> np.ndarray:
        return np.asarray(self[:] > other)

    def __ge__(self, other: Any) -> np.ndarray:
        return np.asarray(self[:] >= other)

    def __iter__(self) -> Iterator[np.ndarray]:
        for chunk in self.catalog.iter_chunks([self.name]):
            yield from chunk[self.name]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = self[:]
        return values if dtype is None else values.astype(dtype)
