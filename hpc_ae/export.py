"""VERB export: a star, encoding or compressed catalog, joined or not, as a table for other programs, in bounded memory.

The output is published complete or not at all, after it was read back: its rows and ids are those of the catalog.
Shape letters: N rows.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpc_ae.catalog.catalog import Catalog, JoinedCatalog, open_catalog
from hpc_ae.catalog.fields import Field, flag_lines, no_such_column, split_arrays, split_field
from hpc_ae.catalog.schema import COMPRESSED_FORMAT, STAR_FORMAT
from hpc_ae.catalog.shard import CHUNK_ROWS, Arrays
from hpc_ae.errors import DamageError, InputError, WorkError
from hpc_ae.files import check_outside
from hpc_ae.formats.compressed import CompressedCatalog, is_compressed, open_compressed
from hpc_ae.formats.conservation import RowSum
from hpc_ae.formats.publish import check_free, staged
from hpc_ae.formats.table import TableInfo, Writer
from hpc_ae.formats.writers import FORMATS, open_writer, owner_of_dir, read_column
from hpc_ae.model.exact import load_decoder
from hpc_ae.provenance import Provenance
from hpc_ae.runtime.progress import Progress

_BLOCK_ROWS = 4 * CHUNK_ROWS
_TABLE_NAME = "stars"


@dataclass(frozen=True)
class ExportSettings:
    """What is exported and how; `columns` None means all, `threshold` is HATS' most rows of a file."""

    to: str
    columns: tuple[str, ...] | None = None
    good: bool = False
    split: bool = True
    num_files: int | None = None
    threshold: int = 1_000_000
    drop_unplaced: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Exported:
    """What an export did: rows of the catalog, of the output, left out by `quality`, left out without a position.

    `ids_compared` is whether ids were exported, and so read back too.
    """

    num_stars: int
    num_rows: int
    num_bad: int
    num_unplaced: int
    num_bytes: int
    ids_compared: bool


def export(
    directory: Path, out: Path, settings: ExportSettings, *, join: bool = False, stars: Path | None = None
) -> Exported:
    """Write the catalog in `directory` to `out`; with `join` its stars (at `stars`), encoding and scores are one table.

    InputError where something asked for is not there or `out` is; DamageError where a shard is not what it was.
    """
    catalog = _open(directory, join, stars)
    _check(catalog, out, settings)
    read_fields, fields = _choose_fields(catalog, settings)
    source = _Source(catalog, tuple(read_fields), settings)
    num_rows = catalog.num_good if settings.good else catalog.num_stars
    flags = tuple(flag_lines(catalog.schema[name] for name in ("quality", "caution") if name in source.names))
    name = out.name if settings.to == "hats" else _TABLE_NAME
    info = TableInfo(name, tuple(fields), num_rows, _notes(catalog, settings), flags)
    is_ours = owner_of_dir(settings.to, settings.num_files)
    with staged(out, overwrite=settings.overwrite, is_ours=is_ours) as path:
        num_unplaced = _write_hats(path, info, source) if settings.to == "hats" else _write(path, info, source)
        _check_written(path, info, source, num_rows - num_unplaced)
        num_bytes = sum(one.stat().st_size for one in (path, *path.rglob("*")) if one.is_file())
    num_written, num_bad = num_rows - num_unplaced, catalog.num_stars - num_rows
    return Exported(catalog.num_stars, num_written, num_bad, num_unplaced, num_bytes, "objid" in info.names)


def _open(directory: Path, join: bool, stars: Path | None) -> Catalog:
    catalog = open_compressed(directory, load_decoder) if is_compressed(directory) else open_catalog(directory)
    if catalog.format in (STAR_FORMAT, COMPRESSED_FORMAT) and (join or stars):
        raise InputError("there is nothing to join with a star catalog", where="--join", got=catalog.format)
    if stars is not None and not join:
        raise InputError(
            "--stars gives the path of the stars to join", where="--stars", got=stars, expected="--join too"
        )
    return catalog.join(stars=stars) if join else catalog


