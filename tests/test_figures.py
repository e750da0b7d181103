"""Figures: their margins are fixed, so that what stands in them must fit whatever the numbers are."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from hpc_ae.report import figures
from hpc_ae.report.data import Curve, History

CHANCE = np.random.default_rng(1)


def losses(low: float, high: float) -> Callable[[], figures.Picture]:
    """A loss curve between two values, with the learning rate."""
    steps = np.arange(1, 200)
    history = History(Curve(steps, np.geomspace(high, low, 199)), learning_rate=Curve(steps, 4e-3 / steps))
    return lambda: figures.draw_loss_curve(history)


def density(num_dims: int, half: float, most: int) -> Callable[[], figures.Picture]:
    """Latents within +-`half`, at most so many stars a cell."""
    edges = [np.linspace(-half, half, 65)] * num_dims
    shape = (64,) if num_dims == 1 else (64, 64)
    grids = [CHANCE.integers(0, most + 1, shape) for _ in range(max(1, num_dims * (num_dims - 1) // 2))]
    return lambda: figures.draw_latent_density(grids, edges)


def errors(num_bands: int, low: float, high: float) -> Callable[[], figures.Picture]:
    """Residuals between two sizes, in so many bands."""
    panels = figures.MagnitudePanels(
        bands="ugrizyJH"[:num_bands],
        magnitude_edges=np.linspace(12, 26, 57),
        size_edges=np.geomspace(low, high, 41),
        counts=CHANCE.integers(0, 10**6, (num_bands, 56, 40)),
        curves=np.full((num_bands, 56, 5), (low * high) ** 0.5),
        label="reconstruction error",
    )
    return lambda: figures.draw_error_vs_magnitude(panels)


@pytest.mark.parametrize(
    "draw",
    [
        *(losses(low, high) for low, high in ((0.02, 0.055), (1e-9, 10), (0.0301, 0.0302))),
        *(density(2, half, most) for half, most in ((0.004, 3), (2000, 10**7), (3, 0))),
        *(density(num_dims, half, most) for num_dims, half, most in ((1, 3, 2), (1, 1e4, 10**7), (3, 900, 4))),
        *(errors(num, low, high) for num, low, high in ((5, 1e-4, 10), (5, 0.02, 0.07), (1, 0.1, 0.2), (8, 1e-3, 1))),
    ],
)
def test_everything_fits(draw: Callable[[], figures.Picture], monkeypatch: pytest.MonkeyPatch) -> None:
    """No label, number or scale reaches beyond the edge of its figure."""
    drawn: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        drawn.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    picture = draw()
    image = Image.open(io.BytesIO(picture.png))
    width, height = drawn[0].get_size_inches()
    assert image.size == (round(width * drawn[0].dpi), round(height * drawn[0].dpi))
    box = drawn[0].get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, (str(box.extents), width, height)
    assert picture.pdf.startswith(b"%PDF-") and picture.pdf == draw().pdf
    assert b"/Type3" not in picture.pdf and b"/FontFile2" in picture.pdf and b"CreationDate" not in picture.pdf
