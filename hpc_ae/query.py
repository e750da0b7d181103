"""VERB query: the stars of a cone, or with some ids, of a star or encoding catalog, as a table of their rows.

Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hpc_ae.catalog.catalog import Catalog, open_catalog, open_stars
from hpc_ae.catalog.fields import Field, no_such_column, split_arrays, split_field
from hpc_ae.catalog.identity import NO_ID
from hpc_ae.catalog.schema import STAR_FORMAT
from hpc_ae.catalog.select import InCone, WithIds, read_rows
from hpc_ae.catalog.shard import Arrays
from hpc_ae.catalog.sky import Cone
from hpc_ae.errors import InputError
from hpc_ae.runtime.executor import Mapper, open_mapper
from hpc_ae.runtime.progress import Progress

_PART_ROWS = 65_536  # of what a writer gets at a time
_FEW_SHARDS = 12  # are looked through sooner than a pool of processes starts
Writer = Callable[[Sequence[Field], Iterator[Arrays]], None]


@dataclass(frozen=True)
class Selection:
    """Which stars, by a cone or by ids, and which of their columns: () for all of the catalog.

    `join` gives the columns of an encoding's star catalog and scores too; so does naming them.
    """

    cone: Cone | None = None
    objids: tuple[int, ...] = ()
    columns: tuple[str, ...] = ()
    join: bool = False

    def check(self) -> None:
        """InputError where it selects nothing that can be."""
        if (self.cone is None) == (not self.objids):
            raise InputError("give either --cone or --objid", expected="--cone RA DEC RADIUS_ARCMIN, or --objid ID ...")
        if self.cone is not None:
            self.cone.check()
        for objid in self.objids:
            if not -(2**63) <= objid < 2**63 or objid == NO_ID:
                raise InputError(
                    "not an id", where="--objid", got=objid, expected="64 bits, and not -1, which means missing"
                )


@dataclass
class Query:
    """What is read, from where; `found` and `missing` are known when all parts have been read.

    An encoding is joined with its stars, where these are needed: then the ids of both are compared.
    """

    catalog: Catalog
    search: InCone | WithIds
    fields: list[Field]  # what is given
    sources: list[Field]  # what is read for it: of an element such as magnitude_u the vector
    shards: list[int]
    num_found: int = 0
    missing: set[int] = field(default_factory=set)

    @property
    def narrowed(self) -> bool:
        """Whether the manifest said which shards to open."""
        return isinstance(self.search, WithIds) or self.search.stars.manifest.is_sky_ordered

    def parts(self, mapper: Mapper) -> Iterator[Arrays]:
        """The columns of the stars that are found, a part at a time, in the order of the catalog."""
        names = list(dict.fromkeys(["objid", *(one.name for one in self.sources)]))
        total = sum(self.catalog.shards[index].num_stars for index in self.shards)
        with Progress("query", total, "stars", quiet=len(self.shards) <= _FEW_SHARDS) as progress:
            for index, rows in zip(self.shards, mapper.map(self.search.rows, self.shards), strict=True):
                for start in range(0, len(rows), _PART_ROWS):
                    arrays = read_rows(self.catalog, index, names, rows[start : start + _PART_ROWS])
                    self.num_found += len(arrays["objid"])
                    self.missing.difference_update(arrays["objid"].tolist() if self.missing else ())
                    yield {**arrays, **split_arrays(self.sources, arrays)}
                progress.update(progress.done + self.catalog.shards[index].num_stars)


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
    foreign = set(selection.columns) - set(catalog.columns) - {part.name for part in _parts(catalog)}
    stars = open_stars(catalog, star_dir) if encoded and (selection.cone or selection.join or foreign) else None
    search: InCone | WithIds
    if selection.cone is not None:
        search = InCone(catalog if stars is None else stars, selection.cone)
    else:
        search = WithIds(catalog, np.unique(np.array(selection.objids, np.int64)))
    joined = catalog if stars is None else catalog.join(stars)
    if selection.join or foreign:
        joined = catalog.join(stars=star_dir)
    shown = joined if selection.join or foreign else catalog
    fields, sources = _choose_fields(shown, selection.columns)
    return Query(joined, search, fields, sources, search.shards(), 0, set(selection.objids))


def _parts(catalog: Catalog) -> dict[Field, Field]:
    """The elements of a catalog's vectors, as fields of their own, with the vectors' fields."""
    return {part: field for field in catalog.fields() if field.elements for part in split_field(field)}


def _choose_fields(catalog: Catalog, columns: Sequence[str]) -> tuple[list[Field], list[Field]]:
    """The fields that are asked for, all without `columns`, and those to read for them; InputError where one is not
    there.
    """
    every, parts = {one.name: one for one in catalog.fields()}, _parts(catalog)
    vectors = {part.name: vector for part, vector in parts.items()}
    known = every | {part.name: part for part in parts}
    names = list(dict.fromkeys(columns)) or list(every)
    if unknown := [name for name in names if name not in known]:
        raise no_such_column("--columns", unknown[0], list(every.values()), ", or magnitude_u and the like")
    sources = list(dict.fromkeys(vectors.get(name, known[name]) for name in names))
    return [known[name] for name in names], sources


def run_query(query: Query, write: Writer, num_workers: int = 1) -> bool:
    """Read the stars of a query and hand them to `write`: its columns, and an iterator over parts of its rows.

    False in the MPI ranks that only serve: there nothing is written. A pool is used where there are many shards.
    """
    with open_mapper(num_workers if len(query.shards) > _FEW_SHARDS else 1) as mapper:
        if mapper is None:
            return False
        write(query.fields, query.parts(mapper))
    return True
