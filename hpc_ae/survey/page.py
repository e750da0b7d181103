"""From a scored survey to what the report's page shows.

Shape letters: N stars, B bands, L latent dimensions, K cells along a side, R points of the ridge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hpc_ae.analysis.histogram import MAGNITUDE_BINS
from hpc_ae.analysis.maps import MEAN_CELLS, pooled, shown_pairs
from hpc_ae.analysis.summary import TailSummary
from hpc_ae.analysis.tally import BRIGHT_MAG
from hpc_ae.catalog.shard import Arrays
from hpc_ae.report import data as page
from hpc_ae.runtime.progress import ProgressRecord
from hpc_ae.survey.compare import Comparison
from hpc_ae.survey.facts import PULL_EDGES
from hpc_ae.survey.pairs import Survey
from hpc_ae.survey.scores import ScoredSurvey

CURVE_LEVELS = (0.025, 0.16, 0.5, 0.84, 0.975)


@dataclass(frozen=True)
class Report:
    """What a report is made from. `curves`: quantiles of |residual| (B, magnitude bins, Q); `history`: the training;
    `comparison` with another encoding, where there is one; `speeds`: how the stages before measured themselves.
    """

    survey: Survey
    scored: ScoredSurvey
    anomalies: Arrays
    curves: np.ndarray
    history: page.History
    comparison: Comparison | None
    speeds: Sequence[ProgressRecord]


@dataclass(frozen=True)
class MapLayer:
    """Means per cell of a map, (K,) or (K, K), NaN where there is no star."""

    name: str
    label: str
    unit: str
    values: np.ndarray
    scale: str = "linear"


@dataclass(frozen=True)
class Shown:
    """All that the page is made from. `curves`: residuals (B, M, Q); `anomalies` with reasons and neighbours."""

    survey: Survey
    scored: ScoredSurvey
    curves: np.ndarray
    anomalies: Arrays
    reasons: Sequence[str]
    neighbours: np.ndarray


def map_layers(survey: Survey, scored: ScoredSurvey, index: int) -> list[MapLayer]:
    """Mean error, magnitude, colours, score, redshift of each cell of map `index`, and its cluster on the first map."""
    bands, means = survey.stars.bands, scored.tally.maps.means(index)
    num = len(bands)
    brightness = survey.reference_band
    layers = [MapLayer("error", "mean reconstruction error", "mag", means[num], "log")]
    layers.append(MapLayer(bands[brightness], f"mean {bands[brightness]}", "mag", means[brightness]))
    layers += [
        MapLayer(name, f"mean {name.replace('-', ' − ')}", "mag", means[band] - means[band + 1])
        for band, name in enumerate(survey.colours)
    ]
    layers.append(MapLayer("score", "mean anomaly score", "", means[num + 1]))
    if scored.plan.shape.has_gaps:
        layers.append(MapLayer("bands", "mean number of measured bands", "", means[num + 2]))
    if scored.plan.shape.has_redshift:
        layers.append(MapLayer("redshift", "mean redshift", "", means[-1]))
    if index == 0:
        clusters = scored.plan.clusters.astype(np.float32)
        clusters[clusters < 0] = np.nan
        layers.append(MapLayer("cluster", "cluster", "", clusters, "category"))
    return layers


def fill_page(shown: Shown, history: page.History, words: page.ReportData) -> page.ReportData:
    """The page's data: `words` (title, sentences, facts, config, tables) and, from the survey, numbers and arrays."""
    survey, scored = shown.survey, shown.scored
    tally, facts = scored.tally, scored.facts
    flat = scored.plan.shape.num_shown == 1
    return replace(
        words,
        explore_url=survey.explore_url,
        num_stars=survey.encoding.num_stars,
        num_good=tally.errors.num_good,
        num_latent=survey.num_latent,
        training=_training(history),
        atlas=() if flat else tuple(_panels(survey, scored)),
        latent_histogram=_histogram(scored) if flat else None,
        sample=_sample(facts.shown),
        sky=_sky(scored) if tally.sky.counts.any() else None,
        residuals=_residuals(shown) if tally.errors.error.num else None,
        pulls=page.Pulls(tuple(survey.stars.bands), PULL_EDGES, facts.pulls) if facts.pulls.any() else None,
        calibration=_calibration(tally.tails, survey.stars.bands[survey.reference_band]),
        locus=_locus(survey, scored),
        anomalies=_anomalies(shown),
        kinds=_kinds(facts.kinds),
    )


def _kinds(found: Arrays) -> tuple[page.StrangeKind, ...]:
    stars = (
        [
            tuple((str(objid), float(ra), float(dec)) for objid, ra, dec in zip(*columns, strict=True))[:num]
            for num, *columns in zip(
                *(found[name].tolist() for name in ("num_shown", "objid", "ra", "dec")), strict=True
            )
        ]
        if found
        else []
    )
    return tuple(
        page.StrangeKind(
            str(found["label"][one]),
            int(found["num"][one]),
            float(found["share"][one]),
            found["magnitude"][one],
            found["excess"][one],
            some,
        )
        for one, some in enumerate(stars)
    )


