"""VERB ingest: raw files of other people's making to a star catalog.

Two passes: the rows of every file are counted (CSV by byte segments, in parallel), then each shard is one task that
reads just its rows. Ids are compared over all shards at the end; then, where sky order is asked for, all is sorted.
Memory does not grow with the number of stars.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from hpc_ae.catalog.identity import Search, Shared, cut_ranges, find_shared, flag_repeated, mark_shared, save_ids
from hpc_ae.catalog.manifest import band_statistics, prepare_catalog, read_manifest, unfinished_cleared, write_manifest
from hpc_ae.catalog.quality import drop_errors, drop_redshifts
from hpc_ae.catalog.records import Inputs, RawRecord, ShardRecord, StarManifest, stars_by_bands, summed
from hpc_ae.catalog.schema import (
    DEFAULT_SHARD_ROWS,
    MAX_SHARD_ROWS,
    SKY_ORDER,
    STAR_FORMAT,
    Caution,
)
from hpc_ae.catalog.shard import write_shard
from hpc_ae.catalog.skysort import SkySort, Source, sort_shards
from hpc_ae.errors import InputError, WorkError
from hpc_ae.files import digest_file, temp_mark
from hpc_ae.layout import MANIFEST_NAME, SHARD_NAME, shard_name
from hpc_ae.provenance import Fingerprint, Provenance
from hpc_ae.readers.batches import scan_all
from hpc_ae.readers.content import Content
from hpc_ae.readers.conversion import check_reading
from hpc_ae.readers.mapping import check_mapping
from hpc_ae.readers.open_raw import is_packed, open_raw, read_piece, unpack
from hpc_ae.readers.raw_file import FORMATS, Piece, RawFile, Scan, cut_pieces
from hpc_ae.readers.star_rows import StarRows
from hpc_ae.readers.tally import (
    REMOVED,
    TURNED,
    Noted,
    Part,
    bad_rows,
    count_files,
    count_parts,
    describe_counts,
    describe_notes,
    recount,
)
from hpc_ae.readers.tree import NUM_THREADS, check_schemas, expand_dirs
from hpc_ae.reading import Reading
from hpc_ae.runtime.executor import Mapper, open_mapper
from hpc_ae.runtime.progress import Progress

_NOTICED_FILES = 16  # whose first values are looked at for doubts: 4 ms each, much for thousands of files
_REMOVERS = dict(zip(REMOVED, (drop_errors, drop_redshifts), strict=True))


@dataclass(frozen=True)
class IngestSettings:
    """What decides the catalog beside the raw files: the same give the same bytes, for any number of workers.

    `mapping` is name to column (see readers/mapping.py); `bad` says what becomes of stars with unusable magnitudes,
    `reading` what the columns hold and which rows are taken; `order` is that of the stars: as the raw files have them,
    or by their place in the sky.
    """

    mapping: dict[str, str] = field(default_factory=dict)
    shard_rows: int = DEFAULT_SHARD_ROWS
    bad: Literal["flag", "drop", "stop"] = "flag"
    reading: Reading = field(default_factory=Reading)
    order: Literal["input", "healpix"] = "input"

    def check(self) -> None:
        """InputError where a value cannot be."""
        check_mapping(self.mapping, self.reading)
        check_reading(self.reading)
        if not 1 <= self.shard_rows <= MAX_SHARD_ROWS:
            raise InputError("wrong shard rows", got=self.shard_rows, expected=f"1 to {MAX_SHARD_ROWS}")
        if self.bad not in ("flag", "drop", "stop"):
            raise InputError("wrong policy for bad rows", got=self.bad, expected="flag, drop or stop")
        if self.order not in ("input", SKY_ORDER):
            raise InputError("wrong order of the stars", got=self.order, expected=f"input or {SKY_ORDER}")

    def fingerprint(self, digests: Sequence[str]) -> Fingerprint:
        """What the manifest records to recognise the same catalog; `digests` are those of the raw files in order."""
        return {
            "verb": "ingest",
            "raw": {f"file {index + 1}": digest for index, digest in enumerate(digests)},
            "mapping": dict(self.mapping),
            "shard_rows": self.shard_rows,
            "bad": self.bad,
            **self.reading.fingerprint(),  # only what was said: catalogs made before there was a choice stay the same
            **({"order": self.order} if self.order != "input" else {}),  # catalogs made before there was a choice
        }


@dataclass(frozen=True)
class _Plan:
    """What every shard task knows."""

    out_dir: Path
    settings: IngestSettings
    mark: str  # of this run's temporary files
    content: Content

    def temp_path(self, what: str, index: int) -> Path:
        """A hidden file in the catalog's directory, which the next run clears away if this one dies."""
        return self.out_dir / f".shard-{what}-{index:05d}{self.mark}"

    @property
    def has_ids(self) -> bool:
        """Whether the raw files have ids."""
        return "objid" in self.content.names


