"""Cones on the sky: distances are astropy's, and no star of a cone is outside its HEALPix ranges."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy_healpix import lonlat_to_healpix
from cdshealpix.nested import healpix_to_lonlat
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from hpc_ae.catalog.quality import flag_positions
from hpc_ae.catalog.sky import (
    HEALPIX_LEVEL,
    NO_POSITION,
    Cone,
    angular_distance,
    cone_ranges,
    has_position,
    healpix_of,
    overlapping,
    pixel_centres,
    rows_in_cone,
)
from hpc_ae.errors import InputError

CENTRES_RA = st.one_of(st.sampled_from([0.0, 360.0, 45.0, 90.0, 359.9999999]), st.floats(0, 360))
CENTRES_DEC = st.one_of(st.sampled_from([0.0, 90.0, -90.0, 41.810314895778596, 89.9999]), st.floats(-90, 90))
RADII = st.one_of(
    st.sampled_from([0.0, 1e-9, 1e-4, 1.0, 60.0, 5400.0, 10799.999, 10800.0]), st.floats(0, 10800), st.floats(0, 1)
)


def scatter(cone: Cone, seed: int, num: int = 3_000) -> tuple[np.ndarray, np.ndarray]:
    """Positions all over the sky, at its poles and seams, and as many about the edge of a cone."""
    generator = np.random.default_rng(seed)
    ra, dec = generator.uniform(0, 360, num), np.degrees(np.arcsin(generator.uniform(-1, 1, num)))
    special = np.array([[0, 0], [360, 0], [0, 90], [77, 90], [200, -90], [180, 0], [cone.ra_deg, cone.dec_deg]]).T
    angles = generator.uniform(0, 360, num) * u.deg
    distances = np.minimum(cone.radius_deg * generator.uniform(0.9, 1.1, num), 180) * u.deg
    edge = SkyCoord(cone.ra_deg, cone.dec_deg, unit="deg").directional_offset_by(angles, distances)
    return np.concatenate([ra, special[0], edge.ra.deg]), np.concatenate([dec, special[1], edge.dec.deg])


def separation(ra: np.ndarray, dec: np.ndarray, cone: Cone) -> np.ndarray:
    """Distances in degrees from the centre of a cone, by astropy."""
    return np.asarray(SkyCoord(ra, dec, unit="deg").separation(SkyCoord(cone.ra_deg, cone.dec_deg, unit="deg")).deg)


@settings(max_examples=60, deadline=None)
@given(CENTRES_RA, CENTRES_DEC, RADII, st.integers(0, 100))
@example(0.0, 90.0, 10800.0, 1)
@example(360.0, 0.0, 0.0, 1)
@example(123.0, -90.0, 1e-4, 1)
def test_stars_of_a_cone_are_astropys_and_in_its_ranges(
    ra_deg: float, dec_deg: float, radius: float, seed: int
) -> None:
    """Exactly the stars that astropy finds within the radius, all of them in the ranges; the centre is one of them."""
    cone = Cone(ra_deg, dec_deg, radius)
    ra, dec = scatter(cone, seed)
    expected = separation(ra, dec, cone)
    assert np.allclose(angular_distance(ra, dec, ra_deg, dec_deg), expected, rtol=0, atol=1e-12)
    rows = rows_in_cone(ra, dec, cone)
    found = np.zeros(len(ra), bool)
    found[rows] = True
    differs = found != (expected <= cone.radius_deg)
    assert np.allclose(expected[differs], cone.radius_deg, rtol=0, atol=1e-12)  # the last bit of a distance
    assert found[3_000 + 6]
    ranges = cone_ranges(cone)
    assert (ranges[:, 0] <= ranges[:, 1]).all() and (ranges[1:, 0] > ranges[:-1, 1] + 1).all()
    numbers = healpix_of(ra[rows], dec[rows])
    places = np.searchsorted(ranges[:, 1], numbers)
    assert (places < len(ranges)).all() and (ranges[places, 0] <= numbers).all()


@pytest.mark.parametrize(("radius", "most"), [(0.0, 1e-9), (1.0, 2.0), (60.0, 1.5), (600.0, 1.5), (5400.0, 1.1)])
@pytest.mark.parametrize(("ra_deg", "dec_deg"), [(0, 0), (10, 90), (300, -90), (359.99, 41.8), (45, 0)])
def test_ranges_are_not_much_wider_than_the_cone(ra_deg: float, dec_deg: float, radius: float, most: float) -> None:
    """The sky that the ranges cover is about the cone's: at most `most` times its area (radius 0: of the sphere)."""
    ranges = cone_ranges(Cone(ra_deg, dec_deg, radius))
    covered = float((ranges[:, 1] - ranges[:, 0] + 1).astype(float).sum()) / (12 * 4.0**HEALPIX_LEVEL)
    area = (1 - np.cos(np.radians(radius / 60))) / 2
    assert area <= covered <= (most * area if radius else most)
    assert len(ranges) < 500


