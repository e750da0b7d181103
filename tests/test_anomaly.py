"""Anomaly scores: densities against closed forms, calibration on unseen stars, planted stars, real quasars."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, rankdata
from threadpoolctl import threadpool_limits

from hpc_ae.analysis.anomaly import FLOOR_MAG, Arrays, BandScales, ScoreModel, fit_score_model
from hpc_ae.analysis.anomaly_reasons import deviations, find_kinds, reasons
from hpc_ae.analysis.score_mixture import Mixture, fit_mixture
from hpc_ae.analysis.score_tail import Tail
from hpc_ae.photometry import BANDS, simulate_stars


def with_model(magnitude: np.ndarray, num_latent: int = 2) -> Arrays:
    """Stars with the reconstruction of their first principal components for that of a model."""
    center = magnitude.mean(axis=0)
    axes = np.linalg.svd(magnitude - center, full_matrices=False)[2][:num_latent]
    latent = (magnitude - center) @ axes.T
    model = (center + latent @ axes).astype(np.float32)
    error = np.sqrt(np.square(magnitude - model).mean(axis=1)).astype(np.float32)
    arrays = {"magnitude": magnitude, "latent": latent, "reconstruction": model, "reconstruction_error": error}
    return {**arrays, "quality": np.zeros(len(magnitude), np.uint16)}


def of_magnitude(magnitude: np.ndarray) -> Arrays:
    """What a score needs of good stars."""
    return {"magnitude": magnitude, "quality": np.zeros(len(magnitude), np.uint16)}


@pytest.fixture(scope="module")
def magnitude() -> np.ndarray:
    """60,000 simulated stars, (N, 5) mag."""
    return np.asarray(simulate_stars(0, 60_000, 3)["magnitude"])


@pytest.fixture(scope="module")
def fitted(magnitude: np.ndarray) -> ScoreModel:
    """A model of the first 40,000."""
    return fit_score_model(with_model(magnitude[:40_000]))


def test_tail_probability_is_that_of_unseen_stars(fitted: ScoreModel, magnitude: np.ndarray) -> None:
    """Of stars that no part of the fit has seen as many are below a probability as it says, bright and faint ones."""
    unseen = magnitude[40_000:]
    found = fitted.score(of_magnitude(unseen))
    assert all(values.dtype == np.float32 and np.isfinite(values).all() for values in found.values())
    halves = unseen[:, 2] < np.median(unseen[:, 2])
    for rows in (np.ones(len(unseen), bool), halves, ~halves):
        probability = found["tail_probability"][rows]
        for level in (0.5, 0.1, 0.01):
            spread = np.sqrt(level * (1 - level) * (1 / len(probability) + 1 / 20_000))  # calibrated by 40,000 in all
            assert abs(np.mean(probability < level) - level) < 4 * spread


@pytest.mark.parametrize("num_stars", [5_000, 40_000])
def test_tail_probability_is_that_of_its_brightness(magnitude: np.ndarray, num_stars: int) -> None:
    """Of a small survey's own stars, those that were fitted, a tenth is below 0.1 at every brightness, the ends too."""
    stars = magnitude[:num_stars]
    probability = fit_score_model(with_model(stars)).score(of_magnitude(stars))["tail_probability"]
    order = np.argsort(stars[:, 2], kind="stable")
    parts = [*np.array_split(order, 10), order[: num_stars // 50], order[-num_stars // 50 :]]
    for rows in parts:
        for level in (0.5, 0.1, 0.01):
            spread = np.sqrt(level * (1 - level) / len(rows))
            assert abs(np.mean(probability[rows] < level) - level) < 4 * spread
    assert abs(np.mean(probability < 0.01) - 0.01) < 0.003


def test_no_star_makes_itself_expected(magnitude: np.ndarray) -> None:
    """Stars that the fit has seen are as often rare as stars that it has not."""
    model = fit_score_model(with_model(magnitude[:20_000]))
    parts = magnitude[:20_000], magnitude[20_000:]
    seen, unseen = (model.score(of_magnitude(stars))["anomaly_score"] for stars in parts)
    for quantile in (0.9, 0.99, 0.999):
        spread = np.sqrt((1 - quantile) * quantile * (1 / 20_000 + 1 / 40_000))
        assert abs(np.mean(unseen > np.quantile(seen, quantile)) - (1 - quantile)) < 4 * spread


def test_tail_probability_does_not_jump_with_brightness(fitted: ScoreModel) -> None:
    """Of one score, from a hundredth of a magnitude to the next, where 99 % of the stars are."""
    brightness = np.arange(14, 19.9, 0.01, np.float32)
    for score in (0.0, 2.0, 5.0):
        found = fitted.tail.probability(np.full(len(brightness), score, np.float32), brightness)
        assert np.abs(np.diff(np.log(found))).max() < 0.4


def test_rarity_is_not_below_one_in_the_stars_that_there_are(magnitude: np.ndarray) -> None:
    """Among 3,000 stars none is 1 in 13,000: of a star as strange as no other it is said that fewer are."""
    model = fit_score_model(with_model(magnitude[:3_000]))
    text = reasons(model, of_magnitude(np.array([[14, 22, 14, 22, 14]], np.float32)), BANDS)[0]
    assert "fewer than 1 in 1,000 stars of this r is as strange" in text


def test_scores_ascend_as_tail_probabilities_fall(fitted: ScoreModel, magnitude: np.ndarray) -> None:
    """At one brightness the stranger star is the rarer one, and the typical star has score 0."""
    found = fitted.score(of_magnitude(magnitude))
    rows = np.abs(magnitude[:, 2] - 18.02) < 0.005
    order = np.argsort(found["anomaly_score"][rows])
    assert np.count_nonzero(rows) > 50
    assert np.all(np.diff(found["tail_probability"][rows][order]) <= 1e-6)
    assert abs(np.median(found["anomaly_score"])) < 0.05


def test_same_bits_for_any_number_of_threads(fitted: ScoreModel, magnitude: np.ndarray) -> None:
    """Fit and score are the same bytes under one thread and under two."""
    scores = []
    for num_threads in (1, 2):
        with threadpool_limits(num_threads):
            again = fit_score_model(with_model(magnitude[:40_000]))
            scores.append(again.score(of_magnitude(magnitude[:5_000])))
        assert repr(astuple(again)) == repr(astuple(fitted))
        pairs = zip(again.halves, fitted.halves, strict=True)
        assert all(np.array_equal(one.mixture.means, two.mixture.means) for one, two in pairs)
    assert all(np.array_equal(scores[0][name], scores[1][name]) for name in scores[0])


def test_catalog_errors_are_no_signal(magnitude: np.ndarray) -> None:
    """Magnitude errors, present or not, change no score."""
    sample = with_model(magnitude[:5_000])
    error = np.full((5_000, 5), 0.1, np.float32)
    plain, other = fit_score_model(sample), fit_score_model({**sample, "magnitude_error": error})
    stars = of_magnitude(magnitude[5_000:6_000])
    found = other.score({**stars, "magnitude_error": error[:1_000]})
    assert np.array_equal(plain.score(stars)["anomaly_score"], found["anomaly_score"])


@pytest.mark.parametrize(("band", "shift", "side"), [(0, -1.5, "brighter"), (4, 5.0, "fainter"), (1, -0.8, "brighter")])
def test_planted_star_is_found_and_its_band_named(
    fitted: ScoreModel, magnitude: np.ndarray, band: int, shift: float, side: str
) -> None:
    """An ordinary star with one band moved is among the strangest; the reason names band, side and size."""
    scores = fitted.score(of_magnitude(magnitude))
    middle = (magnitude[:, 0] < 20) & (magnitude[:, 0] > 18) & (np.abs(scores["anomaly_score"]) < 0.3)
    star = magnitude[np.flatnonzero(middle)[:20]].copy()
    star[:, band] += shift
    found = fitted.score(of_magnitude(star))
    assert np.median(found["tail_probability"]) < 0.03
    moved = deviations(fitted, star)
    assert abs(np.median(moved.excess[:, band]) - shift) < 0.2
    texts = reasons(fitted, {**of_magnitude(star), **found}, BANDS)
    named = [f"{BANDS[band]} is" in text and side in text and "ordinary star" in text for text in texts]
    assert np.mean(named) > 0.7
    failed = [f"possibly a failed measurement of {BANDS[band]}" in text for text in texts]
    assert np.mean(failed) > 0.8 if shift > 1 else not any(failed)


def test_reason_of_a_failed_measurement_states_its_error(fitted: ScoreModel, magnitude: np.ndarray) -> None:
    """The catalog's own error is quoted where there is one; an unusable star has a reason too."""
    star = np.array([[18.5, 17.3, 16.9, 16.75, 22.8], [np.nan] * 5], np.float32)
    texts = reasons(fitted, {**of_magnitude(star), "magnitude_error": np.full((2, 5), 0.61)}, BANDS)
    assert "possibly a failed measurement of z, whose error is 0.61 mag" in texts[0]
    assert texts[1].startswith("not scored")


def test_kinds_gather_what_is_alike(fitted: ScoreModel, magnitude: np.ndarray) -> None:
    """Forty stars that are too bright in u are a kind of their own, strangest first, whatever else is strange."""
    stars = magnitude[40_000:45_000].copy()
    planted = np.flatnonzero((stars[:, 0] > 18) & (stars[:, 0] < 20))[:40]
    stars[planted, 0] -= 1.5
    scored = {**fitted.score(of_magnitude(stars)), "magnitude": stars}
    found = {kind.label: kind for kind in find_kinds(fitted, scored, BANDS)}
    assert sum(kind.num for kind in found.values()) == np.count_nonzero(scored["tail_probability"] < 0.1)
    kind = found["u brighter"]
    assert kind.num >= 30 and kind.excess[0] < -0.5
    assert len(np.intersect1d(kind.rows, planted)) >= 8
    assert np.all(np.diff(scored["tail_probability"][kind.rows]) >= 0)
    assert find_kinds(fitted, {name: values[:0] for name, values in scored.items()}, BANDS) == []


def test_unusable_rows_have_no_score(fitted: ScoreModel, magnitude: np.ndarray) -> None:
    """NaN where quality is not 0 or a magnitude is not finite, and there alone; the rest is scored as without them."""
    stars = {name: values.copy() for name, values in of_magnitude(magnitude[:100]).items()}
    stars["quality"][:10] = 4
    stars["magnitude"][10, 3] = np.nan
    stars["magnitude"][11, 0] = np.inf
    for name, values in fitted.score(stars).items():
        assert np.isnan(values[:12]).all()
        assert np.allclose(values[12:], fitted.score(of_magnitude(magnitude[12:100]))[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("num_stars", [1, 2, 20, 300])
@pytest.mark.parametrize("num_bands", [1, 2, 5, 8])
def test_any_number_of_stars_and_bands(num_stars: int, num_bands: int) -> None:
    """Few stars, one band, eight bands: finite scores, probabilities in (0, 1], a reason for each."""
    generator = np.random.default_rng(num_stars)
    values = (18 + generator.normal(0, 1, (num_stars, 1)) + generator.normal(0, 0.1, (num_stars, num_bands))).astype(
        "f4"
    )
    for kept in (("magnitude", "reconstruction"), ("magnitude", "reconstruction_error")):
        sample = with_model(values, num_latent=1)
        model = fit_score_model({name: sample[name] for name in kept})
        found = model.score(of_magnitude(np.concatenate([values, values + 5])))
        assert np.isfinite(found["anomaly_score"]).all()
        assert np.all((found["tail_probability"] > 0) & (found["tail_probability"] <= 1))
        texts = reasons(
            model,
            {**of_magnitude(values), "tail_probability": found["tail_probability"][:num_stars]},
            [f"b{band}" for band in range(num_bands)],
        )
        assert len(texts) == num_stars and all(texts)


def test_constant_columns() -> None:
    """Stars that are all the same, or alike in a band, have finite scores; another star is stranger."""
    same = np.full((50, 5), 20.0, np.float32)
    other = same[:1] - np.array([0, 1, 0, 0, 0], np.float32)
    found = fit_score_model(with_model(same)).score(of_magnitude(np.concatenate([same, other])))["anomaly_score"]
    assert np.isfinite(found).all() and found[-1] > found[0]


def test_no_stars() -> None:
    """A sample of nothing makes a model, and no stars have no scores."""
    model = fit_score_model({})
    assert model.score(of_magnitude(np.empty((0, 1), np.float32)))["anomaly_score"].shape == (0,)
    assert reasons(model, of_magnitude(np.empty((0, 1), np.float32)), ["r"]) == []
    unusable = {"magnitude": np.full((3, 1), np.nan, np.float32), "quality": np.ones(3, np.uint16)}
    assert np.isnan(model.score(unusable)["tail_probability"]).all()


def test_noise_against_magnitude_is_found() -> None:
    """Scales learn a noise that grows towards the faint end, with outliers in it, and stretch accordingly."""
    generator = np.random.default_rng(0)
    truth = generator.uniform(15, 22, (40_000, 1))
    noise = 0.02 + 0.3 * 10 ** (0.4 * (truth - 22))
    magnitude = (truth + noise * generator.normal(size=truth.shape)).astype(np.float32)
    magnitude[:400] += 5
    scales = BandScales.fit({"magnitude": magnitude, "reconstruction": truth.astype(np.float32)})
    for at in (16.0, 19.0, 21.5):
        expected = 0.02 + 0.3 * 10 ** (0.4 * (at - 22))
        assert abs(scales.noise[0, round(20 * at)] / expected - 1) < 0.1
        step = np.diff(scales.stretch(np.array([[at], [at + 0.1]], np.float32))[0])[0]
        assert abs(step / (0.1 * FLOOR_MAG / np.hypot(FLOOR_MAG, expected)) - 1) < 0.1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 30, width=32), min_size=1, max_size=20))
def test_stretched_magnitudes_come_back(values: list[float]) -> None:
    """Stretching keeps the order, and is undone to half a thousandth of a magnitude."""
    scales = BandScales(np.linspace(0.001, 0.5, 601)[None] ** 2)
    given_magnitude = np.sort(np.array(values, np.float32))
    stretched = scales.stretch(given_magnitude[:, None])[0]
    assert np.all(np.diff(stretched) >= 0)
    assert np.abs(scales.unstretch(stretched, 0) - given_magnitude).max() < 1e-3


def test_mixture_is_that_of_scipy() -> None:
    """Density of a mixture, of its marginal and of a transformed one, against scipy's Gaussians."""
    generator = np.random.default_rng(2)
    factors = generator.normal(size=(4, 3, 3))
    covariances = np.einsum("kij,klj->kil", factors, factors) + 0.1 * np.eye(3)
    mixture = Mixture(
        np.array([1.0, -2.0, 0.5]), np.array([0.4, 0.3, 0.2, 0.1]), generator.normal(size=(4, 3)), covariances
    )
    points = generator.normal(size=(3, 5_000)).astype(np.float32)

    def expected(columns: list[int]) -> np.ndarray:
        means = (mixture.means + mixture.center)[:, columns]
        gaussians = [
            multivariate_normal(mean, one[np.ix_(columns, columns)])
            for mean, one in zip(means, covariances, strict=True)
        ]
        density = [weight * one.pdf(points[columns].T) for weight, one in zip(mixture.weights, gaussians, strict=True)]
        return np.asarray(np.log(np.sum(density, axis=0)))

    assert np.allclose(mixture.log_density(points), expected([0, 1, 2]), atol=2e-3)
    assert np.allclose(mixture.marginal([2, 0]).log_density(points[[2, 0]]), expected([2, 0]), atol=2e-3)
    matrix = np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0], [0.0, 1.0, 0.0]])
    moved = mixture.transformed(matrix).log_density((matrix @ points).astype(np.float32))
    assert np.allclose(moved + np.log(abs(np.linalg.det(matrix))), expected([0, 1, 2]), atol=2e-3)


