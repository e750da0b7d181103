"""What verify looks at in a compressed catalog: the manifest, every name, every file's digest, every block decoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpc_ae.catalog.schema import STAR_FORMAT
from hpc_ae.catalog.shard import count_flags, objid_range
from hpc_ae.errors import DamageError, HpcAeError
from hpc_ae.files import TEMP_MARK, digest_bytes, digest_file, inspect_json
from hpc_ae.formats.compressed import MODEL_DIR, CompressedCatalog, parse_compressed_manifest
from hpc_ae.layout import MANIFEST_NAME

_COLUMNS = ("objid", "quality", "caution")


def inspect_compressed(directory: Path) -> list[HpcAeError]:
    """What is wrong with the manifest of a compressed catalog or with the names in its directory."""
    path = directory / MANIFEST_NAME
    values, errors = inspect_json(path)
    if values is None:
        return errors
    try:
        manifest = parse_compressed_manifest(path, values)
    except HpcAeError as error:
        return [*errors, error]
    known = {MANIFEST_NAME, MODEL_DIR, *(shard.file for shard in manifest.shards)}
    return errors + [
        DamageError(
            "a temporary file left by a killed process" if TEMP_MARK in one.name else "an unknown name", where=one
        )
        for one in sorted(directory.iterdir())
        if one.name not in known
    ]


@dataclass(frozen=True)
class CompressedCheck:
    """One file of a compressed catalog to be checked."""

    catalog: CompressedCatalog
    index: int


def check_compressed_shard(check: CompressedCheck) -> list[HpcAeError]:
    """Everything that is wrong with a file: its bytes, each block decoded with every column, ids and flags."""
    catalog, record = check.catalog, check.catalog.shards[check.index]
    path = catalog.shard_path(check.index)
    if path.is_symlink() or not path.is_file():
        return [DamageError("a file of a compressed catalog is missing", where=path, expected="a regular file")]
    errors: list[HpcAeError] = []
    if (digest := digest_file(path)) != record.digest:
        what = "a file has changed since it was written"
        errors.append(DamageError(what, where=path, got=digest, expected=record.digest))
    wrong = list(catalog.check_blocks(check.index))
    if errors or wrong:
        return errors + wrong
    arrays = catalog.read_shard(check.index, _COLUMNS)
    digest = digest_bytes(np.ascontiguousarray(arrays["objid"], "<i8").data)
    num_good = int(np.count_nonzero(arrays["quality"] == 0))
    ids = objid_range(arrays["objid"]) if record.says_ids else None
    asked: tuple[tuple[str, object, object], ...] = (
        ("objid digest", digest, record.objid_digest),
        ("objid range", ids, record.objid_range),
        ("num good", num_good, record.num_good),
        ("flags", count_flags(arrays, STAR_FORMAT), record.flags),
    )
    return [
        DamageError(f"{what} of a file does not match the manifest", where=path, got=got, expected=expected)
        for what, got, expected in asked
        if got != expected
    ]
