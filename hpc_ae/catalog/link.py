"""Are these the stars of that encoding? The one answer, for whoever reads the two together and for verify.

What is asked of an encoding catalog here can be asked of a score catalog too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpc_ae.catalog.records import Manifest, ShardRecord
from hpc_ae.catalog.schema import STAR_FORMAT
from hpc_ae.errors import DamageError, HpcAeError, StaleError
from hpc_ae.layout import MANIFEST_NAME


@dataclass(frozen=True)
class Place:
    """A manifest, and the directory that it is of."""

    directory: Path
    manifest: Manifest

    @property
    def path(self) -> Path:
        """The manifest's file."""
        return self.directory / MANIFEST_NAME


@dataclass(frozen=True)
class Mismatch:
    """What two shards do not have in common."""

    what: str
    got: object
    expected: object


def relative_path(target: Path, directory: Path) -> str:
    """The path by which a file in `directory` names another place, so that both may move together.

    By their names where the system finds it so, else by where they really are: behind a symbolic link `..` leads to
    the parent of what it points to.
    """
    by_names = os.path.relpath(target.absolute(), directory.absolute())
    if _is_same_place(directory / by_names, target):
        return by_names
    return os.path.relpath(target.resolve(), directory.resolve())


def linked_place(directory: Path, path: str) -> Path:
    """The place that a file in `directory` names by a relative path: as the system finds it, else by its names, as
    earlier versions wrote it.
    """
    place = directory / path
    by_names = Path(os.path.normpath(directory.absolute() / path))
    return by_names if by_names.exists() and not place.exists() else place


def _is_same_place(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return not os.path.lexists(other) and one.resolve() == other.resolve()


def row_mismatches(shard: ShardRecord, stars: ShardRecord) -> list[Mismatch]:
    """In what two shards differ that should have the same stars in the same order."""
    asked = (
        Mismatch("rows", shard.num_stars, stars.num_stars),
        Mismatch("ids", shard.objid_digest, stars.objid_digest),
        Mismatch("good stars", shard.num_good, stars.num_good),
    )
    return [one for one in asked if one.got != one.expected]


def star_dir_of(encoding: Place, path: str | Path | None = None) -> Path:
    """Where the star catalog of an encoding is: at `path`, or where the manifest says.

    DamageError where the manifest does not name one.
    """
    link = encoding.manifest.inputs.catalog
    if link is None or (path is None and link.path is None):
        raise DamageError("the manifest of the encoding does not name its catalog", where=encoding.path)
    return Path(path) if path is not None else linked_place(encoding.directory, str(link.path))


def check_stars(encoding: Place, stars: Place) -> None:
    """StaleError where these are not the stars that were encoded, DamageError where the two differ in their shards."""
    for fault in link_faults(encoding, stars):
        raise fault


def link_faults(encoding: Place, stars: Place) -> Iterator[HpcAeError]:
    """All by which a star catalog is not that of an encoding, the gravest first."""
    link, is_stars = encoding.manifest.inputs.catalog, stars.manifest.format == STAR_FORMAT
    if link is None:
        yield DamageError("the manifest of the encoding does not name its catalog", where=encoding.path)
    elif not is_stars or stars.manifest.catalog_digest != link.digest:
        yield StaleError(
            "this is not the star catalog that was encoded",
            where=stars.path,
            got=f"another star catalog, {stars.manifest.catalog_digest}" if is_stars else stars.manifest.format,
            expected=f"the star catalog {link.digest}",
            fix="give the right one with --stars PATH (stars=PATH in Python), or encode this one with --redo encode",
        )
    if encoding.manifest.bands != stars.manifest.bands:
        what = "the bands of the encoding do not match its star catalog"
        got, expected = (", ".join(place.manifest.bands) for place in (encoding, stars))
        yield DamageError(what, where=encoding.path, got=got, expected=expected)
    ours, theirs = encoding.manifest.shards, stars.manifest.shards
    if len(ours) != len(theirs):
        what = "the shards of the encoding do not match its star catalog"
        yield DamageError(what, where=encoding.path, got=f"{len(ours)} shards", expected=f"{len(theirs)} shards")
    for mine, star in zip(ours, theirs, strict=False):
        if mine.num_stars != star.num_stars:
            what, where = "an encoding shard does not match its star shard in its rows", encoding.directory / mine.file
            yield DamageError(what, where=where, got=mine.num_stars, expected=star.num_stars)


def copy_faults(encoding: Place, stars: Place) -> Iterator[HpcAeError]:
    """What an encoding's manifest says otherwise than that of its stars, which it was copied from, beside the rows."""
    if encoding.manifest.order != stars.manifest.order:
        what = "the order of the encoding does not match its star catalog"
        yield DamageError(what, where=encoding.path, got=encoding.manifest.order, expected=stars.manifest.order)
    for mine, star in zip(encoding.manifest.shards, stars.manifest.shards, strict=False):
        found = [one for one in row_mismatches(mine, star) if one.what != "rows"]
        if mine.healpix != star.healpix:
            found.append(Mismatch("range in the sky", mine.healpix, star.healpix))
        for one in found:
            what, where = (
                f"an encoding shard does not match its star shard in its {one.what}",
                encoding.directory / mine.file,
            )
            yield DamageError(what, where=where, got=one.got, expected=one.expected)