def test_expectation_of_one_coordinate_by_the_others() -> None:
    """For a single Gaussian the conditional mean and scatter are those of linear regression."""
    covariance = np.array([[1.0, 0.6, 0.2], [0.6, 2.0, -0.3], [0.2, -0.3, 0.5]])
    mixture = Mixture(np.array([1.0, 2.0, 3.0]), np.ones(1), np.zeros((1, 3)), covariance[None])
    points = np.random.default_rng(0).normal(size=(3, 10))
    gain = np.linalg.solve(covariance[1:, 1:], covariance[1:, 0])
    mean, scatter = mixture.expect(points, 0)
    assert np.allclose(mean, 1.0 + gain @ (points[1:] - np.array([[2.0], [3.0]])))
    assert np.allclose(scatter, np.sqrt(1.0 - gain @ covariance[1:, 0]))


def test_mixture_is_fitted() -> None:
    """Two groups of stars are found with their shares, means and spreads."""
    generator = np.random.default_rng(4)
    first = generator.normal([[0.0], [5.0]], [[0.1], [0.3]], (2, 15_000))
    second = generator.normal([[2.0], [4.0]], [[0.5], [0.2]], (2, 5_000))
    found = fit_mixture(np.concatenate([first, second], axis=1), 2, 1e-6)
    order = np.argsort(found.means[:, 0])
    assert np.allclose(found.weights[order], [0.75, 0.25], atol=0.01)
    assert np.allclose((found.means + found.center)[order], [[0, 5], [2, 4]], atol=0.03)
    assert np.allclose(
        np.sqrt(np.diagonal(found.covariances[order], axis1=1, axis2=2)), [[0.1, 0.3], [0.5, 0.2]], atol=0.02
    )


