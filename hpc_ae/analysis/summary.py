"""From tallies to what is published: the numbers of summary.json and the lines of anomalies.csv.

Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import model_validator

from hpc_ae.analysis.histogram import ERROR_BINS
from hpc_ae.analysis.statistics import Moments
from hpc_ae.analysis.tally import BRIGHT_MAG, TAIL_BINS, ErrorTally, ResidualTally
from hpc_ae.record import Record

QUANTILES = (0.01, 0.05, 0.16, 0.5, 0.84, 0.95, 0.99, 0.999)
_EXACT_INTEGER = 1 << 53

CsvColumns = dict[str, Sequence[Any] | np.ndarray]
"""Columns of a table, of equal length, by name."""


def json_number(value: float) -> float | None:
    """A float for JSON, null where it is not finite."""
    return float(value) if math.isfinite(value) else None


def json_id(value: int) -> int | str:
    """An identifier for JSON: a string where a reader's float64 would lose digits."""
    return int(value) if abs(int(value)) <= _EXACT_INTEGER else str(int(value))


class Spread(Record):
    """Mean, standard deviation, smallest and largest of some numbers; null of none."""

    nulls: ClassVar[frozenset[str]] = frozenset({"mean", "std", "min", "max"})
    mean: float | None
    std: float | None
    min: float | None
    max: float | None

    @classmethod
    def of(cls, moments: Moments) -> list[Spread]:
        """Those of each column."""
        columns = np.stack([moments.mean, moments.std, moments.low, moments.high], axis=1).tolist()
        known = [[json_number(value) if moments.num else None for value in values] for values in columns]
        return [cls(mean=mean, std=std, min=low, max=high) for mean, std, low, high in known]


class ErrorSummary(Record):
    """The reconstruction error in mag: as Spread, and quantiles by level."""

    nulls: ClassVar[frozenset[str]] = Spread.nulls
    unit: str = "mag"
    definition: str = "per star: root mean square over bands of (magnitude - reconstruction)"
    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    quantiles: dict[str, float | None]
    quantile_relative_precision: float = ERROR_BINS.precision
    quantile_absolute_precision: float = 2.0**ERROR_BINS.low

    def quantile(self, level: float) -> float | None:
        """One of the quantiles, by its level."""
        return self.quantiles[str(level)]

    @classmethod
    def of(cls, tally: ErrorTally) -> ErrorSummary:
        """That of all usable stars."""
        spread = Spread.of(tally.error)[0]
        found = tally.error_quantiles(QUANTILES)
        return cls(
            mean=spread.mean,
            std=spread.std,
            min=spread.min,
            max=spread.max,
            quantiles={str(q): json_number(value) for q, value in zip(QUANTILES, found, strict=True)},
        )


class SquaredErrorSummary(Record):
    """The squared error in mag^2, which is the mean over bands: mean and median over stars."""

    nulls: ClassVar[frozenset[str]] = frozenset({"mean", "median"})
    unit: str = "mag^2"
    definition: str = "per star: mean over bands of (magnitude - reconstruction)^2"
    mean: float | None
    median: float | None
    median_relative_precision: float = 2 * ERROR_BINS.precision

    @classmethod
    def of(cls, tally: ErrorTally) -> SquaredErrorSummary:
        """That of all usable stars."""
        median = float(tally.error_quantiles([0.5])[0])
        mean = json_number(tally.error.mean_square[0]) if tally.error.num else None
        return cls(mean=mean, median=json_number(median * median))


class BandSummary(Record):
    """Of (magnitude - reconstruction) in a band: root mean square and mean, in mag."""

    nulls: ClassVar[frozenset[str]] = frozenset({"rms_mag", "mean_residual_mag"})
    rms_mag: float | None
    mean_residual_mag: float | None


def summarize_bands(bands: Sequence[str], tally: ResidualTally, num: int) -> dict[str, BandSummary] | None:
    """Per band, over the stars that have it, of `num` in all; None of none."""
    if not num:
        return None
    return {
        band: BandSummary(
            rms_mag=json_number(math.sqrt(tally.square[index] / own)) if own else None,
            mean_residual_mag=json_number(tally.total[index] / own) if own else None,
        )
        for index, (band, own) in enumerate(zip(bands, tally.num_stars.tolist(), strict=True))
    }


