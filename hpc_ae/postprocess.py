"""VERB postprocess: encoding catalog and star catalog to scores, and these to summary, anomalies, maps and a page.

The survey is read once, for `scores/` (hpc_ae/survey/); the report is made from that alone, in seconds, whatever
changes in it. Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from hpc_ae.analysis.histogram import RESIDUAL_BINS, column_quantiles
from hpc_ae.catalog.catalog import open_catalog
from hpc_ae.errors import DamageError, HpcAeError
from hpc_ae.files import (
    digest_bytes,
    digest_file,
    make_dir,
    publish_bytes,
    publish_json,
    read_json,
    remove_debris,
    seal,
)
from hpc_ae.layout import COMPARE_NAME, COMPARE_TABLE_NAME, SUMMARY_NAME, RunLayout, progress_name
from hpc_ae.provenance import Fingerprint, check_fingerprint
from hpc_ae.record import read_record
from hpc_ae.report.data import Curve, History
from hpc_ae.runtime.executor import Mapper, open_mapper
from hpc_ae.runtime.progress import Progress, ProgressRecord
from hpc_ae.survey.compare import Comparison, compare_surveys, comparison_fingerprint
from hpc_ae.survey.outputs import make_files
from hpc_ae.survey.page import CURVE_LEVELS, Report
from hpc_ae.survey.pairs import Survey, open_survey
from hpc_ae.survey.scores import ScoredSurvey, is_scored, score_survey
from hpc_ae.survey.strangest import find_strangest
from hpc_ae.survey.summary import Summary, summarize

_CURVE_STARS = 50
_METRICS = ("train_mse_mag2", "validation_mse_mag2", "learning_rate")  # in the order of History
_MEASURED = ("simulate", "ingest", "train", "encode")  # stages whose speeds the page has


@dataclass(frozen=True)
class PostprocessSettings:
    """What decides the report, beside the two catalogs."""

    num_anomalies: int = 1000


@dataclass(frozen=True)
class ReportPaths:
    """Where the two catalogs, the report and (for the loss curve) the training's metrics are.

    The scores are beside the report, where nothing is said. `compare_dir` is another encoding to be compared,
    `progress_dir` has what the stages before have said of their speed.
    """

    encoding_dir: Path
    star_dir: Path
    out_dir: Path
    metrics_path: Path | None = None
    scores_dir: Path | None = None
    compare_dir: Path | None = None
    progress_dir: Path | None = None

    @cached_property
    def scores(self) -> Path:
        """Where the score catalog is."""
        return self.scores_dir or RunLayout(self.out_dir.parent).scores_dir


def postprocess(
    paths: ReportPaths, settings: PostprocessSettings, num_workers: int = 1, progress_path: Path | None = None
) -> None:
    """Write the score catalog, and from it the report to `out_dir`; what is there already is not made again.

    The same bytes for any number of workers; memory does not grow with the number of stars. InputError where a catalog
    is missing or of the wrong kind, StaleError where the encoding is of another star catalog, or scores or report are
    of something else, DamageError where a shard is not what its manifest says or the two catalogs differ in a star.
    """
    survey = open_survey(paths.encoding_dir, paths.star_dir)
    if _is_done(paths, settings, survey):
        return
    with open_mapper(num_workers) as mapper:
        if mapper is None:
            return
        remove_debris(make_dir(paths.out_dir))
        with Progress("postprocess", survey.encoding.num_stars, "stars", path=progress_path) as progress:
            scored = score_survey(mapper, survey, paths.scores, progress)
            if paths.compare_dir is not None:
                progress.update(progress.done, "comparison")
                compare_surveys(mapper, survey, paths.compare_dir, paths.out_dir)
            progress.update(progress.done, "report")
            anomalies = find_strangest(mapper, survey, paths.scores, scored, settings.num_anomalies)
            report = Report(
                survey,
                scored,
                anomalies,
                _curves(scored),
                _read_history(paths.metrics_path),
                _read_comparison(paths.out_dir / COMPARE_NAME),
                _read_speeds(paths.progress_dir),
            )
            _publish(mapper, paths, settings, report)


def is_postprocessed(paths: ReportPaths, settings: PostprocessSettings) -> bool:
    """Whether scores and report of these catalogs are there already; StaleError where others are."""
    if not (paths.out_dir / SUMMARY_NAME).exists():
        return False
    return _is_done(paths, settings, open_survey(paths.encoding_dir, paths.star_dir))


def are_scores_of(scores_dir: Path, encoding_dir: Path, star_dir: Path) -> bool:
    """Whether what is in `scores_dir`, finished or not, is of this encoding, so that it need not be made again."""
    try:
        is_scored(scores_dir, open_survey(encoding_dir, star_dir))
    except HpcAeError:
        return False
    return True


def _fingerprint(settings: PostprocessSettings, survey: Survey) -> Fingerprint:
    return {"settings": asdict(settings), "encoding": survey.encoding.digest, "catalog": survey.stars.digest}


def _is_done(paths: ReportPaths, settings: PostprocessSettings, survey: Survey) -> bool:
    """True where this report is complete already; StaleError where another one is there, or scores of others."""
    recorded = _read_summary(paths.out_dir / SUMMARY_NAME)
    if recorded is not None:
        check_fingerprint(paths.out_dir, recorded.fingerprint, _fingerprint(settings, survey), "postprocess")
    if not is_scored(paths.scores, survey) or recorded is None:
        return False
    if paths.compare_dir is not None and not _is_compared(paths, survey):
        return False
    return all((paths.out_dir / name).is_file() for name in recorded.files)


def _read_summary(path: Path) -> Summary | None:
    """The summary of the report that is there; None where there is none, or one of an earlier version that says less
    and is to be made again. DamageError where it does not match its digest.
    """
    if not path.exists():
        return None
    values = read_json(path, sealed=True)
    with suppress(DamageError):
        return Summary.parse(values, path)
    return None


def _is_compared(paths: ReportPaths, survey: Survey) -> bool:
    """Whether the comparison asked for is there; StaleError where it is with another encoding."""
    path = paths.out_dir / COMPARE_NAME
    if paths.compare_dir is None or not path.exists():
        return False
    recorded = read_record(path, Comparison, sealed=True)
    check_fingerprint(path, recorded.fingerprint, comparison_fingerprint(survey, paths.compare_dir), "postprocess")
    return (paths.out_dir / COMPARE_TABLE_NAME).is_file()


def _publish(mapper: Mapper, paths: ReportPaths, settings: PostprocessSettings, report: Report) -> None:
    """Write every file of the report and, last, its summary."""
    survey = report.survey
    inputs = survey.encoding.manifest.inputs.digests()
    inputs |= {"encoding": survey.encoding.digest, "scores": open_catalog(paths.scores).digest}
    summary = summarize(report, inputs, _fingerprint(settings, survey))
    files = make_files(mapper, report, summary)
    for name, data in files.items():
        publish_bytes(paths.out_dir / name, data)
    digests = {name: digest_bytes(data) for name, data in files.items()}
    if report.comparison is not None:
        digests |= {name: digest_file(paths.out_dir / name) for name in (COMPARE_NAME, COMPARE_TABLE_NAME)}
    publish_json(paths.out_dir / SUMMARY_NAME, seal(summary.with_files(digests).to_json()))


def _curves(scored: ScoredSurvey) -> np.ndarray:
    """Quantiles of |residual| by magnitude, (B, magnitude bins, curves) in mag."""
    edges = RESIDUAL_BINS.edges()
    grids = scored.tally.residuals.grids
    return np.stack([column_quantiles(grid, edges, CURVE_LEVELS, _CURVE_STARS) for grid in grids])


def _read_history(path: Path | None) -> History:
    """The curves in metrics.jsonl; lines cut short, absent and null values are passed over."""
    if path is None or not path.is_file():
        return History()
    points: list[list[tuple[float, float]]] = [[] for _ in _METRICS]
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            for name, found in zip(_METRICS, points, strict=True) if isinstance(record, dict) else ():
                pair = (record.get("step"), record.get(name))
                if all(isinstance(value, int | float) and abs(value) <= sys.float_info.max for value in pair):
                    found.append(pair)
    train, validation, rate = (Curve(*np.array(found, np.float64).T) if found else None for found in points)
    return History(train, validation, rate)


def _read_comparison(path: Path) -> Comparison | None:
    """The comparison with another encoding, of this command or an earlier one."""
    return read_record(path, Comparison, sealed=True) if path.exists() else None


def _read_speeds(directory: Path | None) -> list[ProgressRecord]:
    """What the stages before have said of their work."""
    paths = [directory / progress_name(name) for name in _MEASURED] if directory else []
    found = []
    for path in (path for path in paths if path.is_file()):
        with suppress(DamageError):  # of another version: the table does without
            found.append(read_record(path, ProgressRecord))
    return found
