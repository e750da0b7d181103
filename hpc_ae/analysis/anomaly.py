"""How strange each star is, without labels: how rare its magnitudes are among the survey's own stars.

The score is the surprisal (minus the logarithm of the density) of a star's magnitudes, each measured in units of its
noise: a band's scale is stretched so that a step is as many sigma at every magnitude (`BandScales`). On these scales a
faint star's scatter is no wider than a bright one's, and does not fill the list. The noise is the scatter of the
model's residuals against magnitude; errors of the catalog are not used, so that surveys with and without are judged
alike. The density is a Gaussian mixture in colours and brightness, fitted to a bounded sample. `tail_probability` is
how rare such a score is among stars of the same brightness (`score_tail`).
Shape letters: N stars, B bands, S steps of a scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from threadpoolctl import ThreadpoolController

from hpc_ae.analysis.score_mixture import Mixture, fit_mixture
from hpc_ae.analysis.score_tail import Tail

FLOOR_MAG = 0.05
"""Added in square to the noise: what calibration and the stars' own variety spread, however bright."""
LEAST_VARIANCE = 2e-4
"""Of a component of the mixture, mag^2: no feature of the locus is narrower than 0.014 mag."""
MOST_FITTED = 100_000
MOST_COMPONENTS = 96
_COMPONENT_STARS = 300
_NOISE_GROUPS = 40
_GROUP_STARS = 50
_STEPS_PER_MAG = 20
_FINE_STEPS = 100  # of each of those
_FAINTEST_MAG = 30
_FEW_STARS = 4000
_LEAST_SHARE = 1e-4
_ORDINARY_SHARE = 0.5
_ORDINARY_STARS = 0.95
_LIMIT_STARS = 20_000
_BLOCK_ROWS = 1 << 17

Arrays = dict[str, np.ndarray]


@dataclass
class BandScales:
    """The noise of each band against magnitude, (B, S) mag at steps of 1/20 mag from 0 to 30."""

    noise: np.ndarray

    @classmethod
    def fit(cls, arrays: Arrays) -> BandScales:
        """From magnitude (N, B) and reconstruction (N, B) of usable stars; without one, from reconstruction_error."""
        magnitude, model = arrays["magnitude"], arrays.get("reconstruction")
        steps = np.arange(_FAINTEST_MAG * _STEPS_PER_MAG + 1) / _STEPS_PER_MAG
        noise = np.empty((magnitude.shape[1], len(steps)))
        for band, row in enumerate(noise):
            if model is None:
                row[:] = _scatter(magnitude[:, band], arrays["reconstruction_error"], steps)
            else:
                size = 1.4826 * np.abs(magnitude[:, band] - model[:, band])
                row[:] = _scatter(model[:, band], size, steps)
        return cls(noise)

    @cached_property
    def tables(self) -> np.ndarray:
        """(B, S') float32: the stretched magnitude at steps of 1/2000 mag; a mag is a mag where noise is no matter."""
        fine = np.arange(_FAINTEST_MAG * _STEPS_PER_MAG * _FINE_STEPS + 1) / _FINE_STEPS
        steps = np.arange(self.noise.shape[1])
        rate = [FLOOR_MAG / np.hypot(FLOOR_MAG, np.interp(fine, steps, row)) for row in self.noise]
        tables: np.ndarray = (np.cumsum(rate, axis=1) / (_STEPS_PER_MAG * _FINE_STEPS)).astype(np.float32)
        return tables

    def stretch(self, magnitude: np.ndarray) -> np.ndarray:
        """Stretched magnitudes float32 (B, N) of magnitudes (N, B)."""
        found = np.empty(magnitude.shape[::-1], np.float32)
        for band, table in enumerate(self.tables):
            cells = (magnitude[:, band] * np.float32(_STEPS_PER_MAG * _FINE_STEPS)).astype(np.int32)
            np.take(table, cells, mode="clip", out=found[band])
        return found

    def unstretch(self, stretched: np.ndarray, band: int) -> np.ndarray:
        """Magnitudes (N,) of a band's stretched ones."""
        table = self.tables[band]
        found: np.ndarray = np.interp(stretched, table, np.arange(len(table)) / (_STEPS_PER_MAG * _FINE_STEPS))
        return found


