"""Ids that occur more than once in a catalog of any size, found in bounded memory.

Each shard leaves its distinct ids sorted in a hidden file. The range of ids is cut so that one part of all these files
fits in memory; each part is searched for ids of several shards; the shards that hold such ids are written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpc_ae.catalog.records import ShardRecord
from hpc_ae.catalog.schema import STAR_FORMAT, Caution
from hpc_ae.catalog.shard import read_notes, read_shard, shard_columns, write_shard
from hpc_ae.files import write_error

RANGE_IDS = 8_000_000  # ids of one part: 64 MB, four times that while they are sorted
SAMPLE_STRIDE = 8_192
NO_ID = -1
Range = tuple[int | None, int | None]  # [low, high), None: without limit


def flag_ids(objid: np.ndarray, damaged: np.ndarray) -> np.ndarray:
    """Caution flags uint16 (N,) of ids int64 (N,): missing (-1) or damaged."""
    caution = np.where(damaged, np.uint16(Caution.ID_DAMAGED), np.uint16(0))
    caution[(objid == NO_ID) & ~damaged] |= np.uint16(Caution.ID_MISSING)
    return caution


def flag_repeated(objid: np.ndarray, caution: np.ndarray) -> np.ndarray:
    """Set ID_REPEATED in `caution` (N,) where an id occurs again in these rows; return the distinct ids, sorted."""
    ids = np.sort(objid[objid != NO_ID])
    first = np.ones(len(ids), bool)
    first[1:] = ids[1:] != ids[:-1]
    if not first.all():
        caution[is_among(objid, np.unique(ids[~first]))] |= np.uint16(Caution.ID_REPEATED)
    return np.asarray(ids[first])


def is_among(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Which of `values` (N,) occur in the sorted `ordered`: bool (N,)."""
    if not len(ordered):
        return np.zeros(len(values), bool)
    places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return np.asarray(ordered[places] == values)


def save_ids(path: Path, ids: np.ndarray) -> np.ndarray:
    """Write the distinct sorted ids of a shard, and return every `SAMPLE_STRIDE`-th of them."""
    try:
        path.write_bytes(ids.tobytes())
    except OSError as error:
        raise write_error(path, ids.nbytes, error) from error
    return ids[::SAMPLE_STRIDE].copy()


def cut_ranges(samples: Sequence[np.ndarray]) -> list[Range]:
    """Ranges of ids, about RANGE_IDS distinct ids of shards each, that cover every id."""
    ordered = np.sort(np.concatenate(samples)) if samples else np.empty(0, np.int64)
    edges = [int(edge) for edge in np.unique(ordered[:: max(1, RANGE_IDS // SAMPLE_STRIDE)][1:])]
    return list(zip([None, *edges], [*edges, None], strict=True))


@dataclass(frozen=True)
class Shared:
    """Ids of one range that several shards hold (in the file `path`), and which shards those are."""

    path: Path
    num_ids: int
    shards: tuple[int, ...]


@dataclass(frozen=True)
class Search:
    """One task of looking for shared ids: in these files of sorted ids, one for each shard, the ids of one range."""

    id_paths: tuple[Path, ...]
    limits: Range
    out_path: Path


def find_shared(search: Search) -> Shared:
    """Find the ids of a range that occur in several of the files; write them, sorted, to `out_path`."""
    parts = [_read_range(source, *search.limits) for source in search.id_paths]
    ids = np.sort(np.concatenate(parts))
    shared = np.unique(ids[1:][ids[1:] == ids[:-1]])
    if not len(shared):
        return Shared(search.out_path, 0, ())
    save_ids(search.out_path, shared)
    holders = tuple(index for index, part in enumerate(parts) if is_among(part, shared).any())
    return Shared(search.out_path, len(shared), holders)


def _read_range(path: Path, low: int | None, high: int | None) -> np.ndarray:
    """The ids of a range in a file of sorted ids."""
    if not path.stat().st_size:
        return np.empty(0, np.int64)
    ids = np.memmap(path, np.int64, mode="r")
    start = 0 if low is None else int(np.searchsorted(ids, low))
    stop = len(ids) if high is None else int(np.searchsorted(ids, high))
    return np.array(ids[start:stop])


def mark_shared(path: Path, shared: Sequence[Shared], bands: Sequence[str]) -> tuple[ShardRecord, np.ndarray]:
    """Write a star shard again with ID_REPEATED on the stars whose ids are shared.

    Returns its new record and which of its stars are flagged so: bool (N,).
    """
    arrays = read_shard(path, STAR_FORMAT, shard_columns(path, STAR_FORMAT))
    for part in shared:
        ids = np.fromfile(part.path, np.int64)
        arrays["caution"][is_among(arrays["objid"], ids)] |= np.uint16(Caution.ID_REPEATED)
    notes = {key: text for key, text in read_notes(path, STAR_FORMAT).items() if key != "format"}
    record = write_shard(path, STAR_FORMAT, arrays, bands, notes)
    return record, (arrays["caution"] & Caution.ID_REPEATED) != 0
