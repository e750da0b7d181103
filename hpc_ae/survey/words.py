"""What the report's page says in words and tables: the result, where it came from, clusters, comparison, speed."""

from __future__ import annotations

from collections.abc import Sequence

from hpc_ae.analysis.summary import ClusterSummary
from hpc_ae.catalog.records import EncodingManifest
from hpc_ae.layout import COMPARE_TABLE_NAME
from hpc_ae.report.data import Fact, ReportData, Table
from hpc_ae.runtime.progress import ProgressRecord
from hpc_ae.survey.compare import Comparison
from hpc_ae.survey.page import Report
from hpc_ae.survey.pairs import Survey
from hpc_ae.survey.summary import Summary
from hpc_ae.survey.tables import model_tables

_MOST_RAW = 20  # raw files that the page names


def make_words(report: Report, summary: Summary) -> ReportData:
    """The page as far as it is words and tables."""
    import yaml

    survey, error = report.survey, summary.error
    encoding = survey.encoding
    config = encoding.manifest.provenance.config
    headline = [("stars", f"{encoding.num_stars:,}"), ("good", f"{summary.num_good:,}")]
    if error.mean is not None:
        headline.append(("median error", f"{error.quantile(0.5):.4f} mag"))
    headline += [("clusters", str(len(summary.clusters))), ("anomalies listed", f"{summary.anomalies.num:,}")]
    tables = model_tables(survey, report.scored.facts.drawn)
    return ReportData(
        title=f"{encoding.num_stars:,} stars in {survey.num_latent} latent dimensions",
        bands=tuple(survey.stars.bands),
        summary=tuple(_sentences(summary)),
        headline=tuple(headline),
        provenance=tuple(_facts(survey)),
        config_text=yaml.safe_dump(config, sort_keys=False) if config else "",
        clusters=_cluster_table(summary.clusters),
        compression=tables.compression,
        denoising=tables.denoising,
        comparison=_comparison_table(report.comparison),
        throughput=throughput_table(report.speeds),
        notes=tuple(summary.notes),
    )


def _sentences(summary: Summary) -> list[str]:
    """The result in words."""
    error = summary.error
    if error.mean is None:
        return ["There is no usable star."]
    half, most = (f"{error.quantile(level):.3f} mag" for level in (0.5, 0.99))
    found = [f"Half of the stars are reconstructed to {half}, 99 % to {most}."]
    if num := summary.anomalies.num:
        found.append(f"The {num:,} strangest are listed; scores/ has the score of every star.")
    if clusters := summary.clusters:
        share = clusters[0].num_stars / max(1, summary.num_good)
        found.append(
            f"The density of the latent plane has {len(clusters)} clumps, the largest with {share:.1%} of the stars."
        )
    return found


def _facts(survey: Survey) -> list[Fact]:
    stars, encoding = survey.stars.manifest, survey.encoding.manifest_as(EncodingManifest)
    facts = [Fact("star catalog", survey.stars.digest, "Inputs")]
    raw = stars.inputs.raw or ()
    facts += [Fact("raw file", f"{file.name}, {file.digest}", "Inputs") for file in raw[:_MOST_RAW]]
    if len(raw) > _MOST_RAW:
        facts.append(Fact("raw files", f"{len(raw):,} in all; the star catalog's manifest has every one", "Inputs"))
    facts.append(Fact("encoding", survey.encoding.digest, "Inputs"))
    facts.append(Fact("model", str(encoding.inputs.digests().get("model")), "Inputs"))
    for what, manifest in (("star catalog", stars), ("encoding", encoding)):
        facts += [Fact(f"{what}: {name}", text, "Making") for name, text in manifest.provenance.facts().items()]
    if encoding.compute:
        facts.append(Fact("arithmetic of the encoding", encoding.compute, "Making"))
    return facts


def _cluster_table(clusters: Sequence[ClusterSummary]) -> Table | None:
    if not clusters:
        return None
    return Table(
        ("cluster", "stars", *clusters[0].means),
        tuple((one.cluster, one.num_stars, *one.means.values()) for one in clusters),
        "Clumps of the density in the latent plane, and the means of their stars",
    )


def _comparison_table(compared: Comparison | None) -> Table | None:
    if compared is None:
        return None
    values = compared.to_json()
    rows = [(name.replace("_", " "), value) for name, value in values.items() if isinstance(value, int | float)]
    return Table(("quantity", "value"), tuple(rows), f"{COMPARE_TABLE_NAME} has the stars that moved most")


def throughput_table(speeds: Sequence[ProgressRecord]) -> Table | None:
    """Stars, seconds and rate of each stage: of one that was resumed, what its last process did; None without any."""
    rows = tuple((one.what, one.done - one.first, one.seconds, one.rate) for one in speeds if one.done != one.first)
    return Table(("stage", "stars", "seconds", "stars/s"), rows, "As each stage measured itself") if rows else None
