"""Directories as raw input: Parquet trees (hive partitions, HATS catalogs), and star catalogs of our own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from hpc_ae.catalog.manifest import MANIFEST_NAME, read_manifest
from hpc_ae.catalog.schema import STAR_FORMAT
from hpc_ae.errors import InputError

_MOST_FILES = 1_000_000
_PARQUET = b"PAR1"
_PRIMARY = re.compile(r"^hats_primary_table_url\s*=\s*(\S+)\s*$", re.MULTILINE)
_DIGITS = re.compile(r"(\d+)")


def expand_dirs(paths: Iterable[Path]) -> list[Path]:
    """The raw files that `paths` name: files as they are, of directories the files in them in a fixed order.

    A star catalog gives its shards, a HATS catalog or other tree its Parquet files; names that begin with . or _ are
    left out, and in a partitioned tree what lies outside of `key=value` directories. InputError where none is there.
    """
    found: list[Path] = []
    for path in paths:
        found += _expand(path) if path.is_dir() else [path]
    return found


def _expand(directory: Path) -> list[Path]:
    if (directory / MANIFEST_NAME).is_file():
        manifest = read_manifest(directory, STAR_FORMAT)
        return [directory / str(shard["file"]) for shard in manifest["shards"]]
    properties = directory / "collection.properties"
    if properties.is_file() and (primary := _PRIMARY.search(properties.read_text(errors="replace"))):
        return _expand_primary(directory, primary[1])
    files = _parquet_files(directory)
    partitioned = [path for path in files if "=" in "".join(path.relative_to(directory).parts)]
    if not files:
        raise InputError(
            "a directory holds no raw files",
            where=directory,
            expected="Parquet files below it (HATS, hive partitions), or a star catalog with its manifest.json",
            fix="name the files themselves; * wildcards are read",
        )
    return partitioned or files


def _expand_primary(directory: Path, name: str) -> list[Path]:
    """The catalog of a HATS collection that holds the rows; its margins and indexes repeat them."""
    primary = directory / name
    if not primary.is_dir() or primary.resolve().parent != directory.resolve():
        raise InputError("a HATS collection's catalog is not in it", where=directory, got=name)
    return _expand(primary)


def _parquet_files(directory: Path) -> list[Path]:
    """Every Parquet file below a directory, by content, in the order of its names with numbers as numbers."""
    found: list[Path] = []
    for root, folders, names in os.walk(directory, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        for path in (Path(root) / name for name in names if not name.startswith((".", "_"))):
            if path.is_file() and _is_parquet(path):
                found.append(path)
        if len(found) > _MOST_FILES:
            raise InputError("a directory holds too many files", where=directory, expected=f"at most {_MOST_FILES:,}")
    return sorted(found, key=lambda path: _natural(path.relative_to(directory)))


def _refuse(error: OSError) -> None:
    raise InputError(f"cannot read a directory: {error.strerror}", where=error.filename) from error


def _is_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == _PARQUET
    except OSError as error:
        raise InputError(f"cannot read a raw file: {error.strerror}", where=path) from error


def _natural(path: Path) -> list[list[tuple[int, str]]]:
    """A sort key in which Npix=9 comes before Npix=10."""
    return [
        [(int(part), "") if part.isdecimal() else (-1, part) for part in _DIGITS.split(name)] for name in path.parts
    ]
