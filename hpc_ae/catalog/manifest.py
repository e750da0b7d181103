"""The manifest: what a catalog is made of, sealed by digests. Written last, so that it means "complete"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from hpc_ae.catalog.records import (
    KINDS,
    WRONG_NAMES,
    BandStatistics,
    EncodingManifest,
    Hdf5Manifest,
    M,
    Manifest,
    ScoreManifest,
    ShardRecord,
    StarManifest,
    catalog_digest,
    stars_by_bands,
)
from hpc_ae.catalog.schema import COMPRESSED_FORMAT, STAR_FORMAT, columns_of
from hpc_ae.errors import DamageError, InputError
from hpc_ae.files import Written, make_dir, missing_files, publish_json, read_json, remove_debris, seal
from hpc_ae.layout import MANIFEST_NAME, SHARD_NAME, SHARD_PATTERN, RunLayout
from hpc_ae.provenance import Fingerprint, check_fingerprint


def write_manifest(directory: Path, manifest: M) -> M:
    """Seal and publish the manifest of `directory`; returns it with its digest."""
    sealed = seal(manifest.to_json())
    publish_json(directory / MANIFEST_NAME, sealed)
    return manifest.replaced(digest=sealed["digest"])


def band_statistics(bands: Sequence[str], shards: Sequence[ShardRecord]) -> dict[str, BandStatistics]:
    """Statistics per band over all good stars (over all that are measured in it, where states are known), by its name,
    of shards that were just written.

    Merged from the shards' sums in shard order, so the same for any number of workers.
    """
    statistics = {}
    for index, band in enumerate(bands):
        filled = [shard.sums for shard in shards if shard.sums is not None and shard.sums.num[index]]
        if not filled:
            statistics[band] = BandStatistics(mean=0.0, std=0.0, min=0.0, max=0.0)
            continue
        num = sum(sums.num[index] for sums in filled)
        mean = sum(sums.sum[index] for sums in filled) / num
        square = sum(sums.square[index] for sums in filled) / num
        statistics[band] = BandStatistics(
            mean=mean + 20.0,
            std=float(np.sqrt(max(0.0, square - mean * mean))),
            min=min(sums.min[index] for sums in filled),
            max=max(sums.max[index] for sums in filled),
        )
    return statistics


def read_manifest(directory: Path, kind: type[M]) -> M:
    """Read and check the manifest of a kind of catalog: its seal, its fields, its shard names and its sums.

    InputError (2) where there is no catalog at all or one of another kind, DamageError (1) where its manifest does not
    hold.
    """
    path = directory / MANIFEST_NAME
    if not path.is_file():
        run = RunLayout(directory)
        inner = [str(one) for one in (run.encoding_dir, run.catalog_dir) if (one / MANIFEST_NAME).is_file()]
        make = "make one with hpc-ae simulate or hpc-ae ingest; an unfinished one is completed by the same command"
        raise InputError(
            "not a catalog",
            where=directory,
            got="no directory" if not directory.is_dir() else f"no {MANIFEST_NAME}",
            expected=f"a directory with {MANIFEST_NAME} and shards",
            fix=f"this is a run directory: name {' or '.join(inner)}" if inner else make,
        )
    return of_kind(parse_manifest(path, read_json(path, sealed=True)), kind, directory)


def of_kind(manifest: Manifest, kind: type[M], directory: Path) -> M:
    """The manifest as one of a kind; InputError where the catalog is of another."""
    if not isinstance(manifest, kind):
        expected = " or ".join(name for name, known in KINDS.items() if issubclass(known, kind))
        raise InputError("the wrong kind of catalog", where=directory, got=manifest.format, expected=expected)
    return manifest


def parse_manifest(path: Path, values: dict[str, Any]) -> Manifest:
    """The manifest that a JSON object at `path` says.

    DamageError where a field is missing, it names a file outside its directory or contradicts itself.
    """
    name = values.get("format")
    if name == COMPRESSED_FORMAT:
        fix = "hpc-ae export DIR OUT --to catalog; in Python hpc_ae.decompress.open_compressed"
        raise InputError("a compressed catalog cannot be read directly here", where=path.parent, fix=fix)
    if not isinstance(name, str) or name not in KINDS:
        raise DamageError("unknown catalog format", where=path, got=name, expected=sorted(KINDS))
    manifest = KINDS[name].parse(values, path)
    _check(path, manifest)
    return manifest


def _check(path: Path, manifest: Manifest) -> None:
    """DamageError where fields that are right each do not go together."""
    names = [shard.file for shard in manifest.shards]
    if len(set(names)) < len(names):
        raise DamageError("the manifest names a shard twice", where=path, got=names)
    num_stars = sum(shard.num_stars for shard in manifest.shards)
    num_good = sum(shard.num_good for shard in manifest.shards)
    digest = catalog_digest(manifest.shards)
    for got, expected in (
        (manifest.num_stars, num_stars),
        (manifest.num_good, num_good),
        (manifest.catalog_digest, digest),
    ):
        if got != expected:
            raise DamageError("the manifest contradicts itself", where=path, got=got, expected=expected)
    if isinstance(manifest, StarManifest) and manifest.stars_by_bands != (counts := stars_by_bands(manifest.shards)):
        what = "the manifest contradicts itself in the numbers of stars by measured bands"
        raise DamageError(what, where=path, got=manifest.stars_by_bands, expected=counts)
    if not columns_of(manifest.format).keys() >= set(manifest.columns):
        raise DamageError(WRONG_NAMES, where=path, got=list(manifest.columns))


def files_of(directory: Path, manifest: Hdf5Manifest) -> list[Written]:
    """The files that a manifest names, beside itself."""
    files = [Written(directory / shard.file, shard.digest, shard.num_bytes) for shard in manifest.shards]
    if isinstance(manifest, EncodingManifest) and manifest.view is not None:
        files.append(Written(directory / manifest.view.file, manifest.view.digest, manifest.view.num_bytes))
    if isinstance(manifest, ScoreManifest):
        files += [Written(directory / name, digest) for name, digest in manifest.files.items()]
    return files


def is_whole(directory: Path, manifest: Hdf5Manifest) -> bool:
    """Whether all files that a manifest names are there."""
    return not missing_files(files_of(directory, manifest))


def prepare_catalog(out_dir: Path, fingerprint: Fingerprint, stage: str) -> bool:
    """True where the catalog is complete already; else make the directory and clear a killed run's debris.

    A catalog that has lost a shard is made again, as what makes it is there.
    """
    if (out_dir / MANIFEST_NAME).exists():
        manifest = read_manifest(out_dir, StarManifest)
        check_fingerprint(out_dir, manifest.fingerprint, fingerprint, stage)
        if is_whole(out_dir, manifest):
            return True
        (out_dir / MANIFEST_NAME).unlink()
    make_dir(out_dir)
    foreign = [path.name for path in out_dir.iterdir() if not path.name.lstrip(".").startswith(("shard-", "manifest"))]
    foreign += [path.name for path in out_dir.glob(SHARD_PATTERN) if not _is_of_killed_run(path)]
    if foreign:
        raise InputError(
            "the directory contains something else",
            where=out_dir,
            got=sorted(foreign)[:3],
            expected="a new or empty directory",
        )
    remove_debris(out_dir)
    return False


def _is_of_killed_run(path: Path) -> bool:
    """Whether a file called as a shard may be removed: it is one of a star catalog, or no HDF5 at all. Other software
    has such names too.
    """
    import h5py

    if not SHARD_NAME.fullmatch(path.name) or path.is_symlink():
        return False
    try:
        with h5py.File(path, "r", locking=False) as file:
            said = file.attrs.get("format")
            return (said.decode(errors="replace") if isinstance(said, bytes) else said) == STAR_FORMAT
    except (OSError, RuntimeError):
        return True


@contextmanager
def unfinished_cleared(out_dir: Path, new: bool) -> Iterator[None]:
    """Leave no temporary file, no shard of a catalog that was not finished, and no `new` directory of one."""
    for path in out_dir.glob(SHARD_PATTERN):
        path.unlink()
    try:
        yield
    except BaseException:
        for path in out_dir.glob(SHARD_PATTERN):
            path.unlink(missing_ok=True)
        remove_debris(out_dir)
        if new:
            with suppress(OSError):
                out_dir.rmdir()
        raise
    remove_debris(out_dir)
