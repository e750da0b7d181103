"""How uncertain reconstructions are of stars that lack bands: a table for each pattern of missing bands.

A table of `denoising.py` says what the noise of the other bands and the misfit make of each band; where a band is
hidden from the network the noise of its own magnitude is in the residual, and not in the reconstruction: the same
arithmetic holds. So stars with all bands tell of every pattern: its bands are hidden from the network, and compared
with what the catalog has. Shape letters: N stars, B bands, P patterns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpc_ae.analysis.denoising import Uncertainty, fit_uncertainty, read_uncertainty
from hpc_ae.analysis.gaps import patterns

MOST_PATTERNS = 32
MOST_NUMBERS = 200_000  # of all tables together, in model.json
_STARS = 5_000  # that a pattern is fitted to
_CELLS = 64  # about, of a table of so many stars
Reconstruct = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]  # magnitude, hidden (B,)


@dataclass(frozen=True)
class PatternUncertainty:
    """`complete`: of stars with all bands; `missing` bool (P, B) and `tables`: of the patterns that were fitted."""

    complete: Uncertainty
    missing: np.ndarray
    tables: tuple[Uncertainty, ...]

    def of(self, reconstruction: np.ndarray, errors: np.ndarray | None, lacking: np.ndarray) -> np.ndarray:
        """Standard uncertainty float32 (N, B) in mag of the reconstructions of stars that lack bands, bool (N, B)."""
        if not lacking.any():
            return self.complete.of(reconstruction, errors)
        found = np.empty(reconstruction.shape, np.float32)
        for kind, rows in patterns(lacking):
            table = self._table(kind)
            found[rows] = table.of(reconstruction[rows], None if errors is None else errors[rows])
        return found

    def _table(self, lacking: np.ndarray) -> Uncertainty:
        """The table of a pattern (B,); of one that was not fitted that of the least pattern that lacks all its bands
        and more, else of the one that lacks most: rather too wide than too narrow.
        """
        if not lacking.any() or not self.tables:
            return self.complete
        covers = (self.missing | ~lacking).all(axis=1)
        num = self.missing.sum(axis=1)
        place = np.where(covers, num, np.iinfo(np.int64).max).argmin() if covers.any() else num.argmax()
        return self.tables[int(place)]


def choose_patterns(magnitude: np.ndarray, least: int) -> np.ndarray:
    """Which patterns of missing bands to fit, bool (P, B): each band alone, and those that are frequent among stars
    (N, B), NaN where a band is missing, that have at least `least` bands.
    """
    num_bands = magnitude.shape[1]
    lacking = np.isnan(magnitude)
    lacking = lacking[(num_bands - lacking.sum(axis=1) >= least) & lacking.any(axis=1)]
    alone = np.eye(num_bands, dtype=bool) if num_bands > least else np.empty((0, num_bands), bool)
    kinds, counts = np.unique(lacking, axis=0, return_counts=True)
    frequent = kinds[np.argsort(-counts, kind="stable")]
    every = np.concatenate([alone, frequent])
    _, first = np.unique(every, axis=0, return_index=True)
    most = min(MOST_PATTERNS, max(1, MOST_NUMBERS // (_CELLS * num_bands * (num_bands + 2))))
    chosen: np.ndarray = every[np.sort(first)[:most]]
    return chosen


def fit_patterns(
    held_out: tuple[np.ndarray, np.ndarray], chosen: np.ndarray, reconstruct: Reconstruct
) -> list[tuple[np.ndarray, Uncertainty]]:
    """The chosen patterns (P, B) with their tables, of stars with all bands, their magnitudes and errors (N, B) in mag.

    `reconstruct` gives the reconstruction (n, B) and its derivative (n, B, B) where some bands are hidden.
    """
    magnitude, errors = (values[:_STARS] for values in held_out)
    found = []
    for pattern in chosen:
        table = fit_uncertainty(magnitude, errors, *reconstruct(magnitude, pattern))
        if table is not None:
            found.append((pattern, table))
    return found


def pattern_record(bands: Sequence[str], missing: np.ndarray, table: Uncertainty) -> dict[str, Any]:
    """As JSON holds it: which bands are missing, and the table."""
    return {"missing": [band for band, is_missing in zip(bands, missing, strict=True) if is_missing], **table.record()}


def read_patterns(
    record: dict[str, list[Any]] | None, more: Sequence[dict[str, Any]] | None, bands: Sequence[str]
) -> PatternUncertainty | None:
    """The tables of a model's record; None where there is none of stars with all bands."""
    complete = read_uncertainty(record, len(bands))
    if complete is None:
        return None
    read = [(one.get("missing", []), read_uncertainty(one, len(bands))) for one in more or ()]
    known = [(names, table) for names, table in read if table is not None]
    missing = np.array([[band in names for band in bands] for names, _ in known], bool).reshape(-1, len(bands))
    return PatternUncertainty(complete, missing, tuple(table for _, table in known))
