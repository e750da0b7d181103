"""Simulated photometry: reproducible for any slicing, and close to a sample of real SDSS stars."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hpc_ae.photometry import BANDS, BLOCK_ROWS, simulate_stars
from hpc_ae.photometry.mixture import (
    MISSING,
    STARS_STREAM,
    block_generator,
    draw_normals,
    load_model,
    simulate_block,
)

REAL_STARS = Path(__file__).parents[1].parent / "shared" / "data" / "sdss_photometric_stars.parquet"
NUM_STARS = 200_000

MAGNITUDE_TOLERANCE_MAG = 0.05
COLOUR_TOLERANCES_MAG = {"u-g": 0.06, "g-r": 0.03, "r-i": 0.03, "i-z": 0.03}
SLICED_TOLERANCE = 0.03  # in standard deviations of the real sample
ERROR_TOLERANCE_DEX = 0.03

SLICES = [(0, 1), (5, 1000), (BLOCK_ROWS - 1, 2), (BLOCK_ROWS, 10), (70_000, 130_000)]
IMPOSSIBLE = [(-1, 1, 1, 0), (0, -1, 1, 0), (0, 1, -1, 0), (0, 1, 1, 1.1), (0, 1, 1, float("nan")), (2**63, 1, 1, 0)]

Stars = dict[str, NDArray[Any]]
Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def stars() -> Stars:
    """One simulated sample for all the statistics."""
    return simulate_stars(0, NUM_STARS, seed=1)


@pytest.fixture(scope="module")
def real() -> Stars:
    """The real sample's magnitudes and errors, (N, B) mag."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="reading the real stars needs pyarrow")
    if not REAL_STARS.exists():
        pytest.skip("the real SDSS stars are not here: ../shared/data/sdss_photometric_stars.parquet")
    table = parquet.read_table(REAL_STARS)
    return {
        "magnitude": np.stack([table[band].to_numpy() for band in BANDS], axis=1),
        "magnitude_error": np.stack([table[f"err_{band}"].to_numpy() for band in BANDS], axis=1),
    }


def assert_equal_stars(left: Stars, right: Stars) -> None:
    """Every column is bitwise the same."""
    assert left.keys() == right.keys()
    for name, values in left.items():
        assert values.dtype == right[name].dtype and values.tobytes() == right[name].tobytes(), name


def kolmogorov_smirnov(values: Floats) -> float:
    """Distance of the values' distribution from the uniform one on 0 to 1, times the root of their number."""
    ordered = np.sort(values)
    steps = np.arange(len(ordered) + 1) / len(ordered)
    distance = max(np.max(steps[1:] - ordered), np.max(ordered - steps[:-1]))
    return float(distance * np.sqrt(len(ordered)))


def wasserstein(left: NDArray[Any], right: NDArray[Any]) -> float:
    """1-D Wasserstein distance: the mean difference of the two samples' quantiles, in the values' unit."""
    levels = (np.arange(100_000) + 0.5) / 100_000
    quantiles = [np.sort(values)[(levels * len(values)).astype(np.intp)] for values in (left, right)]
    return float(np.mean(np.abs(quantiles[0] - quantiles[1]), dtype=np.float64))


