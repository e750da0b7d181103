"""What the stars of a survey add up to: errors, residuals, scores, maps, and the strangest of them.

Every tally starts from `none`, takes in stars with `count` and other tallies with `add`; counts are int64. What is
added in the same order gives the same bits. Shape letters: N stars, B bands, L latent dimensions, D dimensions shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hpc_ae.analysis.histogram import (
    ERROR_BINS,
    MAGNITUDE_BINS,
    RESIDUAL_BINS,
    LinearBins,
    LogBins,
    count_against,
    quantiles,
)
from hpc_ae.analysis.maps import FINE_CELLS, MAX_SHOWN, LatentMaps, SkyTally, coarse_indices
from hpc_ae.analysis.statistics import Moments, worst_places

Arrays = dict[str, np.ndarray]
NUM_KEPT = 10_000
"""The strangest stars that a tally keeps all columns of."""
TAIL_BINS = LogBins(-30, 1, 1)
"""For tail probabilities: 1e-9 to 1, two bins an octave."""
BRIGHT_MAG = 20.0
_BLOCK_ROWS = 1 << 16
_WINDOW = (0.001, 0.999)
_MARGIN = 0.15


def usable_rows(stars: Arrays) -> np.ndarray:
    """Rows, bool (N,), that enter the statistics: quality (N,) is 0 (where bands may be missing: whatever it is), and
    reconstruction_error (N,), latent (N, L) and, where there is one, reconstruction (N, B) are finite.
    """
    usable: np.ndarray = np.isfinite(stars["reconstruction_error"])
    if "num_bands" not in stars:
        usable &= stars["quality"] == 0
    for name in ("latent", "reconstruction"):
        for column in stars[name].T if name in stars else ():
            usable &= np.isfinite(column)
    return usable


def latent_windows(latent: np.ndarray) -> list[LinearBins]:
    """For each dimension shown the bins that hold nearly all of latent (N, L): outliers must not shrink the rest."""
    return [_window(latent[:, dim]) for dim in range(min(MAX_SHOWN, latent.shape[1]))]


def _window(values: np.ndarray) -> LinearBins:
    if not len(values):
        return LinearBins(0.0, 1.0, FINE_CELLS)
    low, high = (float(value) for value in np.quantile(values.astype(np.float64), _WINDOW))
    margin = _MARGIN * (high - low)
    low, high = max(low - margin, float(values.min())), min(high + margin, float(values.max()))
    if not high - low > 1e-6 * max(1.0, abs(low)):
        low, high = low - 0.5, low + 0.5
    edge = 1e-3 * (high - low)  # the outermost stars lie inside, not on the edge
    return LinearBins(low - edge, high + edge, FINE_CELLS)


@dataclass
class ErrorTally:
    """Counts and moments of errors in mag and latents."""

    num_good: int
    error_counts: np.ndarray
    error: Moments
    latent: Moments

    @classmethod
    def none(cls, num_latent: int) -> ErrorTally:
        """The tally of no stars."""
        return cls(0, np.zeros(ERROR_BINS.num, np.int64), Moments.none(1), Moments.none(num_latent))

    def count(self, error: np.ndarray, latent: np.ndarray) -> None:
        """Add usable stars: error (N,) in mag and latent (L, N), float32 and contiguous."""
        self.error_counts += ERROR_BINS.count(error)
        self.error = self.error.merge(Moments.of(error[None, :]))
        self.latent = self.latent.merge(Moments.of(latent))

    def add(self, other: ErrorTally) -> None:
        """Take in the tally of the next part."""
        self.num_good += other.num_good
        self.error_counts += other.error_counts
        self.error = self.error.merge(other.error)
        self.latent = self.latent.merge(other.latent)

    def error_quantiles(self, fractions: Sequence[float]) -> np.ndarray:
        """Quantiles of the error in mag, to ERROR_BINS.precision of the value; NaN where there are no stars."""
        found = quantiles(self.error_counts, ERROR_BINS.edges(), fractions)
        return found if not self.error.num else np.clip(found, self.error.low, self.error.high)


@dataclass
class ResidualTally:
    """|residual| against magnitude, and sums of residuals per band.

    `grids`: (B, magnitude bins, residual bins). `total` and `square`: (B,) in mag and mag^2, zero without a
    reconstruction, where the error takes the place of every residual. A band that a star lacks does not count.
    """

    grids: np.ndarray
    total: np.ndarray
    square: np.ndarray

    @classmethod
    def none(cls, num_bands: int) -> ResidualTally:
        """The tally of no stars."""
        grids = np.zeros((num_bands, MAGNITUDE_BINS.num, RESIDUAL_BINS.num), np.int64)
        return cls(grids, np.zeros(num_bands), np.zeros(num_bands))

    def count(self, magnitude: np.ndarray, residual: np.ndarray | None, error: np.ndarray) -> None:
        """Add stars: magnitude and residual (B, N), error (N,), in mag, float32."""
        for band, grid in enumerate(self.grids):
            values, sizes, known = magnitude[band], error, ~np.isnan(magnitude[band])
            if residual is not None:
                sizes = residual[band]
            if not known.all():
                values, sizes = values[known], sizes[known]
            if residual is not None:
                wide = sizes.astype(np.float64)
                self.total[band] += wide.sum()
                self.square[band] += np.square(wide, out=wide).sum()
                sizes = np.abs(sizes)
            grid += count_against(MAGNITUDE_BINS.padded_index(values), sizes, RESIDUAL_BINS)

    @property
    def num_stars(self) -> np.ndarray:
        """How many stars were counted in each band, int64 (B,)."""
        found: np.ndarray = self.grids.sum(axis=(1, 2))
        return found

    def add(self, other: ResidualTally) -> None:
        """Take in the tally of the next part."""
        self.grids += other.grids
        self.total += other.total
        self.square += other.square


@dataclass(frozen=True)
class SurveyShape:
    """What a survey's stars have: decides the shapes of its tally."""

    num_bands: int
    num_latent: int
    has_redshift: bool
    sky_order: int
    reference_band: int
    has_gaps: bool = False

    @property
    def num_shown(self) -> int:
        """Latent dimensions of which there are maps."""
        return min(MAX_SHOWN, self.num_latent)


