"""The files of a report, as bytes, from a scored survey.

Shape letters: N stars, B bands, L latent dimensions, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from hpc_ae.analysis.anomaly_reasons import reasons
from hpc_ae.analysis.histogram import MAGNITUDE_BINS, RESIDUAL_BINS, LinearBins
from hpc_ae.analysis.locus import cells_on_ridge
from hpc_ae.analysis.maps import MEAN_CELLS, pooled, shown_pairs
from hpc_ae.analysis.summary import CsvColumns, anomaly_columns, table_csv
from hpc_ae.layout import (
    ANOMALIES_NAME,
    DENSITY_FIGURE_NAME,
    ERROR_FIGURE_NAME,
    LATENT_MAP_NAME,
    LOCUS_NAME,
    LOSS_FIGURE_NAME,
    PAGE_NAME,
    SKY_MAP_NAME,
)
from hpc_ae.report.data import History, ReportData
from hpc_ae.report.rows import explore_link
from hpc_ae.runtime.executor import Mapper
from hpc_ae.survey.page import Report, Shown, fill_page, map_layers
from hpc_ae.survey.pairs import Survey
from hpc_ae.survey.scores import ScoredSurvey
from hpc_ae.survey.strangest import nearest_normal
from hpc_ae.survey.summary import Summary
from hpc_ae.survey.words import make_words

if TYPE_CHECKING:
    from hpc_ae.report.figures import Picture

_FINER = (512, 1024)  # counts are shown at these numbers of cells too


def make_files(mapper: Mapper, report: Report, summary: Summary) -> dict[str, bytes]:
    """Every file of the report but its summary, by name."""
    survey, scored = report.survey, report.scored
    has_some = len(report.anomalies.get("row", ())) > 0
    neighbours = nearest_normal(report.anomalies, scored.facts.normal) if has_some else np.empty(0, np.int64)
    words = reasons(scored.plan.scorer, report.anomalies, survey.stars.bands) if has_some else []
    shown = Shown(survey, scored, report.curves, report.anomalies, words, neighbours)
    page_words = make_words(report, summary)
    tasks: list[Callable[[], dict[str, bytes]]] = [
        partial(_draw_errors, report),
        partial(_render, shown, report.history, page_words),
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


def _render(shown: Shown, history: History, page_words: ReportData) -> dict[str, bytes]:
    from hpc_ae.report.page import render_page

    return {PAGE_NAME: render_page(fill_page(shown, history, page_words))}


def _anomalies_csv(shown: Shown) -> bytes:
    """anomalies.csv: what is known of each star, why it is strange, its page on SkyServer, the nearest normal star."""
    found, bands = shown.anomalies, shown.survey.stars.bands
    columns = anomaly_columns(found, bands, shown.survey.encoding.columns)
    num = len(columns["rank"])
    columns["reasons"] = list(shown.reasons) or [""] * num
    places = zip(found.get("ra", ()), found.get("dec", ()), strict=True)
    columns["explore"] = [explore_link(shown.survey.explore_url, float(ra), float(dec)) for ra, dec in places]
    normal, nearest = shown.scored.facts.normal, shown.neighbours
    for name in ("objid", "ra", "dec"):
        columns[f"normal_{name}"] = normal[name][nearest] if len(nearest) else [None] * num
    return table_csv(columns)


def _locus_csv(survey: Survey, scored: ScoredSurvey) -> bytes:
    """locus.csv: along the ridge its place, the survey's stars near it and their means, the sample's colours."""
    points, plan = scored.plan.ridge.points, scored.plan
    num_dims = points.shape[1]
    columns: CsvColumns = {"position": plan.ridge.position}
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
        label="|residual|" if report.survey.has_reconstruction else "reconstruction error",
    )
    return _as_files(ERROR_FIGURE_NAME, figures.draw_error_vs_magnitude(against))


def _draw_density(report: Report) -> dict[str, bytes]:
    from hpc_ae.report import figures

    edges = [LinearBins(low, high, MEAN_CELLS).edges() for low, high in report.scored.plan.windows.tolist()]
    grids = [pooled(counts, MEAN_CELLS) for counts in report.scored.tally.maps.counts]
    return _as_files(DENSITY_FIGURE_NAME, figures.draw_latent_density(grids, edges))


def _draw_losses(history: History) -> dict[str, bytes]:
    if history.is_empty:
        return {}
    from hpc_ae.report import figures

    return _as_files(LOSS_FIGURE_NAME, figures.draw_loss_curve(history))


def _as_files(name: str, picture: Picture) -> dict[str, bytes]:
    return {name: picture.png, f"{name.removesuffix('.png')}.pdf": picture.pdf}


def _maps(survey: Survey, scored: ScoredSurvey) -> dict[str, bytes]:
    """sky_map.fits and latent_map.fits.gz."""
    from hpc_ae.report import fits_maps

    counts, means = scored.tally.sky.counts, scored.tally.sky.means()
    columns = [fits_maps.FitsLayer("COUNT", counts.astype(np.int32)), fits_maps.FitsLayer("ERROR", means[0], "mag")]
    columns += [fits_maps.FitsLayer(f"LATENT_{dim}", values) for dim, values in enumerate(means[1:], 1)]
    maps = []
    for index, dims in enumerate(shown_pairs(scored.plan.shape.num_shown)):
        counts = scored.tally.maps.counts[index]
        layers = [
            fits_maps.FitsLayer(f"COUNT_{cells}", pooled(counts, cells).astype(np.int32))
            for cells in (MEAN_CELLS, *_FINER)
        ]
        layers += [
            fits_maps.FitsLayer(f"MEAN_{one.name}".upper(), one.values.astype(np.float32), one.unit)
            for one in map_layers(survey, scored, index)
        ]
        axes = [f"LATENT_{dim + 1}" for dim in dims]
        maps.append(fits_maps.LatentMap(axes, scored.plan.windows[list(dims)], layers))
    return {
        SKY_MAP_NAME: fits_maps.sky_map_fits(scored.plan.shape.sky_order, columns),
        LATENT_MAP_NAME: fits_maps.latent_map_fits(maps),
    }
