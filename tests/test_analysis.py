"""Arithmetic of the report: histograms, moments, worst stars, each against plain numpy on the joined arrays."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_ae.analysis.histogram import (
    ERROR_BINS,
    MAGNITUDE_BINS,
    RESIDUAL_BINS,
    LinearBins,
    LogBins,
    column_quantiles,
    count_2d,
    count_against,
    quantiles,
)
from hpc_ae.analysis.linear import linear_error
from hpc_ae.analysis.maps import MEAN_CELLS, LatentMaps, fine_indices, pooled
from hpc_ae.analysis.pack import npz_bytes, pack, read_npz, unpack
from hpc_ae.analysis.statistics import Moments, worst
from hpc_ae.analysis.summary import QUANTILES, json_id, json_number
from hpc_ae.analysis.tally import NUM_KEPT, SurveyShape, SurveyTally, latent_windows


@pytest.mark.parametrize("bins", [LogBins(-3, 2, 0), LogBins(-16, 4, 4), LogBins(-24, 16, 12)])
def test_log_bins_count_as_numpy_does(bins: LogBins) -> None:
    """The bits of a float find the same bin as a search among the edges."""
    edges = bins.edges()
    values = np.exp(np.random.default_rng(1).normal(-3, 2, 20_000)).astype(np.float32)
    values = np.concatenate([values, edges[:-1].astype(np.float32)[:5000]])
    inside = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bins.num - 1)
    assert np.array_equal(bins.index(values), inside)
    assert len(edges) == bins.num + 1 and np.all(np.diff(edges) > 0)
    assert edges[0] == 2.0**bins.low and edges[-1] == 2.0**bins.high
    assert np.max(np.diff(edges) / edges[:-1]) <= bins.precision


def test_log_bins_take_what_is_outside() -> None:
    """Zero falls into the first bin, huge values into the last; none is lost."""
    values = np.array([0.0, 1e-30, 1e30, 0.5], np.float32)
    counts = ERROR_BINS.count(values)
    assert counts.sum() == 4 and counts[0] == 2 and counts[-1] == 1


@pytest.mark.parametrize("num", [1, 2, 3, 10, 999, 50_000])
def test_quantiles_within_their_precision(num: int) -> None:
    """Quantiles of any number of values are numpy's, to the width of a bin."""
    values = np.exp(np.random.default_rng(num).normal(-3, 1.5, num)).astype(np.float32)
    fractions = [0.0, *QUANTILES, 1.0]
    found = quantiles(ERROR_BINS.count(values), ERROR_BINS.edges(), fractions)
    np.testing.assert_allclose(found, np.quantile(values.astype(float), fractions), rtol=ERROR_BINS.precision)


def test_quantiles_of_nothing() -> None:
    """No values have no quantiles."""
    assert np.isnan(quantiles(np.zeros(4, np.int64), np.arange(5.0), [0.5])).all()


def test_column_quantiles_leave_thin_columns_out() -> None:
    """A row of counts with too few stars gives NaN, another the quantile of its stars."""
    counts = np.zeros((2, 4), np.int64)
    counts[0, 1], counts[1, 2] = 3, 100
    found = column_quantiles(counts, np.arange(5.0), [0.5], least=50)
    assert np.isnan(found[0, 0]) and found[1, 0] == pytest.approx(2.5, abs=0.01)


def test_linear_counts_match_numpy() -> None:
    """Counts in one and two dimensions are numpy's away from the edges of bins, and leave out what lies outside."""
    bins_x, bins_y = LinearBins(-2.0, 2.0, 32), LinearBins(-1.0, 3.0, 16)
    points = np.random.default_rng(3).normal(0, 1.5, (2, 50_000)).astype(np.float32)
    pairs = zip(points, (bins_x, bins_y), strict=True)
    scaled = [(values - bins.low) / (bins.high - bins.low) * bins.num for values, bins in pairs]
    clear = np.all([np.abs(values - np.round(values)) > 1e-4 for values in scaled], axis=0)
    x, y = points[:, clear]
    counted = np.bincount(bins_x.padded_index(x), minlength=bins_x.num + 2)[1:-1]
    assert np.array_equal(counted, np.histogram(x, bins_x.edges())[0])
    assert np.array_equal(count_2d(bins_x, bins_y, x, y), np.histogram2d(x, y, (bins_x.edges(), bins_y.edges()))[0])


