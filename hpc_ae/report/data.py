"""All that the report's page shows, as plain values and arrays: what postprocess fills and `page.render_page` draws.

Every part is optional: a part that is None (or an empty tuple) is left out, or its section says how to make it. Floats
are NaN where there is no value. Grids are indexed [first dimension, second dimension], as in numpy.histogram2d.
Shape letters: N stars, B bands, L latent dimensions, X cells along a side of the counts, K of a layer, M magnitude
bins, Q quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EXPLORE_URL = "https://skyserver.sdss.org/dr18/VisualTools/explore/summary?ra={ra:.6f}&dec={dec:.6f}"
MAX_COUNTS_SIDE = 1024  # of AtlasPanel.counts
MAX_LAYER_SIDE = 512  # of AtlasLayer.values
MAX_SAMPLE = 60_000  # stars of StarSample that the page holds
MAX_SKY_ORDER = 7  # of SkyMap: 196,608 pixels
MAX_ANOMALIES = 2_000  # rows of the page's table; anomalies.csv has all
SCALES = ("linear", "log", "diverging", "category")

Cell = str | int | float | None
Interval = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Fact:
    """A line of text about the run. Long values (a config, a list of inputs) may have several lines."""

    name: str
    value: str
    group: str = ""  # facts of one group stand together under it: "Inputs", "Model", "Training", "Software", ...


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of text and numbers; numbers are set right-aligned to four significant digits, None is an empty cell."""

    columns: tuple[str, ...]  # with units: "stars/s"
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""  # what one sees, and the command that made it


@dataclass(frozen=True, eq=False)
class Curve:
    """A value by optimizer step."""

    steps: np.ndarray  # (n,)
    values: np.ndarray  # (n,)


@dataclass(frozen=True, eq=False)
class History:
    """What a training said of itself: mean squared errors in mag^2 and the learning rate; None: not known."""

    train: Curve | None = None
    validation: Curve | None = None
    learning_rate: Curve | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known."""
        return not (self.train or self.validation or self.learning_rate)


@dataclass(frozen=True, eq=False)
class TrainingCurve:
    """Mean squared error in mag^2 by optimizer step."""

    train_steps: np.ndarray  # (n,)
    train: np.ndarray  # (n,) mag^2
    validation_steps: np.ndarray  # (m,)
    validation: np.ndarray  # (m,) mag^2


@dataclass(frozen=True, eq=False)
class AtlasLayer:
    """A mean per cell of a latent plane.

    `scale`: linear, log, diverging (about 0) or category (whole numbers from 0).
    """

    name: str  # short and unique: "error", "g-r", "r", "redshift", "cluster"
    label: str  # "mean reconstruction error"
    unit: str  # "mag"; "" for none
    values: np.ndarray  # (K, K) float32, K at most 512; NaN: no star
    scale: str = "linear"


@dataclass(frozen=True, eq=False)
class AtlasPanel:
    """One pair of latent dimensions: the density of stars, and means per cell."""

    dimensions: tuple[int, int]  # counted from 0
    window: tuple[Interval, Interval]  # of the first and of the second dimension
    counts: np.ndarray  # (X, X) uint32, X at most 1024 and a multiple of every layer's K
    layers: tuple[AtlasLayer, ...] = ()
    num_outside: int = 0  # stars beyond the window
    labels: tuple[str, str] | None = None  # of the axes, where they are not "latent 1" and "latent 2"


@dataclass(frozen=True, eq=False)
class LatentHistogram:
    """Stars along the only latent dimension, where there is but one and the atlas has no pair to show."""

    edges: np.ndarray  # (n + 1,)
    counts: np.ndarray  # (n,)


@dataclass(frozen=True, eq=False)
class StarSample:
    """Stars that a click on the atlas lists and deep zoom shows as points.

    Best drawn so that it covers the plane: a few of every occupied cell, not in proportion to the density. The page
    keeps the first 60,000.
    """

    objid: np.ndarray  # (N,) int64
    latent: np.ndarray  # (N, L) float32
    ra: np.ndarray  # (N,) deg, NaN: not known
    dec: np.ndarray  # (N,) deg
    magnitude: np.ndarray  # (N, B) mag
    error: np.ndarray  # (N,) reconstruction error, mag
    score: np.ndarray | None = None  # (N,) anomaly score


@dataclass(frozen=True, eq=False)
class SkyLayer:
    """A value per HEALPix pixel; `scale` as in AtlasLayer."""

    name: str  # "count", "error", "latent 1"
    label: str
    unit: str
    values: np.ndarray  # (12 * 4^order,) NaN: no star
    scale: str = "linear"


@dataclass(frozen=True, eq=False)
class SkyMap:
    """HEALPix pixels, nested, ICRS; order at most 7."""

    order: int
    layers: tuple[SkyLayer, ...]


@dataclass(frozen=True, eq=False)
class Residuals:
    """Quantile curves per band against magnitude, of (magnitude - reconstruction) or of its size."""

    bands: tuple[str, ...]
    magnitude: np.ndarray  # (M,) centres of the bins, mag
    levels: tuple[float, ...]  # (Q,) ascending, an odd number, the median in the middle: 0.025, 0.16, 0.5, 0.84, 0.975
    curves: np.ndarray  # (B, M, Q) mag, NaN: too few stars
    label: str = "magnitude − reconstruction"
    log: bool = False  # logarithmic axis, for sizes


@dataclass(frozen=True, eq=False)
class Pulls:
    """Histograms of residual / error per band, to be compared with the unit normal."""

    bands: tuple[str, ...]
    edges: np.ndarray  # (n + 1,)
    counts: np.ndarray  # (B, n)


@dataclass(frozen=True, eq=False)
class Calibration:
    """How often stars exceed a tail probability, against that probability: on the diagonal it is what it says."""

    expected: np.ndarray  # (n,) probability, ascending, above 0
    observed: tuple[tuple[str, np.ndarray], ...]  # name of a curve ("all", "r < 20"), fraction of its stars (n,)


@dataclass(frozen=True, eq=False)
class Locus:
    """Colours along the ridge of the density: the stellar locus."""

    position: np.ndarray  # (n,) along the ridge, ascending: length in latent units, or 0 to 1
    colours: tuple[str, ...]  # "u-g", "g-r", ...
    median: np.ndarray  # (C, n) mag
    low: np.ndarray | None = None  # (C, n) 16 %
    high: np.ndarray | None = None  # (C, n) 84 %
    latent: np.ndarray | None = None  # (n, L) where the ridge runs: drawn over the atlas


@dataclass(frozen=True, eq=False)
class Anomalies:
    """The strangest stars, strangest first; the page's table has the first 2,000."""

    objid: tuple[str, ...]  # n names, as text: they may be above 2^53
    ra: np.ndarray  # (n,) deg
    dec: np.ndarray  # (n,) deg
    magnitude: np.ndarray  # (n, B) mag
    score: np.ndarray  # (n,) higher is stranger
    residual: np.ndarray | None = None  # (n, B) magnitude - reconstruction, mag
    error: np.ndarray | None = None  # (n,) reconstruction error, mag
    chi2: np.ndarray | None = None  # (n,)
    tail_probability: np.ndarray | None = None  # (n,)
    latent: np.ndarray | None = None  # (n, L): marks in the atlas
    reason: tuple[str, ...] = ()  # in words: "u is 0.9 mag brighter than the model, 24 times its noise"
    neighbour: tuple[str, ...] = ()  # objid of the nearest normal star in the latent plane
    neighbour_position: np.ndarray | None = None  # (n, 2) its ra, dec, deg


