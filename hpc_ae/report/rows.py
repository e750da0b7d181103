"""The rows of the page's table of anomalies, each with a bar per band: the star's brightness and the model's.

Shape letters: n stars, B bands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np

from hpc_ae.report.data import MAX_ANOMALIES, Anomalies
from hpc_ae.report.words import number_text, short_power, true_minus

_WIDTH, _HEIGHT = 12, 30
_LEAST_SPAN_MAG = 1.0


@dataclass(frozen=True)
class Bar:
    """A band of a star in pixels: left edge, top and height of the bar, and where the model is."""

    x: int
    top: float
    height: float
    model: float | None


@dataclass(frozen=True)
class Field:
    """A cell: what it shows, and by what it is sorted (None: last)."""

    text: str
    key: float | str | None


@dataclass(frozen=True)
class Row:
    """A star of the table."""

    rank: int
    objid: str
    link: str
    place: str
    bars: list[Bar]
    said: str  # the bars in words
    fields: list[Field]
    reason: str
    neighbour: str
    neighbour_link: str
    is_placed: bool  # whether the atlas can show it


def explore_link(template: str, ra: float, dec: float) -> str:
    """The link to a star's page; empty where its place is not known or the template is not one of http."""
    if not (math.isfinite(ra) and math.isfinite(dec)):
        return ""
    try:
        link = template.format(ra=ra, dec=dec)
    except (KeyError, IndexError, ValueError):
        return ""
    return link if urlsplit(link).scheme in ("http", "https") else ""


def number_columns(anomalies: Anomalies, bands: Sequence[str]) -> list[tuple[str, np.ndarray, str]]:
    """(title, values (n,), format) of the table's columns of numbers that are there; "": four digits, "e": a power."""
    columns = [(band, anomalies.magnitude[:, index], ".2f") for index, band in enumerate(bands)]
    more = (
        ("error [mag]", anomalies.error, ".3f"),
        ("χ²", anomalies.chi2, ""),
        ("score", anomalies.score, ""),
        ("tail probability", anomalies.tail_probability, "e"),
    )
    return columns + [(title, values, form) for title, values, form in more if values is not None]


def anomaly_rows(anomalies: Anomalies, bands: Sequence[str], explore_url: str) -> list[Row]:
    """The first rows of the table, strangest first."""
    columns = number_columns(anomalies, bands)
    return [
        _row(anomalies, bands, index, [_field(values[index], form) for _, values, form in columns], explore_url)
        for index in range(min(len(anomalies.objid), MAX_ANOMALIES))
    ]


def _row(anomalies: Anomalies, bands: Sequence[str], index: int, fields: list[Field], explore_url: str) -> Row:
    ra, dec = float(anomalies.ra[index]), float(anomalies.dec[index])
    magnitude = anomalies.magnitude[index]
    residual = None if anomalies.residual is None else anomalies.residual[index]
    near = anomalies.neighbour_position
    return Row(
        rank=index + 1,
        objid=anomalies.objid[index],
        link=explore_link(explore_url, ra, dec),
        place=true_minus(f"{ra:.5f} {dec:+.5f}") if math.isfinite(ra + dec) else "",
        bars=bars(magnitude, residual),
        said=_say_bars(bands, magnitude, residual),
        fields=fields,
        reason=anomalies.reason[index] if anomalies.reason else "",
        neighbour=anomalies.neighbour[index] if anomalies.neighbour else "",
        neighbour_link="" if near is None else explore_link(explore_url, float(near[index, 0]), float(near[index, 1])),
        is_placed=anomalies.latent is not None,
    )


def _field(value: float, form: str) -> Field:
    number = float(value)
    if not math.isfinite(number):
        return Field("", None)
    if form == "e":
        return Field(short_power(number, 1), number)
    return Field(true_minus(format(number, form)) if form else number_text(number), number)


def bars(magnitude: np.ndarray, residual: np.ndarray | None) -> list[Bar]:
    """Bars that grow with brightness, on one scale for star and model; a band without a value has none."""
    model = magnitude - residual if residual is not None else np.full(len(magnitude), np.nan)
    both = np.concatenate([magnitude, model])
    known = both[np.isfinite(both)]
    if not known.size:
        return []
    bright, faint = float(known.min()), float(known.max())
    faint = max(faint, bright + _LEAST_SPAN_MAG) + 0.12 * (faint - bright)

    def height(value: float) -> float:
        return round((_HEIGHT - 2) * (faint - value) / (faint - bright), 1)

    return [
        Bar(
            x=1 + index * _WIDTH,
            top=_HEIGHT - height(float(value)),
            height=height(float(value)),
            model=_HEIGHT - height(float(model[index])) if np.isfinite(model[index]) else None,
        )
        for index, value in enumerate(magnitude)
        if np.isfinite(value)
    ]


def _say_bars(bands: Sequence[str], magnitude: np.ndarray, residual: np.ndarray | None) -> str:
    parts = []
    for index, band in enumerate(bands):
        if np.isfinite(magnitude[index]):
            text = f"{band} {magnitude[index]:.2f}"
            if residual is not None and np.isfinite(residual[index]):
                text += f" (model {magnitude[index] - residual[index]:.2f})"
            parts.append(text)
    return ", ".join(parts)
