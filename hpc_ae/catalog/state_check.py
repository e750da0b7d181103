"""Whether the states of a star shard's bands are those of its magnitudes, and as many as its manifest says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpc_ae.catalog.records import ShardRecord
from hpc_ae.catalog.schema import STAR_FORMAT
from hpc_ae.catalog.shard import Arrays, read_shard, shard_columns
from hpc_ae.catalog.states import State, count_by_bands, count_measured, seen_magnitudes
from hpc_ae.errors import DamageError, HpcAeError

STATE_COLUMNS = ("band_state", "magnitude", "magnitude_error", "magnitude_limit")
_WRONG = "the states of bands do not match"


def check_states(path: Path, record: ShardRecord, arrays: Arrays, quality: np.ndarray) -> list[HpcAeError]:
    """Everything that is wrong with the states (N, B) in `arrays`, which has those of STATE_COLUMNS that there are."""
    state = arrays["band_state"]
    measured = state == State.MEASURED
    wrong = [
        ("band_state", state > max(State), "a state of 0 to 3"),
        ("magnitude", np.isfinite(arrays["magnitude"]) != measured, "finite where the state is 0, and only there"),
    ]
    if "magnitude_error" in arrays:
        spare = ~np.isnan(arrays["magnitude_error"]) & ~measured
        wrong.append(("magnitude_error", spare, "NaN where the state is not 0"))
    if "magnitude_limit" in arrays:
        spare = ~np.isnan(arrays["magnitude_limit"]) & (state != State.LIMIT)
        wrong.append(("magnitude_limit", spare, "NaN where the state is not 2"))
    wrong.append(("quality", ((quality == 0) != measured.all(axis=1))[:, None], "0 where all bands are measured"))
    found = [_finding(path, name, mask, expected) for name, mask, expected in wrong if mask.any()]
    counts = count_by_bands(state)
    if record.stars_by_bands != counts:
        what = "the numbers of stars by measured bands do not match the manifest"
        found.append(DamageError(what, where=path, got=counts, expected=record.stars_by_bands))
    return found


def check_num_bands(path: Path, star_path: Path, num_bands: np.ndarray) -> list[HpcAeError]:
    """Whether the numbers of measured bands (N,) of an encoding shard are those of its star shard."""
    has_states = "band_state" in shard_columns(star_path, STAR_FORMAT)
    magnitude = read_shard(star_path, STAR_FORMAT, ["magnitude"])["magnitude"]
    expected = count_measured(seen_magnitudes(magnitude, has_states))
    if np.array_equal(num_bands, expected):
        return []
    what = "the numbers of measured bands of an encoding shard do not match its star shard"
    return [DamageError(what, where=f"{path}, dataset num_bands", expected=f"those of {star_path}")]


def _finding(path: Path, name: str, mask: np.ndarray, expected: str) -> HpcAeError:
    rows = np.flatnonzero(mask.any(axis=1))
    where = f"{path}, dataset {name}, row {rows[0]}"
    return DamageError(_WRONG, where=where, got=f"{len(rows)} such rows", expected=expected)
