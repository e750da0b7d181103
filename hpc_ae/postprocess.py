"""VERB postprocess: encoding catalog and star catalog to scores, and these to summary, anomalies, maps and a page.

The survey is read once, for `scores/` (hpc_ae/survey/); the report is made from that alone, in seconds, whatever
changes in it. Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import hpc_ae
from hpc_ae.analysis.histogram import RESIDUAL_BINS, column_quantiles
from hpc_ae.analysis.maps import MAX_SHOWN, MEAN_CELLS, pooled, shown_pairs
from hpc_ae.analysis.summary import (
    json_id,
    summarize_bands,
    summarize_clusters,
    summarize_error,
    summarize_latent,
    summarize_squared_error,
    summarize_tails,
)
from hpc_ae.catalog.catalog import open_catalog
from hpc_ae.errors import HpcAeError
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
from hpc_ae.layout import COMPARE_NAME, COMPARE_TABLE_NAME, SUMMARY_NAME
from hpc_ae.provenance import check_fingerprint
from hpc_ae.runtime.executor import Mapper, open_mapper
from hpc_ae.runtime.progress import Progress
from hpc_ae.survey.compare import compare_surveys, comparison_fingerprint
from hpc_ae.survey.outputs import Report, make_files
from hpc_ae.survey.page import CURVE_LEVELS, History, map_layers
from hpc_ae.survey.pairs import Survey, open_survey
from hpc_ae.survey.scores import ScoredSurvey, is_scored, score_survey
from hpc_ae.survey.strangest import find_strangest

SUMMARY_FORMAT = "hpc_ae/summary"
_CURVE_STARS = 50
_METRICS = ("train_mse_mag2", "validation_mse_mag2", "learning_rate")


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
        return self.scores_dir or self.out_dir.parent / "scores"


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
            report = Report(survey, scored, anomalies, _curves(scored), _read_history(paths.metrics_path))
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


def _fingerprint(settings: PostprocessSettings, survey: Survey) -> dict[str, Any]:
    return {"settings": asdict(settings), "encoding": survey.encoding.digest, "catalog": survey.stars.digest}


def _is_done(paths: ReportPaths, settings: PostprocessSettings, survey: Survey) -> bool:
    """True where this report is complete already; StaleError where another one is there, or scores of others."""
    path = paths.out_dir / SUMMARY_NAME
    recorded: dict[str, Any] = {}
    if path.exists():
        recorded = read_json(path, sealed=True)
        wanted = _fingerprint(settings, survey)
        check_fingerprint(paths.out_dir, recorded.get("fingerprint", {}), wanted, "postprocess")
    if not is_scored(paths.scores, survey) or not recorded:
        return False
    if paths.compare_dir is not None and not _is_compared(paths, survey):
        return False
    return all((paths.out_dir / name).is_file() for name in recorded.get("files", {}))


def _is_compared(paths: ReportPaths, survey: Survey) -> bool:
    """Whether the comparison asked for is there; StaleError where it is with another encoding."""
    path = paths.out_dir / COMPARE_NAME
    if paths.compare_dir is None or not path.exists():
        return False
    recorded = read_json(path, sealed=True).get("fingerprint", {})
    check_fingerprint(path, recorded, comparison_fingerprint(survey, paths.compare_dir), "postprocess")
    return (paths.out_dir / COMPARE_TABLE_NAME).is_file()


def _publish(mapper: Mapper, paths: ReportPaths, settings: PostprocessSettings, report: Report) -> None:
    """Write every file of the report and, last, its summary."""
    survey = report.survey
    summary = _summarize(report) | {"notes": _notes(report)}
    comparison = paths.out_dir / COMPARE_NAME
    compared = read_json(comparison, sealed=True) if comparison.exists() else None
    files = make_files(mapper, report, summary, (compared, _read_speeds(paths.progress_dir)))
    for name, data in files.items():
        publish_bytes(paths.out_dir / name, data)
    digests = {name: digest_bytes(data) for name, data in files.items()}
    if compared is not None:
        digests |= {name: digest_file(paths.out_dir / name) for name in (COMPARE_NAME, COMPARE_TABLE_NAME)}
    inputs = {name: entry.get("digest") for name, entry in survey.encoding.manifest["inputs"].items()}
    record = {
        "format": SUMMARY_FORMAT,
        "version": 1,
        "package": f"hpc_ae {hpc_ae.__version__}",
        **summary,
        "files": digests,
        "inputs": inputs | {"encoding": survey.encoding.digest, "scores": open_catalog(paths.scores).digest},
        "fingerprint": _fingerprint(settings, survey),
    }
    publish_json(paths.out_dir / SUMMARY_NAME, seal(record))


def _curves(scored: ScoredSurvey) -> np.ndarray:
    """Quantiles of |residual| by magnitude, (B, magnitude bins, curves) in mag."""
    edges = RESIDUAL_BINS.edges()
    grids = scored.tally.residuals.grids
    return np.stack([column_quantiles(grid, edges, CURVE_LEVELS, _CURVE_STARS) for grid in grids])


def _summarize(report: Report) -> dict[str, Any]:
    survey, tally, anomalies = report.survey, report.scored.tally, report.anomalies
    encoding, errors = survey.encoding, tally.errors
    has_model = "reconstruction" in encoding.columns
    num_listed = len(anomalies.get("row", ()))
    pairs = itertools.combinations(range(1, len(report.scored.plan.windows) + 1), 2)
    return {
        "num_stars": encoding.num_stars,
        "num_good": errors.num_good,
        "num_excluded": encoding.num_stars - errors.num_good,
        "num_not_finite": errors.num_good - errors.error.num,
        "flags": encoding.manifest["flags"],
        "error": summarize_error(errors),
        "squared_error": summarize_squared_error(errors),
        "bands": summarize_bands(encoding.bands, tally.residuals, errors.error.num) if has_model else None,
        "latent": summarize_latent(errors),
        "latent_map": {
            "windows": report.scored.plan.windows.tolist(),
            "panels": [list(pair) for pair in pairs] or [[1]],
            "num_outside": [errors.error.num - int(counts.sum()) for counts in tally.maps.counts],
        },
        "sky_map": {"order": report.scored.plan.shape.sky_order, "num_placed": int(tally.sky.counts.sum())},
        "clusters": _clusters(report),
        "tail_probability": summarize_tails(tally.tails),
        "anomalies": {
            "num": num_listed,
            "worst_objid": json_id(anomalies["objid"][0]) if num_listed else None,
            "least_error_mag": float(anomalies["reconstruction_error"].min()) if num_listed else None,
            "least_score": float(anomalies["anomaly_score"][-1]) if num_listed else None,
        },
    }


def _clusters(report: Report) -> list[dict[str, Any]]:
    """The clusters of the first map: stars and means of each."""
    layers = [one for one in map_layers(report.survey, report.scored, 0) if one.scale != "category"]
    counts = pooled(report.scored.tally.maps.counts[0], MEAN_CELLS)
    return summarize_clusters(report.scored.plan.clusters, counts, {one.name: one.values for one in layers})


def _notes(report: Report) -> list[str]:
    """What a reader would otherwise miss."""
    errors = report.scored.tally.errors
    notes = [] if errors.error.num else ["no usable stars: every number is null"]
    if "reconstruction" not in report.survey.encoding.columns:
        notes.append("bands is null: the encoding has no reconstruction (encode.reconstruction: false)")
    if not report.history:
        notes.append("loss_curve.png is left out: no metrics of the training were found")
    if lost := errors.num_good - errors.error.num:
        notes.append(
            f"{lost} good stars have an error, latent or reconstruction that is not finite; they enter no statistic"
        )
    if len(errors.latent.mean) > MAX_SHOWN:
        notes.append(f"latent_density.png shows the first {MAX_SHOWN} latent dimensions")
    if len(errors.latent.mean) > 2:
        dims = " and ".join(str(dim + 1) for dim in shown_pairs(report.scored.plan.shape.num_shown)[0])
        notes.append(f"clusters and locus are those of the plane of latent {dims}")
    if report.scored.facts.num_stars < errors.error.num:
        notes.append(
            f"scores, clusters and locus are fitted to a sample of {report.scored.facts.num_stars:,} stars; "
            "every star is scored and counted"
        )
    return notes


def _read_history(path: Path | None) -> History:
    """{metric: (steps, values)} of metrics.jsonl; lines cut short, absent and null values are passed over."""
    if path is None or not path.is_file():
        return {}
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in _METRICS}
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            for name in _METRICS if isinstance(record, dict) else ():
                pair = (record.get("step"), record.get(name))
                if all(isinstance(value, int | float) and np.isfinite(value) for value in pair):
                    points[name].append(pair)
    arrays = {name: np.array(values, np.float64).T for name, values in points.items() if values}
    return {name: (steps, values) for name, (steps, values) in arrays.items()}


def _read_speeds(directory: Path | None) -> list[dict[str, Any]]:
    """What the stages before have said of their work: records with what, total, unit, rate and seconds."""
    found = []
    for name in ("simulate", "ingest", "train", "encode") if directory else ():
        path = Path(directory or "") / f"{name}.json"
        if path.is_file():
            record = read_json(path)
            if all(isinstance(record.get(key), int | float) for key in ("done", "rate", "seconds")):
                found.append(record)
    return found