def colours(magnitude: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The four neighbouring colours (N,) of magnitudes (N, 5), by name."""
    return {f"{BANDS[b]}-{BANDS[b + 1]}": magnitude[:, b] - magnitude[:, b + 1] for b in range(len(BANDS) - 1)}


def features(magnitude: NDArray[Any]) -> Floats:
    """The r magnitude and the four colours, (N, 5)."""
    return np.column_stack([magnitude[:, 2], *colours(magnitude).values()]).astype(np.float64)


def mean_log_errors(stars: Stars, band: int) -> Floats:
    """Mean log10 of one band's error in one-magnitude bins from 16 to 22, (6,) dex."""
    magnitude, error = stars["magnitude"][:, band], stars["magnitude_error"][:, band]
    return np.array([np.log10(error[(magnitude >= m) & (magnitude < m + 1)]).mean() for m in range(16, 22)])


@pytest.mark.parametrize(("colour", "limit"), [("g-r", 1.6), ("g-r", 2.2), ("g-r", 3.0), ("u-g", 4.0), ("r-i", 1.6)])
def test_as_many_stars_are_red_as_in_the_real_sample(real: Stars, colour: str, limit: float) -> None:
    """Reddened stars and failed measurements are as frequent as among the stars that were fitted, to a tenth."""
    shares = [
        np.mean(colours(magnitude)[colour] > limit)
        for magnitude in (simulate_stars(0, 200_000, 3)["magnitude"], real["magnitude"])
    ]
    assert abs(shares[0] / shares[1] - 1) < 0.1


def test_columns(stars: Stars) -> None:
    """The result has exactly the documented columns, types and shapes."""
    found = {name: (values.dtype.name, values.shape) for name, values in stars.items()}
    assert found == {
        "objid": ("int64", (NUM_STARS,)),
        "ra": ("float64", (NUM_STARS,)),
        "dec": ("float64", (NUM_STARS,)),
        "magnitude": ("float32", (NUM_STARS, 5)),
        "magnitude_error": ("float32", (NUM_STARS, 5)),
    }


@pytest.mark.parametrize("bad_fraction", [0.0, 0.1])
@pytest.mark.parametrize("first_row, num_stars", SLICES)
def test_any_slice_has_the_same_stars(first_row: int, num_stars: int, bad_fraction: float) -> None:
    """A request for some rows equals the same rows of a request for all."""
    whole = simulate_stars(0, NUM_STARS, 1, bad_fraction)
    part = simulate_stars(first_row, num_stars, 1, bad_fraction)
    assert_equal_stars(part, {name: values[first_row : first_row + num_stars] for name, values in whole.items()})


@pytest.mark.parametrize("shard_rows", [33_333, BLOCK_ROWS, 100_000])
def test_any_shard_size_has_the_same_stars(stars: Stars, shard_rows: int) -> None:
    """Shards of any size, put together, are the whole catalog."""
    shards = [simulate_stars(row, min(shard_rows, NUM_STARS - row), 1) for row in range(0, NUM_STARS, shard_rows)]
    assert_equal_stars({name: np.concatenate([shard[name] for shard in shards]) for name in stars}, stars)


def test_far_rows_are_made_directly() -> None:
    """Rows far into a survey are reached without making those before, and differ from the first ones."""
    far = simulate_stars(260_000_000, 100, seed=1)
    assert far["objid"][0] - simulate_stars(0, 1, seed=1)["objid"][0] == 260_000_000
    assert not np.array_equal(far["magnitude"], simulate_stars(0, 100, seed=1)["magnitude"])


def test_no_stars() -> None:
    """A request for no stars gives empty columns of the right shape."""
    assert simulate_stars(BLOCK_ROWS + 7, 0, seed=1)["magnitude"].shape == (0, 5)


def test_seeds_differ(stars: Stars) -> None:
    """Another seed, or another block of one seed, shares no star."""
    other = simulate_stars(0, BLOCK_ROWS, seed=2)["ra"]
    assert not np.isin(other, stars["ra"]).any()
    assert len(np.unique(stars["ra"])) == NUM_STARS


def test_ids(stars: Stars) -> None:
    """Ids are unique and, as SDSS's, too large for a float64."""
    assert len(np.unique(stars["objid"])) == NUM_STARS
    assert stars["objid"].min() > 2**53


def test_sky_is_uniform(stars: Stars) -> None:
    """Right ascension and the sine of declination are uniform (Kolmogorov-Smirnov, 0.1 % level)."""
    assert kolmogorov_smirnov(stars["ra"] / 360) < 1.95
    assert kolmogorov_smirnov((np.sin(np.radians(stars["dec"])) + 1) / 2) < 1.95


def test_normals_are_normal() -> None:
    """The Box-Muller numbers are standard normal (Kolmogorov-Smirnov, 0.1 % level) and uncorrelated, tails included."""
    normals = draw_normals(block_generator(1, 0, STARS_STREAM), np.empty((4, 100_000), np.float32)).astype(np.float64)
    assert kolmogorov_smirnov(np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in normals.ravel()])) < 1.95
    halves = normals.reshape(8, -1)
    for rows in (halves, halves**2):
        correlation = np.corrcoef(rows) - np.eye(8)
        assert np.abs(correlation).max() < 4 / math.sqrt(halves.shape[1])
    assert abs(np.mean(np.abs(normals) > 3) - 0.0027) < 4 * math.sqrt(0.0027 / normals.size)


def test_components_follow_their_weights() -> None:
    """Over many blocks each component's share is its weight, and neighbouring rows do not depend on each other."""
    model = load_model()
    apart = np.zeros_like(model.affine)  # all stars of a component are the same: u-g is its number, in steps
    apart[:, 1, 0] = step = 0.05 * np.arange(len(apart), dtype=np.float32)
    counts, rises, same = np.zeros(len(apart)), [], []
    for block in range(40):
        magnitude = simulate_block(1, block, 0.0, replace(model, affine=apart))["magnitude"]
        components = np.rint((magnitude[0] - magnitude[1]) / 0.05).astype(int)
        assert np.abs(magnitude[0] - magnitude[1] - step[components]).max() < 1e-4
        counts += np.bincount(components, minlength=len(apart))
        rises.append(np.mean(np.sign(np.diff(components))))
        same.append(np.mean(np.diff(components) == 0))
    weights = np.bincount(model.component_of_key) / 2**16
    assert (np.abs(counts / counts.sum() - weights) < 4.5 * np.sqrt(weights / counts.sum())).all()
    assert abs(np.mean(rises)) < 4 / math.sqrt(40 * BLOCK_ROWS)
    assert abs(np.mean(same) - np.square(weights).sum()) < 4 / math.sqrt(40 * BLOCK_ROWS)


