"""What is fitted to a sample of the survey before all stars are read: windows, scores, clusters, ridge.

Shape letters: N stars, L latent dimensions, D dimensions shown, K cells along a side, R points of the ridge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_ae.analysis.anomaly import ScoreModel, fit_score_model
from hpc_ae.analysis.density import NO_CLUSTER, Ridge, find_clusters, trace_ridge
from hpc_ae.analysis.histogram import LinearBins
from hpc_ae.analysis.maps import (
    FINE_CELLS,
    MEAN_CELLS,
    LatentMaps,
    coarse_indices,
    fine_indices,
    plane_cells,
    pooled,
    shown_pairs,
    sky_order,
)
from hpc_ae.analysis.tally import SurveyShape, latent_windows
from hpc_ae.catalog.shard import Arrays
from hpc_ae.survey.pairs import Survey


@dataclass
class SurveyPlan:
    """How every star is scored and where it is counted. `windows`: (D, 2) of the latent maps. `clusters`: int16 (K,) or
    (K, K), the cluster of each cell of the first map.
    """

    shape: SurveyShape
    windows: np.ndarray
    clusters: np.ndarray
    ridge: Ridge
    scorer: ScoreModel

    @classmethod
    def none(cls) -> SurveyPlan:
        """A plan of nothing, to unpack into."""
        empty = np.empty((0, 2))
        return cls(SurveyShape(1, 1, False, 0, 0), empty, empty, Ridge(empty), ScoreModel.none())

    @property
    def bins(self) -> list[LinearBins]:
        """The fine bins of the latent maps, one for each dimension shown."""
        return [LinearBins(float(low), float(high), FINE_CELLS) for low, high in self.windows]

    def cluster_of(self, fine: list[np.ndarray]) -> np.ndarray:
        """Cluster int16 (N,) of stars by their fine indices; -1 outside the map."""
        num_dims = self.clusters.ndim
        padded = np.pad(self.clusters, 1, constant_values=NO_CLUSTER).ravel()
        found: np.ndarray = padded[plane_cells(coarse_indices(fine), shown_pairs(len(fine))[0][:num_dims], MEAN_CELLS)]
        return found

    def ridge_latents(self) -> np.ndarray:
        """Where the ridge runs in the first map, (R, 1) or (R, 2) in units of the latents."""
        low, high = self.windows[: self.ridge.points.shape[1]].T
        latents: np.ndarray = low + (self.ridge.points + 0.5) * (high - low) / MEAN_CELLS
        return latents


def make_plan(survey: Survey, sample: Arrays) -> SurveyPlan:
    """Fit to a sample of usable stars."""
    stars = survey.stars
    shape = SurveyShape(
        num_bands=len(stars.bands),
        num_latent=survey.num_latent,
        has_redshift="redshift" in stars.columns,
        sky_order=sky_order(stars.num_stars),
        reference_band=survey.reference_band,
        has_gaps=survey.has_gaps,
    )
    latent = sample["latent"] if sample else np.empty((0, shape.num_latent), np.float32)
    windows = latent_windows(latent)
    maps = LatentMaps.none(len(windows), 1, has_redshift=False)
    fine = fine_indices(latent, windows)
    maps.count(fine)
    if sample:
        maps.add_sums(coarse_indices(fine), _colour(sample.get("filled", sample["magnitude"]))[None, :], None)
    density = pooled(maps.counts[0], MEAN_CELLS)
    return SurveyPlan(
        shape,
        np.array([[bins.low, bins.high] for bins in windows]),
        find_clusters(density),
        trace_ridge(density, maps.means(0)[0]),
        fit_score_model(sample),
    )


def _colour(magnitude: np.ndarray) -> np.ndarray:
    """The colour of stars (N,) with magnitude (N, B): g-i of five bands, else that of the first and the last band."""
    first, last = (1, -2) if magnitude.shape[1] >= 5 else (0, -1)
    colour: np.ndarray = magnitude[:, first] - magnitude[:, last]
    return colour