def test_numbers_are_those_of_another_library() -> None:
    """HEALPix numbers are those of astropy_healpix, but for a pixel's rounding at its edge."""
    generator = np.random.default_rng(3)
    ra, dec = generator.uniform(0, 360, 50_000), np.degrees(np.arcsin(generator.uniform(-0.99, 0.99, 50_000)))
    others = lonlat_to_healpix(ra * u.deg, dec * u.deg, 1 << HEALPIX_LEVEL, order="nested")
    assert np.mean(healpix_of(ra, dec) != others) < 1e-3
    assert_array_equal(healpix_of(ra, dec) >> 20, np.asarray(others) >> 20)


@pytest.mark.parametrize("level", [0, 1, 2, 3, 7, 20, 29])
def test_centres_of_pixels_are_the_librarys(level: int) -> None:
    """Centres on caps and belt, of every face, are within a millionth of a pixel of those of cdshealpix."""
    generator = np.random.default_rng(level)
    pixels = np.unique([*range(12), *generator.integers(0, 12 << 2 * level, 3_000), (12 << 2 * level) - 1])
    pixels = pixels[pixels < 12 << 2 * level]
    lon, lat = healpix_to_lonlat(pixels, level)
    ra, dec = pixel_centres(pixels, level)
    distance = SkyCoord(ra, dec, unit="deg").separation(SkyCoord(lon, lat)).deg
    assert distance.max() < 60 / (1 << level) * 1e-6 + 1e-13


def test_stars_without_a_position_have_no_number() -> None:
    """NaN, infinite and outside positions, as quality flags them, sort behind all others; ra 360 is ra 0."""
    ra = np.array([10.0, np.nan, 10.0, -1.0, 360.1, np.inf, 10.0, 360.0, 0.0, 10.0])
    dec = np.array([10.0, 10.0, np.nan, 10.0, 10.0, 10.0, 90.001, -20.0, -20.0, -90.0])
    numbers = healpix_of(ra, dec)
    assert_array_equal(numbers == NO_POSITION, [False, *[True] * 6, False, False, False])
    assert_array_equal(has_position(ra, dec), flag_positions(ra, dec) == 0)
    assert numbers[7] == numbers[8] and numbers[[0, 7, 9]].max() < 12 << 2 * HEALPIX_LEVEL
    assert_array_equal(rows_in_cone(ra, dec, Cone(0, 0, 10800)), [0, 7, 8, 9])


@pytest.mark.parametrize(
    "cone", [(-181, 0, 1), (361, 0, 1), (0, 91, 1), (0, 0, -1), (0, 0, 10801), (float("nan"), 0, 1), (0, 0, np.nan)]
)
def test_what_is_no_cone(cone: tuple[float, float, float]) -> None:
    """Centres outside the sphere and radii that are none are wrong input."""
    with pytest.raises(InputError, match="not a cone"):
        Cone(*cone).check()


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=8), st.sets(st.integers(0, 55)))
def test_overlaps_are_those_of_sets(spans: list[tuple[int, int]], numbers: set[int]) -> None:
    """A span overlaps ranges exactly where they have a number in common."""
    ordered = sorted(numbers)
    ranges = np.array([(one, one) for one in ordered], np.int64).reshape(-1, 2)
    limits = [(first, first + length) for first, length in spans]
    expected = [i for i, (first, last) in enumerate(limits) if numbers & set(range(first, last + 1))]
    assert overlapping([*limits, None], ranges) == expected
