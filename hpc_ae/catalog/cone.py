"""Stars within a circle on the sky, in double precision.

Shape letters: N stars.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from importlib import import_module

import numpy as np

from hpc_ae.catalog.catalog import Catalog
from hpc_ae.errors import InputError

_MARGIN_DEG = 1e-9  # far above the rounding of a declination, far below any position's error
_SKY = "hpc_ae.catalog.sky"


def in_cone(ra: np.ndarray, dec: np.ndarray, center: tuple[float, float], radius_deg: float) -> np.ndarray:
    """bool (N,): which positions (N,) are within `radius_deg` of `center` (ra, dec), all in degrees, float64.

    By the haversine, exact for the smallest distances too; a position that is NaN or outside the sphere is in no cone.
    """
    with np.errstate(invalid="ignore"):
        near = (np.abs(dec - center[1]) <= radius_deg + _MARGIN_DEG) & (np.abs(dec) <= 90)
    inside = np.zeros(len(ra), bool)
    rows = np.flatnonzero(near)
    phi, phi0 = np.radians(dec[rows]), np.radians(center[1])
    half_ra, half_dec = np.radians(ra[rows] - center[0]) / 2, (phi - phi0) / 2
    haversine = np.sin(half_dec) ** 2 + np.cos(phi) * np.cos(phi0) * np.sin(half_ra) ** 2
    with np.errstate(invalid="ignore"):
        inside[rows] = (haversine <= np.sin(np.radians(min(radius_deg, 180.0)) / 2) ** 2) & (
            (ra[rows] >= 0) & (ra[rows] <= 360)
        )
    return inside


def rows_in_cone(stars: Catalog, ra: float, dec: float, radius_arcmin: float) -> np.ndarray:
    """Row numbers int64 (n,), ascending, of a star catalog's stars within `radius_arcmin` of (ra, dec) in degrees.

    Only the shards that the catalog's sky order leaves are opened, where it has one. InputError for a circle that is
    none.
    """
    if not (0 <= ra <= 360 and -90 <= dec <= 90 and 0 <= radius_arcmin <= 10_800):
        raise InputError(
            "not a circle on the sky",
            where="cone",
            got=f"ra {ra}, dec {dec}, radius {radius_arcmin} arcmin",
            expected="ra 0 to 360 deg, dec -90 to 90 deg, radius 0 to 10800 arcmin",
        )
    radius_deg = radius_arcmin / 60
    found = [np.empty(0, np.int64)]
    for index in _shards_in_cone(stars, ra, dec, radius_arcmin):
        arrays = stars.read_shard(index, ["ra", "dec"])
        rows = np.flatnonzero(in_cone(arrays["ra"], arrays["dec"], (ra, dec), radius_deg))
        found.append(rows + stars.offsets[index])
    return np.sort(np.concatenate(found))


def _shards_in_cone(stars: Catalog, ra: float, dec: float, radius_arcmin: float) -> Iterable[int]:
    """Numbers of the shards that may hold stars of the circle; all of them where nothing is known of their order."""
    if importlib.util.find_spec(_SKY) is None:
        return range(len(stars.shards))
    shards: Iterable[int] = import_module(_SKY).shards_in_cone(stars, ra, dec, radius_arcmin)
    return shards
