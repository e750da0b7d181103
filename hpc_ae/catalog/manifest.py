"""The manifest: what a catalog is made of, sealed by digests. Written last, so that it means "complete"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from hpc_ae.catalog.schema import COLUMNS, COMPRESSED_FORMAT, FORMAT_VERSION, MAX_SHARD_ROWS, STAR_FORMAT, columns_of
from hpc_ae.errors import DamageError, InputError
from hpc_ae.files import canonical_json, digest_bytes, make_dir, publish_json, read_json, remove_debris, seal
from hpc_ae.layout import MANIFEST_NAME, SHARD_NAME, SHARD_PATTERN, shard_name
from hpc_ae.provenance import check_fingerprint


def catalog_digest(shards: Sequence[dict[str, Any]]) -> str:
    """Digest of a catalog: that of its shard digests in order."""
    return digest_bytes(canonical_json([shard["digest"] for shard in shards]))


def write_manifest(
    directory: Path, catalog_format: str, shards: list[dict[str, Any]], details: dict[str, Any]
) -> dict[str, Any]:
    """Seal and publish the manifest of `directory`; `details` has bands, columns, inputs, fingerprint, ..."""
    counts: dict[str, int] = {}
    for shard in shards:
        for name, num in shard.get("flags", {}).items():
            counts[name] = counts.get(name, 0) + num
    manifest = {
        "format": catalog_format,
        "version": FORMAT_VERSION,
        "num_stars": sum(shard["num_stars"] for shard in shards),
        "num_good": sum(shard["num_good"] for shard in shards),
        "catalog_digest": catalog_digest(shards),
        "flags": counts,
        **details,
    }
    if catalog_format == STAR_FORMAT:
        manifest["statistics"] = band_statistics(manifest["bands"], shards)
    manifest["shards"] = [{key: value for key, value in shard.items() if key != "sums"} for shard in shards]
    manifest = seal(manifest)
    publish_json(directory / MANIFEST_NAME, manifest)
    return manifest


def band_statistics(bands: Sequence[str], shards: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Per band over all good stars: mean, standard deviation (population), min, max, in mag.

    Merged from the shards' sums in shard order, so the same for any number of workers.
    """
    filled = [shard for shard in shards if shard["num_good"]]
    num_good = sum(shard["num_good"] for shard in filled)
    statistics = {}
    for index, band in enumerate(bands):
        if not num_good:
            statistics[band] = {"mean": 0.0, "std": 0.0, "min": 0.0, "max": 0.0}
            continue
        mean = sum(shard["sums"]["sum"][index] for shard in filled) / num_good
        square = sum(shard["sums"]["square"][index] for shard in filled) / num_good
        statistics[band] = {
            "mean": mean + 20.0,
            "std": float(np.sqrt(max(0.0, square - mean * mean))),
            "min": min(shard["sums"]["min"][index] for shard in filled),
            "max": max(shard["sums"]["max"][index] for shard in filled),
        }
    return statistics


def read_manifest(directory: Path, catalog_format: str | None = None) -> dict[str, Any]:
    """Read and check a manifest: its seal, its format, its shard names and its sums.

    InputError (2) where there is no catalog at all, DamageError (1) where its manifest does not hold.
    """
    path = directory / MANIFEST_NAME
    if not path.is_file():
        raise InputError(
            "not a catalog",
            where=directory,
            got="no directory" if not directory.is_dir() else f"no {MANIFEST_NAME}",
            expected=f"a directory with {MANIFEST_NAME} and shards",
            fix="make one with hpc-ae simulate or hpc-ae ingest; an unfinished one is completed by the same command",
        )
    manifest = read_json(path, sealed=True)
    check_manifest(path, manifest)
    if catalog_format is not None and manifest["format"] != catalog_format:
        raise InputError("the wrong kind of catalog", where=directory, got=manifest["format"], expected=catalog_format)
    return manifest


def check_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Refuse a manifest that lacks a field, names a file outside its directory or contradicts itself."""
    if manifest.get("format") == COMPRESSED_FORMAT:
        fix = "hpc-ae export DIR OUT --to catalog; in Python hpc_ae.decompress.open_compressed"
        raise InputError("a compressed catalog is not read directly here", where=path.parent, fix=fix)
    if str(manifest.get("format")) not in COLUMNS:
        raise DamageError("unknown catalog format", where=path, got=manifest.get("format"), expected=sorted(COLUMNS))
    if manifest.get("version") != FORMAT_VERSION:
        raise InputError(
            "the catalog has another format version", where=path, got=manifest.get("version"), expected=FORMAT_VERSION
        )
    try:
        _check_fields(path, manifest)
    except (KeyError, TypeError, ValueError) as error:
        raise DamageError(
            "the manifest lacks a field, or has one of a wrong type", where=path, got=repr(error)
        ) from error


def _check_fields(path: Path, manifest: dict[str, Any]) -> None:
    shards = manifest["shards"]
    names = [str(shard["file"]) for shard in shards]
    if bad := [name for name in names if not SHARD_NAME.fullmatch(name)]:
        raise DamageError("the manifest names a file that is no shard", where=path, got=bad[0], expected=shard_name(0))
    if len(set(names)) < len(names):
        raise DamageError("the manifest names a shard twice", where=path, got=names)
    for key in ("num_stars", "num_good"):
        counts = [shard[key] for shard in shards]
        if any(type(count) is not int or not 0 <= count <= MAX_SHARD_ROWS for count in counts):
            raise DamageError(f"the manifest has a wrong {key}", where=path, got=counts)
        if sum(counts) != manifest[key]:
            raise DamageError("the manifest contradicts itself", where=path, got=manifest[key], expected=sum(counts))
    if catalog_digest(shards) != manifest["catalog_digest"]:
        raise DamageError("the manifest contradicts itself", where=path, got=manifest["catalog_digest"])
    known = columns_of(manifest["format"])
    if not all(isinstance(band, str) for band in manifest["bands"]) or not known.keys() >= set(manifest["columns"]):
        raise DamageError("the manifest has wrong bands or columns", where=path, got=manifest["columns"])


def prepare_catalog(out_dir: Path, fingerprint: dict[str, Any], stage: str) -> bool:
    """True where the catalog is complete already; else make the directory and clear a killed run's debris."""
    if (out_dir / MANIFEST_NAME).exists():
        check_fingerprint(out_dir, read_manifest(out_dir, STAR_FORMAT).get("fingerprint", {}), fingerprint, stage)
        return True
    make_dir(out_dir)
    foreign = [path.name for path in out_dir.iterdir() if not path.name.lstrip(".").startswith(("shard-", "manifest"))]
    if foreign:
        raise InputError(
            "the directory holds something else",
            where=out_dir,
            got=sorted(foreign)[:3],
            expected="a new or empty directory",
        )
    remove_debris(out_dir)
    return False


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
