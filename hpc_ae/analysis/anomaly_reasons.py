"""Why a star is strange, in words: which band, by how much, and how rare that is.

Each band is judged by the others: what is expected of it, from the part of the score's mixture that ordinary stars
make.
Shape letters: N stars (a few), B bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpc_ae.analysis.anomaly import Arrays, ScoreModel

_SIGMA = 2.5
_FAILED_MAG = 1.0
_RARE = 0.05
_STRANGE = 0.1
SHOWN_STARS = 10
_BLOCK_ROWS = 4096
SEVERAL, COMBINATION = "several bands", "combination"


@dataclass(frozen=True)
class Deviations:
    """Of stars, (N, B) each: `excess`, the magnitude less the expected one (positive: fainter), in mag; `sigma`, the
    same in units of its expected scatter; `rest`, whether the other bands alone are those of an ordinary star.
    """

    excess: np.ndarray
    sigma: np.ndarray
    rest: np.ndarray

    def without(self, lacking: np.ndarray) -> Deviations:
        """The same where bands that a star lacks (N, B) differ from nothing."""
        if not lacking.any():
            return self
        return Deviations(*(np.where(lacking, 0, values) for values in (self.excess, self.sigma, self.rest)))


def deviations(model: ScoreModel, magnitude: np.ndarray) -> Deviations:
    """How each band of stars (N, B), finite and in mag, differs from what is expected from their other bands."""
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


@dataclass(frozen=True)
class Kind:
    """Strange stars of one kind: `label`, how many, `excess` (B,) the median of what their bands differ by in mag,
    `magnitude` (B,) their median one, and `rows` of the strangest of them, strangest first.
    """

    label: str
    num: int
    excess: np.ndarray
    magnitude: np.ndarray
    rows: np.ndarray


def find_kinds(model: ScoreModel, stars: Arrays, bands: Sequence[str]) -> list[Kind]:
    """The kinds of strange stars among some usable ones, the most frequent first.

    Strange is the tenth with the lowest `tail_probability`. The list of the strangest is full of failed measurements;
    here each kind has its place: quasars, of which a survey has thousands, are those with u alone brighter.
    """
    probability, magnitude = stars["tail_probability"], stars.get("filled", stars["magnitude"])
    lacking = np.isnan(stars["magnitude"])
    rows = np.flatnonzero(probability < _STRANGE)
    rows = rows[np.argsort(probability[rows], kind="stable")]
    chosen = (rows[start : start + _BLOCK_ROWS] for start in _starts(len(rows)))
    blocks = [deviations(model, magnitude[some]).without(lacking[some]) for some in chosen]
    labels = np.array([label for block in blocks for label in kinds_of(block, bands)], dtype=object)
    found = []
    for label in dict.fromkeys(labels.tolist()):
        some = labels == label
        excess = np.concatenate([block.excess for block in blocks])[some]
        middles = np.median(excess, axis=0), np.median(magnitude[rows[some]], axis=0)
        found.append(Kind(str(label), int(some.sum()), *middles, rows[some][:SHOWN_STARS]))
    return sorted(found, key=lambda kind: -kind.num)


def kinds_of(found: Deviations, bands: Sequence[str]) -> list[str]:
    """For each star "u brighter" (that band alone; or fainter, and so on), `SEVERAL` or `COMBINATION`."""
    size = np.abs(found.sigma)
    alone = np.where(found.rest & (size > _SIGMA), size, 0.0)
    band = alone.argmax(axis=1)
    rows = np.arange(len(band))
    several = (size > _SIGMA).any(axis=1)
    fainter = found.excess[rows, band] > 0
    return [
        f"{bands[band[row]]} {'fainter' if fainter[row] else 'brighter'}"
        if alone[row, band[row]] > 0
        else (SEVERAL if several[row] else COMBINATION)
        for row in rows.tolist()
    ]


def _starts(num: int) -> range:
    return range(0, num, _BLOCK_ROWS)


def reasons(model: ScoreModel, arrays: Arrays, bands: Sequence[str]) -> list[str]:
    """A sentence for each of a few stars: of magnitude (N, B), and where known tail_probability and magnitude_error.

    Stars with a magnitude that is not finite, or of quality other than 0, get the reason that nothing is known; with
    `filled` (N, B) a band that is missing is as the model has it, and no reason.
    """
    lacking = np.isnan(arrays["magnitude"])
    magnitude = np.asarray(arrays.get("filled", arrays["magnitude"]), np.float32)
    quality = arrays.get("quality", np.zeros(len(magnitude), np.uint16))
    usable = np.asarray(np.isfinite(magnitude).all(axis=1) & ((quality == 0) | ("filled" in arrays)))
    probability = arrays.get("tail_probability")
    if probability is None:
        probability = model.score({"magnitude": magnitude, "quality": quality})["tail_probability"]
    error = arrays.get("magnitude_error", np.full(magnitude.shape, np.nan))
    found = deviations(model, np.where(usable[:, None], magnitude, 0.0)).without(lacking)
    num_alike = model.tail.num_alike(np.where(usable, magnitude[:, model.reference], 0.0))
    texts = ["not scored: its magnitudes are not usable"] * len(magnitude)
    for row in np.flatnonzero(usable).tolist():
        words = _bands_in_words(found, row, bands, error[row])
        texts[row] = f"{words}; {_rarity(float(probability[row]), num_alike[row], bands[model.reference])}"
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
    return f"{bands[band]} is {abs(excess):.2f} mag {side} than expected from its other bands ({sigma:.1f} sigma)"


def _failure(band: str, error: float) -> str:
    stated = f", whose error is {error:.2f} mag" if np.isfinite(error) else ""
    return f": possibly a failed measurement of {band}{stated}"


def _rarity(probability: float, num_alike: float, reference: str) -> str:
    """In words; of rarer stars than 1 in as many as were counted the number says nothing but that."""
    if probability > _RARE:
        return f"{probability:.0%} of the stars of this {reference} are as strange"
    counted = 1.0 / max(num_alike, 1.0 / _RARE)
    limit = "fewer than " if probability < counted else ""
    return f"{limit}1 in {_round(1.0 / max(probability, counted)):,} stars of this {reference} is as strange"


def _round(number: float) -> int:
    """To two digits."""
    unit = 10 ** max(0, int(np.floor(np.log10(number))) - 1)
    return int(round(number / unit) * unit)
