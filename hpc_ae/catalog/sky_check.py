"""What verify looks at in a catalog that says to be in sky order: its ranges, and the stars of each shard.

Shape letters: N stars.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from hpc_ae.catalog.sky import SKY_ORDER, healpix_of, range_record, sky_range
from hpc_ae.errors import DamageError, HpcAeError
from hpc_ae.layout import MANIFEST_NAME


def check_ranges(directory: Path, manifest: dict[str, Any]) -> list[HpcAeError]:
    """Whether every shard has its range of HEALPix numbers where the manifest says sky order, ascending, none twice."""
    if manifest.get("order") != SKY_ORDER:
        return []
    path = directory / MANIFEST_NAME
    try:
        spans = [sky_range(shard) for shard in manifest["shards"]]
    except (KeyError, TypeError, ValueError) as error:
        return [DamageError("a shard's range in the sky is missing or wrong", where=path, got=repr(error))]
    errors: list[HpcAeError] = []
    for index, (before, after) in enumerate(itertools.pairwise(spans), 1):
        if after is not None and (before is None or before[1] > after[0]):
            where = f"{path}, {manifest['shards'][index]['file']}"
            errors.append(DamageError("the shards are not in sky order", where=where, got=after, expected=before))
    return errors


def check_positions(path: Path, record: dict[str, Any], ra: np.ndarray, dec: np.ndarray) -> list[HpcAeError]:
    """Whether the positions (N,) in degrees of a star shard ascend, and reach as far as its record says."""
    numbers = healpix_of(ra, dec)
    errors: list[HpcAeError] = []
    found = range_record(numbers)
    if found != record["healpix"]:
        what = "a shard's stars are not in its range of the sky"
        errors.append(DamageError(what, where=path, got=found, expected=record["healpix"]))
    falls = np.flatnonzero(numbers[1:] < numbers[:-1])
    if len(falls):
        where = f"{path}, datasets ra and dec, row {falls[0] + 1}"
        got = f"HEALPix {numbers[falls[0] + 1]} after {numbers[falls[0]]}; {len(falls)} such rows"
        errors.append(DamageError("a shard's stars are not in sky order", where=where, got=got, expected="ascending"))
    return errors
