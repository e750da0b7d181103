"""The one pass over all stars: scores written shard by shard, and what the stars add up to, part by part.

A part is some neighbouring shards; which ones depends on the catalog alone. Its tally appears on disk when its score
shards are there, and is the mark that it is done: a killed pass goes on with the parts that are left.
Shape letters: N stars.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from hpc_ae.analysis.maps import fine_indices
from hpc_ae.analysis.pack import MOST_NPZ_BYTES, npz_bytes, pack, read_npz, unpack
from hpc_ae.analysis.tally import SurveyTally, usable_rows
from hpc_ae.catalog.link import row_mismatches
from hpc_ae.catalog.records import ShardRecord
from hpc_ae.catalog.schema import NO_CLUSTER, SCORE_FORMAT
from hpc_ae.catalog.shard import CHUNK_ROWS, Arrays, write_shard
from hpc_ae.catalog.sky import healpix_of
from hpc_ae.errors import DamageError
from hpc_ae.files import digest_bytes, publish_bytes, read_regular
from hpc_ae.layout import PARTS_NAME, part_name
from hpc_ae.runtime.memory import keep_freed_memory
from hpc_ae.survey.pairs import ShardPair, Survey
from hpc_ae.survey.plan import SurveyPlan

_PARTS = 16  # at the least, where there are shards enough: for so many workers
_MOST_PART_STARS = 4_000_000
_FEW_STARS = 200_000  # leave most of the maps empty, which compress to a hundredth; of more it would cost time
_BLOCK_ROWS = 8 * CHUNK_ROWS  # of a shard in memory: one of the usual size is read at once


@dataclass(frozen=True)
class ScanPart:
    """Some neighbouring shards."""

    index: int
    pairs: tuple[ShardPair, ...]

    @property
    def num_stars(self) -> int:
        """Stars in its shards."""
        return sum(pair.num_stars for pair in self.pairs)


@dataclass
class PartResult:
    """What a part leaves on disk. `key` says of which plan it is, `records` (JSON) what the manifest says of shards."""

    key: str
    records: str
    tally: SurveyTally

    @property
    def shards(self) -> list[ShardRecord]:
        """The records of its shards for the manifest."""
        return [ShardRecord.parse(record, "a part's records") for record in json.loads(self.records)]


@dataclass(frozen=True)
class Scan:
    """The pass: its plan, and where the scores go."""

    plan: SurveyPlan
    scores_dir: Path
    encoding_digest: str

    @cached_property
    def key(self) -> str:
        """The digest of the encoding and of the plan: what makes a part that is there one of this pass."""
        return digest_bytes(self.encoding_digest.encode() + npz_bytes(pack(self.plan)))

    def part_path(self, part: ScanPart) -> Path:
        """Where the result of a part is, until all are done."""
        return self.scores_dir / PARTS_NAME / part_name(part.index)

    def result(self, part: ScanPart) -> PartResult | None:
        """The result of a part with its shards; None where it is not done, or not by this pass."""
        path = self.part_path(part)
        if not path.exists():
            return None
        try:
            like = PartResult("", "", SurveyTally.none(self.plan.shape))
            result = unpack(like, read_npz(read_regular(path, MOST_NPZ_BYTES)))
        except (ValueError, KeyError, OSError, DamageError):
            return None  # damaged: it is made again
        paths = [(self.scores_dir / record.file, record.num_bytes) for record in result.shards]
        whole = all(path.is_file() and path.stat().st_size == num_bytes for path, num_bytes in paths)
        return result if whole and result.key == self.key else None


def make_parts(survey: Survey) -> list[ScanPart]:
    """The shards in parts, by their numbers of stars."""
    wanted = min(_MOST_PART_STARS, -(-survey.encoding.num_stars // _PARTS))
    groups: list[list[ShardPair]] = []
    num = wanted
    for pair in survey.pairs:
        if num >= wanted or num + pair.num_stars > _MOST_PART_STARS:
            groups.append([])
            num = 0
        groups[-1].append(pair)
        num += pair.num_stars
    return [ScanPart(index, tuple(group)) for index, group in enumerate(groups)]


def scan_part(scan: Scan, part: ScanPart) -> None:
    """Score the stars of a part, write its score shards, then its result."""
    keep_freed_memory()
    tally = SurveyTally.none(scan.plan.shape)
    with ThreadPoolExecutor(1, "writer") as writer:  # the disk has time until the next shard is scored
        written = [writer.submit(_write, scan, pair, _scan_shard(scan.plan, pair, tally)) for pair in part.pairs]
        records = [one.result() for one in written]
    result = PartResult(scan.key, json.dumps([record.to_json() for record in records]), tally)
    data = npz_bytes(pack(result), compress=part.num_stars < _FEW_STARS)
    publish_bytes(scan.part_path(part), data)


def _scan_shard(plan: SurveyPlan, pair: ShardPair, tally: SurveyTally) -> Arrays:
    """The columns of the score shard of a pair, whose stars the tally takes in."""
    starts = range(0, max(1, pair.num_stars), _BLOCK_ROWS)
    parts = [_scan_stars(plan, pair.read(slice(start, start + _BLOCK_ROWS)), tally) for start in starts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if len(parts) > 1 else parts[0]


def _scan_stars(plan: SurveyPlan, stars: Arrays, tally: SurveyTally) -> Arrays:
    usable = usable_rows(stars)
    tally.errors.num_good += int(np.count_nonzero(stars["quality"] == 0))
    chosen = stars if usable.all() else {name: values[usable] for name, values in stars.items()}
    fine = fine_indices(chosen["latent"], plan.bins)
    scores = {**plan.scorer.score(chosen), "cluster": plan.cluster_of(fine)}
    pixels = healpix_of(chosen["ra"], chosen["dec"], plan.shape.sky_order)
    tally.count({**chosen, **scores}, fine, pixels, plan.shape.reference_band)
    outputs = {name: stars[name] for name in ("objid", "quality", "caution")}
    return outputs | (scores if usable.all() else {name: _spread(values, usable) for name, values in scores.items()})


def _spread(values: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Values of the usable stars among all (N,); NaN or -1 for the others."""
    spread = np.full(len(usable), np.nan if values.dtype.kind == "f" else NO_CLUSTER, values.dtype)
    spread[usable] = values
    return spread


def _write(scan: Scan, pair: ShardPair, outputs: Arrays) -> ShardRecord:
    shard = pair.encoding.shards[0]
    notes = {"encoding_shard_digest": shard.digest}
    record = write_shard(scan.scores_dir / shard.file, SCORE_FORMAT, outputs, pair.encoding.bands, notes)
    for one in row_mismatches(record, shard):
        raise DamageError(
            "the number of stars in an encoding shard does not match its manifest",
            where=pair.encoding.shard_path(0),
            got=f"{one.what} {one.got}",
            expected=one.expected,
            fix="hpc-ae verify tells what is damaged",
        )
    return record.placed_like(shard)
