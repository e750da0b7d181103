"""Forward passes in tiles of one fixed size, so that a star's outputs do not depend on its company.

With PyTorch's operators a short batch changes bits in other rows (measured: 1.6 %), so the last tile is padded and each
tile is computed by one thread from one buffer. The fused kernel's lanes do not see each other at all. Either way: equal
bits for any world size, number of threads and shard size. Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from hpc_ae.errors import HpcAeError
from hpc_ae.model.autoencoder import Autoencoder
from hpc_ae.model.kernel import Kernel, load_kernel

TILE_ROWS = {"cpu": 4_096, "cuda": 262_144}
_TILES_IN_FLIGHT = 2


@dataclass(frozen=True)
class Encoding:
    """What the model says of N stars: latent (N, L), reconstruction (N, B), reconstruction_error (N,), chi2 (N,).

    reconstruction and chi2 are None where they are not asked for or there are no magnitude errors.
    """

    latent: np.ndarray
    reconstruction: np.ndarray | None
    reconstruction_error: np.ndarray
    chi2: np.ndarray | None = None


class Forward(Protocol):
    """A way to compute; `name` is recorded with what it computed."""

    name: str

    def __call__(
        self, magnitude: np.ndarray, magnitude_error: np.ndarray | None = None, reconstruction: bool = True
    ) -> Encoding:
        """Encode magnitude float32 (N, B) in mag. Rows that are not finite give outputs of no meaning."""
        ...


def chi_squared(residual: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Sum over bands of (residual / error)^2, of (N, B) in mag.

    float32 (N,), NaN where an error is not finite and positive.
    """
    usable = (np.isfinite(error) & (error > 0)).all(axis=1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        values = np.square(residual / error).sum(axis=1)
    return np.asarray(np.where(usable, values, np.float32(np.nan)), np.float32)


class _Slot:
    """Buffers of one tile. On a GPU they are pinned and have a stream of their own: copies run beside compute."""

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
            outputs = self.model.encode(self.magnitude.to(self.device, non_blocking=True))
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
        rebuilt = magnitude - residual if reconstruction else None
        chi2 = None if magnitude_error is None else chi_squared(residual, magnitude_error)
        return Encoding(latent, rebuilt, np.sqrt(np.square(residual).mean(axis=1)), chi2)


class FusedForward:
    """The fused kernel: a tile stays in the cache through all layers."""

    def __init__(self, model: Autoencoder, kernel: Kernel) -> None:
        self.kernel = kernel
        self.name = kernel.name
        self.parameters = torch.cat([tensor.detach().reshape(-1) for tensor in model.parameters()]).numpy()
        self.scaling = (model.scaling.mean.numpy(), model.scaling.std.numpy())

    def __call__(
        self, magnitude: np.ndarray, magnitude_error: np.ndarray | None = None, reconstruction: bool = True
    ) -> Encoding:
        """Encode magnitude float32 (N, B) in mag."""
        outputs = self.kernel.encode(self.parameters, self.scaling, magnitude, magnitude_error, reconstruction)
        return Encoding(*outputs)


def make_forward(model: Autoencoder, device: torch.device, compute: str = "auto") -> Forward:
    """`auto`: the fused kernel on CPUs where it can be built, else PyTorch, saying so once."""
    if compute == "fused" or (compute == "auto" and device.type == "cpu"):
        try:
            return FusedForward(model.cpu(), load_kernel(model.architecture))
        except HpcAeError as error:
            if compute == "fused":
                raise
            print(f"encode: PyTorch's operators are used, which is slower: {error}", file=sys.stderr, flush=True)
    return TorchForward(model, device)
