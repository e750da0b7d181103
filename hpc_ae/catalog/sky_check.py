"""What verify looks at in a catalog that says to be in sky order: its ranges, and the stars of each shard.

Shape letters: N stars.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from hpc_ae.catalog.records import Manifest, ShardRecord
from hpc_ae.catalog.sky import healpix_of, sky_range, sky_ranges
from hpc_ae.errors import DamageError, HpcAeError
from hpc_ae.layout import MANIFEST_NAME


def check_ranges(directory: Path, manifest: Manifest) -> list[HpcAeError]:
    """Whether every shard has its range of HEALPix numbers where the manifest says sky order, ascending, none twice."""
    if not manifest.is_sky_ordered:
        return []
    path = directory / MANIFEST_NAME
    try:
        spans = sky_ranges(manifest.shards, path)
    except DamageError as error:
        return [error]
    errors: list[HpcAeError] = []
    for index, (before, after) in enumerate(itertools.pairwise(spans), 1):
        if after is not None and (before is None or before[1] > after[0]):
            where = f"{path}, {manifest.shards[index].file}"
            errors.append(DamageError("the shards are not in sky order", where=where, got=after, expected=before))
    return errors


def check_positions(path: Path, record: ShardRecord, ra: np.ndarray, dec: np.ndarray) -> list[HpcAeError]:
    """Whether the positions (N,) in degrees of a star shard ascend, and reach as far as its record says."""
    numbers = healpix_of(ra, dec)
    errors: list[HpcAeError] = []
    found = sky_range(numbers)
    if found != record.healpix:
        what = "a shard's stars are not in its range of the sky"
        errors.append(DamageError(what, where=path, got=found, expected=record.healpix))
    falls = np.flatnonzero(numbers[1:] < numbers[:-1])
    if len(falls):
        where = f"{path}, datasets ra and dec, row {falls[0] + 1}"
        got = f"HEALPix {numbers[falls[0] + 1]} after {numbers[falls[0]]}; {len(falls)} such rows"
        errors.append(DamageError("a shard's stars are not in sky order", where=where, got=got, expected="ascending"))
    return errors