@dataclass
class SurveyTally:
    """All that the pass over a survey adds up. `tails`: stars by TAIL_BINS, all of them and those brighter than
    BRIGHT_MAG in the reference band (2, bins). `strangest`: every column of the NUM_KEPT stars with the highest score.

    The quantities of the maps are the magnitudes of the bands (where one is missing, the model's), the error, the score
    and, where there is one, redshift; where bands may be missing, behind the score the number of measured ones.
    """

    errors: ErrorTally
    residuals: ResidualTally
    maps: LatentMaps
    sky: SkyTally
    tails: np.ndarray
    strangest: Arrays = field(default_factory=dict)

    @classmethod
    def none(cls, shape: SurveyShape) -> SurveyTally:
        """The tally of no stars."""
        return cls(
            ErrorTally.none(shape.num_latent),
            ResidualTally.none(shape.num_bands),
            LatentMaps.none(shape.num_shown, shape.num_bands + 2 + shape.has_gaps, shape.has_redshift),
            SkyTally.none(shape.sky_order, shape.num_latent),
            np.zeros((2, TAIL_BINS.num), np.int64),
        )

    def count(self, stars: Arrays, fine: list[np.ndarray], pixels: np.ndarray, reference_band: int) -> None:
        """Add usable stars of one shard: the columns of both catalogs, anomaly_score, tail_probability and row (N,);
        their fine indices on the latent maps, and their pixels in the sky.
        """
        self.maps.count(fine)
        self._keep(stars)
        tails, bright = (
            stars["tail_probability"],
            stars.get("filled", stars["magnitude"])[:, reference_band] < BRIGHT_MAG,
        )
        self.tails += np.stack([TAIL_BINS.count(tails), TAIL_BINS.count(tails[bright])])
        coarse = coarse_indices(fine)
        for start in range(0, len(tails), _BLOCK_ROWS):  # the arrays of a block stay in the core's cache
            rows = slice(start, start + _BLOCK_ROWS)
            block = {name: stars[name][rows] for name in stars if name in _SUMMED}
            self._count_block(block, [index[rows] for index in coarse], pixels[rows])

    def _count_block(self, stars: Arrays, coarse: list[np.ndarray], pixels: np.ndarray) -> None:
        error = np.ascontiguousarray(stars["reconstruction_error"])
        magnitude, latent = (np.ascontiguousarray(stars[name].T) for name in ("magnitude", "latent"))
        residual = magnitude - stars["reconstruction"].T if "reconstruction" in stars else None
        self.errors.count(error, latent)
        self.residuals.count(magnitude, residual, error)
        self.sky.count(pixels, np.concatenate([error[None, :], latent]))
        filled = np.ascontiguousarray(stars["filled"].T) if "filled" in stars else magnitude
        more = [stars["num_bands"].astype(np.float32)[None, :]] if "num_bands" in stars else []
        quantities = np.concatenate([filled, error[None, :], stars["anomaly_score"][None, :], *more])
        self.maps.add_sums(coarse, quantities, stars.get("redshift"))

    def _keep(self, stars: Arrays) -> None:
        score = stars["anomaly_score"]
        least = self.strangest["anomaly_score"][-1] if len(self.strangest.get("row", ())) >= NUM_KEPT else -np.inf
        above = np.flatnonzero(score >= least)
        places = above[worst_places(score[above], stars["row"][above], NUM_KEPT)]
        self._merge({name: values[places] for name, values in stars.items()})

    def _merge(self, more: Arrays) -> None:
        joined = [self.strangest, more] if self.strangest else [more]
        arrays = {name: np.concatenate([part[name] for part in joined]) for name in more}
        places = worst_places(arrays["anomaly_score"], arrays["row"], NUM_KEPT)
        self.strangest = {name: values[places] for name, values in arrays.items()}

    def add(self, other: SurveyTally) -> None:
        """Take in the tally of the next part."""
        self.errors.add(other.errors)
        self.residuals.add(other.residuals)
        self.maps.add(other.maps)
        self.sky.add(other.sky)
        self.tails += other.tails
        if other.strangest:
            self._merge(other.strangest)


_SUMMED = {"magnitude", "filled", "latent", "reconstruction", "reconstruction_error", "anomaly_score", "redshift"}
_SUMMED |= {"num_bands"}
