"""Catalog: what `open_catalog` opens, with a star catalog's columns or the stars of a cone where they are asked for.

Shape letters: N stars.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hpc_ae.catalog.link import Place, check_stars, star_dir_of
from hpc_ae.catalog.manifest import read_manifest
from hpc_ae.catalog.records import Manifest
from hpc_ae.catalog.schema import STAR_FORMAT, Column, columns_of
from hpc_ae.catalog.select import InCone
from hpc_ae.catalog.shard import Arrays
from hpc_ae.catalog.sky import Cone
from hpc_ae.catalog.table import ShardTable
from hpc_ae.errors import DamageError, InputError
from hpc_ae.layout import MANIFEST_NAME


class Catalog(ShardTable):
    """A star or encoding catalog, opened read-only.

    `catalog["latent"][1000:2000]` reads those rows of one column, `catalog[1000:2000]` of all columns,
    `catalog[["objid", "latent"]]` is the same catalog with these columns; `len(catalog)` is the number of stars.
    """

    def join(self, stars: str | Path | None = None) -> Catalog:
        """An encoding catalog with the columns of its star catalog (at `stars` where that has moved) before its own."""
        found = open_stars(self, stars)
        return self if found is self else JoinedCatalog(self, found)

    def cone(
        self,
        ra: float,
        dec: float,
        radius_arcmin: float,
        columns: Sequence[str] | None = None,
        *,
        stars: str | Path | None = None,
    ) -> tuple[np.ndarray, Arrays]:
        """Stars within `radius_arcmin` of (ra, dec) in degrees: row numbers int64 (n,), and columns of those rows.

        An encoding catalog asks the positions of its star catalog (at `stars` where that has moved).
        """
        names = self._chosen(columns)
        rows = InCone(open_stars(self, stars), Cone(ra, dec, radius_arcmin)).all_rows()
        return rows, self.take(rows, names)


class JoinedCatalog(Catalog):
    """The columns of the star catalog, then those of the encoding that it has not; row i of both is the same star."""

    def __init__(self, encoding: Catalog, stars: Catalog) -> None:
        super().__init__(encoding.directory, encoding.manifest)
        self.stars = stars
        own = [name for name in self.manifest.columns if name not in stars.columns]
        self._columns = [*stars.manifest.columns, *own]

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, joined with {self.stars.directory}>"

    @property
    def schema(self) -> dict[str, Column]:
        """The columns of both catalogs by name."""
        return {**columns_of(self.format), **columns_of(STAR_FORMAT)}

    def read_shard(self, index: int, names: Sequence[str], rows: slice = slice(None)) -> Arrays:
        """Columns of one shard, of both catalogs; DamageError where their ids differ."""
        of_stars = [name for name in names if name in self.stars.manifest.columns]
        own = [name for name in names if name not in of_stars]
        stars = self.stars.read_shard(index, list(dict.fromkeys(["objid", *of_stars])), rows)
        mine = super().read_shard(index, ["objid", *own], rows)
        if not np.array_equal(stars["objid"], mine["objid"]):
            raise DamageError(
                "an encoding shard does not match its star shard in its ids",
                where=f"{self.shard_path(index)}, dataset objid",
                expected=f"those of {self.stars.shard_path(index)}",
                fix="hpc-ae verify says which of the two is damaged",
            )
        return {name: stars[name] if name in of_stars else mine[name] for name in names}


def open_stars(encoding: Catalog, path: str | Path | None = None) -> Catalog:
    """The star catalog of an encoding, the one it is joined with, or where its manifest says, or at `path`.

    A star catalog is its own.
    InputError where it is not there, StaleError where it is another one, DamageError where the manifest of the encoding
    does not name it or its shards are not those of the encoding.
    """
    if encoding.format == STAR_FORMAT:
        return encoding
    if isinstance(encoding, JoinedCatalog) and path is None:
        return encoding.stars
    place = Place(encoding.directory, encoding.manifest)
    directory = star_dir_of(place, path)
    if not (directory / MANIFEST_NAME).is_file():
        raise InputError(
            "the star catalog of the encoding is missing",
            where=directory,
            got=f"no {MANIFEST_NAME}",
            expected="the star catalog that was encoded",
            fix="give its path with --stars PATH, or stars=PATH in Python",
        )
    stars = open_catalog(directory)
    check_stars(place, Place(directory, stars.manifest))
    return stars


def open_catalog(directory: str | Path) -> Catalog:
    """Open a star or encoding catalog.

    InputError where there is none, DamageError where its manifest does not hold. Shards are checked as they are read.
    """
    path = Path(directory)
    return Catalog(path, read_manifest(path, Manifest))
