"""What the report's page says in words and tables: the result, where it came from, clusters, comparison, speed."""

from __future__ import annotations

from collections.abc import Sequence

from hpc_ae.analysis.summary import ClusterSummary
from hpc_ae.catalog.records import EncodingManifest
from hpc_ae.layout import COMPARE_TABLE_NAME
from hpc_ae.model.weights import ModelRecord, held_out_words
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
    headline = [("stars", f"{encoding.num_stars:,}")]
    if summary.num_with_latent is None:
        headline.append(("good", f"{summary.num_good:,}"))
    else:
        headline.append(("with a latent", f"{summary.num_with_latent:,}"))
        headline.append(("with all bands", f"{summary.num_good:,}"))
    if error.mean is not None:
        headline.append(("median error", f"{error.quantile(0.5):.4f} mag"))
    tables = model_tables(survey, report.scored.facts.drawn)
    held_out = tables.record.held_out_error if tables.record else None
    if held_out is not None:
        headline.append(("held-out error, rms", f"{held_out:.4f} mag"))
    headline += [("clusters", str(len(summary.clusters))), ("anomalies listed", f"{summary.anomalies.num:,}")]
    return ReportData(
        title=_title(survey),
        bands=tuple(survey.stars.bands),
        summary=tuple(_sentences(summary, tables.record, report.comparison)),
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


def _title(survey: Survey) -> str:
    """Run, number of stars, catalog: what tells one page from another in a row of tabs."""
    raw = survey.stars.manifest.inputs.raw or ()
    of = raw[0].name if raw else survey.stars.directory.resolve().name
    more = f" and {len(raw) - 1:,} more" if len(raw) > 1 else ""
    run = survey.encoding.directory.resolve().parent.name
    latents = f"{survey.num_latent} latent dimension{'s' if survey.num_latent > 1 else ''}"
    return f"{run}: {survey.encoding.num_stars:,} stars of {of}{more} in {latents}"


def _sentences(summary: Summary, model: ModelRecord | None, compared: Comparison | None) -> list[str]:
    """The result in words."""
    error = summary.error
    if error.mean is None:
        return ["There is no usable star."]
    half, most = (f"{error.quantile(level):.3f} mag" for level in (0.5, 0.99))
    found = [f"Half of the stars are reconstructed to {half}, 99 % to {most}."]
    if model and (quality := held_out_words(model)):
        found.append(f"{quality[:1].upper()}{quality[1:]}.")
    if num := summary.anomalies.num:
        found.append(f"The {num:,} strangest are listed; scores/ has the score of every star.")
    if clusters := summary.clusters:
        share = clusters[0].num_stars / max(1, summary.num_with_latent or summary.num_good)
        found.append(
            f"The density of the latent plane has {len(clusters)} clusters, the largest with {share:.1%} of the stars."
            if len(clusters) > 1
            else f"The density of the latent plane has one cluster, with {share:.1%} of the stars."
        )
    return found + ([_comparison_words(compared)] if compared else [])


def _comparison_words(found: Comparison) -> str:
    """What a comparison says: how alike the two latent spaces are, and what of it is more than a turn."""
    alike = 1.0 - found.procrustes_disparity
    words = f"Beside the other run, of {found.num_matched:,} stars in common: turned, scaled and shifted, its latents"
    words += f" have {alike:.1%} of the variance of these in common, by any linear map {found.linear_r_squared:.1%}"
    if found.neighbour_overlap is not None:
        words += (
            f"; of a star's {found.num_neighbours} nearest neighbours {found.neighbour_overlap:.0%} are the same"
            f" (by chance {found.neighbour_overlap_by_chance or 0:.1%})"
        )
    return words + "."


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
        "Clusters: peaks of the density in the latent plane, and the means of their stars",
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
