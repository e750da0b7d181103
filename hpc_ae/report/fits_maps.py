"""Maps as FITS, for astropy, healpy, TOPCAT and ds9. The same bytes for the same maps.

Shape letters: W pixels of the sky, X fine and K coarse cells along a side.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def sky_map_fits(order: int, columns: Mapping[str, tuple[np.ndarray, str]]) -> bytes:
    """A HEALPix map as a FITS table: nested, ICRS, all pixels in order. `columns`: {name: (values (W,), unit)}.

    `healpy.read_map(path, field=None, nest=True)` and `astropy.table.Table.read(path)` read it.
    """
    from astropy.io import fits

    table = fits.BinTableHDU.from_columns(
        [
            fits.Column(name, "J" if values.dtype.kind in "iu" else "E", unit or None, array=values)
            for name, (values, unit) in columns.items()
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


def latent_map_fits(maps: Sequence[tuple[Sequence[str], Sequence[tuple[float, float]], Mapping[str, Any]]]) -> bytes:
    """Maps of the latent plane as gzipped FITS images with linear coordinates: axis 1 is the first latent dimension.

    Each map: the names of its axes, its window along each, and {name: (values (X,) or (X, X) indexed [first, second],
    unit)}; the images are named so, with the number of the map behind where there are several.
    """
    from astropy.io import fits

    images = [fits.PrimaryHDU()]
    for number, (axes, window, layers) in enumerate(maps, 1):
        for name, (values, unit) in layers.items():
            image = fits.ImageHDU(np.ascontiguousarray(values.T), name=f"{name} {number}" if len(maps) > 1 else name)
            if unit:
                image.header["BUNIT"] = unit
            for axis, (label, (low, high)) in enumerate(zip(axes, window, strict=True), 1):
                image.header[f"CTYPE{axis}"] = label
                image.header[f"CRPIX{axis}"] = 0.5
                image.header[f"CRVAL{axis}"] = low
                image.header[f"CDELT{axis}"] = (high - low) / values.shape[axis - 1]
            images.append(image)
    return gzip.compress(_bytes(fits.HDUList(images)), compresslevel=4, mtime=0)


def _bytes(hdus: Any) -> bytes:
    memory = io.BytesIO()
    hdus.writeto(memory)
    return memory.getvalue()
