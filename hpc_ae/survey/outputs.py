"""The files of a report, as bytes, from a scored survey.

Shape letters: N stars, B bands, L latent dimensions, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from hpc_ae.analysis.anomaly_reasons import reasons
from hpc_ae.analysis.histogram import MAGNITUDE_BINS, RESIDUAL_BINS, LinearBins
from hpc_ae.analysis.locus import cells_on_ridge
from hpc_ae.analysis.maps import MEAN_CELLS, pooled, shown_pairs
from hpc_ae.analysis.summary import anomaly_columns, table_csv
from hpc_ae.catalog.shard import Arrays
from hpc_ae.layout import (
    ANOMALIES_NAME,
    COMPARE_TABLE_NAME,
    DENSITY_FIGURE_NAME,
    ERROR_FIGURE_NAME,
    LATENT_MAP_NAME,
    LOCUS_NAME,
    LOSS_FIGURE_NAME,
    PAGE_NAME,
    SKY_MAP_NAME,
)
from hpc_ae.report.data import EXPLORE_URL, Fact, Table
from hpc_ae.report.rows import explore_link
from hpc_ae.runtime.executor import Mapper
from hpc_ae.survey.page import History, Shown, fill_page, map_layers
from hpc_ae.survey.pairs import Survey
from hpc_ae.survey.scores import ScoredSurvey
from hpc_ae.survey.strangest import nearest_normal
from hpc_ae.survey.tables import model_tables

_MOST_RAW = 20  # raw files that the page names
_FINER = (512, 1024)  # counts are shown at these numbers of cells too


@dataclass(frozen=True)
class Report:
    """What a report is made from. `curves`: quantiles of |residual| (B, magnitude bins, Q); `history`: the training."""

    survey: Survey
    scored: ScoredSurvey
    anomalies: Arrays
    curves: np.ndarray
    history: History


def make_files(
    mapper: Mapper, report: Report, summary: dict[str, Any], more: tuple[dict[str, Any] | None, list[dict[str, Any]]]
) -> dict[str, bytes]:
    """Every file of the report but its summary, by name. `more`: a comparison, and the speeds of the stages before."""
    survey, scored = report.survey, report.scored
    has_some = len(report.anomalies.get("row", ())) > 0
    neighbours = nearest_normal(report.anomalies, scored.facts.normal) if has_some else np.empty(0, np.int64)
    words = reasons(scored.plan.scorer, report.anomalies, survey.stars.bands) if has_some else []
    shown = Shown(survey, scored, report.curves, report.anomalies, words, neighbours)
    about = _about(report, summary, *more)
    tasks: list[Callable[[], dict[str, bytes]]] = [
        partial(_draw_errors, report),
        partial(_render, shown, report.history, about | model_tables(survey, scored.facts.drawn)),
        partial(_draw_density, report),
        partial(_maps, survey, scored),
        partial(_draw_losses, report.history),
    ]
    files = {ANOMALIES_NAME: _anomalies_csv(shown), LOCUS_NAME: _locus_csv(survey, scored)}
    for made in mapper.map(_do, tasks):
        files |= made
    return files


def _do(task: Callable[[], dict[str, bytes]]) -> dict[str, bytes]:
    return task()


def _render(shown: Shown, history: History, about: dict[str, Any]) -> dict[str, bytes]:
    from hpc_ae.report.page import render_page

    return {PAGE_NAME: render_page(fill_page(shown, history, about))}


def _anomalies_csv(shown: Shown) -> bytes:
    """anomalies.csv: what is known of each star, why it is strange, its page on SkyServer, the nearest normal star."""
    found, bands = shown.anomalies, shown.survey.stars.bands
    columns = anomaly_columns(found, bands, shown.survey.encoding.columns)
    num = len(columns["rank"])
    columns["reasons"] = list(shown.reasons) or [""] * num
    places = zip(found.get("ra", ()), found.get("dec", ()), strict=True)
    columns["explore"] = [explore_link(EXPLORE_URL, float(ra), float(dec)) for ra, dec in places]
    normal, nearest = shown.scored.facts.normal, shown.neighbours
    for name in ("objid", "ra", "dec"):
        columns[f"normal_{name}"] = normal[name][nearest] if len(nearest) else [None] * num
    return table_csv(columns)


def _locus_csv(survey: Survey, scored: ScoredSurvey) -> bytes:
    """locus.csv: along the ridge its place, the survey's stars near it and their means, the sample's colours."""
    points, plan = scored.plan.ridge.points, scored.plan
    num_dims = points.shape[1]
    columns: dict[str, Any] = {"position": plan.ridge.position}
    columns |= {f"latent_{dim + 1}": values for dim, values in enumerate(plan.ridge_latents().T)}
    counts = pooled(scored.tally.maps.counts[0], MEAN_CELLS)
    near = cells_on_ridge(plan.ridge, counts.shape)
    inside = (near >= 0) & (counts.ravel() > 0)
    stars = np.bincount(near[inside], counts.ravel()[inside], len(points))
    columns["num_stars"] = stars.astype(np.int64)
    for layer in map_layers(survey, scored, 0):
        if layer.scale != "category" and num_dims:
            weights = np.nan_to_num(layer.values.ravel()[inside]) * counts.ravel()[inside]
            with np.errstate(invalid="ignore"):
                columns[f"mean_{layer.name}"] = np.bincount(near[inside], weights, len(points)) / stars
    for index, colour in enumerate(survey.colours if scored.facts.locus else []):
        for level, name in enumerate(("p16", "median", "p84")):
            columns[f"{name}_{colour}"] = scored.facts.locus["quantiles"][level, index]
    return table_csv(columns)


def _draw_errors(report: Report) -> dict[str, bytes]:
    from hpc_ae.report import figures

    against = figures.MagnitudePanels(
        bands=report.survey.encoding.bands,
        magnitude_edges=MAGNITUDE_BINS.edges(),
        size_edges=RESIDUAL_BINS.edges(),
        counts=report.scored.tally.residuals.grids,
        curves=report.curves,
        label="|residual|" if "reconstruction" in report.survey.encoding.columns else "reconstruction error",
    )
    return {ERROR_FIGURE_NAME: figures.draw_error_vs_magnitude(against)}


def _draw_density(report: Report) -> dict[str, bytes]:
    from hpc_ae.report import figures

    edges = [LinearBins(low, high, MEAN_CELLS).edges() for low, high in report.scored.plan.windows.tolist()]
    grids = [pooled(counts, MEAN_CELLS) for counts in report.scored.tally.maps.counts]
    return {DENSITY_FIGURE_NAME: figures.draw_latent_density(grids, edges)}


def _draw_losses(history: History) -> dict[str, bytes]:
    if not history:
        return {}
    from hpc_ae.report import figures

    return {LOSS_FIGURE_NAME: figures.draw_loss_curve(history)}


def _maps(survey: Survey, scored: ScoredSurvey) -> dict[str, bytes]:
    """sky_map.fits and latent_map.fits.gz."""
    from hpc_ae.report.fits_maps import latent_map_fits, sky_map_fits

    means = scored.tally.sky.means()
    columns = {"COUNT": (scored.tally.sky.counts.astype(np.int32), ""), "ERROR": (means[0], "mag")}
    columns |= {f"LATENT_{dim}": (values, "") for dim, values in enumerate(means[1:], 1)}
    maps = []
    for index, dims in enumerate(shown_pairs(scored.plan.shape.num_shown)):
        counts = scored.tally.maps.counts[index]
        layers: dict[str, Any] = {
            f"COUNT_{cells}": (pooled(counts, cells).astype(np.int32), "") for cells in (MEAN_CELLS, *_FINER)
        }
        for layer in map_layers(survey, scored, index):
            layers[f"MEAN_{layer.name}".upper()] = (layer.values.astype(np.float32), layer.unit)
        axes = [f"LATENT_{dim + 1}" for dim in dims]
        maps.append((axes, scored.plan.windows[list(dims)].tolist(), layers))
    return {
        SKY_MAP_NAME: sky_map_fits(scored.plan.shape.sky_order, columns),
        LATENT_MAP_NAME: latent_map_fits(maps),
    }


def _about(
    report: Report, summary: dict[str, Any], compared: dict[str, Any] | None, speeds: list[dict[str, Any]]
) -> dict[str, Any]:
    """What the page says in words and tables."""
    import yaml

    encoding = report.survey.encoding
    config = (encoding.manifest.get("provenance") or {}).get("config") or {}
    error, num = summary["error"], summary["anomalies"]["num"]
    headline = [("stars", f"{encoding.num_stars:,}"), ("good", f"{summary['num_good']:,}")]
    if error["mean"] is not None:
        headline.append(("median error", f"{error['quantiles']['0.5']:.4f} mag"))
    headline += [("clusters", str(len(summary["clusters"]))), ("anomalies listed", f"{num:,}")]
    return {
        "title": f"{encoding.num_stars:,} stars in {report.survey.num_latent} latent dimensions",
        "summary": tuple(_sentences(summary)),
        "headline": tuple(headline),
        "provenance": tuple(_facts(report.survey)),
        "config_text": yaml.safe_dump(config, sort_keys=False) if config else "",
        "clusters": _cluster_table(summary["clusters"]),
        "comparison": _comparison_table(compared),
        "throughput": throughput_table(speeds),
        "notes": tuple(summary["notes"]),
    }


def _sentences(summary: dict[str, Any]) -> list[str]:
    """The result in words."""
    if summary["error"]["mean"] is None:
        return ["There is no usable star."]
    quantile = summary["error"]["quantiles"]
    text = f"Half of the stars are reconstructed to {quantile['0.5']:.3f} mag, 99 % to {quantile['0.99']:.3f} mag."
    found = [text]
    if num := summary["anomalies"]["num"]:
        found.append(f"The {num:,} strangest are listed; scores/ has the score of every star.")
    if clusters := summary["clusters"]:
        share = clusters[0]["num_stars"] / max(1, summary["num_good"])
        found.append(
            f"The density of the latent plane has {len(clusters)} clumps, the largest with {share:.1%} of the stars."
        )
    return found


def _facts(survey: Survey) -> list[Fact]:
    stars, encoding = survey.stars.manifest, survey.encoding.manifest
    facts = [Fact("star catalog", survey.stars.digest, "Inputs")]
    raw = (stars.get("inputs") or {}).get("raw") or []
    facts += [Fact("raw file", f"{entry.get('name')}, {entry.get('digest')}", "Inputs") for entry in raw[:_MOST_RAW]]
    if len(raw) > _MOST_RAW:
        facts.append(Fact("raw files", f"{len(raw):,} in all; the star catalog's manifest has every one", "Inputs"))
    facts.append(Fact("encoding", survey.encoding.digest, "Inputs"))
    facts.append(Fact("model", str(encoding["inputs"].get("model", {}).get("digest")), "Inputs"))
    for what, manifest in (("star catalog", stars), ("encoding", encoding)):
        made = manifest.get("provenance") or {}
        keys = [key for key in ("package", "git_commit", "time", "command") if made.get(key)]
        facts += [Fact(f"{what}: {key}", str(made[key]), "Making") for key in keys]
    if encoding.get("compute"):
        facts.append(Fact("arithmetic of the encoding", str(encoding["compute"]), "Making"))
    return facts


def _cluster_table(clusters: list[dict[str, Any]]) -> Table | None:
    if not clusters:
        return None
    columns = tuple(clusters[0])
    rows = tuple(tuple(one[name] for name in columns) for one in clusters)
    return Table(
        tuple(name.replace("num_stars", "stars") for name in columns),
        rows,
        "Clumps of the density in the latent plane, and the means of their stars",
    )


def _comparison_table(compared: dict[str, Any] | None) -> Table | None:
    if compared is None:
        return None
    rows = [(name.replace("_", " "), value) for name, value in compared.items() if isinstance(value, int | float)]
    return Table(("quantity", "value"), tuple(rows), f"{COMPARE_TABLE_NAME} has the stars that moved most")


def throughput_table(speeds: list[dict[str, Any]]) -> Table | None:
    """Stars, seconds and rate of each stage: of one that was resumed, what its last process did; None without any."""
    done = [one["done"] - one.get("first", 0) for one in speeds]
    rows = tuple(
        (str(one.get("what")), num, one["seconds"], one["rate"]) for num, one in zip(done, speeds, strict=True) if num
    )
    return Table(("stage", "stars", "seconds", "stars/s"), rows, "As each stage measured itself") if rows else None