class ClusterSummary(Record):
    """A cluster of a map: its number, stars, and means of named quantities, which stand in the file beside these."""

    cluster: int
    num_stars: int
    means: dict[str, float | None]

    def to_json(self) -> dict[str, Any]:
        """What the file holds."""
        return {"cluster": self.cluster, "num_stars": self.num_stars, **self.means}

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "means" in values:
            return values
        means = {name: value for name, value in values.items() if name not in cls.model_fields}
        return {**values, "means": means}


def summarize_clusters(clusters: np.ndarray, counts: np.ndarray, means: dict[str, np.ndarray]) -> list[ClusterSummary]:
    """Each cluster of a map.

    `clusters` and `counts`: (K,) or (K, K); `means`: the mean per cell of named quantities, NaN where there is no star.
    """
    found = []
    for number in range(int(clusters.max(initial=-1)) + 1):
        inside = clusters == number
        stars = counts[inside]
        known = {name: np.nansum(values[inside] * stars) / max(1, stars.sum()) for name, values in means.items()}
        own = {name: json_number(value) if stars.any() else None for name, value in known.items()}
        found.append(ClusterSummary(cluster=number, num_stars=int(stars.sum()), means=own))
    return found


class TailSummary(Record):
    """How often the survey's stars have a tail probability of at most 1/2, 1/4, ...: what is stated against what is,
    of all stars and of the bright ones.
    """

    nulls: ClassVar[frozenset[str]] = frozenset({"bright"})
    definition: str = "fraction of stars whose tail probability is below `stated`"
    stated: list[float]
    all: list[float]
    bright: list[float] | None
    bright_limit_mag: float = BRIGHT_MAG

    @classmethod
    def of(cls, counts: np.ndarray) -> TailSummary:
        """That of all stars and the bright ones counted by TAIL_BINS, (2, bins)."""
        edges = TAIL_BINS.edges()
        below = np.cumsum(counts, axis=1) / np.maximum(1, counts.sum(axis=1, keepdims=True))
        shown = [index for index in range(len(edges) - 1) if edges[index + 1] <= 0.5 and counts[0, : index + 1].any()]
        return cls(
            stated=[float(edges[index + 1]) for index in shown],
            all=[float(below[0, index]) for index in shown],
            bright=[float(below[1, index]) for index in shown] if counts[1].any() else None,
        )


def table_csv(columns: CsvColumns) -> bytes:
    """Columns as CSV: a number's shortest text that reads back the same, nothing for NaN and None."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(_texts(values) for values in columns.values()), strict=True))
    return text.getvalue().encode()


def anomaly_columns(anomalies: dict[str, np.ndarray], bands: Sequence[str], columns: Sequence[str]) -> CsvColumns:
    """The columns of anomalies.csv that are known of every star; `columns`: those of the encoding.

    rank, row (counted from 0), objid, ra and dec in deg, one magnitude per band, reconstruction_error in mag, chi2,
    per band `residual_<band>` = magnitude - reconstruction in mag, anomaly_score, tail_probability, cluster.
    """
    has_chi2, has_model = "chi2" in columns, "reconstruction" in columns
    num = len(anomalies.get("row", ()))
    nothing: Any = np.empty((0, len(bands)))
    magnitude = anomalies.get("magnitude", nothing)
    found: CsvColumns = {"rank": range(1, num + 1)}
    found |= {name: anomalies.get(name, ()) for name in ("row", "objid", "ra", "dec")}
    found |= {band: magnitude[:, index] for index, band in enumerate(bands)}
    found |= {name: anomalies.get(name, ()) for name in ("reconstruction_error", *(["chi2"] if has_chi2 else []))}
    if has_model:
        residual = magnitude - anomalies.get("reconstruction", nothing)
        found |= {f"residual_{band}": residual[:, index] for index, band in enumerate(bands)}
    return found | {name: anomalies.get(name, ()) for name in ("anomaly_score", "tail_probability", "cluster")}


def _texts(values: Sequence[Any] | np.ndarray) -> list[str]:
    return ["" if value is None or value != value else str(value) for value in values]