def _check(catalog: Catalog, out: Path, settings: ExportSettings) -> None:
    """Everything that can be known to be wrong before anything is written."""
    if settings.to not in FORMATS:
        raise InputError("unknown format", where="--to", got=settings.to, expected=" or ".join(FORMATS))
    if settings.num_files is not None and (settings.to != "parquet" or not 1 <= settings.num_files <= 100_000):
        raise InputError("--files is for --to parquet", where="--files", got=f"{settings.num_files}, {settings.to}")
    if settings.drop_unplaced and settings.to != "hats":
        raise InputError("--drop-unplaced is for --to hats", where="--drop-unplaced", got=f"--to {settings.to}")
    if settings.threshold < 1:
        raise InputError(
            "a file needs at least one row", where="--threshold", got=settings.threshold, expected="1 or more"
        )
    check_outside(out, [catalog.directory, *(part.directory for part in _others(catalog))])
    if settings.to == "hats" and "ra" not in catalog:
        raise InputError(
            "HATS needs positions, which an encoding catalog does not have",
            where=catalog.directory,
            fix="--join adds the columns of its star catalog",
        )
    check_free(out, overwrite=settings.overwrite, is_ours=owner_of_dir(settings.to, settings.num_files))


def _choose_fields(catalog: Catalog, settings: ExportSettings) -> tuple[list[Field], list[Field]]:
    """The columns to read, and those to write, which are their elements where vectors are split."""
    every = {field.name: field for field in catalog.fields()}
    names = list(settings.columns if settings.columns is not None else every)
    if settings.to == "hats":
        names += [name for name in ("ra", "dec") if name not in names]
    elements = {part.name: (field, part) for field in every.values() for part in split_field(field)}
    read, written = [], []
    for name in names:
        if name in every:
            read.append(every[name])
            written += split_field(every[name]) if settings.split else [every[name]]
        elif name in elements and settings.split:
            read.append(elements[name][0])
            written.append(elements[name][1])
        else:
            more = ", or magnitude_u and the like" if settings.split else ""
            raise no_such_column("--columns", name, list(every.values()), more)
    return list(dict.fromkeys(read)), written


def _others(catalog: Catalog) -> list[Catalog]:
    """What a catalog is joined with."""
    parts = catalog.parts if isinstance(catalog, JoinedCatalog) else []
    return [part for part in parts if part.format != catalog.format]


def _notes(catalog: Catalog, settings: ExportSettings) -> dict[str, str]:
    """Where the table comes from, for its metadata."""
    notes = {
        "catalog": catalog.directory.resolve().name,
        "catalog_format": catalog.format,
        "catalog_digest": catalog.digest,
        "catalog_stars": str(catalog.num_stars),
        "rows": "good stars (quality 0) only" if settings.good else "all stars",
    }
    for part in _others(catalog):
        notes[f"{part.format.split('/')[-1].replace('-', '_')}_digest"] = part.digest
    if model := catalog.manifest.inputs.model:
        notes["model_digest"] = model.digest
    if isinstance(catalog, CompressedCatalog):
        notes["magnitude_error_max"] = ", ".join(f"{band} {most:.4g}" for band, most in catalog.errors.items()) + " mag"
    return {**notes, **Provenance.now({}).facts()}


