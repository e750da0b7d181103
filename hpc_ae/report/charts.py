"""Line charts as inline SVG: shapes here, marks in templates/chart.svg.j2, colours in the page's style sheet.

Ticks are matplotlib's. A curve breaks where it is NaN; of a long one each bucket keeps its lowest and highest point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

MAX_POINTS = 1_000
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 26, 42
_CHARACTER_WIDTH = 6.8
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, eq=False)
class Line:
    """A curve (n,), (n,). `look` is a class of the style sheet: a, b, c, ..., thin, dashed, dotted, dots."""

    x: np.ndarray
    y: np.ndarray
    look: str
    label: str = ""


@dataclass(frozen=True, eq=False)
class Band:
    """The area between two curves (n,) over x (n,)."""

    x: np.ndarray
    low: np.ndarray
    high: np.ndarray
    look: str
    label: str = ""


@dataclass(frozen=True, eq=False)
class Chart:
    """Curves on one pair of axes. `name` and `description` are what a screen reader says."""

    name: str
    description: str
    x_label: str
    y_label: str
    marks: Sequence[Line | Band]
    log_x: bool = False
    log_y: bool = False
    width: int = 440  # pixels of the page: lettering has one size
    height: int = 280
    y_range: tuple[float, float] | None = None
    heading: str = ""


@dataclass(frozen=True)
class Tick:
    """A tick: where in the drawing, and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Path:
    """What the template draws: path data with its classes."""

    d: str
    classes: str


@dataclass(frozen=True)
class Entry:
    """A line of the legend: where it begins, its classes and text."""

    x: float
    classes: str
    text: str


@dataclass(frozen=True)
class Drawing:
    """A chart in pixels of its view box."""

    chart: Chart
    frame: tuple[float, float, float, float]  # left, top, right, bottom
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    areas: list[Path]
    paths: list[Path]
    legend: list[Entry]


class _Axis:
    """From values to pixels."""

    def __init__(self, span: tuple[float, float], pixels: tuple[float, float], log: bool) -> None:
        self.log, self.pixels = log, pixels
        self.low, self.high = (math.log10(span[0]), math.log10(span[1])) if log else span

    def place(self, values: np.ndarray) -> np.ndarray:
        """Pixels of values (n,), NaN where a value has no place on the axis."""
        with np.errstate(divide="ignore", invalid="ignore"):
            plain = np.log10(values) if self.log else np.asarray(values, np.float64)
        share = (plain - self.low) / (self.high - self.low)
        share = np.where(np.isfinite(share), np.clip(share, -3, 4), np.nan)
        pixels: np.ndarray = self.pixels[0] + share * (self.pixels[1] - self.pixels[0])
        return pixels

    def ticks(self, most: int) -> list[Tick]:
        """Ticks within the axis."""
        if self.log:
            values = LogLocator(numticks=most).tick_values(10**self.low, 10**self.high)
            if sum(self._inside(float(value)) for value in values) < 2:
                values = LogLocator(subs=(1, 2, 5), numticks=most).tick_values(10**self.low, 10**self.high)
        else:
            values = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        inside = [float(value) for value in values if self._inside(float(value))]
        texts = power_texts(inside) if self.log else [tick_text(value, inside) for value in inside]
        return [Tick(round(float(at), 1), text) for at, text in zip(self.place(np.array(inside)), texts, strict=True)]

    def _inside(self, value: float) -> bool:
        if self.log and value <= 0:
            return False
        at = math.log10(value) if self.log else value
        slack = 1e-6 * (self.high - self.low)
        return self.low - slack <= at <= self.high + slack


def power_texts(values: Sequence[float]) -> list[str]:
    """Ticks of a logarithmic axis: all as powers of ten where one would be long."""
    powers = [round(math.log10(value)) for value in values]
    plain = all(-3 <= power <= 5 for power in powers)
    if plain or any(abs(value / 10.0**power - 1) > 1e-6 for value, power in zip(values, powers, strict=True)):
        return [tick_text(value, ()) for value in values]
    return ["1" if not power else f"10{str(power).translate(_SUPERSCRIPTS)}" for power in powers]


def tick_text(value: float, among: Sequence[float]) -> str:
    """A tick's value, short: 0.25, 20,000, 10⁻⁶; with a true minus sign and as many digits as its neighbours need."""
    size = abs(value)
    if size and (size >= 1e6 or size < 1e-3):
        power = math.floor(math.log10(size) + 1e-9)
        factor = value / 10.0**power
        head = "" if abs(factor - 1) < 1e-9 else f"{factor:.3g}·"
        return f"{head}10{str(power).translate(_SUPERSCRIPTS)}".replace("-", "−")
    ordered = sorted(among)
    gap = min((b - a for a, b in pairwise(ordered)), default=0.0)
    digits = max(0, -math.floor(math.log10(gap) + 1e-9)) if gap > 0 else 6
    if gap > 0 and abs(gap * 10**digits - round(gap * 10**digits)) > 1e-6:
        digits += 1
    text = f"{value:,.{min(digits, 6)}f}" if gap > 0 else f"{value:,.6g}"
    return text.replace("-", "−")


