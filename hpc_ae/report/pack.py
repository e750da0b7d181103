"""Arrays as text within the page: bytes in planes, deflated, base64; what templates/core.js unpacks.

Floats of maps are kept to 65,534 steps of an inverse hyperbolic sine about their median: fine where most values are,
and no tail is cut. Whole numbers are exact. Shape letters: X cells along a side of the counts, K of a layer.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass, replace

import numpy as np

from hpc_ae.report.data import AtlasLayer, AtlasPanel
from hpc_ae.report.embedded import ArrayForm, Code

_STEPS = 65_534  # codes 1 to 65,535; 0 is no value
_DTYPES = {"u1": "u1", "u2": "<u2", "u4": "<u4", "i2": "<i2", "i4": "<i4", "i8": "<i8", "f4": "<f4"}
_LEAST_SIDE = 32


@dataclass(frozen=True)
class Packed:
    """An array of the page: `text` goes into an element of its own, `form` into the page's JSON."""

    text: str
    form: ArrayForm


def pack(values: np.ndarray, dtype: str, *, divide: float | None = None, code: Code | None = None) -> Packed:
    """Pack an array as `dtype`: u1, u2, u4, i2, i4, i8 or f4. The values must fit it."""
    plain = np.ascontiguousarray(values, dtype=_DTYPES[dtype])
    planes = plain.reshape(-1).view(np.uint8).reshape(-1, plain.itemsize).T
    text = base64.b64encode(zlib.compress(np.ascontiguousarray(planes).tobytes(), 6)).decode()
    return Packed(text, ArrayForm(dtype=dtype, shape=plain.shape, divide=divide, code=code))


def pack_counts(counts: np.ndarray) -> Packed:
    """Pack counts of any shape exactly, in as few bytes as the largest takes. At most 2^32 - 1."""
    largest = int(counts.max(initial=0))
    return pack(counts, next(name for name, limit in (("u1", 8), ("u2", 16), ("u4", 32)) if largest < 1 << limit))


def pack_floats(values: np.ndarray, scale: str = "linear") -> Packed:
    """Pack floats of any shape with NaN for no value; whole numbers from 0 where `scale` is "category"."""
    finite = np.isfinite(values)
    known = values[finite].astype(np.float64)
    if scale == "category":
        codes = np.zeros(values.shape, np.int64)
        codes[finite] = np.clip(np.rint(known), -1, _STEPS) + 1
        return pack(codes, "u2", code=Code(kind="category"))
    centre, width = _spread(known)
    bent = np.arcsinh((known - centre) / width)
    low, high = (float(bent.min()), float(bent.max())) if bent.size else (0.0, 0.0)
    step = (high - low) / (_STEPS - 1) or 1.0
    codes = np.zeros(values.shape, np.int64)
    codes[finite] = np.rint((bent - low) / step) + 1
    return pack(codes, "u2", code=Code(kind="asinh", centre=centre, width=width, low=low, step=step))


def _spread(known: np.ndarray) -> tuple[float, float]:
    """Median and half the distance of the quartiles, where the steps shall be fine; not less than the range allows."""
    if not known.size:
        return 0.0, 1.0
    low, centre, high = (float(value) for value in np.quantile(known, [0.25, 0.5, 0.75]))
    return centre, max((high - low) / 2, 1e-6 * float(np.ptp(known))) or 1.0


def halve_panel(panel: AtlasPanel) -> AtlasPanel:
    """The same panel with cells of twice the size: counts are summed, layers averaged by their stars."""
    side = len(panel.counts)
    if side <= _LEAST_SIDE or side % 2:
        return panel
    layers = tuple(_halve_layer(layer, panel.counts) for layer in panel.layers)
    return replace(panel, counts=_blocks(panel.counts.astype(np.uint64), 2).sum((1, 3)), layers=layers)


def _halve_layer(layer: AtlasLayer, counts: np.ndarray) -> AtlasLayer:
    side = len(layer.values)
    if side <= _LEAST_SIDE or side % 2:
        return layer
    weight = _blocks(counts.astype(np.float64), len(counts) // side).sum((1, 3))
    weight = np.where(np.isfinite(layer.values), np.maximum(weight, 1e-9), 0.0)
    if layer.scale == "category":
        return replace(layer, values=_largest_of_four(layer.values, weight))
    total = _blocks(weight, 2).sum((1, 3))
    summed = _blocks(weight * np.nan_to_num(layer.values), 2).sum((1, 3))
    mean = np.divide(summed, total, out=np.full(total.shape, np.nan), where=total > 0)
    return replace(layer, values=mean.astype(np.float32))


def _largest_of_four(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Of each two by two cells (K, K) the value of the one with most stars: (K / 2, K / 2)."""
    half = len(values) // 2
    four, heavy = (_blocks(one, 2).transpose(0, 2, 1, 3).reshape(half, half, 4) for one in (values, weight))
    best: np.ndarray = np.take_along_axis(four, heavy.argmax(-1)[..., None], -1)[..., 0]
    return best


def _blocks(values: np.ndarray, size: int) -> np.ndarray:
    """A view (n / size, size, n / size, size) of (n, n)."""
    side = len(values) // size
    return values.reshape(side, size, side, size)
