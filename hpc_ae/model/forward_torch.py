"""The forward pass by PyTorch's own operators: on GPUs, and on CPUs the reference and the fallback.

Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hpc_ae.model.autoencoder import Autoencoder
from hpc_ae.model.encoding import Encoding, chi_squared, chi_squared_of_measured, rms, rms_of_measured
from hpc_ae.model.files import as_autoencoder
from hpc_ae.model.weights import Weights

TILE_ROWS = {"cpu": 4_096, "cuda": 262_144}
_TILES_IN_FLIGHT = 2


class _Slot:
    """Buffers of one tile. On a GPU they are pinned and have a stream of their own: copies run beside compute.

    `residual` holds the reconstruction of a masked model, which has one of every band.
    """

    def __init__(self, model: Autoencoder, device: torch.device, tile_rows: int) -> None:
        self.model, self.device = model, device
        on_gpu, architecture = device.type == "cuda", model.architecture
        widths = (len(architecture.bands), architecture.latent, len(architecture.bands))
        buffers = [torch.zeros((tile_rows, width), pin_memory=on_gpu) for width in widths]
        self.magnitude, self.latent, self.residual = buffers
        self.stream: Any = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]
        self.targets: tuple[np.ndarray, np.ndarray] | None = None

    def start(self, magnitude: np.ndarray, latent: np.ndarray, residual: np.ndarray) -> None:
        """Begin a tile of at most tile_rows stars; `finish` puts its results into latent and residual."""
        self.magnitude[: len(magnitude)] = torch.from_numpy(magnitude)
        self.magnitude[len(magnitude) :] = 0.0
        self.targets = (latent, residual)
        with torch.cuda.stream(self.stream):  # of None: no effect
            stars = self.magnitude.to(self.device, non_blocking=True)
            masked = self.model.architecture.masked
            outputs = self.model.encode_and_predict(stars) if masked else self.model.encode(stars)
            for buffer, values in zip((self.latent, self.residual), outputs, strict=True):
                buffer.copy_(values, non_blocking=True)

    def finish(self) -> None:
        """Wait for the tile that was begun last, if any, and hand its results over."""
        if self.targets is None:
            return
        if self.stream is not None:
            self.stream.synchronize()
        for target, buffer in zip(self.targets, (self.latent, self.residual), strict=True):
            target[:] = buffer[: len(target)].numpy()
        self.targets = None


class TorchForward:
    """PyTorch's own operators, uncompiled: the reference path."""

    def __init__(self, model: Autoencoder, device: torch.device) -> None:
        self.model = model.eval().to(device)
        self.device = device
        self.tile_rows = TILE_ROWS[device.type]
        self.name = f"torch-{device.type}-float32-tile{self.tile_rows}"
        self.slots: list[_Slot] | None = None
        if device.type == "cpu":
            torch.set_num_threads(1)

    @torch.inference_mode()
    def __call__(
        self, magnitude: np.ndarray, magnitude_error: np.ndarray | None = None, reconstruction: bool = True
    ) -> Encoding:
        """Encode magnitude float32 (N, B) in mag."""
        num_stars, num_bands = magnitude.shape
        latent = np.empty((num_stars, self.model.architecture.latent), np.float32)
        residual = np.empty((num_stars, num_bands), np.float32)
        if self.slots is None:
            self.slots = [_Slot(self.model, self.device, self.tile_rows) for _ in range(_TILES_IN_FLIGHT)]
        for number, start in enumerate(range(0, num_stars, self.tile_rows)):
            slot = self.slots[number % len(self.slots)]
            slot.finish()
            rows = slice(start, min(start + self.tile_rows, num_stars))
            slot.start(magnitude[rows], latent[rows], residual[rows])
        for slot in self.slots:
            slot.finish()
        if self.model.architecture.masked:
            rebuilt, residual = residual, magnitude - residual
            error, chi2_of = rms_of_measured(residual), chi_squared_of_measured
        else:
            rebuilt, error, chi2_of = magnitude - residual, rms(residual), chi_squared
        chi2 = None if magnitude_error is None else chi2_of(residual, magnitude_error)
        return Encoding(latent, rebuilt if reconstruction else None, error, chi2)


def torch_forward(weights: Weights, device: str) -> TorchForward:
    """On the device of this name."""
    return TorchForward(as_autoencoder(weights), torch.device(device))
