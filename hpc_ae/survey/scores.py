"""The score catalog: made by one pass over the survey, with what its stars add up to beside it.

`scores/` is a catalog like the encoding; `tallies.npz` in it has the plan, the sums and the strangest stars, so that a
report is made without reading the survey again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hpc_ae.analysis.pack import MOST_NPZ_BYTES, npz_bytes, pack, read_npz, unpack
from hpc_ae.analysis.tally import SurveyTally
from hpc_ae.catalog.catalog import Catalog
from hpc_ae.catalog.link import relative_path
from hpc_ae.catalog.manifest import is_whole, read_manifest, write_manifest
from hpc_ae.catalog.records import EncodingManifest, Inputs, Link, ScoreManifest, ShardRecord, summed
from hpc_ae.catalog.schema import SCORE_COLUMNS, SCORE_FORMAT
from hpc_ae.catalog.shard import Arrays
from hpc_ae.errors import DamageError, WorkError
from hpc_ae.files import digest_bytes, make_dir, publish_bytes, publish_json, read_json, read_regular, remove_debris
from hpc_ae.layout import MAKING_NAME, MANIFEST_NAME, PARTS_NAME, TALLIES_NAME
from hpc_ae.provenance import Fingerprint, Provenance, check_fingerprint
from hpc_ae.runtime.executor import Mapper
from hpc_ae.runtime.progress import Progress
from hpc_ae.survey.facts import SampleFacts, gather_facts
from hpc_ae.survey.pairs import Survey
from hpc_ae.survey.plan import SurveyPlan, make_plan
from hpc_ae.survey.sample import MOST_STARS, read_sample
from hpc_ae.survey.scan import Scan, ScanPart, make_parts, scan_part

METHOD = 4
"""Of the scores and tallies: another number makes those that are there stale."""


@dataclass
class ScoredSurvey:
    """What is known of a survey once it is scored."""

    plan: SurveyPlan
    facts: SampleFacts
    tally: SurveyTally


def fingerprint(survey: Survey) -> Fingerprint:
    """What decides the scores."""
    return {
        "catalog": survey.stars.digest,
        "encoding": survey.encoding.digest,
        "scores": {"method": METHOD, "sample": MOST_STARS},
    }


def is_scored(scores_dir: Path, survey: Survey) -> bool:
    """Whether the scores of this survey are complete; StaleError where those of another one are there, done or not."""
    wanted = fingerprint(survey)
    making_path = scores_dir / PARTS_NAME / MAKING_NAME
    if not (scores_dir / MANIFEST_NAME).exists():
        if making_path.exists():
            check_fingerprint(scores_dir, read_json(making_path), wanted, "postprocess")
        return False
    manifest = read_manifest(scores_dir, ScoreManifest)
    check_fingerprint(scores_dir, manifest.fingerprint, wanted, "postprocess")
    return is_whole(scores_dir, manifest)


def score_survey(mapper: Mapper, survey: Survey, scores_dir: Path, progress: Progress) -> ScoredSurvey:
    """Make `scores_dir`, or go on with it, or read what it has. The same bytes for any number of workers."""
    if is_scored(scores_dir, survey):
        progress.start_at(progress.total)
        return read_scored(scores_dir)
    make_dir(make_dir(scores_dir) / PARTS_NAME)
    remove_debris(scores_dir)
    remove_debris(scores_dir / PARTS_NAME)
    (scores_dir / MANIFEST_NAME).unlink(missing_ok=True)
    publish_json(scores_dir / PARTS_NAME / MAKING_NAME, fingerprint(survey))
    progress.update(0, "a sample")
    sample = read_sample(mapper, survey)
    plan = make_plan(survey, sample)
    facts = gather_facts(survey, plan, sample)
    del sample
    scan = Scan(plan, scores_dir.absolute(), survey.encoding.digest)
    parts = make_parts(survey)
    _run(mapper, scan, parts, progress)
    return _finish(scan, parts, facts, survey)


def _run(mapper: Mapper, scan: Scan, parts: list[ScanPart], progress: Progress) -> None:
    left = [part for part in parts if scan.result(part) is None]
    done = sum(part.num_stars for part in parts) - sum(part.num_stars for part in left)
    progress.start_at(done)
    work: Callable[[ScanPart], None] = partial(scan_part, scan)
    for part, _ in zip(left, mapper.map(work, left), strict=True):
        done += part.num_stars
        progress.update(done, "scores and maps")


def _finish(scan: Scan, parts: list[ScanPart], facts: SampleFacts, survey: Survey) -> ScoredSurvey:
    """Add the parts up, write the tallies and, last, the manifest."""
    tally = SurveyTally.none(scan.plan.shape)
    records: list[ShardRecord] = []
    for part in parts:
        result = scan.result(part)
        if result is None:
            raise WorkError("a finished part is missing", where=scan.part_path(part))
        records += result.shards
        tally.add(result.tally)
    scored = ScoredSurvey(scan.plan, facts, tally)
    data = npz_bytes(pack(scored), compress=True)
    publish_bytes(scan.scores_dir / TALLIES_NAME, data)
    write_manifest(scan.scores_dir, _manifest(scan.scores_dir, survey, records, data))
    shutil.rmtree(scan.scores_dir / PARTS_NAME)
    return scored


def _manifest(scores_dir: Path, survey: Survey, records: list[ShardRecord], tallies: bytes) -> ScoreManifest:
    def link(catalog: Catalog) -> Link:
        return Link(path=relative_path(catalog.directory, scores_dir), digest=catalog.digest)

    encoding = survey.encoding
    return ScoreManifest(
        **summed(SCORE_FORMAT, records),
        bands=tuple(encoding.bands),
        columns=tuple(column.name for column in SCORE_COLUMNS),
        order=encoding.manifest.order,
        min_bands=encoding.manifest_as(EncodingManifest).min_bands,
        files={TALLIES_NAME: digest_bytes(tallies)},
        inputs=Inputs(catalog=link(survey.stars), encoding=link(encoding)),
        fingerprint=fingerprint(survey),
        provenance=Provenance.now({}),
    )


def read_scored(scores_dir: Path) -> ScoredSurvey:
    """What `scores_dir` has beside the scores; DamageError where it is not what was written."""
    path = scores_dir / TALLIES_NAME
    recorded = read_manifest(scores_dir, ScoreManifest).files.get(TALLIES_NAME)
    data = read_regular(path, MOST_NPZ_BYTES)
    if digest_bytes(data) != recorded:
        raise DamageError(
            "the tallies have changed since they were written",
            where=path,
            got=digest_bytes(data),
            expected=recorded,
            fix=f"remove {scores_dir} and run postprocess again",
        )
    arrays = read_npz(data)
    plan = unpack(SurveyPlan.none(), _below(arrays, "plan"))
    like = ScoredSurvey(plan, SampleFacts.none(), SurveyTally.none(plan.shape))
    return unpack(like, arrays)


def _below(arrays: Arrays, name: str) -> Arrays:
    """The arrays of one field of what was packed."""
    return {
        key.replace(f"{name}.", "", 1): values
        for key, values in arrays.items()
        if key.removeprefix("json:").startswith(f"{name}.")
    }