@dataclass(frozen=True, eq=False)
class StrangeKind:
    """Strange stars of one kind: what is strange about them, how many, their medians, and some of them."""

    label: str  # "u brighter"
    num: int
    share: float  # of all stars that were looked at
    magnitude: np.ndarray  # (B,) mag
    excess: np.ndarray  # (B,) magnitude less what is expected from the other bands, mag
    stars: tuple[tuple[str, float, float], ...]  # objid, ra and dec in deg, strangest first


@dataclass(frozen=True, eq=False)
class ReportData:
    """The whole page. `explore_url` is formatted with `ra` and `dec` in deg, for every link to SkyServer."""

    title: str
    bands: tuple[str, ...]
    num_stars: int | None = None
    num_good: int | None = None
    num_latent: int | None = None
    summary: tuple[str, ...] = ()  # sentences that open the page: the result in words
    headline: tuple[tuple[str, str], ...] = ()  # (label, value) in large type; without any, the numbers of stars
    provenance: tuple[Fact, ...] = ()
    config_text: str = ""  # config.yaml as it was used
    training: TrainingCurve | None = None
    atlas: tuple[AtlasPanel, ...] = ()
    latent_histogram: LatentHistogram | None = None
    sample: StarSample | None = None
    sky: SkyMap | None = None
    residuals: Residuals | None = None
    pulls: Pulls | None = None
    calibration: Calibration | None = None
    locus: Locus | None = None
    clusters: Table | None = None
    anomalies: Anomalies | None = None
    kinds: tuple[StrangeKind, ...] = ()
    compression: Table | None = None
    denoising: Table | None = None
    comparison: Table | None = None  # with another run: postprocess --compare
    throughput: Table | None = None  # a row per stage
    notes: tuple[str, ...] = ()
    explore_url: str = EXPLORE_URL
    extra: tuple[tuple[str, Table], ...] = ()  # further sections: (title, table)
