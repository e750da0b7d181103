"""Catalog: what `open_catalog` opens, with other catalogs' columns or the stars of a cone where they are asked for.

Shape letters: N stars.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hpc_ae.catalog.fields import Field
from hpc_ae.catalog.link import Place, check_stars, linked_place, star_dir_of
from hpc_ae.catalog.manifest import read_manifest
from hpc_ae.catalog.records import Manifest
from hpc_ae.catalog.schema import COLUMNS, ENCODING_FORMAT, SCORE_FORMAT, STAR_FORMAT, Column
from hpc_ae.catalog.select import InCone
from hpc_ae.catalog.shard import Arrays
from hpc_ae.catalog.sky import Cone
from hpc_ae.catalog.table import ShardTable
from hpc_ae.errors import DamageError, InputError, StaleError
from hpc_ae.layout import MANIFEST_NAME, RunLayout


class Catalog(ShardTable):
    """A star or encoding catalog, opened read-only.

    `catalog["latent"][1000:2000]` reads those rows of one column, `catalog[1000:2000]` of all columns,
    `catalog[["objid", "latent"]]` is the same catalog with these columns; `len(catalog)` is the number of stars.
    """

    def join(self, *others: str | Path | Catalog, stars: str | Path | None = None) -> Catalog:
        """The columns of several catalogs of the same stars, row by row: stars, then encoding, then scores.

        Without `others` all there are: the star catalog (at `stars` where that has moved), and of the encoding and the
        scores those that are where a run has them. A star catalog alone is its own. InputError where one is missing,
        StaleError where one is of other stars or another encoding.
        """
        found = [one if isinstance(one, Catalog) else open_catalog(one) for one in others]
        if not found:
            found = [open_stars(self, stars), *_companions(self)]
        elif stars is not None:
            found.append(open_stars(self, stars))
        parts: dict[str, Catalog] = {}
        for part in (part for one in (self, *found) for part in _parts_of(one)):
            if parts.setdefault(part.format, part) is not part and others:
                what = "two catalogs of one kind cannot be joined: their columns have the same names"
                raise InputError(what, where=part.directory, got=part.format, expected="stars, an encoding, scores")
        return self if len(parts) == 1 else JoinedCatalog(self, [parts[one] for one in COLUMNS if one in parts])

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
    """The columns of several catalogs, each of the first that has it; row i of all is the same star."""

    def __init__(self, catalog: Catalog, parts: Sequence[Catalog]) -> None:
        super().__init__(catalog.directory, catalog.manifest)
        self.parts = list(parts)
        _check_parts(self.parts)
        self._columns = list(dict.fromkeys(name for part in parts for name in part.manifest.columns))

    def __repr__(self) -> str:
        others = ", ".join(str(part.directory) for part in self.parts if part.directory != self.directory)
        return f"{super().__repr__()[:-1]}, joined with {others}>"

    @property
    def schema(self) -> dict[str, Column]:
        """The columns of all by name."""
        return {name: column for part in reversed(self.parts) for name, column in part.schema.items()}

    def fields(self, names: Sequence[str] | None = None) -> list[Field]:
        """Those of each column's own catalog."""
        return [self._part_of(name).fields([name])[0] for name in self._chosen(names)]

    def _part_of(self, name: str) -> Catalog:
        return next(part for part in self.parts if name in part.manifest.columns)

    def read_shard(self, index: int, names: Sequence[str], rows: slice = slice(None)) -> Arrays:
        """Columns of one shard, each of its own catalog; DamageError where their ids differ."""
        owners = {name: self._part_of(name) for name in names}
        found: Arrays = {}
        for part in self.parts:
            own = [name for name, owner in owners.items() if owner is part and name != "objid"]
            arrays = part.read_shard(index, ["objid", *own], rows)
            if not np.array_equal(arrays["objid"], found.setdefault("objid", arrays["objid"])):
                raise self._other_ids(part, index)
            found |= arrays
        return {name: found[name] for name in names}

    def _other_ids(self, part: Catalog, index: int) -> DamageError:
        return DamageError(
            "an encoding shard does not match its star shard in its ids",
            where=f"{part.shard_path(index)}, dataset objid",
            expected=f"those of {self.parts[0].shard_path(index)}",
            fix="hpc-ae verify says which of the two is damaged",
        )


def _parts_of(catalog: Catalog) -> list[Catalog]:
    return catalog.parts if isinstance(catalog, JoinedCatalog) else [catalog]


def _companions(catalog: Catalog) -> Iterator[Catalog]:
    """The encoding of scores, and the scores of an encoding, where a run has them and they belong together."""
    if (link := catalog.manifest.inputs.encoding) is not None and link.path is not None:
        place = linked_place(catalog.directory, link.path)
    elif catalog.format == ENCODING_FORMAT:
        place = RunLayout(catalog.directory.parent).scores_dir
    else:
        return
    if (place / MANIFEST_NAME).is_file():
        other = open_catalog(place)
        if _is_of(*sorted([catalog, other], key=lambda one: one.format == SCORE_FORMAT)):
            yield other


def _is_of(encoding: Catalog, scores: Catalog) -> bool:
    """Whether these are the scores of that encoding."""
    link = scores.manifest.inputs.encoding
    return link is not None and link.digest == encoding.digest


def _check_parts(parts: Sequence[Catalog]) -> None:
    """StaleError or DamageError where catalogs are not of the same stars."""
    places = {part.format: part for part in parts}
    stars, encoding, scores = (places.get(one) for one in (STAR_FORMAT, ENCODING_FORMAT, SCORE_FORMAT))
    for part in (encoding, scores):
        if stars is not None and part is not None:
            check_stars(Place(part.directory, part.manifest), Place(stars.directory, stars.manifest))
    if encoding is not None and scores is not None and not _is_of(encoding, scores):
        link = scores.manifest.inputs.encoding
        raise StaleError(
            "these are the scores of another encoding",
            where=scores.directory,
            got="none" if link is None else link.digest,
            expected=encoding.digest,
            fix="hpc-ae run CONFIG --redo postprocess scores this one",
        )


def open_stars(encoding: Catalog, path: str | Path | None = None) -> Catalog:
    """The star catalog of an encoding, the one it is joined with, or where its manifest says, or at `path`.

    A star catalog is its own.
    InputError where it is not there, StaleError where it is another one, DamageError where the manifest of the encoding
    does not name it or its shards are not those of the encoding.
    """
    if encoding.format == STAR_FORMAT:
        return encoding
    if isinstance(encoding, JoinedCatalog) and path is None and encoding.parts[0].format == STAR_FORMAT:
        return encoding.parts[0]
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
