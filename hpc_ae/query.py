"""VERB query: the stars of a cone, or with some ids, of a star or encoding catalog, as a table of their rows.

Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hpc_ae.catalog.catalog import Catalog, open_catalog
from hpc_ae.catalog.fields import Field
from hpc_ae.catalog.identity import NO_ID
from hpc_ae.catalog.join import open_stars
from hpc_ae.catalog.schema import STAR_FORMAT
from hpc_ae.catalog.select import InCone, WithIds, read_rows
from hpc_ae.catalog.shard import Arrays
from hpc_ae.catalog.sky import Cone, is_sky_ordered
from hpc_ae.errors import DamageError, InputError
from hpc_ae.runtime.executor import Mapper, open_mapper
from hpc_ae.runtime.progress import Progress

_PART_ROWS = 65_536  # of what a writer gets at a time
_FEW_SHARDS = 12  # are looked through sooner than a pool of processes starts
Writer = Callable[[Sequence[Field], Iterator[Arrays]], None]


@dataclass(frozen=True)
class Selection:
    """Which stars, by a cone or by ids, and which of their columns: () for all of the catalog.

    `join` gives the columns of an encoding's star catalog too; so does naming them.
    """

    cone: Cone | None = None
    objids: tuple[int, ...] = ()
    columns: tuple[str, ...] = ()
    join: bool = False

    def check(self) -> None:
        """InputError where it selects nothing that can be."""
        if (self.cone is None) == (not self.objids):
            raise InputError("say either --cone or --objid", expected="--cone RA DEC RADIUS_ARCMIN, or --objid ID ...")
        if self.cone is not None:
            self.cone.check()
        for objid in self.objids:
            if not -(2**63) <= objid < 2**63 or objid == NO_ID:
                raise InputError("not an id", where="--objid", got=objid, expected="64 bits, and not -1: missing")


@dataclass
class Query:
    """What is read, from where; `found` and `missing` are known when all parts have been read."""

    catalog: Catalog
    stars: Catalog | None
    search: InCone | WithIds
    fields: list[Field]
    shards: list[int]
    num_found: int = 0
    missing: set[int] = field(default_factory=set)

    @property
    def narrowed(self) -> bool:
        """Whether the manifest said which shards to open."""
        return isinstance(self.search, WithIds) or is_sky_ordered(self.search.stars)

    def parts(self, mapper: Mapper) -> Iterator[Arrays]:
        """The columns of the stars that are found, a part at a time, in the order of the catalog."""
        total = sum(self.catalog.shards[index]["num_stars"] for index in self.shards)
        with Progress("query", total, "stars", quiet=len(self.shards) <= _FEW_SHARDS) as progress:
            for index, rows in zip(self.shards, mapper.map(self.search.rows, self.shards), strict=True):
                for start in range(0, len(rows), _PART_ROWS):
                    arrays = self._read(index, rows[start : start + _PART_ROWS])
                    self.num_found += len(arrays["objid"])
                    self.missing.difference_update(arrays["objid"].tolist() if self.missing else ())
                    yield arrays
                progress.update(progress.done + self.catalog.shards[index]["num_stars"])

    def _read(self, index: int, rows: np.ndarray) -> Arrays:
        """The columns of some rows of a shard, and objid; DamageError where encoding and stars differ in ids."""
        names = {one.name for one in self.fields} | {"objid"}
        arrays = read_rows(self.catalog, index, [name for name in self.catalog.columns if name in names], rows)
        if self.stars is not None:
            more = [name for name in self.stars.columns if name in names - arrays.keys()]
            joined = read_rows(self.stars, index, ["objid", *more], rows)
            if not np.array_equal(joined["objid"], arrays["objid"]):
                raise DamageError(
                    "the encoding and the star catalog differ in objid",
                    where=self.catalog.shard_path(index),
                    expected=f"the ids of {self.stars.shard_path(index)}",
                    fix="hpc-ae verify tells which of the two is damaged; make that one again",
                )
            arrays |= joined
        return arrays


def open_query(directory: Path, selection: Selection, star_dir: Path | None = None) -> Query:
    """Find out which shards must be opened; `star_dir` is the star catalog of an encoding where it has moved.

    InputError where there is no catalog, the selection cannot be, or a column is unknown; StaleError where `star_dir`
    is not what was encoded; DamageError where a manifest does not hold. No shard is opened.
    """
    selection.check()
    catalog = open_catalog(directory)
    encoded = catalog.format != STAR_FORMAT
    if selection.join and not encoded:
        raise InputError("--join is for encodings", where=directory, fix="query the encoding catalog of these stars")
    foreign = set(selection.columns) - set(catalog.columns)
    stars = open_stars(catalog, star_dir) if encoded and (selection.cone or selection.join or foreign) else None
    search: InCone | WithIds
    if selection.cone is not None:
        search = InCone(catalog if stars is None else stars, selection.cone)
    else:
        search = WithIds(catalog, np.unique(np.array(selection.objids, np.int64)))
    wanted = stars if selection.join or foreign else None
    return Query(catalog, stars, search, _fields(catalog, wanted, selection), search.shards(), 0, set(selection.objids))


def _fields(catalog: Catalog, stars: Catalog | None, selection: Selection) -> list[Field]:
    """The columns of the answer: those asked for in that order, or all, those of the encoding first."""
    known = {field.name: field for field in catalog.fields()}
    for more in stars.fields() if stars is not None else ():
        known.setdefault(more.name, more)
    for name in selection.columns:
        if name not in known:
            raise InputError("no such column", where=catalog.directory, got=name, expected=f"one of {', '.join(known)}")
    chosen = dict.fromkeys(selection.columns or known)
    return [known[name] for name in chosen]


def run_query(query: Query, write: Writer, num_workers: int = 1) -> bool:
    """Read the stars of a query and hand them to `write`: its columns, and an iterator over parts of its rows.

    False in the MPI ranks that only serve: there nothing is written. A pool is used where there are many shards.
    """
    with open_mapper(num_workers if len(query.shards) > _FEW_SHARDS else 1) as mapper:
        if mapper is None:
            return False
        write(query.fields, query.parts(mapper))
    return True
