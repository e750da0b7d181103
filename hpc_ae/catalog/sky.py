"""The sky: HEALPix numbers of positions, the ranges of them that a cone touches, the shards and rows inside a cone.

HEALPix nested, order 29 (pixels of 0.4 milliarcseconds, 12 * 4^29 of them), ICRS. A catalog in sky order has its stars
by ascending number and the first and last of each shard in its manifest. Shape letters: N stars, R ranges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpc_ae.catalog.records import ShardRecord, SkyRange
from hpc_ae.errors import DamageError, InputError

HEALPIX_LEVEL = 29
NO_POSITION = 2**63 - 1  # sorts behind every HEALPix number
MAX_RADIUS_ARCMIN = 180.0 * 60.0
_DEEPEST_LEVEL = 20  # of a cone's ranges: pixels of 0.2 arcseconds, far fewer stars than a chunk has
_PIXELS_IN_RADIUS = 16  # a cone's edge is followed down to pixels so much smaller than its radius
_SLACK = 1.05  # of a pixel's radius: its edges are curved, its corners rounded


@dataclass(frozen=True)
class Cone:
    """All positions within a radius of a centre; the radius itself counts as inside."""

    ra_deg: float
    dec_deg: float
    radius_arcmin: float

    def check(self) -> None:
        """InputError where this is no cone."""
        inside = -180 <= self.ra_deg <= 360 and abs(self.dec_deg) <= 90
        if not inside or not 0 <= self.radius_arcmin <= MAX_RADIUS_ARCMIN:
            raise InputError(
                "not a cone",
                where="--cone RA DEC RADIUS_ARCMIN",
                got=f"{self.ra_deg:g} {self.dec_deg:g} {self.radius_arcmin:g}",
                expected="0 to 360 deg (or -180 to 0), -90 to 90 deg, 0 to 10800 arcmin",
            )

    @property
    def radius_deg(self) -> float:
        """The radius in degrees."""
        return self.radius_arcmin / 60.0


def has_position(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Which positions in degrees are on the sphere: bool (N,); those that quality.flag_positions has no flag for."""
    with np.errstate(invalid="ignore"):
        return np.asarray((ra >= 0) & (ra <= 360) & (np.abs(dec) <= 90))


def healpix_of(ra: np.ndarray, dec: np.ndarray, level: int = HEALPIX_LEVEL) -> np.ndarray:
    """HEALPix numbers (nested, of a level) int64 (N,) of positions in degrees; NO_POSITION where there is none."""
    from astropy.coordinates import Latitude, Longitude
    from cdshealpix.nested import lonlat_to_healpix

    numbers = np.full(len(ra), NO_POSITION, np.int64)
    placed = has_position(ra, dec)
    if placed.any():
        lon, lat = Longitude(ra[placed], "deg"), Latitude(dec[placed], "deg")
        numbers[placed] = lonlat_to_healpix(lon, lat, level, num_threads=1)  # the processes are the threads
    return numbers


def angular_distance(ra: np.ndarray, dec: np.ndarray, ra_deg: float, dec_deg: float) -> np.ndarray:
    """Distance in degrees of positions (N,) in degrees from one position, float64 (N,), exact at all distances.

    Vincenty's formula, as astropy's SkyCoord.separation has it.
    """
    turn = np.radians(ra - ra_deg)
    lat, lat0 = np.radians(dec), math.radians(dec_deg)
    sin, cos, sin0, cos0 = np.sin(lat), np.cos(lat), math.sin(lat0), math.cos(lat0)
    across = np.hypot(cos * np.sin(turn), cos0 * sin - sin0 * cos * np.cos(turn))
    return np.asarray(np.degrees(np.arctan2(across, sin0 * sin + cos0 * cos * np.cos(turn))))


def rows_in_cone(ra: np.ndarray, dec: np.ndarray, cone: Cone) -> np.ndarray:
    """Rows int64 (n,), ascending, of the positions (N,) in degrees that lie in a cone."""
    with np.errstate(invalid="ignore"):
        near = np.abs(dec - cone.dec_deg) <= cone.radius_deg + 1e-9
    rows = np.flatnonzero(near & has_position(ra, dec))
    distance = angular_distance(ra[rows], dec[rows], cone.ra_deg, cone.dec_deg)
    return np.asarray(rows[distance <= cone.radius_deg])