class _Source:
    """The rows to be exported, block by block, and what was seen of them."""

    def __init__(self, catalog: Catalog, fields: tuple[Field, ...], settings: ExportSettings) -> None:
        self.catalog, self.fields, self.settings = catalog, fields, settings
        self.names = [field.name for field in fields]
        self.seen = RowSum(ordered=settings.to != "hats")
        self.leave_unplaced = False

    def blocks(self, names: list[str], what: str) -> Iterator[Arrays]:
        """Columns of the stars asked for; DamageError where there are not as many good ones as the manifest says."""
        good = self.settings.good
        wanted = list(dict.fromkeys([*names, *(["quality"] if good else [])]))
        with Progress(what, self.catalog.num_stars, "stars") as progress:
            for index, shard in enumerate(self.catalog.shards):
                num_good = 0
                for start in range(0, shard.num_stars, _BLOCK_ROWS):
                    rows = slice(start, min(start + _BLOCK_ROWS, shard.num_stars))
                    arrays = self.catalog.read_shard(index, wanted, rows)
                    if good:
                        mask = arrays["quality"] == 0
                        num_good += int(mask.sum())
                        arrays = {name: values[mask] for name, values in arrays.items()}
                    yield arrays
                    progress.update(progress.done + rows.stop - rows.start)
                if good and num_good != shard.num_good:
                    what = "the number of good stars in a shard does not match its manifest"
                    where = self.catalog.shard_path(index)
                    raise DamageError(what, where=where, got=num_good, expected=shard.num_good)

    def rows(self) -> Iterator[Arrays]:
        """What is to be written: the columns, vectors split where asked, and their ids taken note of."""
        for arrays in self.blocks(self.names, "export"):
            if self.leave_unplaced:
                arrays = _placed(arrays)
            if "objid" in arrays:
                self.seen.add(arrays["objid"])
            else:
                self.seen.count(len(arrays[self.names[0]]))
            yield split_arrays(self.fields, arrays) if self.settings.split else arrays


def _placed(arrays: Arrays) -> Arrays:
    """The rows that have a place on the sky."""
    from hpc_ae.catalog.sky import has_position

    placed = has_position(arrays["ra"], arrays["dec"])
    return arrays if placed.all() else {name: values[placed] for name, values in arrays.items()}


def _write(path: Path, info: TableInfo, source: _Source) -> int:
    """Write a table in one pass; returns how many rows had to be left out: none."""
    writer = open_writer(source.settings.to, path, info, source.settings.num_files)
    _append_all(writer, source)
    writer.close()
    return 0


def _write_hats(path: Path, info: TableInfo, source: _Source) -> int:
    """Write a HATS catalog in two passes; returns how many rows have no position."""
    from hpc_ae.formats.hats import HatsWriter

    writer = HatsWriter(path, info, source.settings.threshold)
    for arrays in source.blocks(["ra", "dec"], "export: positions"):
        writer.count(arrays["ra"], arrays["dec"])
    if writer.num_unplaced and not source.settings.drop_unplaced:
        raise InputError(
            "stars without a position have no place in a HATS catalog",
            where=source.catalog.directory,
            got=f"{writer.num_unplaced} stars without ra and dec, or outside the sphere",
            fix="--drop-unplaced leaves them out, and says how many",
        )
    if writer.num_unplaced == info.num_rows:
        what = "there is no star to place in a HATS catalog"
        raise InputError(what, where=source.catalog.directory, got=f"{info.num_rows} stars, none with a position")
    source.leave_unplaced = writer.num_unplaced > 0
    _append_all(writer, source)
    with Progress("export: pixels", source.seen.num_rows, "stars") as progress:
        for num_done in writer.write_pixels():
            progress.update(num_done)
    writer.close()
    return writer.num_unplaced


def _append_all(writer: Writer, source: _Source) -> None:
    try:
        for arrays in source.rows():
            writer.append(arrays)
    except BaseException:
        with contextlib.suppress(Exception):
            writer.abandon()  # what failed first is what is said
        raise


def _check_written(path: Path, info: TableInfo, source: _Source, num_rows: int) -> None:
    """Read the output back; WorkError where its rows or ids are not those that the catalog gave."""
    name = "objid" if "objid" in info.names else info.names[0]
    found = RowSum(ordered=source.seen.ordered)
    with Progress("export: read back", num_rows, "stars") as progress:
        for values in read_column(source.settings.to, path, info, name):
            if name == "objid":
                found.add(values)
            else:
                found.count(values.size // max(1, len(info.field(name).elements)))
            progress.update(found.num_rows)
    if found != source.seen or found.num_rows != num_rows:
        raise WorkError(
            "the written output does not match the rows of the catalog",
            where=os.fspath(path),
            got=f"{found.num_rows} rows, id sum {found.total:#x}",
            expected=f"{num_rows} rows, id sum {source.seen.total:#x}",
            fix="nothing was published; try again, on another file system if it happens again",
        )