@dataclass(frozen=True)
class _Shard:
    """What a shard task hands back: record for the manifest (None: every row was dropped), parts, a sample of ids."""

    record: ShardRecord | None
    parts: list[Part]
    sample: np.ndarray


def ingest(
    raw_paths: list[Path],
    out_dir: Path,
    settings: IngestSettings,
    num_workers: int = 1,
    progress_path: Path | None = None,
) -> None:
    """Write a star catalog of all rows of the raw files in order, or nothing where the same is there already.

    Prints the number of stars by file and reason to standard error. InputError where a file cannot be read, has no
    band or has text for a number (nothing is left behind then), StaleError where another catalog is there.
    """
    settings.check()
    if not raw_paths:
        raise InputError("no raw files", expected=f"one file or more: {FORMATS}")
    named, raw_paths = raw_paths, expand_dirs(raw_paths)
    for path in raw_paths:
        if path.resolve().parent == out_dir.resolve() and SHARD_NAME.fullmatch(path.name):
            raise InputError("a raw file lies where the catalog would", where=path, fix="choose another --out")
    with open_mapper(num_workers) as mapper:
        if mapper is None:
            return
        with ThreadPoolExecutor(NUM_THREADS) as pool:  # of a tree of thousands of files each is waited for
            packed = list(pool.map(is_packed, raw_paths))
        new = not out_dir.exists()
        known = (out_dir / MANIFEST_NAME).exists()
        digests = [digest_file(path) for path in raw_paths] if known else []
        if prepare_catalog(out_dir, settings.fingerprint(digests), "ingest"):
            print(f"ingest: {out_dir} already exists, made from the same files", file=sys.stderr)
            return
        with unfinished_cleared(out_dir, new), ThreadPoolExecutor(1) as hasher:
            stats = [path.stat() for path in raw_paths]
            check_schemas(named, raw_paths)
            hashing = [hasher.submit(digest_file, path) for path in raw_paths]
            try:
                scans, plan = _scan(mapper, raw_paths, packed, out_dir, settings)
                shards = _write_shards(mapper, scans, plan, progress_path)
                if plan.has_ids:
                    shards = _mark_repeated(mapper, shards, plan)
                records = _close_gaps(out_dir, [shard.record for shard in shards if shard.record is not None])
                if settings.order == SKY_ORDER:
                    records = _sorted(mapper, plan, records, progress_path)
                digests = _digests(raw_paths, hashing, stats)
                by_path = dict(zip(raw_paths, digests, strict=True))
                files = count_files(scans, [part for shard in shards for part in shard.parts], by_path)
                _finish(plan, scans, files, records, settings.fingerprint(digests))
            finally:
                for future in hashing:
                    future.cancel()


def looks_ingested(raw_paths: list[Path], out_dir: Path, settings: IngestSettings) -> bool:
    """Whether the catalog is there and nothing suggests a change: same settings, files of the same size, older than it.

    `ingest` itself compares digests; this spares a run from reading every raw file again.
    """
    path = out_dir / MANIFEST_NAME
    if not path.exists():
        return False
    manifest = read_manifest(out_dir, StarManifest)
    files = _files_of(manifest)
    if manifest.fingerprint != settings.fingerprint([file.digest for file in files]):
        return False
    if not any(raw.exists() for raw in raw_paths):
        print("ingest: the raw files are gone; using the catalog that was made from them", file=sys.stderr)
        return True
    stats = [raw.stat() for raw in expand_dirs(raw for raw in raw_paths if raw.exists())]
    made = path.stat().st_mtime_ns
    sizes = [file.num_bytes for file in files]
    return [stat.st_size for stat in stats] == sizes and all(stat.st_mtime_ns < made for stat in stats)


def _files_of(manifest: StarManifest) -> list[RawRecord]:
    """The raw files of a catalog: the first of the tables of each."""
    files: list[RawRecord] = []
    for raw in manifest.inputs.raw or ():
        if not (files and raw.table and files[-1].table and files[-1].digest == raw.digest):
            files.append(raw)
    return files


