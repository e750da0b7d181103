"""How strange each star is, without labels: how rare its magnitudes are among the survey's own stars.

The score is the surprisal (minus the logarithm of the density) of a star's magnitudes, each measured in units of its
noise: a band's scale is stretched so that a step is as many sigma at every magnitude (`BandScales`). On these scales a
faint star's scatter is no wider than a bright one's, and does not fill the list. The noise is the scatter of the
model's residuals against magnitude; errors of the catalog are not used, so that surveys with and without are judged
alike. The density is a Gaussian mixture in colours and brightness, fitted to a bounded sample. There are two, each of
one half of the stars, and each scores the other half: no star makes itself expected (cross-fitting). Which half a star
belongs to is decided by its own bits. `tail_probability` is how rare such a score is among stars of the same brightness
(`score_tail`).
Shape letters: N stars, B bands, S steps of a scale, K components.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Self

import numpy as np
from threadpoolctl import ThreadpoolController

from hpc_ae.analysis.draws import part_of
from hpc_ae.analysis.gaps import patterns
from hpc_ae.analysis.score_gaps import Marginal
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
_FEW_STARS = 100
_ENOUGH_COMPLETE = 5_000  # stars with all bands to fit the density to
_LEAST_SHARE = 1e-4
_ORDINARY_TAIL = 0.25
_ORDINARY_STARS = 0.95
_LIMIT_STARS = 20_000
_JUDGING_STARS = 50_000
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
class Expected:
    """What one half of the stars makes expected of the other half. `typical`: the other half's median surprisal, which
    gets score 0. `ordinary`: bool (K,), the components of the mixture that ordinary stars make; the rest are quasars,
    failed measurements and the like, few but alike, of which reasons must not think that they are expected.
    """

    mixture: Mixture
    typical: np.ndarray
    ordinary: np.ndarray

    @classmethod
    def none(cls, num_bands: int) -> Self:
        """Nothing expected of stars."""
        mixture = Mixture(np.zeros(num_bands), np.ones(1), np.zeros((1, num_bands)), np.eye(num_bands)[None])
        return cls(mixture, np.zeros(()), np.ones(1, bool))

    def surprisal(self, columns: np.ndarray) -> np.ndarray:
        """Minus the logarithm of the density, less the median star's, float32 (N,) of colours (B, N)."""
        found = self.mixture.log_density(columns)
        negated: np.ndarray = np.subtract(np.float32(-self.typical), found, out=found)
        return negated


