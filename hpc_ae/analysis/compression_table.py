"""What compression costs and keeps: bits per star against error, of the model and of what does without one.

Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hpc_ae.analysis.compression import CoderSample, MagnitudeCoder, make_coder
from hpc_ae.analysis.grids import Grid, LatentGrid
from hpc_ae.analysis.planes import to_planes, zigzag
from hpc_ae.files import canonical_json

MAX_ERRORS = (0.001, 0.005, 0.01, 0.02, 0.05)
LATENT_BITS = (3, 4, 6)
LOSSY_BITS = (4, 8, 12)
SURVEYS = (290_000, 260_000_000)


@dataclass(frozen=True)
class Codec:
    """A compressor: its name, and how many bytes it makes of some."""

    name: str
    size: Callable[[memoryview], int]


@dataclass(frozen=True)
class TableInput:
    """Good stars: magnitude float32 (N, B) in mag and latent (N, L); the model's exact decoder, bytes on disk."""

    magnitude: np.ndarray
    latent: np.ndarray
    decode: Callable[[np.ndarray], np.ndarray]
    bands: Sequence[str]
    model_bytes: int
    surveys: Sequence[int] = field(default=SURVEYS)

    def finite(self) -> TableInput:
        """The stars that have all magnitudes and latents."""
        keep = np.isfinite(self.latent).all(axis=1) & np.isfinite(self.magnitude).all(axis=1)
        return replace(self, magnitude=self.magnitude[keep], latent=self.latent[keep])


@dataclass(frozen=True)
class Coding:
    """How magnitudes are coded: `max_error` in mag, None without a bound; `latent_bits` None without a model."""

    method: str
    codec: str
    max_error: float | None
    latent_bits: int | None


@dataclass(frozen=True)
class CompressionRow(Coding):
    """What that costs and keeps: bits of a star, the same with model and predictor counted for so many stars, and the
    largest and the root mean square error of each band in mag, as measured.
    """

    bits_per_star: float
    bits_with_model: dict[int, float]
    max_mag: dict[str, float]
    rms_mag: dict[str, float]


def compression_table(
    given: TableInput,
    codecs: Sequence[Codec],
    max_errors: Sequence[float] = MAX_ERRORS,
    latent_bits: Sequence[int] = LATENT_BITS,
    lossy_bits: Sequence[int] = LOSSY_BITS,
) -> list[CompressionRow]:
    """What each method costs; the first of the codecs codes the residuals."""
    given = given.finite()
    if not len(given.magnitude):
        return []
    rows = []
    for max_error in max_errors:
        for codec in codecs:
            rows += _rounded(given, max_error, codec)
        rows += [_coded(given, LatentGrid.of(given.latent, bits), max_error, codecs[0]) for bits in (0, *latent_bits)]
    return rows + [_coded(given, LatentGrid.of(given.latent, bits), None, codecs[0]) for bits in lossy_bits]


def _rounded(given: TableInput, max_error: float, codec: Codec) -> list[CompressionRow]:
    """Magnitudes rounded to the same error: each band less its median, and the differences of neighbouring bands."""
    grid = Grid((max_error,) * given.magnitude.shape[1])
    integers = grid.to_integers(given.magnitude)
    differences = integers.copy()
    differences[:, :-1] -= integers[:, 1:]
    decoded = grid.to_magnitudes(integers)
    rows = []
    for method, values in (("rounded", integers), ("rounded, differences of bands", differences)):
        centred = values - np.median(values, axis=0).astype(np.int64)
        num_bytes = sum(codec.size(plane.data) for column in centred.T for plane in to_planes(zigzag(column)))
        rows.append(_measured(given, Coding(method, codec.name, max_error, None), decoded, num_bytes, 0))
    return rows


def _coded(given: TableInput, latent_grid: LatentGrid, max_error: float | None, codec: Codec) -> CompressionRow:
    """A row as `export --to compressed` would code it; no bits of latent: linear prediction from band to band alone."""
    magnitude, integers = given.magnitude, latent_grid.to_integers(given.latent)
    predicted = given.decode(latent_grid.to_latents(integers))
    errors = None if max_error is None else [max_error] * magnitude.shape[1]
    coder = make_coder(errors, latent_grid, CoderSample(magnitude, integers, predicted))
    streams = coder.encode(magnitude, integers, predicted)
    num_bytes = sum(codec.size(plane.data) for planes in streams.values() for plane in planes)
    decoded = coder.decode({name: list(planes) for name, planes in streams.items()}, integers, predicted)
    bits = latent_grid.bits
    coding = Coding("autoencoder" if bits else "linear prediction of bands", codec.name, max_error, bits or None)
    side_bytes = (given.model_bytes if bits else 0) + _side_bytes(coder)
    return _measured(given, coding, decoded, num_bytes, side_bytes)


def _side_bytes(coder: MagnitudeCoder) -> int:
    return 0 if coder.predictor is None else len(canonical_json(coder.predictor.record().to_json()))


def _measured(
    given: TableInput, coding: Coding, decoded: np.ndarray, num_bytes: int, side_bytes: int
) -> CompressionRow:
    error = np.abs(decoded.astype(np.float64) - given.magnitude.astype(np.float64))
    bits = 8.0 * num_bytes / len(error)
    return CompressionRow(
        coding.method,
        coding.codec,
        coding.max_error,
        coding.latent_bits,
        bits_per_star=bits,
        bits_with_model={num: bits + 8.0 * side_bytes / num for num in given.surveys},
        max_mag=dict(zip(given.bands, error.max(axis=0).tolist(), strict=True)),
        rms_mag=dict(zip(given.bands, np.sqrt(np.square(error).mean(axis=0)).tolist(), strict=True)),
    )