def _digests(raw_paths: list[Path], hashing: list[Future[str]], stats: list[os.stat_result]) -> list[str]:
    """The digests of the raw files; InputError where one changed while it was read."""
    digests = [future.result() for future in hashing]
    for path, before in zip(raw_paths, stats, strict=True):
        now = path.stat()
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise InputError("a raw file changed while it was read", where=path, fix="run the same command again")
    return digests


def _scan(
    mapper: Mapper, raw_paths: list[Path], packed: list[bool], out_dir: Path, settings: IngestSettings
) -> tuple[list[Scan], _Plan]:
    """Unpack what is compressed or VOTable, recognise every file and count its rows."""
    mark = temp_mark()
    plan = _Plan(out_dir, settings, mark, Content())
    data_paths = [plan.temp_path("raw", index) if one else raw_paths[index] for index, one in enumerate(packed)]
    jobs = [(path, data) for path, data in zip(raw_paths, data_paths, strict=True) if path != data]
    for _ in mapper.map(_unpack, jobs):
        pass
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        opened = pool.map(partial(_open, settings), range(len(raw_paths)), raw_paths, data_paths)
        raws = [raw for tables in opened for raw in tables]
    for line in describe_notes([Noted(raw.path.name, raw.notes) for raw in raws]):
        print(f"ingest: {line}", file=sys.stderr)
    content = Content.of(raws)
    scans = scan_all(raws, mapper.map)
    if not any(scan.num_rows for scan in scans):
        raise InputError("the raw files hold no stars", where=", ".join(str(raw.path) for raw in raws), got="0 rows")
    return scans, _Plan(out_dir, settings, mark, content)


def _open(settings: IngestSettings, index: int, path: Path, data_path: Path) -> list[RawFile]:
    return open_raw(path, data_path, settings.mapping, settings.reading, notice=index < _NOTICED_FILES)


def _unpack(job: tuple[Path, Path]) -> None:
    unpack(*job)


def _write_shards(mapper: Mapper, scans: list[Scan], plan: _Plan, progress_path: Path | None) -> list[_Shard]:
    total = sum(scan.num_rows for scan in scans)
    starts = range(0, total, plan.settings.shard_rows)
    tasks = [_Rows(start, cut_pieces(scans, start, min(total, start + plan.settings.shard_rows))) for start in starts]
    shards = []
    with Progress("ingest", total, "stars", path=progress_path) as progress:
        for shard in mapper.map(partial(_write_one, plan), tasks):
            shards.append(shard)
            progress.update(progress.done + sum(part.num_rows for part in shard.parts))
    return shards


@dataclass(frozen=True)
class _Rows:
    """The rows of one shard: the number of the first over all raw files, and where they stand in these."""

    start: int
    pieces: list[Piece]


def _write_one(plan: _Plan, task: _Rows) -> _Shard:
    """Read the rows of one shard, leave out those not asked for, flag the others, write them."""
    content = plan.content
    rows = StarRows(sum(piece.stop - piece.start for piece in task.pieces), content.names, content.bands)
    at = 0
    for piece in task.pieces:
        at += read_piece(piece, rows, at)
    arrays = content.flagged(rows, task.start)
    removed = {name: drop(arrays[name]) for name, drop in _REMOVERS.items() if name in arrays}
    bad = arrays["quality"] != 0
    if plan.settings.bad == "stop" and (bad & rows.kept).any():
        raise bad_rows(task.pieces, rows.magnitude, np.where(rows.kept, arrays["quality"], 0))
    keep = rows.kept & ~bad if plan.settings.bad == "drop" else rows.kept
    parts = count_parts(task.pieces, {**arrays, **removed, TURNED: rows.turned}, rows.kept, keep)
    if not keep.all():
        arrays = {name: values[keep] for name, values in arrays.items()}
    index = task.start // plan.settings.shard_rows
    sample = np.empty(0, np.int64)
    if plan.has_ids:
        sample = save_ids(plan.temp_path("ids", index), flag_repeated(arrays["objid"], arrays["caution"]))
    repeated = (arrays["caution"] & Caution.ID_REPEATED) != 0
    record = None
    if keep.any():
        record = write_shard(plan.out_dir / shard_name(index), STAR_FORMAT, arrays, content.bands, {})
    return _Shard(record, recount(parts, repeated), sample)


