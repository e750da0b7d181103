"""Some stars of a catalog: which shards can have them, which rows they are, and those rows alone.

Shape letters: N stars of a shard, n stars found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpc_ae.catalog.identity import is_among
from hpc_ae.catalog.records import ShardRecord
from hpc_ae.catalog.shard import CHUNK_ROWS, Arrays
from hpc_ae.catalog.sky import Cone, cone_ranges, overlapping, rows_in_cone, sky_ranges
from hpc_ae.catalog.table import ShardTable
from hpc_ae.layout import MANIFEST_NAME


def shards_in_cone(catalog: ShardTable, ra_deg: float, dec_deg: float, radius_arcmin: float) -> list[int]:
    """The shards that can have stars within `radius_arcmin` of a position; all where there is no sky order.

    InputError where this is no cone, DamageError where the manifest's ranges do not hold.
    """
    cone = Cone(ra_deg, dec_deg, radius_arcmin)
    cone.check()
    if not catalog.manifest.is_sky_ordered:
        return list(range(len(catalog.shards)))
    return overlapping(sky_ranges(catalog.shards, catalog.directory / MANIFEST_NAME), cone_ranges(cone))


@dataclass(frozen=True)
class InCone:
    """The stars of a cone; `stars` is the star catalog, whose shards have the rows of its encoding's."""

    stars: ShardTable
    cone: Cone

    def shards(self) -> list[int]:
        """The shards to look into."""
        return shards_in_cone(self.stars, self.cone.ra_deg, self.cone.dec_deg, self.cone.radius_arcmin)

    def rows(self, index: int) -> np.ndarray:
        """Rows int64 (n,) of a shard, ascending."""
        arrays = self.stars.read_shard(index, ["ra", "dec"])
        return rows_in_cone(arrays["ra"], arrays["dec"], self.cone)

    def all_rows(self) -> np.ndarray:
        """Row numbers of the whole catalog, int64 (n,), ascending."""
        found = [self.rows(index) + self.stars.offsets[index] for index in self.shards()]
        return np.concatenate([np.empty(0, np.int64), *found])


@dataclass(frozen=True)
class WithIds:
    """The stars that have one of some ids, int64 ascending."""

    catalog: ShardTable
    ids: np.ndarray

    def shards(self) -> list[int]:
        """The shards to look into: those whose range of ids has one of them, or is not recorded."""
        return [index for index, shard in enumerate(self.catalog.shards) if self._may_have(shard)]

    def _may_have(self, shard: ShardRecord) -> bool:
        if shard.objid_range is None:
            return not shard.says_ids
        low, high = map(int, shard.objid_range)
        place = int(np.searchsorted(self.ids, low))
        return place < len(self.ids) and int(self.ids[place]) <= high

    def rows(self, index: int) -> np.ndarray:
        """Rows int64 (n,) of a shard, ascending."""
        return np.flatnonzero(is_among(self.catalog.read_shard(index, ["objid"])["objid"], self.ids))


def read_rows(catalog: ShardTable, index: int, names: Sequence[str], rows: np.ndarray) -> Arrays:
    """Columns of the rows (n,), ascending, of a shard; chunks between them are not read."""
    if not len(rows):
        return catalog.read_shard(index, names, slice(0, 0))
    parts = []
    for span in np.split(rows, np.flatnonzero(np.diff(rows) > CHUNK_ROWS) + 1):
        arrays = catalog.read_shard(index, names, slice(int(span[0]), int(span[-1]) + 1))
        parts.append({name: values[span - span[0]] for name, values in arrays.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in names}
