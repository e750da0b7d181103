"""Why a star is strange, in words: which band, by how much, and how rare that is.

Each band is judged by the others: what they let expect of it, from the part of the score's mixture that ordinary stars
make.
Shape letters: N stars (a few), B bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpc_ae.analysis.anomaly import Arrays, ScoreModel

_SIGMA = 3.0
_FAILED_MAG = 1.0
_RARE = 0.05
_COUNTED = 1e-6  # rarer than that no sample can tell


@dataclass(frozen=True)
class Deviations:
    """Of stars, (N, B) each: `excess`, the magnitude less the expected one (positive: fainter), in mag; `sigma`, the
    same in units of its expected scatter; `rest`, whether the other bands alone are those of an ordinary star.
    """

    excess: np.ndarray
    sigma: np.ndarray
    rest: np.ndarray


def deviations(model: ScoreModel, magnitude: np.ndarray) -> Deviations:
    """How each band of stars (N, B), finite and in mag, differs from what their other bands let expect."""
    mixture, stretched = model.ordinary_bands(), model.scales.stretch(magnitude).astype(np.float64)
    excess, sigma = np.zeros(magnitude.shape), np.zeros(magnitude.shape)
    rest = np.zeros(magnitude.shape, bool)
    for band in range(magnitude.shape[1]):
        expected, spread = mixture.expect(stretched, band)
        excess[:, band] = magnitude[:, band] - model.scales.unstretch(expected, band)
        sigma[:, band] = (stretched[band] - expected) / spread
        others = [one for one in range(magnitude.shape[1]) if one != band]
        if others:
            surprisal = -mixture.marginal(others).log_density(stretched[others].astype(np.float32))
            rest[:, band] = surprisal < model.limits[band]
    return Deviations(excess, sigma, rest)


def reasons(model: ScoreModel, arrays: Arrays, bands: Sequence[str]) -> list[str]:
    """A sentence for each of a few stars: of magnitude (N, B), and where known tail_probability and magnitude_error.

    Stars with a magnitude that is not finite, or of quality other than 0, get the reason that nothing is known.
    """
    magnitude = np.asarray(arrays["magnitude"], np.float32)
    quality = arrays.get("quality", np.zeros(len(magnitude), np.uint16))
    usable = np.asarray(np.isfinite(magnitude).all(axis=1) & (quality == 0))
    probability = arrays.get("tail_probability")
    if probability is None:
        probability = model.score({"magnitude": magnitude, "quality": quality})["tail_probability"]
    error = arrays.get("magnitude_error", np.full(magnitude.shape, np.nan))
    found = deviations(model, np.where(usable[:, None], magnitude, 0.0))
    texts = ["not scored: its magnitudes are not usable"] * len(magnitude)
    for row in np.flatnonzero(usable).tolist():
        words = _bands_in_words(found, row, bands, error[row])
        texts[row] = f"{words}; {_rarity(float(probability[row]), bands[model.reference])}"
    return texts


def _bands_in_words(found: Deviations, row: int, bands: Sequence[str], error: np.ndarray) -> str:
    """The band that alone is strange, else the two that differ most, else that none does."""
    size = np.abs(found.sigma[row])
    order = np.argsort(-size, kind="stable")
    alone = [band for band in order if found.rest[row, band] and size[band] > _SIGMA]
    if alone:
        text = f"{_one_band(found, row, alone[0], bands)}, the other bands are those of an ordinary star"
        return text + (_failure(bands[alone[0]], error[alone[0]]) if found.excess[row, alone[0]] > _FAILED_MAG else "")
    strange = [band for band in order[:2] if size[band] > _SIGMA]
    if not strange:
        return f"no band stands out, the combination does; most of all {_one_band(found, row, int(order[0]), bands)}"
    return " and ".join(_one_band(found, row, band, bands) for band in strange)


def _one_band(found: Deviations, row: int, band: int, bands: Sequence[str]) -> str:
    excess = found.excess[row, band]
    side = "fainter" if excess > 0 else "brighter"
    sigma = abs(found.sigma[row, band])
    return f"{bands[band]} is {abs(excess):.2f} mag {side} than its other bands let expect ({sigma:.1f} sigma)"


def _failure(band: str, error: float) -> str:
    stated = f", whose error is {error:.2f} mag" if np.isfinite(error) else ""
    return f": perhaps a failed measurement of {band}{stated}"


def _rarity(probability: float, reference: str) -> str:
    if probability > _RARE:
        return f"{probability:.0%} of the stars of this {reference} are as strange"
    limit = "fewer than " if probability < _COUNTED else ""
    return f"{limit}1 in {_round(1.0 / max(probability, _COUNTED)):,} stars of this {reference} is as strange"


def _round(number: float) -> int:
    """To two digits."""
    unit = 10 ** max(0, int(np.floor(np.log10(number))) - 1)
    return int(round(number / unit) * unit)