def test_count_against_keeps_every_star() -> None:
    """The limits 0 and 30 mag are counted too, each star once, in the bins that numpy finds."""
    rng = np.random.default_rng(4)
    magnitude = np.concatenate([[0.0, 30.0], rng.uniform(12, 28, 5000)]).astype(np.float32)
    size = np.exp(rng.normal(-3, 1, len(magnitude))).astype(np.float32)
    counts = count_against(MAGNITUDE_BINS.padded_index(magnitude), size, RESIDUAL_BINS)
    expected = np.histogram2d(magnitude, size, (MAGNITUDE_BINS.edges(), RESIDUAL_BINS.edges()))[0]
    assert counts.sum() == len(magnitude)
    assert np.array_equal(counts, expected)


def test_moments_merge_to_those_of_the_whole() -> None:
    """Parts of unequal size, an empty one among them, give mean, std and range of all."""
    values = np.random.default_rng(5).normal(1000, 0.1, (2, 10_000))
    total = Moments.none(2)
    for part in np.split(values, [0, 1, 700, 9000], axis=1):
        total = total.merge(Moments.of(part))
    assert total.num == 10_000
    np.testing.assert_allclose(total.mean, values.mean(axis=1), rtol=1e-13)
    np.testing.assert_allclose(total.std, values.std(axis=1), rtol=1e-9)
    np.testing.assert_allclose(total.mean_square, (values**2).mean(axis=1), rtol=1e-12)
    assert np.array_equal(total.low, values.min(axis=1)) and np.array_equal(total.high, values.max(axis=1))


@pytest.mark.parametrize("num", [1, 7, 100, 5000, 20_000])
def test_worst_is_exact_with_many_ties(num: int) -> None:
    """The largest values come first, equal ones by row, whichever way they were dealt out."""
    values = np.random.default_rng(6).integers(0, 40, 10_000).astype(np.float32)
    rows = np.arange(10_000)
    found, where = worst(values, rows, num)
    expected = np.lexsort((rows, -values))[:num]
    assert np.array_equal(where, expected) and np.array_equal(found, values[expected])
    parts = [worst(values[chosen], rows[chosen], num) for chosen in np.split(rows, [10, 3000, 3001])]
    merged = worst(np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]), num)
    assert np.array_equal(merged[1], expected)


def test_windows_hold_nearly_all_and_ignore_outliers() -> None:
    """One star far away does not shrink the map; constant and missing latents have a window too."""
    latent = np.random.default_rng(7).normal(0, 1, (20_000, 2)).astype(np.float32)
    latent[5, 0] = 1e6
    latent[:, 1] = 3.0
    first, second = latent_windows(latent)
    assert -6 < first.low < -3 and 3 < first.high < 6
    assert second.low < 3.0 < second.high
    assert all(bins.low < bins.high for bins in latent_windows(np.empty((0, 3), np.float32)))
    maps = LatentMaps.none(2, 0, has_redshift=False)
    maps.count(fine_indices(latent, [first, second]))
    assert maps.counts[0].sum() >= 19_900