def lay_out(chart: Chart) -> Drawing:
    """Put a chart into pixels; curves outside of a given `y_range` are cut by the frame."""
    frame = (_LEFT, _TOP, chart.width - _RIGHT, chart.height - _BOTTOM)
    x_span = _span([_known_x(mark) for mark in chart.marks], chart.log_x, 0.0)
    heights = [values for mark in chart.marks for values in ((mark.y,) if isinstance(mark, Line) else _sides(mark))]
    y_span = chart.y_range or _span(heights, chart.log_y, 0.06)
    x_axis = _Axis(x_span, (frame[0], frame[2]), chart.log_x)
    y_axis = _Axis(y_span, (frame[3], frame[1]), chart.log_y)
    areas = [Path(_area(mark, x_axis, y_axis), f"area {mark.look}") for mark in chart.marks if isinstance(mark, Band)]
    paths = [Path(_path(mark, x_axis, y_axis), f"line {mark.look}") for mark in chart.marks if isinstance(mark, Line)]
    return Drawing(chart, frame, x_axis.ticks(6), y_axis.ticks(6), areas, paths, _legend(chart))


def _known_x(mark: Line | Band) -> np.ndarray:
    """Where a mark has something to show; a line of zeros, which is everywhere, does not count."""
    if isinstance(mark, Band):
        known = np.isfinite(mark.low) & np.isfinite(mark.high)
    else:
        known = np.isfinite(mark.y) & ("zero" not in mark.look)
    found: np.ndarray = mark.x[known]
    return found


def _sides(band: Band) -> tuple[np.ndarray, np.ndarray]:
    return band.low, band.high


def _span(arrays: Sequence[np.ndarray], log: bool, margin: float) -> tuple[float, float]:
    """Smallest and largest value with a margin on both sides; 0 to 1 (1 to 10 on a logarithmic axis) of none."""
    known = np.concatenate([np.asarray(values, np.float64).ravel() for values in arrays] or [np.empty(0)])
    known = known[np.isfinite(known) & ((known > 0) | (not log))]
    if not known.size:
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = float(known.min()), float(known.max())
    if log:
        factor = (high / low) ** margin if high > low else 2.0
        return low / factor, high * factor
    pad = margin * (high - low) or (0.0 if high > low else 0.5 * abs(low) or 0.5)
    return low - pad, high + pad


def _path(line: Line, x_axis: _Axis, y_axis: _Axis) -> str:
    x, y = _thin(line)
    parts = []
    pen_down = False
    for at, up in zip(x_axis.place(x).tolist(), y_axis.place(y).tolist(), strict=True):
        known = at == at and up == up
        if known:
            parts.append(f"{'L' if pen_down else 'M'}{at:.1f} {up:.1f}")
        pen_down = known
    return "".join(parts)


def _thin(line: Line) -> tuple[np.ndarray, np.ndarray]:
    """At most about twice MAX_POINTS points of a curve: the lowest and highest of each bucket."""
    if len(line.x) <= 2 * MAX_POINTS:
        return line.x, line.y
    kept = []
    for bucket in np.array_split(np.arange(len(line.x)), MAX_POINTS):
        values = line.y[bucket]
        if np.isfinite(values).any():
            kept += sorted({int(bucket[np.nanargmin(values)]), int(bucket[np.nanargmax(values)])})
    return line.x[kept], line.y[kept]


def _area(band: Band, x_axis: _Axis, y_axis: _Axis) -> str:
    """Closed pieces between two curves, broken where one of them has no value."""
    x, low, high = x_axis.place(band.x), y_axis.place(band.low), y_axis.place(band.high)
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(low) & np.isfinite(high))
    pieces = np.split(known, np.flatnonzero(np.diff(known) > 1) + 1)
    parts = []
    for piece in pieces:
        if len(piece) > 1:
            there = [f"{x[i]:.1f} {low[i]:.1f}" for i in piece]
            back = [f"{x[i]:.1f} {high[i]:.1f}" for i in piece[::-1]]
            parts.append("M" + "L".join(there + back) + "Z")
    return "".join(parts)


def _legend(chart: Chart) -> list[Entry]:
    entries = []
    x = float(_LEFT)
    for mark in chart.marks:
        if mark.label:
            kind = "line" if isinstance(mark, Line) else "area"
            entries.append(Entry(round(x, 1), f"{kind} {mark.look}", mark.label))
            x += 28 + _CHARACTER_WIDTH * len(mark.label) + 12
    return entries
