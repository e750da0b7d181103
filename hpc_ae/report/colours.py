"""Colour maps of the page, 256 colours each, as text.

Matplotlib's: perceptually uniform and safe for colour-blind readers; the diverging one is ColorBrewer's purple and
orange. Categories: the seven colours of Okabe and Ito (2008), then each the one that is farthest in CIELAB from all
before it and from both grounds of the page.
"""

from __future__ import annotations

import matplotlib
import numpy as np

MAPS = ("viridis", "cividis", "magma")
DIVERGING_MAP = "PuOr_r"
CATEGORIES = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#0000FF", "#00EE00", "#FF00DD"),
    *("#FF0066", "#0066FF", "#555500", "#449900", "#881188", "#FFAA88", "#993333", "#00EE88", "#BBDD88", "#AA99FF"),
)


def colour_maps() -> dict[str, str]:
    """Each map as 256 times rrggbb in hexadecimal digits."""
    return {name: _hex_digits(name) for name in (*MAPS, DIVERGING_MAP)}


def _hex_digits(name: str) -> str:
    table: np.ndarray = matplotlib.colormaps[name](np.arange(256) / 255, bytes=True)
    return np.ascontiguousarray(table[:, :3]).tobytes().hex()