@dataclass
class ScoreModel:
    """What scores a star. `typical`: the median surprisal, which gets score 0. `ordinary`: bool (K,), the components of
    the mixture that ordinary stars make; the rest are quasars, failed measurements and the like, few but alike, of
    which reasons must not think that they are expected. `limits`: (B,) of those components alone, the surprisal of the
    other bands that 95 % of the stars stay below when a band is left out.
    """

    scales: BandScales
    mixture: Mixture
    tail: Tail
    typical: np.ndarray
    ordinary: np.ndarray
    limits: np.ndarray

    @classmethod
    def none(cls, num_bands: int = 1) -> ScoreModel:
        """The model of no stars."""
        num = num_bands
        mixture = Mixture(np.zeros(num), np.ones(1), np.zeros((1, num)), np.eye(num)[None])
        scales = BandScales(np.zeros((num, _FAINTEST_MAG * _STEPS_PER_MAG + 1)))
        return cls(
            scales, mixture, Tail.fit(np.zeros(0), np.zeros(0)), np.zeros(()), np.ones(1, bool), np.full(num, np.inf)
        )

    @property
    def reference(self) -> int:
        """The band whose magnitude is a star's brightness: the middle one, r of u g r i z."""
        return len(self.limits) // 2

    def surprisal(self, magnitude: np.ndarray) -> np.ndarray:
        """Minus the logarithm of the density, less the median star's, float32 (N,) of finite magnitudes (N, B)."""
        found = np.empty(len(magnitude), np.float32)
        for start in range(0, len(magnitude), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            stretched = self.scales.stretch(magnitude[rows])
            found[rows] = self.mixture.log_density(_to_colours(stretched, self.reference))
        return np.subtract(np.float32(-self.typical), found, out=found)

    def score(self, arrays: Arrays) -> Arrays:
        """`anomaly_score`, higher is stranger, and `tail_probability`, float32 (N,) each; NaN where not usable.

        Of `magnitude` (N, B) in mag and `quality` (N,).
        """
        magnitude = arrays["magnitude"]
        usable = arrays["quality"] == 0
        for column in magnitude.T:
            usable &= np.isfinite(column)
        rows = magnitude if usable.all() else magnitude[usable]
        with _blas.limit(limits=1, user_api="blas"):  # a process for each core is there already
            score = self.surprisal(rows)
        found = {"anomaly_score": score, "tail_probability": self.tail.probability(score, rows[:, self.reference])}
        return {name: _spread(values, usable) for name, values in found.items()}

    def ordinary_bands(self) -> Mixture:
        """The mixture of ordinary stars with the stretched magnitudes of the bands as coordinates."""
        to_bands = np.linalg.inv(_colour_matrix(len(self.limits), self.reference))
        return self.mixture.chosen(self.ordinary).transformed(to_bands)


def fit_score_model(sample: Arrays) -> ScoreModel:
    """Fit to a sample of usable stars: `magnitude` (N, B), and `reconstruction` (N, B) or `reconstruction_error` (N,).

    The mixture is fitted to one half, 100,000 stars at most, the tail to the rest, which it has not seen (to all of
    fewer than 4,000 stars). The same for the same sample.
    """
    magnitude = sample.get("magnitude", np.empty((0, 1), np.float32))
    model = ScoreModel.none(magnitude.shape[1])
    if not len(magnitude):
        return model
    order = np.random.default_rng(0).permutation(len(magnitude))
    num_fitted = len(order) if len(order) < _FEW_STARS else min(len(order) // 2, MOST_FITTED)
    fitted, others = magnitude[order[:num_fitted]], magnitude[order[num_fitted % len(order) :]]
    model.scales = BandScales.fit(sample)
    with _blas.limit(limits=1, user_api="blas"):  # the same bits whatever the number of cores
        columns = _to_colours(model.scales.stretch(fitted), model.reference).astype(np.float64)
        num_components = int(np.clip(num_fitted // _COMPONENT_STARS, 1, MOST_COMPONENTS))
        model.mixture = fit_mixture(columns, num_components, LEAST_VARIANCE)
        _calibrate(model, others[:MOST_FITTED])
        _discount_rare(model)
        _calibrate(model, others)
        model.limits = _find_limits(model, fitted[:_LIMIT_STARS])
    return model


_blas = ThreadpoolController()


def _calibrate(model: ScoreModel, magnitude: np.ndarray) -> None:
    """Set the zero point of the score and the tail by the scores of stars (N, B)."""
    model.typical = np.zeros(())
    score = model.surprisal(magnitude)
    model.typical = np.asarray(np.median(score))
    model.tail = Tail.fit(score - np.float32(model.typical), magnitude[:, model.reference])


def _discount_rare(model: ScoreModel) -> None:
    """Let each component count as much as it is ordinary: times the tail probability of its own centre.

    A few per mille of a survey's stars are quasars or failed measurements, enough for components of their own, which
    would make each of them expected.
    """
    mixture = model.mixture
    centers = (mixture.means + mixture.center).T.astype(np.float32)
    score = -mixture.log_density(centers) - np.float32(model.typical)
    probability = model.tail.probability(score, model.scales.unstretch(centers[-1], model.reference))
    weights = mixture.weights * np.maximum(probability.astype(np.float64), _LEAST_SHARE)
    model.mixture = replace(mixture, weights=weights / weights.sum())
    model.ordinary = np.asarray(probability >= min(_ORDINARY_SHARE, probability.max()))


def _find_limits(model: ScoreModel, magnitude: np.ndarray) -> np.ndarray:
    """For each band the surprisal of the other bands that most of the stars (N, B) stay below."""
    num = magnitude.shape[1]
    if num == 1:
        return np.full(1, np.inf)
    stretched, mixture = model.scales.stretch(magnitude), model.ordinary_bands()
    found = []
    for band in range(num):
        others = [one for one in range(num) if one != band]
        found.append(np.quantile(-mixture.marginal(others).log_density(stretched[others]), _ORDINARY_STARS))
    return np.array(found)


def _colour_matrix(num_bands: int, reference: int) -> np.ndarray:
    """(B, B): from magnitudes to those of neighbouring bands' differences and that of the reference band."""
    matrix = np.eye(num_bands) - np.eye(num_bands, k=1)
    matrix[-1] = np.eye(num_bands)[reference]
    return matrix


def _to_colours(stretched: np.ndarray, reference: int) -> np.ndarray:
    """`_colour_matrix` times magnitudes (B, N), without BLAS."""
    found = np.empty_like(stretched)
    np.subtract(stretched[:-1], stretched[1:], out=found[:-1])
    found[-1] = stretched[reference]
    return found


def _scatter(magnitude: np.ndarray, size: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The median of `size` (N,) against magnitude (N,), at `steps`: groups of as many stars each, lines between."""
    order = np.argsort(magnitude, kind="stable")
    groups = np.array_split(order, int(np.clip(len(order) // _GROUP_STARS, 1, _NOISE_GROUPS)))
    middles = [np.median(magnitude[group]) for group in groups]
    found: np.ndarray = np.interp(steps, middles, [np.median(size[group]) for group in groups])
    return found


def _spread(values: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Values (n,) of the usable rows, NaN in the others: float32 (N,)."""
    if len(values) == len(usable):
        return values
    found = np.full(len(usable), np.nan, np.float32)
    found[usable] = values
    return found