def _training(history: page.History) -> page.TrainingCurve | None:
    if history.train is None:
        return None
    validation = history.validation or page.Curve(np.empty(0), np.empty(0))
    return page.TrainingCurve(history.train.steps, history.train.values, validation.steps, validation.values)


def _panels(survey: Survey, scored: ScoredSurvey) -> list[page.AtlasPanel]:
    panels = []
    for index, dims in enumerate(shown_pairs(scored.plan.shape.num_shown)):
        counts = scored.tally.maps.counts[index]
        layers = [
            page.AtlasLayer(one.name, one.label, one.unit, one.values.astype(np.float32), one.scale)
            for one in map_layers(survey, scored, index)
        ]
        window = [(float(low), float(high)) for low, high in scored.plan.windows[list(dims)]]
        num_outside = scored.tally.errors.error.num - int(counts.sum())
        panels.append(
            page.AtlasPanel(
                (dims[0], dims[1]), (window[0], window[1]), counts.astype(np.uint32), tuple(layers), num_outside
            )
        )
    return panels


def _histogram(scored: ScoredSurvey) -> page.LatentHistogram:
    low, high = scored.plan.windows[0]
    counts = pooled(scored.tally.maps.counts[0], MEAN_CELLS)
    return page.LatentHistogram(np.linspace(low, high, MEAN_CELLS + 1), counts)


def _sample(stars: Arrays) -> page.StarSample | None:
    if not stars:
        return None
    names = ("objid", "latent", "ra", "dec", "magnitude")
    columns = {name: stars[name] for name in names}
    return page.StarSample(**columns, error=stars["reconstruction_error"], score=stars["anomaly_score"])


def _sky(scored: ScoredSurvey) -> page.SkyMap:
    counts, means = scored.tally.sky.counts, scored.tally.sky.means()
    stars = np.where(counts > 0, counts, np.nan)
    layers = [page.SkyLayer("count", "stars per pixel", "", stars, "log")]
    layers.append(page.SkyLayer("error", "mean reconstruction error", "mag", means[0]))
    layers += [
        page.SkyLayer(f"latent {dim}", f"mean latent {dim}", "", values) for dim, values in enumerate(means[1:], 1)
    ]
    return page.SkyMap(scored.plan.shape.sky_order, tuple(layers))


def _residuals(shown: Shown) -> page.Residuals:
    edges = MAGNITUDE_BINS.edges()
    return page.Residuals(
        bands=tuple(shown.survey.stars.bands),
        magnitude=0.5 * (edges[1:] + edges[:-1]),
        levels=CURVE_LEVELS,
        curves=shown.curves,
        label="|magnitude − reconstruction|" if shown.survey.has_reconstruction else "reconstruction error",
        log=True,
    )


def _calibration(tails: np.ndarray, band: str) -> page.Calibration | None:
    found = TailSummary.of(tails)
    if not found.stated:
        return None
    curves = [("all", np.array(found.all))]
    curves += [(f"{band} < {BRIGHT_MAG:g}", np.array(found.bright))] if found.bright else []
    return page.Calibration(np.array(found.stated), tuple(curves))


def _locus(survey: Survey, scored: ScoredSurvey) -> page.Locus | None:
    locus = scored.facts.locus
    if not locus or len(survey.stars.bands) < 2:
        return None
    low, median, high = locus["quantiles"]
    ridge = scored.plan.ridge_latents()
    latent = np.full((len(ridge), survey.num_latent), np.nan)
    latent[:, : ridge.shape[1]] = ridge
    return page.Locus(
        position=scored.plan.ridge.position,
        colours=tuple(survey.colours),
        median=median,
        low=low,
        high=high,
        latent=latent,
    )


def _anomalies(shown: Shown) -> page.Anomalies | None:
    found = shown.anomalies
    if not found:
        return None
    normal, nearest = shown.scored.facts.normal, shown.neighbours
    has_model = "reconstruction" in found
    return page.Anomalies(
        objid=tuple(str(value) for value in found["objid"]),
        ra=found["ra"],
        dec=found["dec"],
        magnitude=found["magnitude"],
        score=found["anomaly_score"],
        residual=found["magnitude"] - found["reconstruction"] if has_model else None,
        error=found["reconstruction_error"],
        chi2=found.get("chi2"),
        tail_probability=found["tail_probability"],
        latent=found["latent"],
        reason=tuple(shown.reasons),
        neighbour=tuple(str(value) for value in normal["objid"][nearest]) if len(nearest) else (),
        neighbour_position=np.stack([normal["ra"], normal["dec"]], 1)[nearest] if len(nearest) else None,
    )
