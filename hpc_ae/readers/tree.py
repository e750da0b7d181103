"""Directories as raw input: Parquet trees (hive partitions, HATS catalogs), and star catalogs of our own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hpc_ae.catalog.manifest import read_manifest
from hpc_ae.catalog.records import StarManifest
from hpc_ae.errors import InputError
from hpc_ae.layout import MANIFEST_NAME
from hpc_ae.readers.parquet import PARQUET_ERRORS, partition_values
from hpc_ae.readers.raw_file import unreadable

NUM_THREADS = 16  # a footer is waited for, not worked at
_MOST_FILES = 1_000_000
_PARQUET = b"PAR1"
_SUFFIX = re.compile(r"(?i).*\.(parquet|parq|pq)(\.(gz|bz2|xz|zst))?")
_PRIMARY = re.compile(r"^hats_primary_table_url\s*=\s*(\S+)\s*$", re.MULTILINE)
_CATALOG_NAMES = {"hats.properties", "properties"}
_DIGITS = re.compile(r"(\d+)")


def expand_dirs(paths: Iterable[Path]) -> list[Path]:
    """The raw files that `paths` name: files as they are, of directories the files in them in a fixed order.

    A star catalog gives its shards, a HATS catalog or other tree its Parquet files; names that begin with . or _ are
    left out, and of a HATS catalog what lies outside of its partitions. InputError where none is there, where a file
    is called Parquet and is not, or where it is unclear which files are meant.
    """
    found: list[Path] = []
    for path in paths:
        found += _expand(path) if path.is_dir() else [path]
    return found


def _expand(directory: Path) -> list[Path]:
    if (directory / MANIFEST_NAME).is_file():
        manifest = read_manifest(directory, StarManifest)
        return [directory / shard.file for shard in manifest.shards]
    properties = directory / "collection.properties"
    if properties.is_file() and (primary := _PRIMARY.search(properties.read_text(errors="replace"))):
        return _expand_primary(directory, primary[1])
    files = _parquet_files(directory)
    partitioned = [path for path in files if "=" in "".join(path.relative_to(directory).parts)]
    if not files:
        raise InputError(
            "a directory holds no raw files",
            where=directory,
            expected=f"Parquet files below it (HATS, hive partitions), or a star catalog with its {MANIFEST_NAME}",
            fix="name the files themselves; * wildcards are read",
        )
    if not partitioned or len(partitioned) == len(files):
        return files
    if any(part.startswith("Norder=") for path in partitioned for part in path.relative_to(directory).parts):
        return partitioned  # beside them a HATS catalog has a thumbnail and its own indexes
    stray = next(path for path in files if path not in set(partitioned))
    raise InputError(
        "a partitioned tree has files outside of its key=value directories",
        where=directory,
        got=str(stray.relative_to(directory)),
        expected="all files in partitions, or none",
        fix="move it away, or name the directories and files that you mean",
    )


def _expand_primary(directory: Path, name: str) -> list[Path]:
    """The catalog of a HATS collection that holds the rows; its margins and indexes repeat them."""
    primary = directory / name
    if not primary.is_dir() or primary.resolve().parent != directory.resolve():
        raise InputError("a HATS collection's catalog is not in it", where=directory, got=name)
    return _expand(primary)


def _parquet_files(directory: Path) -> list[Path]:
    """Every Parquet file below a directory, by content, in the order of its names with numbers as numbers."""
    found: list[Path] = []
    catalogs: list[Path] = []
    for root, names in _folders(directory):
        catalogs += [root] if _CATALOG_NAMES & set(names) else []
        for path in (root / name for name in names if not name.startswith((".", "_"))):
            if path.is_file() and _is_parquet(path):
                found.append(path)
            elif _SUFFIX.fullmatch(path.name):
                raise unreadable(
                    path, "a file in a tree that has the name of a Parquet file but is not one", "fetch it again"
                )
        if len(found) > _MOST_FILES:
            raise InputError("a directory holds too many files", where=directory, expected=f"at most {_MOST_FILES:,}")
    if len(catalogs) > 1:
        names = [str(one.relative_to(directory)) for one in catalogs]
        raise InputError(
            "a directory holds several catalogs, which may repeat each other's rows",
            where=directory,
            got=", ".join(names[:20]),
            expected="one HATS catalog, or a collection with its collection.properties",
            fix="name the catalog that you mean",
        )
    return sorted(found, key=lambda path: _natural(path.relative_to(directory)))


def _folders(directory: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder with the names in it, through symbolic links too; InputError where one is there twice."""
    seen: dict[tuple[int, int], str] = {}
    for root, folders, names in os.walk(directory, onerror=_refuse, followlinks=True):
        stat = Path(root).stat()
        first = seen.setdefault((stat.st_dev, stat.st_ino), root)
        if first != root:
            raise InputError("a directory is in a tree twice, by a symbolic link", where=root, got=first)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        yield Path(root), names


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


def check_schemas(named: Iterable[Path], files: Iterable[Path]) -> None:
    """InputError where the Parquet files of a directory among `named` do not have the same columns of the same kinds.

    `files` is what `expand_dirs` made of them. A column of a single file would be missing in the others.
    """
    listed = list(files)
    for directory in (path for path in named if path.is_dir() and not (path / MANIFEST_NAME).is_file()):
        members = [path for path in listed if path.is_relative_to(directory)]
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            schemas = pool.map(_kinds, members)
            first: dict[str, str] = {}
            for path, kinds in zip(members, schemas, strict=True):
                first = first or kinds
                _compare(members[0], first, path, kinds)
                first |= {name: kind for name, kind in kinds.items() if first[name] == "null"}


def _kinds(path: Path) -> dict[str, str]:
    """The columns of a Parquet file and its partitions, and whether they are numbers, text or what else."""
    try:
        schema = pq.read_schema(path)
    except PARQUET_ERRORS as error:
        raise unreadable(path, error) from error
    kinds = {field.name: _kind(field.type) for field in schema}
    return kinds | {key: "partition" for key in partition_values(path) if key not in kinds}


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    return str(kind)


def _compare(first_path: Path, first: dict[str, str], path: Path, kinds: dict[str, str]) -> None:
    differences = []
    for name in dict.fromkeys((*first, *kinds)):
        one, other = first.get(name, "missing"), kinds.get(name, "missing")
        if one != other and ("null" not in (one, other) or "missing" in (one, other)):
            differences.append(f"{name} is {other}, not {one}")
    if differences:
        raise InputError(
            "the files of a directory have different columns",
            where=path,
            got="; ".join(differences[:10]),
            expected=f"the columns of {first_path}",
            fix="name the files that belong together; named one by one, different files can be ingested together",
        )
