"""What the report shows of the sample: stars to click on, normal stars, pulls, the locus.

Shape letters: N stars, B bands, L latent dimensions, R points of the ridge, C colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_ae.analysis.anomaly_reasons import SHOWN_STARS, find_kinds
from hpc_ae.analysis.locus import colours_of, locus_quantiles
from hpc_ae.analysis.maps import MEAN_CELLS, coarse_indices, fine_indices, plane_cells, shown_pairs
from hpc_ae.catalog.shard import Arrays
from hpc_ae.report.data import MAX_SAMPLE
from hpc_ae.survey.pairs import Survey
from hpc_ae.survey.plan import SurveyPlan

PULL_EDGES = np.linspace(-6.0, 6.0, 97)
MOST_SHOWN = 20_000  # of more stars than the page can hold
MOST_NORMAL = 100_000
_NORMAL_TAIL = 0.1  # nine of ten stars are normal
_LOCUS_STARS = 200_000
MOST_DRAWN = 20_000
_DRAWN = ("magnitude", "magnitude_error", "latent", "reconstruction")
_KIND_STARS = 300_000
_OF_KINDS = ("objid", "ra", "dec", "magnitude", "filled", "tail_probability")
_NOT_SHOWN = ("quality", "caution", "filled")
_CELLS = 128  # along a side, of which each gives some stars to click on


@dataclass
class SampleFacts:
    """`shown`: columns of stars that cover the latent plane. `normal`: row, objid, ra, dec and latent of stars that are
    not strange. `pulls`: counts (B, bins) of residual / error in PULL_EDGES. `locus`: colours along the ridge:
    `quantiles` (3, C, R) at 16, 50, 84 %, `num_stars` (R,). These two are empty where they cannot be known. `drawn`:
    columns of stars drawn by chance. `kinds`: of the kinds of strange stars `label`, `num`, `share`, `magnitude` and
    `excess` (kinds, B), and `objid`, `ra`, `dec` (kinds, K) of the strangest of each, of which there are `num_shown`.
    """

    num_stars: int
    shown: Arrays
    normal: Arrays
    pulls: np.ndarray
    locus: Arrays
    drawn: Arrays
    kinds: Arrays

    @classmethod
    def none(cls) -> SampleFacts:
        """Facts of nothing, to unpack into."""
        return cls(0, {}, {}, np.empty((0, 0)), {}, {}, {})


def gather_facts(survey: Survey, plan: SurveyPlan, sample: Arrays) -> SampleFacts:
    """Facts of a sample of usable stars, all columns of them."""
    if not sample or not len(sample["row"]):
        return SampleFacts.none()
    stars = {**sample, **plan.scorer.score(sample)}
    order = np.random.default_rng(0).permutation(len(stars["row"]))  # the first of the catalog would be neighbours
    shown = np.sort(_covering(plan, sample["latent"], order))
    normal = order[stars["tail_probability"][order] >= _NORMAL_TAIL][:MOST_NORMAL]
    names = ("row", "objid", "ra", "dec", "latent")
    return SampleFacts(
        num_stars=len(order),
        shown={name: values[shown] for name, values in stars.items() if name not in _NOT_SHOWN},
        normal={name: stars[name][np.sort(normal)] for name in names},
        pulls=_count_pulls(sample),
        locus=_locus(plan, sample, order[:_LOCUS_STARS]),
        drawn=_drawn(sample, order),
        kinds=_kinds(survey, plan, {name: stars[name][order[:_KIND_STARS]] for name in _OF_KINDS if name in stars}),
    )


def _drawn(sample: Arrays, order: np.ndarray) -> Arrays:
    """Stars with all bands, drawn by chance."""
    if "num_bands" in sample:
        order = order[~np.isnan(sample["magnitude"][order]).any(axis=1)]
    return {name: sample[name][np.sort(order[:MOST_DRAWN])] for name in _DRAWN if name in sample}


def _kinds(survey: Survey, plan: SurveyPlan, stars: Arrays) -> Arrays:
    found = [kind for kind in find_kinds(plan.scorer, stars, survey.stars.bands) if len(kind.rows)]
    if not found:
        return {}
    places = {name: np.full((len(found), SHOWN_STARS), np.nan) for name in ("ra", "dec")}
    objid = np.zeros((len(found), SHOWN_STARS), np.int64)
    for one, kind in enumerate(found):
        objid[one, : len(kind.rows)] = stars["objid"][kind.rows]
        for name, values in places.items():
            values[one, : len(kind.rows)] = stars[name][kind.rows]
    return {
        "label": np.array([kind.label for kind in found]),
        "num": np.array([kind.num for kind in found]),
        "num_shown": np.array([len(kind.rows) for kind in found]),
        "share": np.array([kind.num for kind in found]) / len(stars["objid"]),
        "magnitude": np.stack([kind.magnitude for kind in found]),
        "excess": np.stack([kind.excess for kind in found]),
        "objid": objid,
        **places,
    }


def _covering(plan: SurveyPlan, latent: np.ndarray, order: np.ndarray) -> np.ndarray:
    """All rows where they are few; else MOST_SHOWN, a few of every occupied cell of the first map."""
    if len(order) <= MAX_SAMPLE:
        return order
    fine = coarse_indices(fine_indices(latent[order], plan.bins), _CELLS)
    cells = plane_cells(fine, shown_pairs(len(fine))[0], _CELLS)
    by_cell = np.argsort(cells, kind="stable")
    ordered = cells[by_cell]
    starts = np.flatnonzero(np.append(True, np.diff(ordered) != 0))
    rank = np.arange(len(ordered)) - np.repeat(starts, np.diff(np.append(starts, len(ordered))))
    chosen: np.ndarray = order[by_cell[np.argsort(rank, kind="stable")[:MOST_SHOWN]]]
    return chosen


def _count_pulls(sample: Arrays) -> np.ndarray:
    if not {"magnitude_error", "reconstruction"} <= sample.keys():
        return np.empty((0, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        pulls = ((sample["magnitude"] - sample["reconstruction"]) / sample["magnitude_error"]).T
    return np.stack([np.histogram(band[np.isfinite(band)], PULL_EDGES)[0] for band in pulls])


def _locus(plan: SurveyPlan, sample: Arrays, rows: np.ndarray) -> Arrays:
    if not len(plan.ridge.points):
        return {}
    num_dims = plan.ridge.points.shape[1]
    low, high = plan.windows[:num_dims].T
    places = (sample["latent"][rows, :num_dims] - low) / (high - low) * MEAN_CELLS - 0.5
    counts, found = locus_quantiles(plan.ridge, places, colours_of(sample.get("filled", sample["magnitude"])[rows]))
    return {"num_stars": counts, "quantiles": found}
