"""Some stars of a catalog: which shards can have them, which rows they are, and those rows alone.

Shape letters: N stars of a shard, n stars found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpc_ae.catalog.catalog import Catalog, open_catalog
from hpc_ae.catalog.identity import is_among
from hpc_ae.catalog.manifest import MANIFEST_NAME
from hpc_ae.catalog.schema import STAR_FORMAT
from hpc_ae.catalog.shard import CHUNK_ROWS, Arrays
from hpc_ae.catalog.sky import Cone, rows_in_cone, shards_in_cone
from hpc_ae.errors import DamageError, InputError, StaleError


@dataclass(frozen=True)
class InCone:
    """The stars of a cone; `stars` is the star catalog, whose shards have the rows of its encoding's."""

    stars: Catalog
    cone: Cone

    def shards(self) -> list[int]:
        """The shards to look into."""
        return shards_in_cone(self.stars, self.cone.ra_deg, self.cone.dec_deg, self.cone.radius_arcmin)

    def rows(self, index: int) -> np.ndarray:
        """Rows int64 (n,) of a shard, ascending."""
        arrays = self.stars.read_shard(index, ["ra", "dec"])
        return rows_in_cone(arrays["ra"], arrays["dec"], self.cone)


@dataclass(frozen=True)
class WithIds:
    """The stars that have one of some ids, int64 ascending."""

    catalog: Catalog
    ids: np.ndarray

    def shards(self) -> list[int]:
        """The shards to look into: those whose range of ids has one of them, or is not recorded."""
        return [index for index, shard in enumerate(self.catalog.shards) if self._may_have(shard)]

    def _may_have(self, shard: dict[str, object]) -> bool:
        if "objid_range" not in shard:
            return True
        limits = shard["objid_range"]
        if limits is None:
            return False
        try:
            low, high = (int(limit) for limit in limits)  # type: ignore[attr-defined]
        except (TypeError, ValueError) as error:
            where = self.catalog.directory / MANIFEST_NAME
            raise DamageError("a shard's range of ids is wrong", where=where, got=limits) from error
        place = int(np.searchsorted(self.ids, low))
        return place < len(self.ids) and int(self.ids[place]) <= high

    def rows(self, index: int) -> np.ndarray:
        """Rows int64 (n,) of a shard, ascending."""
        return np.flatnonzero(is_among(self.catalog.read_shard(index, ["objid"])["objid"], self.ids))


def read_rows(catalog: Catalog, index: int, names: Sequence[str], rows: np.ndarray) -> Arrays:
    """Columns of the rows (n,), ascending, of a shard; chunks between them are not read."""
    if not len(rows):
        return catalog.read_shard(index, names, slice(0, 0))
    parts = []
    for span in np.split(rows, np.flatnonzero(np.diff(rows) > CHUNK_ROWS) + 1):
        arrays = catalog.read_shard(index, names, slice(int(span[0]), int(span[-1]) + 1))
        parts.append({name: values[span - span[0]] for name, values in arrays.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def open_stars_of(encoding: Catalog, star_dir: Path | None = None) -> Catalog:
    """The star catalog that an encoding was made of, at `star_dir` where it has moved.

    InputError where it is not there or no star catalog, StaleError where it is another, DamageError where the
    encoding's manifest does not hold.
    """
    try:
        recorded = encoding.manifest["inputs"]["catalog"]
        path, digest = star_dir or encoding.directory / recorded["path"], recorded["digest"]
    except (KeyError, TypeError) as error:
        raise DamageError("the manifest of the encoding does not name its catalog", where=encoding.directory) from error
    if not (path / MANIFEST_NAME).is_file():
        raise InputError(
            "the star catalog of the encoding is not there; say where it is with --stars",
            where=path,
            got="no manifest.json",
            expected="the star catalog that was encoded",
        )
    stars = open_catalog(path)
    if stars.format != STAR_FORMAT:
        raise InputError("the wrong kind of catalog", where=path, got=stars.format, expected=STAR_FORMAT)
    if stars.digest != digest:
        raise StaleError(
            "the encoding was made from another star catalog",
            where=encoding.directory,
            got=f"{stars.digest}, that of {path}",
            expected=digest,
            fix="name the star catalog that was encoded with --stars, or encode this one",
        )
    if [shard["num_stars"] for shard in stars.shards] != [shard["num_stars"] for shard in encoding.shards]:
        raise DamageError("the encoding has not the shards of its star catalog", where=encoding.directory)
    return stars
