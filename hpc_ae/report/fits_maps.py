"""Maps as FITS, for astropy, healpy, TOPCAT and ds9. The same bytes for the same maps.

Shape letters: W pixels of the sky, X fine and K coarse cells along a side.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class FitsLayer:
    """A column of a map of the sky, or an image of the latent plane. `unit` "": none."""

    name: str
    values: np.ndarray  # (W,), or (X,) or (X, X) indexed [first, second]
    unit: str = ""


@dataclass(frozen=True, eq=False)
class LatentMap:
    """Layers of one plane: the names of its axes, and its window along each, (1, 2) or (2, 2)."""

    axes: Sequence[str]
    window: np.ndarray
    layers: Sequence[FitsLayer]


def sky_map_fits(order: int, columns: Sequence[FitsLayer]) -> bytes:
    """A HEALPix map as a FITS table: nested, ICRS, all pixels in order.

    `healpy.read_map(path, field=None, nest=True)` and `astropy.table.Table.read(path)` read it.
    """
    from astropy.io import fits

    table = fits.BinTableHDU.from_columns(
        [
            fits.Column(one.name, "J" if one.values.dtype.kind in "iu" else "E", one.unit or None, array=one.values)
            for one in columns
        ],
        name="SKY",
    )
    num = 12 << 2 * order
    cards: tuple[tuple[str, Any, str], ...] = (
        ("PIXTYPE", "HEALPIX", "HEALPix pixels"),
        ("ORDERING", "NESTED", "numbering of the pixels"),
        ("NSIDE", 1 << order, "resolution"),
        ("FIRSTPIX", 0, "first pixel"),
        ("LASTPIX", num - 1, "last pixel"),
        ("INDXSCHM", "IMPLICIT", "row i is pixel i"),
        ("OBJECT", "FULLSKY", "all pixels are there"),
        ("COORDSYS", "C", "celestial"),
        ("RADESYS", "ICRS", ""),
    )
    for key, value, comment in cards:
        table.header[key] = (value, comment)
    return _bytes(fits.HDUList([fits.PrimaryHDU(), table]))


def latent_map_fits(maps: Sequence[LatentMap]) -> bytes:
    """Maps of the latent plane as gzipped FITS images with linear coordinates: axis 1 is the first latent dimension.

    The images are named as their layers, with the number of the map behind where there are several.
    """
    from astropy.io import fits

    images = [fits.PrimaryHDU()]
    for number, one in enumerate(maps, 1):
        for layer in one.layers:
            name = f"{layer.name} {number}" if len(maps) > 1 else layer.name
            image = fits.ImageHDU(np.ascontiguousarray(layer.values.T), name=name)
            if layer.unit:
                image.header["BUNIT"] = layer.unit
            for axis, (label, (low, high)) in enumerate(zip(one.axes, one.window.tolist(), strict=True), 1):
                image.header[f"CTYPE{axis}"] = label
                image.header[f"CRPIX{axis}"] = 0.5
                image.header[f"CRVAL{axis}"] = low
                image.header[f"CDELT{axis}"] = (high - low) / layer.values.shape[axis - 1]
            images.append(image)
    return gzip.compress(_bytes(fits.HDUList(images)), compresslevel=4, mtime=0)


def _bytes(hdus: Any) -> bytes:
    memory = io.BytesIO()
    hdus.writeto(memory)
    return memory.getvalue()
