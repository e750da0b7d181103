"""From tallies to what is published: the numbers of summary.json and the lines of anomalies.csv.

Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpc_ae.analysis.histogram import ERROR_BINS
from hpc_ae.analysis.statistics import Moments
from hpc_ae.analysis.tally import BRIGHT_MAG, TAIL_BINS, ErrorTally, ResidualTally

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


def summarize_bands(bands: Sequence[str], tally: ResidualTally, num: int) -> dict[str, Any] | None:
    """Per band the root mean square and the mean of (magnitude - reconstruction), in mag, over `num` stars."""
    if not num:
        return None
    return {
        band: {
            "rms_mag": json_number(math.sqrt(tally.square[index] / num)),
            "mean_residual_mag": json_number(tally.total[index] / num),
        }
        for index, band in enumerate(bands)
    }


def summarize_clusters(clusters: np.ndarray, counts: np.ndarray, means: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Each cluster of a map: its number, stars and means.

    `clusters` and `counts`: (K,) or (K, K); `means`: the mean per cell of named quantities, NaN where there is no star.
    """
    found = []
    for number in range(int(clusters.max(initial=-1)) + 1):
        inside = clusters == number
        stars = counts[inside]
        known = {name: np.nansum(values[inside] * stars) / max(1, stars.sum()) for name, values in means.items()}
        found.append(
            {"cluster": number, "num_stars": int(stars.sum())}
            | {name: json_number(value) if stars.any() else None for name, value in known.items()}
        )
    return found


def summarize_tails(counts: np.ndarray) -> dict[str, Any]:
    """How often the survey's stars have a tail probability of at most 1/2, 1/4, ...: what is stated against what is.

    `counts`: all stars and the bright ones by TAIL_BINS, (2, bins).
    """
    edges = TAIL_BINS.edges()
    below = np.cumsum(counts, axis=1) / np.maximum(1, counts.sum(axis=1, keepdims=True))
    shown = [index for index in range(len(edges) - 1) if edges[index + 1] <= 0.5 and counts[0, : index + 1].any()]
    return {
        "definition": "fraction of stars whose tail probability is below `stated`",
        "stated": [float(edges[index + 1]) for index in shown],
        "all": [float(below[0, index]) for index in shown],
        "bright": [float(below[1, index]) for index in shown] if counts[1].any() else None,
        "bright_limit_mag": BRIGHT_MAG,
    }


def table_csv(columns: Mapping[str, Sequence[Any] | np.ndarray]) -> bytes:
    """Columns of equal length as CSV: a number's shortest text that reads back the same, nothing for NaN and None."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(_texts(values) for values in columns.values()), strict=True))
    return text.getvalue().encode()


def anomaly_columns(anomalies: dict[str, np.ndarray], bands: Sequence[str], columns: Sequence[str]) -> dict[str, Any]:
    """The columns of anomalies.csv that are known of every star; `columns`: those of the encoding.

    rank, row (counted from 0), objid, ra and dec in deg, one magnitude per band, reconstruction_error in mag, chi2,
    per band `residual_<band>` = magnitude - reconstruction in mag, anomaly_score, tail_probability, cluster.
    """
    has_chi2, has_model = "chi2" in columns, "reconstruction" in columns
    num = len(anomalies.get("row", ()))
    nothing: Any = np.empty((0, len(bands)))
    magnitude = anomalies.get("magnitude", nothing)
    found: dict[str, Any] = {"rank": range(1, num + 1)}
    found |= {name: anomalies.get(name, ()) for name in ("row", "objid", "ra", "dec")}
    found |= {band: magnitude[:, index] for index, band in enumerate(bands)}
    found |= {name: anomalies.get(name, ()) for name in ("reconstruction_error", *(["chi2"] if has_chi2 else []))}
    if has_model:
        residual = magnitude - anomalies.get("reconstruction", nothing)
        found |= {f"residual_{band}": residual[:, index] for index, band in enumerate(bands)}
    return found | {name: anomalies.get(name, ()) for name in ("anomaly_score", "tail_probability", "cluster")}


def _texts(values: Sequence[Any] | np.ndarray) -> list[str]:
    return ["" if value is None or value != value else str(value) for value in values]
