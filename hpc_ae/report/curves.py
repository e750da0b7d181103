"""The report's line charts, each from its part of ReportData, with a text alternative that says what one sees.

Shape letters: B bands, M magnitude bins, Q quantiles, C colours, n points of a curve.
"""

from __future__ import annotations

import numpy as np

from hpc_ae.report.charts import Band, Chart, Drawing, Line, lay_out
from hpc_ae.report.data import Calibration, LatentHistogram, Locus, Pulls, Residuals, Table, TrainingCurve

_LOOKS = ("a", "b", "c", "d", "e", "f")
_NORMAL_POINTS = 121


def training_chart(curve: TrainingCurve) -> Drawing:
    """Training and held-out error by step."""
    known = curve.validation[np.isfinite(curve.validation)]
    said = f"The held-out error goes from {known[0]:.3g} to {known[-1]:.3g} mag²." if known.size else ""
    marks = [
        Line(curve.train_steps, curve.train, "b thin", "training"),
        Line(curve.validation_steps, curve.validation, "a", "held out"),
    ]
    chart = Chart("Training curve", said, "optimizer step", "mean squared error [mag²]", marks, log_y=True, width=500)
    return lay_out(chart)


def residual_charts(residuals: Residuals) -> list[Drawing]:
    """A chart per band on one scale: median, and the areas between each two quantiles that mirror each other."""
    span = _common_span(residuals)
    return [_residual_chart(residuals, band, span) for band in range(len(residuals.bands))]


def _residual_chart(residuals: Residuals, band: int, span: tuple[float, float] | None) -> Drawing:
    x, curves, levels = residuals.magnitude, residuals.curves[band], residuals.levels
    middle = len(levels) // 2
    marks: list[Line | Band] = [
        Band(x, curves[:, i], curves[:, -1 - i], "a wide" if i < middle - 1 else "a") for i in range(middle)
    ]
    marks.append(Line(x, curves[:, middle], "a"))
    if not residuals.log:
        marks.append(Line(x, np.zeros(len(x)), "zero"))
    name = f"Residuals in {residuals.bands[band]}"
    said = _say_range(x, curves[:, middle])
    chart = Chart(
        name,
        said,
        x_label=f"{residuals.bands[band]} [mag]",
        y_label=f"{residuals.label} [mag]",
        marks=marks,
        log_y=residuals.log,
        width=324,
        y_range=span,
        heading=residuals.bands[band],
    )
    return lay_out(chart)


def say_levels(levels: tuple[float, ...]) -> str:
    """The areas of a chart of residuals in words, the darkest first."""
    spans = [f"{100 * (levels[-1 - i] - levels[i]):g}\u00a0%" for i in range(len(levels) // 2)]
    return " and ".join(f"the middle {span}" for span in reversed(spans))


def _say_range(x: np.ndarray, median: np.ndarray) -> str:
    known = np.flatnonzero(np.isfinite(median))
    if not known.size:
        return "Too few stars."
    first, last = known[0], known[-1]
    return f"The median is {median[first]:.2g} mag at {x[first]:.1f} and {median[last]:.2g} mag at {x[last]:.1f}."


def _common_span(residuals: Residuals) -> tuple[float, float] | None:
    """The range of all bands, wide enough for nine tenths of the outermost curves' points; None of none."""
    low, high = residuals.curves[..., 0], residuals.curves[..., -1]
    if not (np.isfinite(low).any() and np.isfinite(high).any()):
        return None
    ends = float(np.nanquantile(low, 0.1)), float(np.nanquantile(high, 0.9))
    if residuals.log:
        return (ends[0], ends[1] * 1.3) if 0 < ends[0] < ends[1] else None
    size = max(abs(ends[0]), abs(ends[1])) * 1.15
    return (-size, size) if size > 0 else None


def residual_table(residuals: Residuals) -> Table:
    """The median of each band against magnitude, in numbers."""
    middle = len(residuals.levels) // 2
    rows = [
        (
            round(float(magnitude), 3),
            *(_number(residuals.curves[band, index, middle]) for band in range(len(residuals.bands))),
        )
        for index, magnitude in enumerate(residuals.magnitude)
        if np.isfinite(residuals.curves[:, index, middle]).any()
    ]
    return Table(("magnitude", *residuals.bands), tuple(rows), f"Median of {residuals.label} in mag, per band.")


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def pull_chart(pulls: Pulls) -> Drawing:
    """Density of residual / error per band beside the unit normal."""
    widths = np.diff(pulls.edges)
    x = np.repeat(pulls.edges, 2)[1:-1]
    marks: list[Line | Band] = []
    for index, band in enumerate(pulls.bands):
        total = float(pulls.counts[index].sum())
        density = pulls.counts[index] / (total * widths) if total else np.full(len(widths), np.nan)
        marks.append(Line(x, np.repeat(density, 2), f"{_LOOKS[index % len(_LOOKS)]} thin", band))
    at = np.linspace(float(pulls.edges[0]), float(pulls.edges[-1]), _NORMAL_POINTS)
    marks.append(Line(at, np.exp(-0.5 * at**2) / np.sqrt(2 * np.pi), "normal", "unit normal"))
    said = "Density of residual over error for each band, and the unit normal."
    return lay_out(Chart("Pulls", said, "residual / error", "density", marks))


def calibration_chart(calibration: Calibration) -> Drawing:
    """Observed against stated tail probability, both logarithmic."""
    curves: list[Line | Band] = [
        Line(calibration.expected, observed, _LOOKS[index % len(_LOOKS)], name)
        for index, (name, observed) in enumerate(calibration.observed)
    ]
    curves.append(Line(calibration.expected, calibration.expected, "normal", "as stated"))
    said = " ".join(_say_fraction(calibration.expected, name, observed) for name, observed in calibration.observed)
    x_label, y_label = "stated tail probability", "fraction of the stars"
    return lay_out(Chart("Calibration", said, x_label, y_label, curves, log_x=True, log_y=True))


def _say_fraction(expected: np.ndarray, name: str, observed: np.ndarray) -> str:
    index = int(np.argmin(np.abs(np.log10(expected) + 2)))
    return f"{name}: {observed[index]:.2g} of the stars where {expected[index]:.2g} are expected."


def locus_chart(locus: Locus) -> Drawing:
    """Median colours along the ridge with their spread."""
    marks: list[Line | Band] = []
    for index, name in enumerate(locus.colours):
        look = _LOOKS[index % len(_LOOKS)]
        if locus.low is not None and locus.high is not None:
            marks.append(Band(locus.position, locus.low[index], locus.high[index], f"{look} wide"))
        marks.append(Line(locus.position, locus.median[index], look, name))
    ends = "; ".join(
        f"{name} from {locus.median[index, 0]:.2f} to {locus.median[index, -1]:.2f} mag"
        for index, name in enumerate(locus.colours)
        if locus.median.shape[1]
    )
    return lay_out(Chart("Stellar locus", f"{ends}.", "along the ridge", "colour [mag]", marks, width=500, height=310))


def histogram_chart(histogram: LatentHistogram) -> Drawing:
    """Stars along the only latent dimension."""
    x = np.repeat(histogram.edges, 2)[1:-1]
    counts = np.repeat(np.where(histogram.counts > 0, histogram.counts, np.nan), 2)
    said = f"{int(histogram.counts.sum()):,} stars."
    marks = [Line(x, counts, "a")]
    return lay_out(Chart("Latent density", said, "latent 1", "stars", marks, log_y=True, width=500))