def _pixel_radius_deg(level: int) -> float:
    """No point of a pixel of this level is farther from its centre: HEALPix's max_pixrad and some slack."""
    nside = 1 << level
    z, turn = 2.0 / 3.0, math.pi / (4 * nside)
    corner_z = 1.0 - (1.0 - 1.0 / nside) ** 2 / 3.0
    root, corner_root = math.sqrt(1 - z * z), math.sqrt(1 - corner_z * corner_z)
    across = math.hypot(
        root * math.cos(turn) * corner_z - z * corner_root, root * math.sin(turn) * math.hypot(corner_z, corner_root)
    )
    return _SLACK * math.degrees(math.atan2(across, root * math.cos(turn) * corner_root + z * corner_z))


def pixel_centres(pixels: np.ndarray, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres (ra, dec) in degrees of nested pixels int64 (N,) of a level: Gorski et al. 2005, ApJ 622, 759.

    cdshealpix has them too, but importing it, and astropy with it, is half of what a query takes.
    """
    nside = 1 << level
    face = pixels >> 2 * level
    east, north = (sum(((pixels >> 2 * bit + odd) & 1) << bit for bit in range(level)) for odd in (0, 1))
    ring = (face // 4 + 2) * nside - east - north - 1
    in_ring = np.minimum(np.minimum(ring, 4 * nside - ring), nside)  # pixels of a quarter of the ring
    cap = 90.0 - 2 * np.degrees(np.arcsin(in_ring / (nside * math.sqrt(6))))
    belt = np.degrees(np.arcsin(np.clip((2 * nside - ring) / (1.5 * nside), -1, 1)))
    dec = np.where(in_ring < nside, np.where(ring < 2 * nside, cap, -cap), belt)
    first = 2 * (face % 4) + (face // 4 != 1)
    return 45.0 * (first * in_ring + east - north) / in_ring % 360.0, dec


def cone_ranges(cone: Cone) -> np.ndarray:
    """HEALPix numbers of order 29 that a cone can have stars in: int64 (R, 2), first and last, ascending, apart.

    Conservative: every position of the cone is in a range; near its edge a range may have positions outside it.
    """
    found: list[np.ndarray] = []
    pixels = np.arange(12)
    for level in range(_DEEPEST_LEVEL + 1):
        distance = angular_distance(*pixel_centres(pixels, level), cone.ra_deg, cone.dec_deg)
        margin = _pixel_radius_deg(level)
        inside, near = distance + margin <= cone.radius_deg, distance <= cone.radius_deg + margin
        last = level == _DEEPEST_LEVEL or margin * _PIXELS_IN_RADIUS < cone.radius_deg
        found.append(_as_ranges(pixels[near if last else inside], level))
        if last:
            break
        pixels = (4 * pixels[near & ~inside][:, None] + np.arange(4)).ravel()
    return _joined(np.concatenate(found))


def _as_ranges(pixels: np.ndarray, level: int) -> np.ndarray:
    """First and last number of order 29 in each pixel of a level, int64 (R, 2)."""
    shift = 2 * (HEALPIX_LEVEL - level)
    return np.stack([pixels << shift, ((pixels + 1) << shift) - 1], axis=1)


def _joined(ranges: np.ndarray) -> np.ndarray:
    """Ranges (R, 2) in order, with those made one that touch."""
    ranges = ranges[np.argsort(ranges[:, 0])]
    opens = np.ones(len(ranges), bool)
    opens[1:] = ranges[1:, 0] > ranges[:-1, 1] + 1
    return np.stack([ranges[opens, 0], ranges[np.append(opens[1:], True), 1]], axis=1)


def sky_ranges(shards: Sequence[ShardRecord], where: Path) -> list[tuple[int, int] | None]:
    """First and last HEALPix number of each shard, None where none of its stars has a position.

    DamageError where a shard of the manifest at `where` does not say.
    """
    if missing := [shard.file for shard in shards if not shard.says_sky]:
        what = "a shard's range in the sky is missing or wrong"
        raise DamageError(what, where=where, got=f"none of {missing[0]}")
    return [None if shard.healpix is None else shard.healpix.numbers for shard in shards]


def sky_range(numbers: np.ndarray) -> SkyRange | None:
    """What a shard's record says of its HEALPix numbers int64 (N,); None where no star has a position."""
    placed = numbers[numbers != NO_POSITION]
    return SkyRange(first=str(placed.min()), last=str(placed.max())) if len(placed) else None


def overlapping(spans: Sequence[tuple[int, int] | None], ranges: np.ndarray) -> list[int]:
    """Which of the spans (first, last) share a number with one of the ranges (R, 2), ascending and apart."""
    found = []
    for index, span in enumerate(spans):
        if span is not None:
            place = int(np.searchsorted(ranges[:, 1], span[0]))
            if place < len(ranges) and ranges[place, 0] <= span[1]:
                found.append(index)
    return found
