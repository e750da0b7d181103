"""Reports of realistic content for the tests of the page: simulated stars in two bent principal components.

`python tests/report_data.py OUT.html [STARS.parquet QUASARS.csv]` writes a page to look at, of simulated or real stars.
"""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import numpy as np

from hpc_ae.photometry.mixture import simulate_stars
from hpc_ae.report.data import (
    Anomalies,
    AtlasLayer,
    AtlasPanel,
    Calibration,
    Fact,
    Locus,
    Pulls,
    ReportData,
    Residuals,
    SkyLayer,
    SkyMap,
    StarSample,
    StrangeKind,
    Table,
    TrainingCurve,
)

BANDS = ("u", "g", "r", "i", "z")
LEVELS = (0.025, 0.16, 0.5, 0.84, 0.975)


class Survey:
    """Stars with latents and a reconstruction: magnitude (N, 5), magnitude_error (N, 5), latent (N, L)."""

    def __init__(
        self, magnitude: np.ndarray, magnitude_error: np.ndarray, sky: np.ndarray, num_latent: int = 2
    ) -> None:
        self.magnitude, self.magnitude_error, self.sky = magnitude.astype(np.float64), magnitude_error, sky
        mean, std = self.magnitude.mean(0), self.magnitude.std(0)
        scaled = (self.magnitude - mean) / std
        axes = np.linalg.svd(scaled[:: max(1, len(scaled) // 20_000)], full_matrices=False)[2][:num_latent]
        plain = scaled @ axes.T
        self.residual = (scaled - plain @ axes) * std
        self.latent = plain.copy()
        self.latent[:, 1:] += 0.35 * plain[:, :1] ** 2 - 0.5
        self.latent = np.arcsinh(self.latent).astype(np.float32)
        self.error = np.sqrt((self.residual**2).mean(1)).astype(np.float32)
        self.chi2 = ((self.residual / np.hypot(magnitude_error, 0.03)) ** 2).sum(1)
        self.objid = 1_237_645_879_551_000_000 + 7 * np.arange(len(magnitude), dtype=np.int64)


def simulated_survey(num_stars: int, num_latent: int = 2) -> Survey:
    """Good simulated stars, some of them made blue in u as quasars are."""
    stars = simulate_stars(0, num_stars, seed=5)
    magnitude = stars["magnitude"].copy()
    magnitude[::400, 0] -= 1.2
    return Survey(magnitude, stars["magnitude_error"], np.stack([stars["ra"], stars["dec"]], 1), num_latent)


def mean_per_cell(where: np.ndarray, values: np.ndarray, num: int) -> np.ndarray:
    """Mean of values (N,) in cells (num,), NaN where there is none."""
    counts = np.bincount(where, minlength=num)
    sums = np.bincount(where, weights=np.nan_to_num(values), minlength=num)
    return np.divide(sums, counts, out=np.full(num, np.nan), where=counts > 0).astype(np.float32)


def atlas_panel(survey: Survey, dimensions: tuple[int, int], side: int, layer_side: int) -> AtlasPanel:
    """One pair of latent dimensions with its layers."""
    pair = survey.latent[:, dimensions]
    low, high = np.quantile(pair, [0.0005, 0.9995], axis=0)
    low, high = low - 0.1 * (high - low), high + 0.1 * (high - low)
    unit = (pair - low) / (high - low)
    inside = ((unit >= 0) & (unit < 1)).all(1)

    def cells(num: int) -> np.ndarray:
        index = np.floor(unit[inside] * num).astype(np.int64)
        return index[:, 0] * num + index[:, 1]

    counts = np.bincount(cells(side), minlength=side * side).reshape(side, side).astype(np.uint32)
    where = cells(layer_side)
    magnitude = survey.magnitude[inside]

    def layer(name: str, label: str, values: np.ndarray, scale: str = "linear") -> AtlasLayer:
        grid = mean_per_cell(where, values, layer_side**2).reshape(layer_side, layer_side)
        return AtlasLayer(name, label, "mag", grid, scale)

    layers = (
        layer("error", "mean reconstruction error", survey.error[inside], "log"),
        layer("r", "mean r", magnitude[:, 2]),
        *(
            layer(f"{one}-{two}", f"mean {one} − {two}", magnitude[:, k] - magnitude[:, k + 1])
            for k, (one, two) in enumerate(itertools.pairwise(BANDS))
        ),
        layer("residual u", "mean residual in u", survey.residual[inside, 0], "diverging"),
    )
    groups = np.full((layer_side, layer_side), np.nan, np.float32)
    known = np.isfinite(layers[0].values)
    groups[known] = np.where(np.nonzero(known)[0] > layer_side // 2, 1, 0)
    window = tuple((float(low[k]), float(high[k])) for k in (0, 1))
    layers += (AtlasLayer("cluster", "cluster", "", groups, "category"),)
    return AtlasPanel(dimensions, (window[0], window[1]), counts, layers, int((~inside).sum()))


def sky_map(survey: Survey, order: int = 4) -> SkyMap:
    """Counts and mean error; the tests compare its pixels with astropy-healpix's."""
    from astropy import units
    from astropy_healpix import HEALPix

    num = 12 * 4**order
    pixel = HEALPix(2**order, "nested").lonlat_to_healpix(survey.sky[:, 0] * units.deg, survey.sky[:, 1] * units.deg)
    counts = np.bincount(pixel, minlength=num).astype(np.float64)
    counts[counts == 0] = np.nan
    layers = (
        SkyLayer("count", "stars per pixel", "", counts, "log"),
        SkyLayer("error", "mean reconstruction error", "mag", mean_per_cell(pixel, survey.error, num)),
        SkyLayer("latent 1", "mean latent 1", "", mean_per_cell(pixel, survey.latent[:, 0], num)),
    )
    return SkyMap(order, layers)


def sample(survey: Survey, panel: AtlasPanel, num: int) -> StarSample:
    """Stars that cover the plane: those of rare cells first."""
    unit = np.stack(
        [(survey.latent[:, d] - lo) / (hi - lo) for d, (lo, hi) in zip(panel.dimensions, panel.window, strict=True)], 1
    )
    index = np.clip(np.floor(unit * 128), 0, 127).astype(np.int64)
    cell = index[:, 0] * 128 + index[:, 1]
    crowd = np.bincount(cell, minlength=128 * 128)[cell]
    keys = np.random.default_rng(1).random(len(cell)) * crowd
    rows = np.sort(np.argsort(keys)[:num])
    return StarSample(
        survey.objid[rows], survey.latent[rows], survey.sky[rows, 0], survey.sky[rows, 1], survey.magnitude[rows],
        survey.error[rows], survey.chi2[rows].astype(np.float32),
    )  # fmt: skip


def kinds(survey: Survey) -> tuple[StrangeKind, ...]:
    """Two kinds of strange stars."""
    some = tuple((str(1237645879551066262 + one), 150.0 + one, 2.0) for one in range(10))
    middle = survey.magnitude.mean(axis=0)
    excess = np.linspace(-0.8, 0.1, len(middle))
    unplaced = (("1237645879551066262", math.nan, math.nan),)
    return StrangeKind("u brighter", 1559, 0.0054, middle, excess, some), StrangeKind(
        "combination", 2, 0.1, middle, excess, unplaced
    )


def anomalies(survey: Survey, num: int) -> Anomalies:
    """The stars of largest chi^2 with a reason each."""
    rows = np.argsort(-survey.chi2)[:num]
    residual = survey.residual[rows]
    worst = np.abs(residual).argmax(1)
    reasons = [
        f"{BANDS[band]} is {abs(value):.2f} mag {'fainter' if value > 0 else 'brighter'} than the model"
        for band, value in zip(worst, residual[np.arange(len(rows)), worst], strict=True)
    ]
    near = (rows + 17) % len(survey.objid)
    return Anomalies(
        objid=tuple(str(one) for one in survey.objid[rows]),
        ra=survey.sky[rows, 0],
        dec=survey.sky[rows, 1],
        magnitude=survey.magnitude[rows],
        score=survey.chi2[rows],
        residual=residual,
        error=survey.error[rows],
        chi2=survey.chi2[rows],
        tail_probability=(np.arange(len(rows)) + 0.5) / len(survey.objid),
        latent=survey.latent[rows],
        reason=tuple(reasons),
        neighbour=tuple(str(one) for one in survey.objid[near]),
        neighbour_position=survey.sky[near],
    )


def residuals(survey: Survey) -> Residuals:
    """Quantiles of the residuals in bins of half a magnitude."""
    edges = np.arange(0, 30.01, 0.5)
    curves = np.full((5, len(edges) - 1, 5), np.nan)
    for band in range(5):
        where = np.digitize(survey.magnitude[:, band], edges) - 1
        for index in range(len(edges) - 1):
            values = survey.residual[where == index, band]
            if len(values) >= 50:
                curves[band, index] = np.quantile(values, LEVELS)
    return Residuals(BANDS, 0.5 * (edges[1:] + edges[:-1]), LEVELS, curves)


def locus(survey: Survey) -> Locus:
    """Colours in bins of the first latent."""
    edges = np.quantile(survey.latent[:, 0], np.linspace(0.01, 0.99, 41))
    where = np.digitize(survey.latent[:, 0], edges) - 1
    colours = survey.magnitude[:, :-1] - survey.magnitude[:, 1:]
    found = np.array([np.quantile(colours[where == k], [0.16, 0.5, 0.84], axis=0) for k in range(40)])
    ridge = np.array([np.median(survey.latent[where == k], axis=0) for k in range(40)])
    position = 0.5 * (edges[1:] + edges[:-1])
    names = tuple(f"{one}−{two}" for one, two in itertools.pairwise(BANDS))
    return Locus(position, names, found[:, 1].T, found[:, 0].T, found[:, 2].T, ridge)


def curve() -> TrainingCurve:
    """A training that falls as trainings do."""
    rng = np.random.default_rng(3)
    steps = np.arange(0, 60_000, 20)
    fall = 0.02 + 0.5 / (1 + (steps / 400) ** 1.1)
    return TrainingCurve(steps, fall * np.exp(0.15 * rng.standard_normal(len(steps))), steps[::100], 1.05 * fall[::100])


def make_report(
    survey: Survey, side: int = 1024, layer_side: int = 256, num_sample: int = 20_000, num_anomalies: int = 1000
) -> ReportData:
    """All parts of a report."""
    num_latent = survey.latent.shape[1]
    panels = tuple(atlas_panel(survey, pair, side, layer_side) for pair in itertools.combinations(range(num_latent), 2))
    pulls = survey.residual / np.hypot(survey.magnitude_error, 0.02)
    edges = np.linspace(-5, 5, 51)
    expected = np.logspace(-5, 0, 40)
    ranks = np.sort(1 - np.argsort(np.argsort(survey.chi2)) / len(survey.chi2)) ** 1.05
    observed = np.searchsorted(ranks, expected) / len(ranks)
    return ReportData(
        title="Stars in a plane: a report of hpc_ae",
        bands=BANDS,
        num_stars=len(survey.objid),
        num_good=len(survey.objid),
        num_latent=num_latent,
        summary=(
            "An autoencoder of five bands was trained on these stars and applied to all. Below is what it sees: "
            "the plane it lays them out in, the stars that do not fit, and how far its errors can be trusted.",
        ),
        headline=(
            ("stars", f"{len(survey.objid):,}"),
            ("median error", f"{np.median(survey.error):.3f} mag"),
            ("held-out error", "0.0231 mag²"),
            ("encoded", "3.1 million stars/s"),
        ),
        provenance=(
            Fact("star catalog", "runs/survey/catalog\nsha256:" + "3f" * 32, "Inputs"),
            Fact("model", "runs/survey/model, sha256:" + "a9" * 32, "Inputs"),
            Fact("command", "hpc-ae run survey.yaml", "Software"),
            Fact("package", "hpc_ae 0.1.0, commit 4bdba0a", "Software"),
            Fact("hardware", "2 cores of an x86-64 machine, 8 GB", "Software"),
        ),
        config_text="run_dir: runs/survey\nseed: 1\ncatalog:\n  source:\n    simulate: {stars: 200000}\n",
        training=curve(),
        atlas=panels,
        sample=sample(survey, panels[0], num_sample),
        sky=sky_map(survey),
        residuals=residuals(survey),
        pulls=Pulls(BANDS, edges, np.array([np.histogram(pulls[:, k], edges)[0] for k in range(5)])),
        calibration=Calibration(expected, (("all stars", observed), ("r < 20", np.minimum(1, 1.3 * observed)))),
        locus=locus(survey),
        clusters=Table(("cluster", "stars", "u−g"), ((0, 81_220, 1.21), (1, 6_023, 2.4)), "Clusters of the density."),
        anomalies=anomalies(survey, num_anomalies),
        kinds=kinds(survey),
        denoising=Table(
            ("band", "RMS to truth before [mag]", "after [mag]", "bias [mag]"),
            (("u", 0.124, 0.0531, -0.0012), ("g", 0.0211, 0.0122, 0.0003), ("r", 0.0193, 0.0101, None)),
            "Simulated stars: distance of the magnitudes from the truth before and after.",
        ),
        throughput=Table(
            ("stage", "stars", "seconds", "stars/s", "core hours"),
            (
                ("train", 200_000, 11.2, 1.4e6, 0.0062),
                ("encode", 200_000, 0.9, 3.1e6, 0.0005),
                ("postprocess", 200_000, 1.3, 153_846, 0.0004),
            ),
            "Stages of this run on 2 cores.",
        ),
        notes=("Magnitudes are SDSS asinh magnitudes.", "10 stars have no position."),
    )  # fmt: skip


def real_survey(stars_path: Path, strange_path: Path, num_latent: int = 2) -> Survey:
    """The project's shared stars with some quasars and galaxies mixed in."""
    import pandas as pd

    stars = pd.read_parquet(stars_path)
    strange = pd.read_csv(strange_path).iloc[::20]
    magnitude = np.concatenate([stars[list(BANDS)].to_numpy(), strange[list(BANDS)].to_numpy()])
    sizes = np.concatenate([stars[[f"err_{b}" for b in BANDS]].to_numpy(), np.full((len(strange), 5), 0.05)])
    sky = np.concatenate([stars[["ra", "dec"]].to_numpy(), strange[["ra", "dec"]].to_numpy()])
    good = ((magnitude > 0) & (magnitude < 30)).all(1)
    return Survey(magnitude[good], np.clip(sizes[good], 0, 1), sky[good], num_latent)


if __name__ == "__main__":
    from hpc_ae.report.page import render_page

    chosen = real_survey(Path(sys.argv[2]), Path(sys.argv[3])) if len(sys.argv) > 3 else simulated_survey(200_000)
    Path(sys.argv[1]).write_bytes(render_page(make_report(chosen)))
