"""The strangest stars of a scored survey, exactly, with all that is known of each.

Shape letters: N stars, n stars found, L latent dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from hpc_ae.analysis.statistics import worst
from hpc_ae.analysis.tally import NUM_KEPT
from hpc_ae.catalog.catalog import Catalog, open_catalog
from hpc_ae.catalog.shard import CHUNK_ROWS, Arrays
from hpc_ae.runtime.executor import Mapper
from hpc_ae.survey.pairs import ShardPair, Survey
from hpc_ae.survey.scores import ScoredSurvey


def find_strangest(mapper: Mapper, survey: Survey, scores_dir: Path, scored: ScoredSurvey, num: int) -> Arrays:
    """All columns of the `num` stars (fewer where there are no more usable ones) with the highest anomaly_score,
    highest first, equal ones by row; {} where there is none.

    Those that the pass over the survey has kept, or, where more are asked for, by the column of scores alone: of the
    rest only the chunks with those stars are read.
    """
    kept = scored.tally.strangest
    if num <= NUM_KEPT or scored.tally.errors.error.num <= NUM_KEPT:
        return {name: values[:num] for name, values in kept.items()} if len(kept.get("row", ())) else {}
    scores = open_catalog(scores_dir)
    found = (np.empty(0, np.float32), np.empty(0, np.int64))
    shards = range(len(scores.shards))
    for more in mapper.map(partial(_highest, scores, num), shards):
        found = worst(np.concatenate([found[0], more[0]]), np.concatenate([found[1], more[1]]), num)
    stars = describe_rows(mapper, survey, np.sort(found[1]), scores)
    order = np.lexsort((stars["row"], -stars["anomaly_score"]))
    return {name: values[order] for name, values in stars.items()}


def describe_rows(mapper: Mapper, survey: Survey, rows: np.ndarray, scores: Catalog | None) -> Arrays:
    """All columns of some ascending rows (n,), one at the least, those of `scores` too where given."""
    tasks = [_Wanted(pair, inside, scores) for pair in survey.pairs if len(inside := _rows_in(pair, rows))]
    parts = list(mapper.map(_describe, tasks))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _highest(scores: Catalog, num: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The highest scores of a shard and their rows in the catalog."""
    values = scores.read_shard(index, ["anomaly_score"])["anomaly_score"]
    rows = np.flatnonzero(np.isfinite(values))
    return worst(values[rows], rows + int(scores.offsets[index]), num)


def _rows_in(pair: ShardPair, rows: np.ndarray) -> np.ndarray:
    """Those of ascending catalog rows that lie in a shard, counted from its first row."""
    low, high = np.searchsorted(rows, [pair.first_row, pair.first_row + pair.num_stars])
    inside: np.ndarray = rows[low:high] - pair.first_row
    return inside


@dataclass(frozen=True)
class _Wanted:
    """Rows of a shard (n,), counted from its first, and the catalog of scores where its columns are wanted too."""

    pair: ShardPair
    rows: np.ndarray
    scores: Catalog | None


def _describe(wanted: _Wanted) -> Arrays:
    """All columns of some rows of a shard, chunk by chunk."""
    pair, rows = wanted.pair, wanted.rows
    parts = []
    for chunk in np.unique(rows // CHUNK_ROWS):
        inside = rows[rows // CHUNK_ROWS == chunk]
        span = slice(int(inside[0]), int(inside[-1]) + 1)
        stars = pair.read(span)
        first = pair.first_row + span.start
        if wanted.scores is not None:
            names = ["anomaly_score", "tail_probability", "cluster"]
            stars |= wanted.scores.read(names, slice(first, first + len(stars["row"])))
        parts.append({name: values[inside - span.start] for name, values in stars.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def nearest_normal(anomalies: Arrays, normal: Arrays) -> np.ndarray:
    """For each anomaly the place among `normal` stars of the nearest in the latent plane, int64 (n,)."""
    from scipy.spatial import cKDTree

    if not len(normal.get("row", ())):
        return np.empty(0, np.int64)
    nearest: np.ndarray = cKDTree(normal["latent"]).query(anomalies["latent"])[1]
    return nearest
