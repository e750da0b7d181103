"""What decides the shapes of the network, and the shapes: without PyTorch.

Shape letters: B bands, L latent dimensions, H hidden widths.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpc_ae.errors import InputError, printable

MOST_WEIGHT_BYTES = 1 << 33
_HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class Architecture:
    """Encoder B-H-...-H-L and the mirrored decoder; `masked`: the encoder sees behind the magnitudes which of them are
    measured, 2B-H-...-H-L.
    """

    bands: tuple[str, ...]
    hidden: tuple[int, ...] = (40, 40, 40, 40)
    latent: int = 2
    masked: bool = False

    @property
    def widths(self) -> list[int]:
        """Of the encoder's layers, its input counted."""
        return [len(self.bands) * (2 if self.masked else 1), *self.hidden, self.latent]

    @property
    def decoder_widths(self) -> list[int]:
        """Of the decoder's layers, its input counted."""
        return [self.latent, *reversed(self.hidden), len(self.bands)]

    @property
    def most_bytes(self) -> int:
        """What a file of its tensors can have at most, in double precision and with a long header."""
        num = sum(math.prod(shape) for shape in self.tensor_shapes().values())
        return min(8 * num + _HEADER_BYTES, MOST_WEIGHT_BYTES)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter by its name, in the order in which PyTorch has them."""
        return _layer_shapes("encoder", self.widths) | _layer_shapes("decoder", self.decoder_widths)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """The parameters' and, mean and std (B,), the scaling's."""
        num_bands = len(self.bands)
        return {"scaling.mean": (num_bands,), "scaling.std": (num_bands,), **self.parameter_shapes()}


def _layer_shapes(part: str, widths: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Linear, SiLU (which has none), LayerNorm for each width after the first; a last Linear without them."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number, (wide, narrow) in enumerate(itertools.pairwise(widths)):
        linear, norm = f"{part}.{3 * number}", f"{part}.{3 * number + 2}"
        shapes |= {f"{linear}.weight": (narrow, wide), f"{linear}.bias": (narrow,)}
        if number < len(widths) - 2:
            shapes |= {f"{norm}.weight": (narrow,), f"{norm}.bias": (narrow,)}
    return shapes


def check_shapes(architecture: Architecture, shapes: Mapping[str, Sequence[int]], where: object) -> None:
    """InputError names what is missing, unknown or of the wrong shape among tensors' names and shapes."""
    expected = architecture.tensor_shapes()
    wrong = sorted(expected.keys() ^ shapes.keys())
    wrong += [name for name in expected.keys() & shapes.keys() if expected[name] != tuple(shapes[name])]
    if wrong:
        raise InputError(
            "the tensors do not fit the architecture",
            where=where,
            got=printable(", ".join(wrong[:4])),
            expected=f"{architecture.widths} and its mirror",
        )
