"""summary.json: a survey in numbers, what a reader should know of them, and what the report's files are made from."""

from __future__ import annotations

import itertools
from typing import ClassVar

import hpc_ae
from hpc_ae.analysis.maps import MAX_SHOWN, MEAN_CELLS, pooled, shown_pairs
from hpc_ae.analysis.summary import (
    BandSummary,
    ClusterSummary,
    ErrorSummary,
    Spread,
    SquaredErrorSummary,
    TailSummary,
    json_id,
    summarize_bands,
    summarize_clusters,
)
from hpc_ae.catalog.records import EncodingManifest
from hpc_ae.layout import DENSITY_FIGURE_NAME, LOSS_FIGURE_NAME
from hpc_ae.provenance import Fingerprint
from hpc_ae.record import Record
from hpc_ae.survey.page import Report, map_layers

SUMMARY_FORMAT = "hpc_ae/summary"
SUMMARY_VERSION = 1


class LatentMapSummary(Record):
    """The maps of the latent space: their windows, one per dimension shown, which dimensions each map has (counted
    from 1), and how many stars lie outside of it.
    """

    windows: list[tuple[float, float]]
    panels: list[list[int]]
    num_outside: list[int]


class SkyMapSummary(Record):
    """The HEALPix order of the map of the sky, and the stars on it."""

    order: int
    num_placed: int


class AnomalySummary(Record):
    """How many anomalies are listed, the strangest of them, and the least error and score among them."""

    nulls: ClassVar[frozenset[str]] = frozenset({"worst_objid", "least_error_mag", "least_score"})
    num: int
    worst_objid: int | str | None = None
    least_error_mag: float | None = None
    least_score: float | None = None


class Summary(Record):
    """What summary.json holds. `files`: digests of the report's other files; `inputs`: of what it was made from."""

    nulls: ClassVar[frozenset[str]] = frozenset({"bands"})
    format_version: ClassVar[int | None] = SUMMARY_VERSION

    format: str = SUMMARY_FORMAT
    version: int = SUMMARY_VERSION
    package: str = f"hpc_ae {hpc_ae.__version__}"
    num_stars: int
    num_good: int
    num_with_latent: int | None = None  # where stars may lack bands; the rest are excluded
    num_excluded: int
    num_not_finite: int
    flags: dict[str, int]
    error: ErrorSummary
    squared_error: SquaredErrorSummary
    bands: dict[str, BandSummary] | None
    latent: list[Spread]
    latent_map: LatentMapSummary
    sky_map: SkyMapSummary
    clusters: list[ClusterSummary]
    tail_probability: TailSummary
    anomalies: AnomalySummary
    notes: list[str]
    files: dict[str, str]
    inputs: dict[str, str]
    fingerprint: Fingerprint

    def with_files(self, digests: dict[str, str]) -> Summary:
        """The same once the other files are made."""
        return self.model_copy(update={"files": digests})


def summarize(report: Report, inputs: dict[str, str], fingerprint: Fingerprint) -> Summary:
    """The summary of a report whose files are still to be made."""
    survey, scored, tally = report.survey, report.scored, report.scored.tally
    encoding, errors = survey.encoding, tally.errors
    num_usable = errors.error.num
    pairs = itertools.combinations(range(1, len(scored.plan.windows) + 1), 2)
    return Summary(
        num_stars=encoding.num_stars,
        num_good=errors.num_good,
        num_with_latent=num_usable if survey.has_gaps else None,
        num_excluded=encoding.num_stars - (num_usable if survey.has_gaps else errors.num_good),
        num_not_finite=0 if survey.has_gaps else errors.num_good - num_usable,
        flags=encoding.manifest_as(EncodingManifest).flags,
        error=ErrorSummary.of(errors),
        squared_error=SquaredErrorSummary.of(errors),
        bands=summarize_bands(encoding.bands, tally.residuals, num_usable) if survey.has_reconstruction else None,
        latent=Spread.of(errors.latent),
        latent_map=LatentMapSummary(
            windows=[(low, high) for low, high in scored.plan.windows.tolist()],
            panels=[list(pair) for pair in pairs] or [[1]],
            num_outside=[num_usable - int(counts.sum()) for counts in tally.maps.counts],
        ),
        sky_map=SkyMapSummary(order=scored.plan.shape.sky_order, num_placed=int(tally.sky.counts.sum())),
        clusters=_clusters(report),
        tail_probability=TailSummary.of(tally.tails),
        anomalies=_anomalies(report),
        notes=_notes(report),
        files={},
        inputs=inputs,
        fingerprint=fingerprint,
    )


def _clusters(report: Report) -> list[ClusterSummary]:
    """The clusters of the first map: stars and means of each."""
    layers = [one for one in map_layers(report.survey, report.scored, 0) if one.scale != "category"]
    counts = pooled(report.scored.tally.maps.counts[0], MEAN_CELLS)
    return summarize_clusters(report.scored.plan.clusters, counts, {one.name: one.values for one in layers})


def _anomalies(report: Report) -> AnomalySummary:
    found = report.anomalies
    num = len(found.get("row", ()))
    if not num:
        return AnomalySummary(num=0)
    return AnomalySummary(
        num=num,
        worst_objid=json_id(found["objid"][0]),
        least_error_mag=float(found["reconstruction_error"].min()),
        least_score=float(found["anomaly_score"][-1]),
    )


def _notes(report: Report) -> list[str]:
    """What a reader would otherwise miss."""
    errors = report.scored.tally.errors
    notes = [] if errors.error.num else ["no usable stars: every number is null"]
    if not report.survey.has_reconstruction:
        notes.append("bands is null: the encoding has no reconstruction (encode.reconstruction: false)")
    if report.history.is_empty:
        notes.append(f"{LOSS_FIGURE_NAME} is left out: no metrics of the training were found")
    if report.survey.has_gaps:
        notes.append(
            "stars that lack bands are counted too; maps of their magnitudes and colours have the model's in the gaps"
        )
    elif lost := errors.num_good - errors.error.num:
        notes.append(
            f"{lost} good stars have an error, latent or reconstruction that is not finite; "
            "they are left out of all statistics"
        )
    if len(errors.latent.mean) > MAX_SHOWN:
        notes.append(f"{DENSITY_FIGURE_NAME} shows the first {MAX_SHOWN} latent dimensions")
    if len(errors.latent.mean) > 2:
        dims = " and ".join(str(dim + 1) for dim in shown_pairs(report.scored.plan.shape.num_shown)[0])
        notes.append(f"clusters and locus are those of the plane of latent {dims}")
    if report.scored.facts.num_stars < errors.error.num:
        notes.append(
            f"scores, clusters and locus are fitted to a sample of {report.scored.facts.num_stars:,} stars; "
            "every star is scored and counted"
        )
    return notes
