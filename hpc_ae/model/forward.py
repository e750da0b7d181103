"""Forward passes in tiles of one fixed size, so that a star's outputs do not depend on its company.

With PyTorch's operators a short batch changes bits in other rows (measured: 1.6 %), so the last tile is padded and each
tile is computed by one thread from one buffer. The fused kernel's lanes do not see each other at all. Either way: equal
bits for any world size, number of threads and shard size. Shape letters: N stars, B bands.
"""

from __future__ import annotations

import sys

import numpy as np

from hpc_ae.errors import HpcAeError
from hpc_ae.model.encoding import Encoding, Forward
from hpc_ae.model.kernel import Kernel, load_kernel
from hpc_ae.model.weights import Weights


class FusedForward:
    """The fused kernel: a tile stays in the cache through all layers."""

    def __init__(self, weights: Weights, kernel: Kernel) -> None:
        self.kernel = kernel
        self.name = kernel.name
        self.parameters, self.scaling = weights.parameters, weights.scaling

    def __call__(
        self, magnitude: np.ndarray, magnitude_error: np.ndarray | None = None, reconstruction: bool = True
    ) -> Encoding:
        """Encode magnitude float32 (N, B) in mag."""
        outputs = self.kernel.encode(self.parameters, self.scaling, magnitude, magnitude_error, reconstruction)
        return Encoding(*outputs)


def make_forward(weights: Weights, device: str = "cpu", compute: str = "auto") -> Forward:
    """`auto`: the fused kernel on CPUs where it can be built, else PyTorch, saying so once.

    `device` by PyTorch's name. PyTorch, whose import takes seconds, is imported where it computes.
    """
    if compute == "fused" or (compute == "auto" and device == "cpu"):
        try:
            return FusedForward(weights, load_kernel(weights.architecture))
        except HpcAeError as error:
            if compute == "fused":
                raise
            print(f"encode: PyTorch's operators are used, which is slower: {error}", file=sys.stderr, flush=True)
    from hpc_ae.model.forward_torch import torch_forward

    return torch_forward(weights, device)
