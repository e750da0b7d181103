"""Colour maps of the page, 256 colours each, as text.

Matplotlib's: perceptually uniform and safe for colour-blind readers; the diverging one is ColorBrewer's purple and
orange. Categories are those of Okabe and Ito (2008).
"""

from __future__ import annotations

import matplotlib
import numpy as np

MAPS = ("viridis", "cividis", "magma")
DIVERGING_MAP = "PuOr_r"
CATEGORIES = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#999999")


def colour_maps() -> dict[str, str]:
    """Each map as 256 times rrggbb in hexadecimal digits."""
    return {name: _hex_digits(name) for name in (*MAPS, DIVERGING_MAP)}


def _hex_digits(name: str) -> str:
    table: np.ndarray = matplotlib.colormaps[name](np.arange(256) / 255, bytes=True)
    return np.ascontiguousarray(table[:, :3]).tobytes().hex()