def test_every_star_of_a_block_is_its_own() -> None:
    """The stars that were made component by component all come into the block, none of them twice."""
    assert np.unique(simulate_block(1, 0, 0.0)["magnitude"], axis=1).shape == (5, BLOCK_ROWS)


def test_rows_are_shuffled(stars: Stars) -> None:
    """Within a block, the first and the second half of the rows have the same distribution of magnitudes."""
    magnitude = stars["magnitude"][:BLOCK_ROWS, 2]
    assert wasserstein(magnitude[: BLOCK_ROWS // 2], magnitude[BLOCK_ROWS // 2 :]) < 0.05


def test_good_rows_are_usable() -> None:
    """Without bad rows every magnitude is finite and within 0-30, every error finite and positive."""
    stars = simulate_stars(0, 1_000_000, seed=3)
    assert stars["magnitude"].min() > 0 and stars["magnitude"].max() < 30
    assert stars["magnitude_error"].min() > 0 and np.isfinite(stars["magnitude_error"]).all()


@pytest.mark.parametrize("bad_fraction", [0.01, 0.3, 1.0])
def test_bad_fraction(stars: Stars, bad_fraction: float) -> None:
    """That fraction of rows has missing bands; every other value is as without bad rows."""
    found = simulate_stars(0, NUM_STARS, 1, bad_fraction)
    missing = found["magnitude"] == MISSING
    scatter = np.sqrt(bad_fraction * (1 - bad_fraction) / NUM_STARS)
    assert abs(missing.any(axis=1).mean() - bad_fraction) <= 4 * scatter
    assert (missing.sum(axis=0) > 0).all()
    for name in ("magnitude", "magnitude_error"):
        np.testing.assert_array_equal(found[name], np.where(missing, np.float32(MISSING), stars[name]))
    for name in ("objid", "ra", "dec"):
        np.testing.assert_array_equal(found[name], stars[name])


@pytest.mark.parametrize("arguments", IMPOSSIBLE)
def test_impossible_requests_are_refused(arguments: tuple[int, int, int, float]) -> None:
    """Negative numbers, fractions outside 0 to 1 and rows without an id raise ValueError."""
    with pytest.raises(ValueError, match="expected"):
        simulate_stars(*arguments)


@pytest.mark.parametrize("band", range(5))
def test_errors_grow_toward_the_faint_end(stars: Stars, band: int) -> None:
    """The mean error rises from each magnitude to the next."""
    last = 6 if band == 0 else 4  # beyond 20 only u has enough stars
    assert (np.diff(mean_log_errors(stars, band)[:last]) > 0).all()


@pytest.mark.parametrize("band", range(5))
def test_errors_match_real_stars(stars: Stars, real: Stars, band: int) -> None:
    """Mean log10 error per magnitude is that of the real stars within 0.03 dex."""
    last = 6 if band == 0 else 4
    np.testing.assert_allclose(
        mean_log_errors(stars, band)[:last], mean_log_errors(real, band)[:last], rtol=0, atol=ERROR_TOLERANCE_DEX
    )


@pytest.mark.parametrize("band", range(5))
def test_magnitudes_match_real_stars(stars: Stars, real: Stars, band: int) -> None:
    """Each band's distribution is within 0.05 mag (Wasserstein) of the real one."""
    assert wasserstein(stars["magnitude"][:, band], real["magnitude"][:, band]) <= MAGNITUDE_TOLERANCE_MAG


@pytest.mark.parametrize("name", COLOUR_TOLERANCES_MAG)
def test_colours_match_real_stars(stars: Stars, real: Stars, name: str) -> None:
    """Each colour's distribution is within 0.03 mag (u-g: 0.06) of the real one."""
    distance = wasserstein(colours(stars["magnitude"])[name], colours(real["magnitude"])[name])
    assert distance <= COLOUR_TOLERANCES_MAG[name]


def test_joint_distribution_matches_real_stars(stars: Stars, real: Stars) -> None:
    """The sliced Wasserstein distance of standardised r and colours, over 64 directions, is at most 0.03."""
    expected = features(real["magnitude"])
    mean, std = expected.mean(axis=0), expected.std(axis=0)
    directions = np.random.default_rng(1).standard_normal((64, 5))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    left, right = (features(stars["magnitude"]) - mean) / std, (expected - mean) / std
    distances = [wasserstein(left @ direction, right @ direction) for direction in directions]
    assert np.mean(distances) <= SLICED_TOLERANCE
