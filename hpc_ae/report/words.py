"""Numbers as the page's text: few digits, thousands, a true minus sign."""

from __future__ import annotations

import math

import numpy as np

from hpc_ae.report.data import Cell


def is_number(value: Cell) -> bool:
    """Whether a cell of a table is set as a number."""
    return isinstance(value, int | float | np.number)


def number_text(value: Cell) -> str:
    """A cell: whole numbers with thousands, others to four digits without zeros behind, nothing for None and NaN."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int | np.integer):
        return true_minus(f"{int(value):,}")
    if not math.isfinite(value):
        return ""
    size = abs(value)
    if size and not 1e-4 <= size < 1e9:
        return short_power(value, 3)
    digits = max(0, 3 - math.floor(math.log10(size))) if size else 0
    text = f"{value:,.{digits}f}"
    return true_minus(text.rstrip("0").rstrip(".") if "." in text else text)


def short_power(value: float, digits: int) -> str:
    """1.7e−6, with `digits` behind the point."""
    head, power = f"{value:.{digits}e}".split("e")
    return true_minus(f"{head}e{int(power)}")


def true_minus(text: str) -> str:
    """The minus sign that numbers are set with."""
    return text.replace("-", "−")
