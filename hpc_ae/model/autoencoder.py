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
    """Encoder B-H-...-H-L and the mirrored decoder, on scaled magnitudes. Where it is masked NaN stands for a band that
    is not measured: the encoder sees 0 there, and behind the magnitudes 1 where a band is measured.
    """

    def __init__(self, architecture: Architecture, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.architecture = architecture
        self.scaling = Scaling(mean, std)
        self.encoder = make_layers(architecture.widths)
        self.decoder = make_layers(architecture.decoder_widths)

    def forward(self, magnitude: Tensor) -> Tensor:
        """Residual, magnitude - reconstruction, in mag: (N, B) to (N, B)."""
        return self.encode(magnitude)[1]

    def encode(self, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Latent (N, L) and residual (N, B) in mag of magnitudes (N, B)."""
        scaled = self.scaling(magnitude)
        latent = self.encoder(self.seen(scaled))
        return latent, (scaled - self.decoder(latent)) * self.scaling.std

    def seen(self, scaled: Tensor) -> Tensor:
        """What the encoder sees of scaled magnitudes (N, B): themselves, or (N, 2 B)."""
        if not self.architecture.masked:
            return scaled
        measured = ~scaled.isnan()
        return torch.cat([scaled.nan_to_num(0.0), measured.to(scaled.dtype)], dim=1)

    def predict(self, magnitude: Tensor) -> Tensor:
        """The decoder's magnitudes, of all bands: (N, B) to (N, B)."""
        return self.encode_and_predict(magnitude)[1]

    def encode_and_predict(self, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Latent (N, L) and the decoder's magnitudes (N, B), of all bands, of magnitudes (N, B)."""
        latent = self.encoder(self.seen(self.scaling(magnitude)))
        return latent, self.scaling.inverse(self.decoder(latent))


def squared_error(residual: Tensor) -> Tensor:
    """The quadratic loss of each star, mean over bands, in mag^2: (N, B) to (N,)."""
    return residual.square().mean(dim=1)


def squared_error_of_measured(residual: Tensor) -> Tensor:
    """The same, mean over the bands whose residual is not NaN: (N, B) to (N,); 0 of a star that has none."""
    measured = ~residual.isnan()
    total = residual.nan_to_num(0.0).square().sum(dim=1)
    return total / measured.sum(dim=1).clamp(min=1)


def make_autoencoder(architecture: Architecture, mean: Sequence[float], std: Sequence[float], seed: int) -> Autoencoder:
    """A freshly initialised model (torch's defaults), the same for a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Autoencoder(architecture, mean, std)
