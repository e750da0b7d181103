"""From tallies to what is published: the numbers of summary.json and the lines of anomalies.csv.

Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hpc_ae.analysis.histogram import ERROR_BINS
from hpc_ae.analysis.statistics import Moments
from hpc_ae.analysis.tally import ErrorTally, GridTally

QUANTILES = (0.01, 0.05, 0.16, 0.5, 0.84, 0.95, 0.99, 0.999)
_EXACT_INTEGER = 1 << 53


def json_number(value: float) -> float | None:
    """A float for JSON, null where it is not finite."""
    return float(value) if math.isfinite(value) else None


def json_id(value: int) -> int | str:
    """An identifier for JSON: a string where a reader's float64 would lose digits."""
    return int(value) if abs(int(value)) <= _EXACT_INTEGER else str(int(value))


def summarize_error(tally: ErrorTally) -> dict[str, Any]:
    """The reconstruction error in mag: mean, standard deviation, quantiles, largest; null where there are no stars."""
    found = tally.error_quantiles(QUANTILES)
    return {
        "unit": "mag",
        "definition": "per star: root mean square over bands of (magnitude - reconstruction)",
        **_describe(tally.error)[0],
        "quantiles": {str(q): json_number(value) for q, value in zip(QUANTILES, found, strict=True)},
        "quantile_relative_precision": ERROR_BINS.precision,
        "quantile_absolute_precision": 2.0**ERROR_BINS.low,
    }


def summarize_squared_error(tally: ErrorTally) -> dict[str, Any]:
    """The squared error in mag^2, which is the mean over bands: mean and median over stars."""
    empty = not tally.error.num
    median = float(tally.error_quantiles([0.5])[0])
    return {
        "unit": "mag^2",
        "definition": "per star: mean over bands of (magnitude - reconstruction)^2",
        "mean": None if empty else json_number(tally.error.mean_square[0]),
        "median": json_number(median * median),
        "median_relative_precision": 2 * ERROR_BINS.precision,
    }


def summarize_latent(tally: ErrorTally) -> list[dict[str, Any]]:
    """Range, mean and standard deviation of each latent dimension."""
    return _describe(tally.latent)


def _describe(moments: Moments) -> list[dict[str, Any]]:
    columns = {"mean": moments.mean, "std": moments.std, "min": moments.low, "max": moments.high}
    return [
        {name: json_number(values[dim]) if moments.num else None for name, values in columns.items()}
        for dim in range(len(moments.mean))
    ]


def summarize_bands(bands: Sequence[str], tally: GridTally, num: int) -> dict[str, Any] | None:
    """Per band the root mean square and the mean of (magnitude - reconstruction), in mag, over `num` stars."""
    if not num:
        return None
    return {
        band: {
            "rms_mag": json_number(math.sqrt(tally.residual_square[index] / num)),
            "mean_residual_mag": json_number(tally.residual_sum[index] / num),
        }
        for index, band in enumerate(bands)
    }


def order_anomalies(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Join the rows that shards gave for the worst stars, worst first, equal errors by ascending row."""
    joined = {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}
    if not joined:
        return {}
    order = np.lexsort((joined["row"], -joined["reconstruction_error"]))
    return {name: values[order] for name, values in joined.items()}


def anomalies_csv(anomalies: dict[str, np.ndarray], bands: Sequence[str], columns: Sequence[str]) -> bytes:
    """The lines of anomalies.csv. `columns`: those of the encoding, which decide on chi2 and the residuals.

    rank, row (counted from 0), objid, ra and dec in deg, one magnitude per band, reconstruction_error in mag, chi2,
    and per band `residual_<band>` = magnitude - reconstruction in mag. Empty where a value is not known (NaN).
    """
    has_chi2, has_model = "chi2" in columns, "reconstruction" in columns
    header = ["rank", "row", "objid", "ra", "dec", *bands, "reconstruction_error"]
    header += ["chi2"] * has_chi2 + [f"residual_{band}" for band in bands] * has_model
    lines = [",".join(header)]
    if anomalies:
        fields = [[str(rank) for rank in range(1, len(anomalies["row"]) + 1)]]
        fields += [_texts(anomalies[name]) for name in ("row", "objid", "ra", "dec")]
        fields += [_texts(values) for values in anomalies["magnitude"].T]
        fields.append(_texts(anomalies["reconstruction_error"]))
        fields += [_texts(anomalies["chi2"])] if has_chi2 else []
        residual = (anomalies["magnitude"] - anomalies["reconstruction"]).T if has_model else ()
        fields += [_texts(values) for values in residual]
        lines += [",".join(row) for row in zip(*fields, strict=True)]
    return ("\n".join(lines) + "\n").encode()


def _texts(values: np.ndarray) -> list[str]:
    """Shortest text that reads back as the same number; nothing for NaN."""
    return ["" if value != value else str(value) for value in values]
