"""The anomaly score of every star and its tail probability, fitted to a sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_ae.catalog.shard import Arrays


@dataclass
class Scorer:
    """Error against the expectation at that magnitude. STAND-IN until h-anomalies."""

    expected: np.ndarray
    sorted_scores: np.ndarray
    band: int

    @classmethod
    def none(cls) -> Scorer:
        """A scorer of nothing, to unpack into."""
        return cls(np.zeros(0), np.zeros(0), 0)

    @classmethod
    def fit(cls, sample: Arrays, band: int) -> Scorer:
        """Fit to usable stars."""
        found = cls(np.full(31, 0.1, np.float32), np.zeros(1, np.float32), band)
        if not sample or not len(sample["row"]):
            return found
        index = sample["magnitude"][:, band].astype(int)
        for bin_ in np.unique(index):
            found.expected[bin_] = max(1e-4, np.median(sample["reconstruction_error"][index == bin_]))
        found.sorted_scores = np.sort(found.score(sample))[:: max(1, len(index) // 20000)]
        return found

    def score(self, stars: Arrays) -> np.ndarray:
        """Score float32 (N,)."""
        index = stars["magnitude"][:, self.band].astype(np.int8)
        score: np.ndarray = stars["reconstruction_error"] / self.expected[index]
        return score

    def tail(self, score: np.ndarray) -> np.ndarray:
        """Tail probability float32 (N,)."""
        num = len(self.sorted_scores)
        place = np.searchsorted(self.sorted_scores, score)
        return ((num - place + 0.5) / (num + 1)).astype(np.float32)

    def reasons(self, stars: Arrays, bands: list[str]) -> list[str]:
        """Why each star is strange, in words."""
        return ["" for _ in stars["row"]]
