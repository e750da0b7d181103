"""Figures as PNG and PDF: drawn by matplotlib. No display, no global state, the same bytes for the same data.

Shape letters: B bands, M magnitude bins, E error bins, K curves.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from hpc_ae.report.data import Curve, History

# Colour-blind safe (Okabe and Ito 2008).
BLUE, VERMILION, BLACK, GREY = "#0072B2", "#D55E00", "#000000", "#777777"
DENSITY_MAP = "viridis"
_STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.linewidth": 0.6,
    "axes.labelsize": 9.0,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "legend.frameon": False,
    "mathtext.fontset": "dejavusans",
    "pdf.fonttype": 42,  # TrueType: journals refuse Type 3
}
_DPI = 200
_NOTHING = "no usable stars"


@dataclass(frozen=True)
class Picture:
    """A figure to look at, and the same one for a paper."""

    png: bytes
    pdf: bytes


@dataclass(frozen=True)
class MagnitudePanels:
    """|residual| or error against magnitude: counts (B, M, E), edges (M + 1,) and (E + 1,) in mag, curves (B, M, K).

    The curves are, in order, the 2.5, 16, 50, 84 and 97.5 percentiles, NaN where there are too few stars.
    """

    bands: Sequence[str]
    magnitude_edges: np.ndarray
    size_edges: np.ndarray
    counts: np.ndarray
    curves: np.ndarray
    label: str


def _new_figure(
    inner: tuple[float, float], margins: tuple[float, float, float, float], rows: int = 1, columns: int = 1, **look: Any
) -> tuple[Figure, np.ndarray]:
    """A figure whose panels (rows, columns) fill `inner`, width and height in inches, within left, right, bottom, top.

    Layouts that measure every label (matplotlib's "constrained") took longer than drawing.
    """
    left, right, bottom, top = margins
    width, height = inner[0] + left + right, inner[1] + bottom + top
    figure = Figure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    edges = {"left": left / width, "right": 1 - right / width, "bottom": bottom / height, "top": 1 - top / height}
    spaces = {"wspace": 0.1, "hspace": 0.14 if columns == 1 else 0.1}
    return figure, figure.subplots(rows, columns, squeeze=False, gridspec_kw=edges | spaces, **look)


def _draw_scale(figure: Figure, shades: Any, label: str) -> None:
    """The scale of colours, to the right of all panels."""
    width = figure.get_size_inches()[0]
    boxes = [axes.get_position() for axes in figure.axes]
    bottom, top = min(box.y0 for box in boxes), max(box.y1 for box in boxes)
    place = (max(box.x1 for box in boxes) + 0.09 / width, bottom, 0.11 / width, top - bottom)
    figure.colorbar(shades, cax=figure.add_axes(place), label=label)


def _save(figure: Figure) -> Picture:
    png, pdf = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": "hpc_ae"})
    figure.savefig(pdf, format="pdf", metadata={"Creator": "hpc_ae", "Producer": None, "CreationDate": None})
    return Picture(png.getvalue(), pdf.getvalue())


def draw_latent_density(grids: Sequence[np.ndarray], edges: Sequence[np.ndarray]) -> Picture:
    """Logarithmic density of the latents: one histogram (1 dimension), a map (2), or a map for each pair (3 and more).

    `grids`: counts (n,), or (n, n) of each pair in the order of `itertools.combinations`; `edges`: (n + 1,) each.
    """
    with matplotlib.rc_context(_STYLE):
        if len(edges) == 1:
            return _save(_draw_histogram(grids[0], edges[0]))
        side = len(edges) - 1
        inner = (3.6, 3.4) if side == 1 else (2.4 * side, 2.4 * side)
        figure, axes = _new_figure(inner, (0.75, 1.1, 0.45, 0.1), side, side, sharex="col", sharey="row")
        norm = LogNorm(1, max(2, *(int(grid.max()) for grid in grids)))
        mesh: Any = None
        for grid, (one, two) in zip(grids, itertools.combinations(range(len(edges)), 2), strict=True):
            mesh = _draw_map(axes[two - 1, one], grid, (edges[one], edges[two]), norm)
        _label_corner(axes)
        _draw_scale(figure, mesh, "stars per cell")
        return _save(figure)


def _draw_histogram(counts: np.ndarray, edges: np.ndarray) -> Figure:
    figure, panels = _new_figure((3.9, 2.9), (0.85, 0.3, 0.45, 0.1))
    axes = panels[0, 0]
    axes.stairs(counts, edges, color=BLUE, fill=True, alpha=0.35)
    axes.stairs(counts, edges, color=BLUE, linewidth=0.8)
    axes.set(xlabel="latent 1", ylabel="stars per bin", xlim=(edges[0], edges[-1]))
    if counts.any():
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.8)
    else:
        _say(axes, _NOTHING)
    return figure


def _draw_map(axes: Axes, grid: np.ndarray, edges: tuple[np.ndarray, np.ndarray], norm: LogNorm) -> Any:
    """Counts (n, n) over (x, y); empty cells stay white."""
    if not grid.any():
        _say(axes, _NOTHING)
    values = np.ma.masked_equal(grid.T, 0)
    extent = (edges[0][0], edges[0][-1], edges[1][0], edges[1][-1])
    return axes.imshow(
        values, origin="lower", extent=extent, aspect="auto", norm=norm, cmap=DENSITY_MAP, interpolation="nearest"
    )


def _label_corner(axes: np.ndarray) -> None:
    """Labels on the outer panels of the lower triangle; the upper one is left blank."""
    side = len(axes)
    for row, column in itertools.product(range(side), range(side)):
        if column > row:
            axes[row, column].set_visible(False)
        if column == 0:
            axes[row, column].set_ylabel(f"latent {row + 2}")
        if row == side - 1:
            axes[row, column].set_xlabel(f"latent {column + 1}")


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)


def draw_error_vs_magnitude(panels: MagnitudePanels) -> Picture:
    """One panel per band: the stars in grey, their median and percentiles in colour."""
    num = len(panels.bands)
    columns = min(3, num)
    rows = -(-num // columns)
    with matplotlib.rc_context(_STYLE):
        inner = (2.3 * columns, 2.1 * rows)
        figure, axes = _new_figure(inner, (0.85, 1.1, 0.45, 0.35), rows, columns, sharex=True, sharey=True)
        x_range, y_range = _ranges(panels)
        density = _density(panels)
        norm = LogNorm(1.0 / _cell_sizes(panels).max(), max(2.0, density.max()))
        for band, panel in enumerate(axes.flat):
            if band >= num:
                panel.set_visible(False)
                continue
            _draw_panel(panel, panels, band, density[band], norm)
            panel.set(xlim=x_range, ylim=y_range)
            if band + columns >= num:
                panel.set_xlabel("magnitude [mag]")
                panel.tick_params(labelbottom=True)
        for panel in axes[:, 0]:
            panel.set_ylabel(f"{panels.label} [mag]")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper center", ncols=3)
        _draw_scale(figure, axes[0, 0].collections[0], "stars per mag per dex")
        return _save(figure)


def _cell_sizes(panels: MagnitudePanels) -> np.ndarray:
    """Size of each cell (M, E) in mag x dex: the bins of |residual| are not quite equal in their logarithm."""
    return np.outer(np.diff(panels.magnitude_edges), np.diff(np.log10(panels.size_edges)))


def _density(panels: MagnitudePanels) -> np.ndarray:
    """Stars per mag and dex (B, M, E), so that the size of the cells does not show."""
    density: np.ndarray = panels.counts / _cell_sizes(panels)
    return density


def _draw_panel(axes: Axes, panels: MagnitudePanels, band: int, density: np.ndarray, norm: LogNorm) -> None:
    counts = np.ma.masked_equal(density.T, 0)
    axes.pcolormesh(
        panels.magnitude_edges, panels.size_edges, counts, norm=norm, cmap="Greys", rasterized=True, linewidth=0
    )
    axes.set_yscale("log", subs=(2, 5))  # eight small ticks a decade, in every panel, take longer than all else
    centres = 0.5 * (panels.magnitude_edges[1:] + panels.magnitude_edges[:-1])
    low, sixteenth, median, rest, high = panels.curves[band].T
    axes.plot(centres, median, color=VERMILION, linewidth=1.6, label="median")
    for values, line, label in ((sixteenth, "--", "16–84 %"), (low, ":", "2.5–97.5 %")):
        axes.plot(centres, values, line, color=BLUE, linewidth=1.1, label=label)
    for values, line in ((rest, "--"), (high, ":")):
        axes.plot(centres, values, line, color=BLUE, linewidth=1.1)
    axes.text(0.05, 0.05, panels.bands[band], transform=axes.transAxes, weight="bold", size=11)
    if not panels.counts[band].any():
        _say(axes, _NOTHING)


def _ranges(panels: MagnitudePanels) -> tuple[tuple[float, float], tuple[float, float]]:
    """Limits of the axes: where all but the outermost thousandth of the stars lies."""
    found = []
    for axis, edges in ((1, panels.magnitude_edges), (2, panels.size_edges)):
        counts = panels.counts.sum(axis=tuple({0, 1, 2} - {axis}))
        above = np.cumsum(counts)
        first, last = np.searchsorted(above, [0.0005 * above[-1], 0.9995 * above[-1]])
        found.append(
            (float(edges[first]), float(edges[last + 1])) if above[-1] else (float(edges[0]), float(edges[-1]))
        )
    return found[0], found[1]


def draw_loss_curve(history: History) -> Picture:
    """Mean squared error in mag^2 by optimizer step, and the learning rate below it where it is known."""
    rate = history.learning_rate
    with matplotlib.rc_context(_STYLE):
        inner, ratios = ((4.4, 3.8), [3, 1]) if rate else ((4.4, 2.8), [1])
        figure, panels = _new_figure(inner, (1.1, 0.3, 0.45, 0.1), len(ratios), sharex=True, height_ratios=ratios)
        axes = panels[:, 0]
        _draw_losses(axes[0], history)
        if rate:
            axes[1].plot(rate.steps, rate.values, color=BLACK, linewidth=1.0)
            axes[1].set(ylabel="learning rate", ylim=(0, None))
            axes[1].ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
        axes[-1].set_xlabel("optimizer step")
        axes[-1].set_xlim(left=0)
        return _save(figure)


def _draw_losses(axes: Axes, history: History) -> None:
    shown = [
        _draw_loss(axes, history.train, label="training", color=BLUE, linewidth=0.9, alpha=0.9),
        _draw_loss(
            axes, history.validation, label="validation", color=VERMILION, linewidth=1.5, marker="o", markersize=2.5
        ),
    ]
    axes.set_ylabel("mean squared error [mag$^2$]")
    if any(shown):
        axes.set_yscale("log")
        axes.legend()


def _draw_loss(axes: Axes, curve: Curve | None, **look: Any) -> bool:
    """Draw what is above zero of a curve; whether there is anything."""
    if curve is None:
        return False
    keep = curve.values > 0
    axes.plot(curve.steps[keep], curve.values[keep], **look)
    return bool(keep.any())