def _mark_repeated(mapper: Mapper, shards: list[_Shard], plan: _Plan) -> list[_Shard]:
    """Find ids that several shards share and write those shards again; within a shard they are flagged already."""
    if len(shards) == 1:
        return shards
    paths = tuple(plan.temp_path("ids", index) for index in range(len(shards)))
    ranges = cut_ranges([shard.sample for shard in shards])
    tasks = [Search(paths, limits, plan.temp_path("shared", index)) for index, limits in enumerate(ranges)]
    shared = [found for found in mapper.map(find_shared, tasks) if found.num_ids]
    affected = sorted({index for found in shared for index in found.shards})
    marked = list(shards)
    marks = mapper.map(partial(_mark, plan, shared), affected)
    for index, (record, repeated) in zip(affected, marks, strict=True):
        marked[index] = replace(shards[index], record=record, parts=recount(shards[index].parts, repeated))
    return marked


def _mark(plan: _Plan, shared: list[Shared], index: int) -> tuple[ShardRecord, np.ndarray]:
    mine = [part for part in shared if index in part.shards]
    return mark_shared(plan.out_dir / shard_name(index), mine, plan.content.bands)


def _sorted(mapper: Mapper, plan: _Plan, records: list[ShardRecord], progress_path: Path | None) -> list[ShardRecord]:
    """The shards written again in sky order, in place of those that have the order of the raw files."""
    sort = SkySort(plan.out_dir, plan.mark, tuple(plan.content.columns), plan.content.bands, plan.settings.shard_rows)
    sources = [Source(plan.out_dir / record.file, record.num_stars) for record in records]
    with Progress("order", sum(source.num_stars for source in sources), "stars", path=progress_path) as progress:
        return sort_shards(sort, sources, mapper.map, tell=progress.update, in_place=True)


def _finish(
    plan: _Plan, scans: list[Scan], files: list[RawRecord], records: list[ShardRecord], fingerprint: Fingerprint
) -> None:
    """Check that no row was lost, write the manifest, print the counts."""
    num_rows, num_stars = sum(file.num_rows for file in files), sum(file.num_stars for file in files)
    num_dropped, num_not_kept = sum(file.num_dropped for file in files), sum(file.num_not_kept for file in files)
    written = sum(record.num_stars for record in records)
    sums = (num_rows, num_stars, num_stars + num_dropped + num_not_kept)
    if sums != (sum(scan.num_rows for scan in scans), written, num_rows):
        got = f"{num_rows} read, {written} written, {num_dropped} dropped, {num_not_kept} not kept"
        raise WorkError("rows were lost", where=plan.out_dir, got=got)
    if not written:
        got = f"{num_rows:,} rows: {num_not_kept:,} not kept by --keep and --cuts, {num_dropped:,} dropped as unusable"
        raise InputError("no star is left", where=plan.out_dir, got=got)
    manifest = StarManifest(
        **summed(STAR_FORMAT, records),
        objid="column" if plan.has_ids else "generated",
        order=plan.settings.order if plan.settings.order != "input" else None,
        bands=plan.content.bands,
        survey=plan.content.record,
        stars_by_bands=stars_by_bands(records),
        columns=tuple(plan.content.columns),
        inputs=Inputs(raw=tuple(files)),
        num_rows=num_rows,
        num_dropped=num_dropped,
        num_not_kept=num_not_kept,
        fingerprint=fingerprint,
        provenance=Provenance.now(fingerprint),
        statistics=band_statistics(plan.content.bands, records),
    )
    write_manifest(plan.out_dir, manifest)
    found = [Noted(file.name, file.notes[len(scan.raw.notes) :]) for file, scan in zip(files, scans, strict=True)]
    for line in [*describe_notes(found), *map(describe_counts, files)]:
        print(f"ingest: {line}", file=sys.stderr)
    not_kept = f", {num_not_kept:,} not kept" if num_not_kept else ""
    ids = "" if plan.has_ids else "; no column of ids: they are row numbers"
    counts = f"{num_rows:,} rows in, {num_stars:,} stars out, {num_dropped:,} dropped{not_kept}{ids}"
    print(f"ingest: {counts}", file=sys.stderr)


def _close_gaps(out_dir: Path, records: list[ShardRecord]) -> list[ShardRecord]:
    """Number the shards without gaps where policy drop left nothing of one."""
    closed = []
    for index, record in enumerate(records):
        name = shard_name(index)
        if record.file != name:
            (out_dir / record.file).replace(out_dir / name)
        closed.append(record.replaced(file=name))
    return closed
