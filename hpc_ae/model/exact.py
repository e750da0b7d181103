"""The decoder in double precision, with the same bits on every machine.

Each operation is one of IEEE 754's (+, -, *, /, square root, rounding to an integer) on whole arrays, one at a time and
in an order written here: sums run over columns, the exponential is a polynomial, no BLAS and no fused operation takes
part. A file that was compressed on one machine is decoded to the same magnitudes on any other.
Shape letters: N stars, B bands, L latent dimensions, H hidden.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hpc_ae.errors import DamageError
from hpc_ae.model.weights import read_weights

_TILE = 1024  # (H, tile) in double precision stays in a core's cache
_LAYER = re.compile(r"decoder\.([0-9]{1,9})\.(weight|bias)")
_EPSILON = 1e-5  # of torch's LayerNorm
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # the first has zeros at its end
_FACTORIALS = [1.0 / math.factorial(power) for power in range(14)]


class ExactDecoder:
    """Latents to magnitudes, of the tensors of a model: `decoder.*`, `scaling.mean`, `scaling.std`."""

    def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
        found = [match for name in tensors if (match := _LAYER.fullmatch(name))]
        indices = sorted({int(match[1]) for match in found})
        self._layers = [
            tuple(np.asarray(tensors[f"decoder.{index}.{part}"], np.float64) for part in ("weight", "bias"))
            for index in indices
        ]
        self._mean, self._std = (np.asarray(tensors[f"scaling.{part}"], np.float64) for part in ("mean", "std"))
        if not all(np.isfinite(values).all() for layer in self._layers for values in layer):
            raise DamageError("a weight of the decoder is not finite", expected="finite numbers")

    def __call__(self, latent: np.ndarray) -> np.ndarray:
        """Magnitudes float64 (N, B) of latents float64 (N, L); equal latents are computed once."""
        distinct, place = np.unique(latent, axis=0, return_inverse=True)
        magnitude = np.empty((len(distinct), len(self._mean)))
        for start in range(0, len(distinct), _TILE):
            rows = slice(start, start + _TILE)
            magnitude[rows] = self._decode(np.ascontiguousarray(distinct[rows].T)).T
        return np.asarray(magnitude[place.reshape(-1)])

    def _decode(self, values: np.ndarray) -> np.ndarray:
        """(L, N) to (B, N); what overflows is no number in the end, here and everywhere."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self._forward(values)

    def _forward(self, values: np.ndarray) -> np.ndarray:
        for weight, bias in self._layers:
            if weight.ndim == 2:
                linear = _linear(weight, bias, values)
                values = linear
            else:
                values = _normalise(_silu(linear), weight, bias)
        return np.asarray(values * self._std[:, None] + self._mean[:, None])


def load_decoder(model_dir: Path, digest: str) -> ExactDecoder:
    """The exact decoder of a model directory; DamageError where the model is not the one of this digest."""
    weights, record = read_weights(model_dir)
    if record.digest != digest:
        what = "this is not the requested model"
        raise DamageError(what, where=model_dir, got=record.digest, expected=digest)
    return ExactDecoder(weights.arrays)


def _linear(weight: np.ndarray, bias: np.ndarray, values: np.ndarray) -> np.ndarray:
    """weight (M, H) times values (H, N) plus bias (M,), summed input by input."""
    total = np.repeat(bias[:, None], values.shape[1], axis=1)
    product = np.empty_like(total)
    for index in range(weight.shape[1]):
        np.multiply(weight[:, index, None], values[index], out=product)
        np.add(total, product, out=total)
    return np.asarray(total)


def _silu(values: np.ndarray) -> np.ndarray:
    return np.asarray(values / (1.0 + exp(-np.clip(values, -700.0, 700.0))))


def _normalise(values: np.ndarray, gain: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """LayerNorm over the first axis of (H, N)."""
    centred = values - _sum(values) / float(len(values))
    deviation = np.sqrt(_sum(centred * centred) / float(len(values)) + _EPSILON)
    return np.asarray(centred / deviation * gain[:, None] + bias[:, None])


def _sum(values: np.ndarray) -> np.ndarray:
    """Sum over the first axis, in its order."""
    total = values[0].copy()
    for row in values[1:]:
        np.add(total, row, out=total)
    return np.asarray(total)


def exp(values: np.ndarray) -> np.ndarray:
    """The exponential of values within +-700, to about 2 units in the last place; numpy's own differs by machine."""
    power = np.rint(values * 1.4426950408889634)
    rest = (values - power * _LN2_HIGH) - power * _LN2_LOW
    total = np.full_like(rest, _FACTORIALS[-1])
    for factor in _FACTORIALS[-2::-1]:
        np.multiply(total, rest, out=total)
        np.add(total, factor, out=total)
    return np.asarray(np.ldexp(total, power.astype(np.int32)))