@dataclass
class ScoreModel:
    """What scores a star. `halves`: two, the first for stars of half 0, fitted to stars of half 1, and so on. `limits`:
    (B,) of the first one's ordinary components, the surprisal of the other bands that 95 % of the stars stay below when
    a band is left out.
    """

    scales: BandScales
    halves: list[Expected]
    tail: Tail
    limits: np.ndarray

    @classmethod
    def none(cls, num_bands: int = 1) -> ScoreModel:
        """The model of no stars."""
        scales = BandScales(np.zeros((num_bands, _FAINTEST_MAG * _STEPS_PER_MAG + 1)))
        halves = [Expected.none(num_bands) for _ in range(2)]
        return cls(scales, halves, Tail.fit(np.zeros(0), np.zeros(0)), np.full(num_bands, np.inf))

    @property
    def reference(self) -> int:
        """The band whose magnitude is a star's brightness: the middle one, r of u g r i z."""
        return len(self.limits) // 2

    def colours(self, magnitude: np.ndarray) -> np.ndarray:
        """What the mixtures are of: stretched colours and brightness, float32 (B, N), of magnitudes (N, B)."""
        return _to_colours(self.scales.stretch(magnitude), self.reference)

    def surprisal(self, magnitude: np.ndarray) -> np.ndarray:
        """How unexpected stars are by the half that they do not belong to, float32 (N,) of finite magnitudes (N, B)."""
        found = np.empty(len(magnitude), np.float32)
        for start in range(0, len(magnitude), _BLOCK_ROWS):
            block = magnitude[start : start + _BLOCK_ROWS]
            half_of = part_of(block, 2)
            for number, half in enumerate(self.halves):
                rows = np.flatnonzero(half_of == number)
                found[start + rows] = half.surprisal(self.colours(block[rows]))
        return found

    def score(self, arrays: Arrays) -> Arrays:
        """`anomaly_score`, higher is stranger, and `tail_probability`, float32 (N,) each; NaN where not usable.

        Of `magnitude` (N, B) in mag and `quality` (N,); where bands may be missing of `filled` (N, B) too.
        """
        if "filled" in arrays:
            return self._score_with_gaps(arrays["magnitude"], arrays["filled"])
        magnitude = arrays["magnitude"]
        usable = arrays["quality"] == 0
        for column in magnitude.T:
            usable &= np.isfinite(column)
        rows = magnitude if usable.all() else magnitude[usable]
        with _blas.limit(limits=1, user_api="blas"):  # a process for each core is there already
            score = self.surprisal(rows)
        found = {"anomaly_score": score, "tail_probability": self.tail.probability(score, rows[:, self.reference])}
        return {name: _spread(values, usable) for name, values in found.items()}

    def _score_with_gaps(self, magnitude: np.ndarray, filled: np.ndarray) -> Arrays:
        """The same of stars that lack bands: of those that they have, beside stars as bright in `filled` (N, B)."""
        score = np.full(len(magnitude), np.nan, np.float32)
        with _blas.limit(limits=1, user_api="blas"):
            for measured, rows in patterns(~np.isnan(magnitude)):
                kept = np.flatnonzero(measured)
                if len(kept) == magnitude.shape[1]:
                    score[rows] = self.surprisal(magnitude[rows])
                elif len(kept):
                    score[rows] = self._surprisal_of(filled[rows], kept)
        probability = self.tail.probability(score, filled[:, self.reference])
        return {"anomaly_score": score, "tail_probability": np.where(np.isnan(score), np.float32(np.nan), probability)}

    def _surprisal_of(self, filled: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """How unexpected stars (N, B) are, whose bands `kept` are measured, by the half that they do not belong to."""
        found = np.empty(len(filled), np.float32)
        half_of = part_of(filled, 2)
        for number in range(len(self.halves)):
            rows = np.flatnonzero(half_of == number)
            if len(rows):
                stretched = self.scales.stretch(filled[rows])[kept]
                found[rows] = self._marginal(number, kept).surprisal(stretched)
        return found

    def _marginal(self, number: int, kept: np.ndarray) -> Marginal:
        """The density of some bands by one half, made once."""
        key = (number, kept.tobytes())
        if key not in self._marginals:
            half = self.halves[number]
            bands = half.mixture.transformed(np.linalg.inv(_colour_matrix(len(self.limits), self.reference)))
            to_colours = partial(_to_colours, reference=self.reference)
            self._marginals[key] = Marginal.of(bands, kept, lambda drawn: half.surprisal(to_colours(drawn)))
        return self._marginals[key]

    @cached_property
    def _marginals(self) -> dict[tuple[int, bytes], Marginal]:
        return {}

    def ordinary_bands(self) -> Mixture:
        """The first mixture's ordinary stars, with the stretched magnitudes of the bands as coordinates."""
        to_bands = np.linalg.inv(_colour_matrix(len(self.limits), self.reference))
        half = self.halves[0]
        return half.mixture.chosen(half.ordinary).transformed(to_bands)


def fit_score_model(sample: Arrays) -> ScoreModel:
    """Fit to a sample of usable stars: `magnitude` (N, B), and `reconstruction` (N, B) or `reconstruction_error` (N,).

    Of stars that lack bands those that have all are fitted, or, where these are few, all as `filled` (N, B) has them.

    A mixture is fitted to each half, 100,000 stars at most (to all where one has fewer than 100), the tail to the
    scores of all stars, each by the mixture that has not seen it. The same for the same sample.
    """
    sample = _complete(sample)
    magnitude = sample.get("magnitude", np.empty((0, 1), np.float32))
    model = ScoreModel.none(magnitude.shape[1])
    if not len(magnitude):
        return model
    order = np.random.default_rng(0).permutation(len(magnitude))
    magnitude = magnitude[order]
    model.scales = BandScales.fit(sample)
    half_of = part_of(magnitude, 2)
    fitted = [magnitude[half_of != half][:MOST_FITTED] for half in range(2)]
    if min(map(len, fitted)) < _FEW_STARS:  # or all stars are the same
        fitted = [magnitude, magnitude]
    with _blas.limit(limits=1, user_api="blas"):  # the same bits whatever the number of cores
        with ThreadPoolExecutor(len(fitted)) as threads:
            columns = [model.colours(stars).astype(np.float64) for stars in fitted]
            model.halves = [_expect_none(mixture) for mixture in threads.map(_fit_mixture, columns)]
        _calibrate(model, magnitude[: 2 * MOST_FITTED])
        model.halves = [_discount_rare(model, half) for half in model.halves]
        _calibrate(model, magnitude)
        model.halves = [_mark_ordinary(model, half, magnitude[:_JUDGING_STARS]) for half in model.halves]
        model.limits = _find_limits(model, fitted[0][:_LIMIT_STARS])
    return model


def _complete(sample: Arrays) -> Arrays:
    """The stars with all bands, where they are enough to know the rest by."""
    if "filled" not in sample:
        return sample
    complete = np.asarray(~np.isnan(sample["magnitude"]).any(axis=1))
    if complete.sum() >= min(_ENOUGH_COMPLETE, 0.5 * len(complete)):
        return {name: values[complete] for name, values in sample.items()}
    return {**sample, "magnitude": sample["filled"]}


_blas = ThreadpoolController()


def _fit_mixture(columns: np.ndarray) -> Mixture:
    num_components = int(np.clip(columns.shape[1] // _COMPONENT_STARS, 1, MOST_COMPONENTS))
    return fit_mixture(columns, num_components, LEAST_VARIANCE)


def _expect_none(mixture: Mixture) -> Expected:
    """A half that is not yet calibrated."""
    return Expected(mixture, np.zeros(()), np.ones(len(mixture.weights), bool))


def _calibrate(model: ScoreModel, magnitude: np.ndarray) -> None:
    """Set the zero points of the scores and the tail by the scores of stars (N, B)."""
    model.halves = [replace(half, typical=np.zeros(())) for half in model.halves]
    score, half_of = model.surprisal(magnitude), part_of(magnitude, 2)
    for number, half in enumerate(model.halves):
        own = half_of == number
        half.typical = np.asarray(np.median(score[own] if own.any() else score))
        score[own] -= np.float32(half.typical)
    model.tail = Tail.fit(score, magnitude[:, model.reference])


def _discount_rare(model: ScoreModel, half: Expected) -> Expected:
    """Let each component count as much as it is ordinary: times the tail probability of its own centre.

    A few per mille of a survey's stars are quasars or failed measurements, enough for components of their own, which
    would make each of them expected.
    """
    mixture = half.mixture
    centers = (mixture.means + mixture.center).T.astype(np.float32)
    probability = model.tail.probability(half.surprisal(centers), model.scales.unstretch(centers[-1], model.reference))
    weights = mixture.weights * np.maximum(probability.astype(np.float64), _LEAST_SHARE)
    return replace(half, mixture=replace(mixture, weights=weights / weights.sum()))


def _mark_ordinary(model: ScoreModel, half: Expected, magnitude: np.ndarray) -> Expected:
    """Which components ordinary stars make: those of which the stars (N, B) have no small tail probability.

    The centre alone does not tell: that of a wide component, of strange stars all around, can lie within the locus.
    """
    component = half.mixture.likeliest(model.colours(magnitude))
    tail = model.tail.probability(model.surprisal(magnitude), magnitude[:, model.reference])
    num = len(half.mixture.weights)
    mean = np.bincount(component, tail, num) / np.maximum(np.bincount(component, minlength=num), 1)
    return replace(half, ordinary=np.asarray(mean >= min(_ORDINARY_TAIL, mean.max())))


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
