"""How strange a star is that lacks bands: the density of those that it has, on the scale of stars with all bands.

A mixture of Gaussians has exact marginals: the surprisal of some bands is minus the logarithm of their own density. Of
fewer bands it is smaller and less spread. So that a star's score does not jump when a band is hidden, each marginal
surprisal is put at the same quantile of the surprisal of all bands, both of stars that are drawn from the mixture.
Shape letters: N stars, B bands, b measured ones of a pattern, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hpc_ae.analysis.score_mixture import Mixture

_NUM_DRAWN = 4096
_LEVELS = np.concatenate([np.linspace(0.001, 0.95, 96), np.linspace(0.955, 0.999, 45)])


@dataclass(frozen=True)
class Marginal:
    """The density of some bands, and where its surprisals lie among those of all: both (Q,) at the same quantiles."""

    mixture: Mixture
    own: np.ndarray
    whole: np.ndarray

    @classmethod
    def of(cls, bands: Mixture, kept: np.ndarray, surprisal: Callable[[np.ndarray], np.ndarray]) -> Marginal:
        """Of a mixture in bands, of which `kept` (b,) are measured; `surprisal` is that of all bands (B, N)."""
        drawn = bands.draw(_NUM_DRAWN)
        mixture = bands.marginal(kept.tolist())
        own = -mixture.log_density(drawn[kept].astype(np.float32))
        whole = surprisal(drawn.astype(np.float32))
        return cls(mixture, np.quantile(own, _LEVELS), np.quantile(whole, _LEVELS))

    def surprisal(self, stretched: np.ndarray) -> np.ndarray:
        """Surprisals float32 (N,) of measured bands (b, N), on the scale of all bands."""
        own = -self.mixture.log_density(stretched)
        found = np.interp(own, self.own, self.whole)
        found += np.maximum(own - self.own[-1], 0.0) + np.minimum(own - self.own[0], 0.0)
        return np.asarray(found, np.float32)
