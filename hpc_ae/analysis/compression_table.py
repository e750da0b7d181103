"""What compression costs and keeps: bits per star against error, of the model and of what does without one.

Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hpc_ae.analysis.compression import Grid, LatentGrid, MagnitudeCoder, make_coder, to_planes, zigzag
from hpc_ae.files import canonical_json

MAX_ERRORS = (0.001, 0.005, 0.01, 0.02, 0.05)
LATENT_BITS = (3, 4, 6)
LOSSY_BITS = (4, 8, 12)
SURVEYS = (290_000, 260_000_000)
Sizes = Mapping[str, Callable[[memoryview], int]]


@dataclass(frozen=True)
class TableInput:
    """Good stars: magnitude float32 (N, B) in mag and latent (N, L); the model's exact decoder, bytes on disk."""

    magnitude: np.ndarray
    latent: np.ndarray
    decode: Callable[[np.ndarray], np.ndarray]
    bands: Sequence[str]
    model_bytes: int
    surveys: Sequence[int] = field(default=SURVEYS)


def compression_table(
    given: TableInput,
    codecs: Sizes,
    max_errors: Sequence[float] = MAX_ERRORS,
    latent_bits: Sequence[int] = LATENT_BITS,
    lossy_bits: Sequence[int] = LOSSY_BITS,
) -> list[dict[str, Any]]:
    """Rows of plain values; `codecs` gives the size of some bytes in each codec by name, the first codes the residuals.

    Each row: method, codec, max_error (mag; None: no bound), latent_bits (None: no model), bits_per_star, bits of it
    with the model and the predictor counted for each of `surveys` stars, and max and rms error per band as measured.
    """
    finite = np.isfinite(given.latent).all(axis=1) & np.isfinite(given.magnitude).all(axis=1)
    magnitude, latent = given.magnitude[finite], given.latent[finite]
    if not len(magnitude):
        return []
    rows = []
    first = next(iter(codecs))
    for max_error in max_errors:
        for name, size in codecs.items():
            rows += _rounded(given, magnitude, max_error, name, size)
        for bits in (0, *latent_bits):
            grid = LatentGrid.of(latent, bits)
            rows.append(_coded(given, magnitude, grid.to_integers(latent), (grid, max_error), (first, codecs[first])))
    for bits in lossy_bits:
        grid = LatentGrid.of(latent, bits)
        rows.append(_coded(given, magnitude, grid.to_integers(latent), (grid, None), (first, codecs[first])))
    return rows


def _rounded(
    given: TableInput, magnitude: np.ndarray, max_error: float, codec: str, size: Callable[[memoryview], int]
) -> list[dict[str, Any]]:
    """Magnitudes rounded to the same error: each band less its median, and the differences of neighbouring bands."""
    grid = Grid((max_error,) * magnitude.shape[1])
    integers = grid.to_integers(magnitude)
    differences = integers.copy()
    differences[:, :-1] -= integers[:, 1:]
    rows = []
    for method, values in (("rounded", integers), ("rounded, differences of bands", differences)):
        centred = values - np.median(values, axis=0).astype(np.int64)
        num_bytes = sum(size(plane.data) for column in centred.T for plane in to_planes(zigzag(column)))
        row = {"method": method, "codec": codec, "max_error": max_error, "latent_bits": None}
        decoded = grid.to_magnitudes(integers)
        rows.append({**row, **_measured(given, magnitude, decoded, num_bytes, 0)})
    return rows


def _coded(
    given: TableInput,
    magnitude: np.ndarray,
    integers: np.ndarray,
    how: tuple[LatentGrid, float | None],
    codec: tuple[str, Callable[[memoryview], int]],
) -> dict[str, Any]:
    """A row as `export --to compressed` would code it; no bits of latent: linear prediction from band to band alone."""
    latent_grid, max_error = how
    predicted = given.decode(latent_grid.to_latents(integers))
    sample = {"magnitude": magnitude, "latent": integers, "predicted": predicted}
    errors = None if max_error is None else [max_error] * magnitude.shape[1]
    coder = make_coder(errors, latent_grid, sample)
    streams = coder.encode(magnitude, integers, predicted)
    num_bytes = sum(codec[1](plane.data) for planes in streams.values() for plane in planes)
    decoded = coder.decode({name: list(planes) for name, planes in streams.items()}, integers, predicted)
    bits = latent_grid.bits
    method = "autoencoder" if bits else "linear prediction of bands"
    row = {"method": method, "codec": codec[0], "max_error": max_error, "latent_bits": bits or None}
    side_bytes = (given.model_bytes if bits else 0) + _side_bytes(coder)
    return {**row, **_measured(given, magnitude, decoded, num_bytes, side_bytes)}


def _side_bytes(coder: MagnitudeCoder) -> int:
    return 0 if coder.predictor is None else len(canonical_json(coder.predictor.to_json()))


def _measured(
    given: TableInput, magnitude: np.ndarray, decoded: np.ndarray, num_bytes: int, side_bytes: int
) -> dict[str, Any]:
    error = np.abs(decoded.astype(np.float64) - magnitude.astype(np.float64))
    bits = 8.0 * num_bytes / len(magnitude)
    return {
        "bits_per_star": bits,
        "bits_with_model": {str(num): bits + 8.0 * side_bytes / num for num in given.surveys},
        "max_mag": dict(zip(given.bands, error.max(axis=0).tolist(), strict=True)),
        "rms_mag": dict(zip(given.bands, np.sqrt(np.square(error).mean(axis=0)).tolist(), strict=True)),
    }