@pytest.mark.parametrize("shape", [0.0, 0.3])
def test_tail_beyond_the_counted(shape: float) -> None:
    """A tail fitted to 50,000 scores tells what happens once in 10,000, and to a factor of ten once in 500,000."""
    generator = np.random.default_rng(6)
    drawn = generator.random(50_000)
    score = -np.log(drawn) if shape == 0 else (drawn**-shape - 1) / shape
    tail = Tail.fit(score.astype(np.float32), generator.uniform(16, 20, len(score)).astype(np.float32))
    brightness = np.linspace(16, 20, 41, dtype=np.float32)
    for rare, factor in ((1e-1, 1.2), (1e-2, 1.3), (1e-3, 1.5), (1e-4, 2), (2e-6, 10)):
        at = np.float32(-np.log(rare) if shape == 0 else (rare**-shape - 1) / shape)
        found = np.median(tail.probability(np.full(len(brightness), at), brightness))
        assert 1 / factor < found / rare < factor


@pytest.mark.slow
def test_real_quasars_and_galaxies(shared_data: Path) -> None:
    """Real quasars and galaxies are told from stars of other sky, without labels."""
    table = pq.read_table(shared_data / "sdss_photometric_stars.parquet")
    stars = np.stack([table[band] for band in BANDS], axis=1).astype(np.float32)
    other_sky = (np.floor(table["ra"]) * 7 + np.floor(table["dec"])) % 3 == 0
    table = pyarrow.csv.read_csv(shared_data / "sdss_quasars_galaxies.csv")
    strange = np.stack([table[band] for band in BANDS], axis=1).astype(np.float32)
    model = fit_score_model(with_model(stars[~other_sky]))
    ordinary = model.score(of_magnitude(stars[other_sky]))["anomaly_score"]
    for name, least in (("QSO", 0.91), ("GALAXY", 0.86)):
        some = model.score(of_magnitude(strange[table["class"].to_numpy() == name]))["anomaly_score"]
        ranks = rankdata(np.concatenate([ordinary, some]))[len(ordinary) :]
        area = (ranks.mean() - (len(some) + 1) / 2) / len(ordinary)
        assert area > least
