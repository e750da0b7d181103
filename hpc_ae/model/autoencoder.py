"""The autoencoder and its loss.

Shape letters: N stars, B bands, L latent dimensions, H hidden widths.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hpc_ae.model.architecture import Architecture
from hpc_ae.model.scaling import Scaling


def make_layers(widths: Sequence[int]) -> nn.Sequential:
    """Linear, SiLU, LayerNorm for each width after the first, and a last Linear without them."""
    layers: list[nn.Module] = []
    for wide, narrow in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(wide, narrow), nn.SiLU(), nn.LayerNorm(narrow)]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


class Autoencoder(nn.Module):
    """Encoder B-H-...-H-L and the mirrored decoder, on scaled magnitudes."""

    def __init__(self, architecture: Architecture, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.architecture = architecture
        self.scaling = Scaling(mean, std)
        self.encoder = make_layers(architecture.widths)
        self.decoder = make_layers(architecture.widths[::-1])

    def forward(self, magnitude: Tensor) -> Tensor:
        """Residual, magnitude - reconstruction, in mag: (N, B) to (N, B)."""
        return self.encode(magnitude)[1]

    def encode(self, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Latent (N, L) and residual (N, B) in mag of magnitudes (N, B)."""
        scaled = self.scaling(magnitude)
        latent = self.encoder(scaled)
        return latent, (scaled - self.decoder(latent)) * self.scaling.std


def squared_error(residual: Tensor) -> Tensor:
    """The quadratic loss of each star, mean over bands, in mag^2: (N, B) to (N,)."""
    return residual.square().mean(dim=1)


def make_autoencoder(architecture: Architecture, mean: Sequence[float], std: Sequence[float], seed: int) -> Autoencoder:
    """A freshly initialised model (torch's defaults), the same for a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Autoencoder(architecture, mean, std)