def make_survey(num: int) -> dict[str, np.ndarray]:
    """Columns of usable stars, with many equal scores."""
    rng = np.random.default_rng(8)
    magnitude = rng.uniform(14, 24, (num, 5)).astype(np.float32)
    return {
        "row": np.arange(num),
        "magnitude": magnitude,
        "reconstruction": magnitude + rng.normal(0, 0.1, (num, 5)).astype(np.float32),
        "reconstruction_error": rng.exponential(0.1, num).astype(np.float32),
        "latent": rng.normal(0, 1, (num, 3)).astype(np.float32),
        "redshift": np.where(rng.random(num) < 0.5, np.nan, rng.random(num)).astype(np.float32),
        "anomaly_score": rng.integers(0, 50, num).astype(np.float32),
        "tail_probability": rng.uniform(0, 1, num).astype(np.float32),
    }


def tally_of(stars: dict[str, np.ndarray], windows: list[LinearBins], pixels: np.ndarray) -> SurveyTally:
    """The tally of some stars."""
    tally = SurveyTally.none(SurveyShape(5, 3, True, 2, 2))
    tally.count(stars, fine_indices(stars["latent"], windows), pixels, 2)
    return tally


def test_tallies_add_up_to_the_tally_of_all() -> None:
    """Parts counted apart, written and read again, give the counts, means and strangest stars of all; and numpy's."""
    stars = make_survey(30_000)
    windows = latent_windows(stars["latent"])
    pixels = np.random.default_rng(9).integers(0, 200, 30_000)  # 192 pixels: some stars have no position
    total = SurveyTally.none(SurveyShape(5, 3, True, 2, 2))
    for start in range(0, 30_000, 7000):
        part = {name: values[start : start + 7000] for name, values in stars.items()}
        counted = tally_of(part, windows, pixels[start : start + 7000])
        total.add(unpack(SurveyTally.none(SurveyShape(5, 3, True, 2, 2)), read_npz(npz_bytes(pack(counted)))))
    whole, added = pack(tally_of(stars, windows, pixels)), pack(total)
    assert added.keys() == whole.keys()
    for name, values in added.items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-9, err_msg=name)
    order = np.lexsort((stars["row"], -stars["anomaly_score"]))[:NUM_KEPT]
    assert np.array_equal(total.strangest["row"], order)
    inside = [np.digitize(stars["latent"][:, dim], windows[dim].edges()[::4]) - 1 for dim in (0, 1)]
    chosen = (inside[0] == 128) & (inside[1] == 120)
    assert chosen.sum() > 1 and pooled(total.maps.counts[0], MEAN_CELLS)[128, 120] == chosen.sum()
    means = total.maps.means(0)[:, 128, 120]
    assert means[1] == pytest.approx(stars["magnitude"][chosen, 1].mean(dtype=float))
    assert means[-1] == pytest.approx(np.nanmean(stars["redshift"][chosen].astype(float)))
    here = pixels == 77
    assert total.sky.counts[77] == here.sum()
    assert total.sky.means()[0, 77] == pytest.approx(stars["reconstruction_error"][here].mean(dtype=float))


def test_json_forms() -> None:
    """Identifiers that a float would damage are text; what is not finite is null."""
    assert json_id(np.int64(2**53)) == 2**53 and json_id(2**53 + 1) == "9007199254740993"
    assert json_id(1237645879553248800) == "1237645879553248800"
    assert json_number(float("nan")) is None and json_number(np.inf) is None and json_number(0.25) == 0.25


@pytest.mark.parametrize("num_components", [0, 1, 2, 4, 5, 7])
def test_what_principal_components_leave(num_components: int) -> None:
    """The same as a projection by the singular vectors of numpy leaves."""
    generator = np.random.default_rng(4)
    stars = (generator.normal(0, 1, (3000, 2)) @ generator.normal(0, 2, (2, 5)) + 18).astype(np.float32)
    stars += generator.normal(0, 0.1, stars.shape).astype(np.float32)
    centred = stars.astype(np.float64) - stars.mean(0, dtype=np.float64)
    basis = np.linalg.svd(centred, full_matrices=False)[2][:num_components]
    left = centred - centred @ basis.T @ basis
    assert linear_error(stars, num_components) == pytest.approx((left**2).mean(), rel=1e-6, abs=1e-12)
