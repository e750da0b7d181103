"""Quasars and galaxies among stars of sky that was not trained on, without labels: scores against each other.

python benchmarks/anomalies.py [--folder DIR] [--split 0]      needs ../shared/data; about 3 minutes on two cores

Half of the fields of sky train a model (60 epochs) and fit the scores. The stars of the other fields are mixed with
quasars and galaxies; their catalog errors are not used by any score. Areas under the ROC curve: of all held-out stars;
of those 20 degrees and more off the Galactic plane, where the quasars and galaxies are; and both for r < 20 alone,
since the stars stop there. `first`: the share of quasars (galaxies) that are stranger than 99 % of the stars off the
plane, and of those among them with clean photometry (errors of g, r, i, z below 0.2 mag). "as postprocess": 3 or 10 in
1,000 of the held-out survey are quasars and galaxies, two to one; all of it is ingested, encoded by that model and
scored by `hpc-ae postprocess`, which fits to what it scores, the hidden ones included; these alone are judged.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import yaml
from astropy import units
from astropy.coordinates import SkyCoord
from common import PHOTOMETRY, hpc_ae, report
from scipy.spatial import cKDTree
from scipy.stats import rankdata

from hpc_ae import open_catalog
from hpc_ae.analysis.anomaly import Arrays, ScoreModel, fit_score_model
from hpc_ae.analysis.anomaly_reasons import find_kinds
from hpc_ae.model.forward import make_forward
from hpc_ae.model.weights import read_weights

BANDS = ("u", "g", "r", "i", "z")
EPOCHS = 60
NEIGHBOURS, REFERENCE_STARS = 10, 60_000
LEVELS = (0.5, 0.1, 0.01, 0.001)
Score = Callable[[Arrays], np.ndarray]


@dataclass(frozen=True)
class Mix:
    """Held-out stars with two masks over them, and what is hidden among them."""

    stars: Arrays
    off_plane: np.ndarray
    clean: np.ndarray
    hidden: dict[str, Arrays]


def split_by_sky(folder: Path, seed: int) -> tuple[pa.Table, pa.Table]:
    """Half of the fields for training, in `folder`/train.parquet and as a catalog; the rest. The file is by field."""
    table = pq.read_table(PHOTOMETRY)
    ra, dec = np.asarray(table["ra"]), np.asarray(table["dec"])
    field = np.cumsum(
        np.hypot(np.diff(ra, prepend=ra[0]) * np.cos(np.radians(dec)), np.diff(dec, prepend=dec[0])) > 0.8
    )
    chosen = np.random.default_rng(seed).permutation(field[-1] + 1) < (field[-1] + 1) // 2
    train, test = table.filter(pa.array(chosen[field])), table.filter(pa.array(~chosen[field]))
    pq.write_table(train, folder / "train.parquet")
    hpc_ae("ingest", str(folder / "train.parquet"), "--out", str(folder / "train"))
    return train, test


def encoder(folder: Path) -> Callable[[pa.Table], Arrays]:
    """Train on `folder`/train; a function from tables to their arrays with latent and reconstruction."""
    config = {"run_dir": str(folder / "run"), "catalog": {"path": str(folder / "train")}, "train": {"epochs": EPOCHS}}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    hpc_ae("train", str(folder / "run.yaml"))
    forward = make_forward(read_weights(folder / "run" / "model")[0])

    def encode(table: pa.Table) -> Arrays:
        magnitude = np.stack([table[band] for band in BANDS], axis=1).astype(np.float32)
        encoding = forward(magnitude)
        assert encoding.reconstruction is not None
        arrays = {"magnitude": magnitude, "latent": encoding.latent, "reconstruction": encoding.reconstruction}
        quality = np.zeros(len(magnitude), np.uint16)
        return {**arrays, "reconstruction_error": encoding.reconstruction_error, "quality": quality}

    return encode


def mix(test: pa.Table, encode: Callable[[pa.Table], Arrays]) -> Mix:
    """The held-out stars, and the quasars and galaxies apart."""
    latitude = SkyCoord(np.asarray(test["ra"]), np.asarray(test["dec"]), unit=units.deg).galactic.b.deg
    off_plane = np.abs(latitude) > 20
    error = np.stack([test[f"err_{band}"] for band in BANDS[1:]], axis=1)
    clean = off_plane & np.all((error > 0) & (error < 0.2), axis=1)
    table = pyarrow.csv.read_csv(PHOTOMETRY.parent / "sdss_quasars_galaxies.csv")
    kinds = {"quasars": "QSO", "galaxies": "GALAXY"}
    hidden = {name: encode(table.filter(pa.compute.equal(table["class"], kind))) for name, kind in kinds.items()}
    return Mix(encode(test), off_plane, clean, hidden)


def area(stars: np.ndarray, strange: np.ndarray) -> float:
    """Area under the ROC curve: how often one of `strange` scores higher than one of `stars`."""
    ranks = rankdata(np.concatenate([stars, strange]))[len(stars) :]
    return float((ranks.mean() - (len(strange) + 1) / 2) / len(stars))


def judge(name: str, score: Score, mixed: Mix) -> None:
    """Print what a score, higher for what is stranger, makes of the mix."""
    hidden = {kind: (score(arrays), arrays["magnitude"][:, 2]) for kind, arrays in mixed.hidden.items()}
    compare(name, score(mixed.stars), hidden, mixed)


def compare(name: str, stars: np.ndarray, hidden: dict[str, tuple[np.ndarray, np.ndarray]], mixed: Mix) -> None:
    """Print how the scores of the stars of a mix compare with those of hidden ones, (scores, r) by kind."""
    bright = mixed.stars["magnitude"][:, 2] < 20
    for kind, (strange, reference) in hidden.items():
        few = reference < 20
        values = {
            "all_sky": area(stars, strange),
            "all_sky_r20": area(stars[bright], strange[few]),
            "off_plane": area(stars[mixed.off_plane], strange),
            "off_plane_r20": area(stars[mixed.off_plane & bright], strange[few]),
            "first": float(np.mean(strange > np.quantile(stars[mixed.off_plane], 0.99))),
            "first_clean": float(np.mean(strange > np.quantile(stars[mixed.clean], 0.99))),
            "first_clean_r20": float(np.mean(strange[few] > np.quantile(stars[mixed.clean & bright], 0.99))),
        }
        report(f"anomalies, {name}, {kind}", **{key: round(value, 4) for key, value in values.items()})


def rivals(train: Arrays) -> dict[str, Score]:
    """Simpler scores: errors of two components and of the model, residuals in units of their scatter, neighbours."""
    center = train["magnitude"].mean(axis=0)
    axes = np.linalg.svd(train["magnitude"] - center, full_matrices=False)[2][:2]
    scales = fit_score_model(train).scales
    rows = np.random.default_rng(0).permutation(len(train["magnitude"]))[:REFERENCE_STARS]

    def component_error(arrays: Arrays) -> np.ndarray:
        centered = arrays["magnitude"] - center
        return np.asarray(np.square(centered - centered @ axes.T @ axes).sum(axis=1))

    def chi_squared(arrays: Arrays) -> np.ndarray:
        model = arrays["reconstruction"]
        steps = np.arange(scales.noise.shape[1]) / 20
        noise = np.stack([np.interp(model[:, band], steps, scales.noise[band]) for band in range(5)], axis=1)
        return np.asarray(np.square((arrays["magnitude"] - model) / noise).sum(axis=1))

    def colours(arrays: Arrays) -> np.ndarray:
        return np.asarray(np.diff(arrays["magnitude"].astype(np.float64), axis=1))

    def stretched_colours(arrays: Arrays) -> np.ndarray:
        stretched = scales.stretch(arrays["magnitude"]).T.astype(np.float64)
        return np.concatenate([np.diff(stretched, axis=1), stretched[:, 2:3]], axis=1)

    def neighbours(place: Callable[[Arrays], np.ndarray]) -> Score:
        tree = cKDTree(place(train)[rows])
        return lambda arrays: np.asarray(tree.query(place(arrays), NEIGHBOURS)[0][:, -1])

    return {
        "error of two components": component_error,
        "error of the model": lambda arrays: arrays["reconstruction_error"],
        "residuals in units of their scatter": chi_squared,
        "ten neighbours in colours": neighbours(colours),
        "ten neighbours in stretched colours and r": neighbours(stretched_colours),
    }


def calibration(model: ScoreModel, magnitude: np.ndarray, name: str) -> None:
    """How many of the stars are below a tail probability, relative to what it says."""
    stars = {"magnitude": magnitude, "quality": np.zeros(len(magnitude), np.uint16)}
    found = model.score(stars)["tail_probability"]
    values = {f"below_{level}": round(float(np.mean(found < level) / level), 3) for level in LEVELS}
    report(f"anomalies, tail probability, {name}", stars=len(found), **values)


def as_postprocess(share: float, folder: Path, test: pa.Table, mixed: Mix, seed: int) -> None:
    """Hide so many among the held-out stars, let the commands do what they do for any survey, and judge the scores."""
    chance, parts, names = np.random.default_rng(seed), [np.stack([test[band] for band in BANDS], axis=1)], ["stars"]
    for name, part in (("quasars", 2 / 3), ("galaxies", 1 / 3)):
        magnitude = mixed.hidden[name]["magnitude"]
        parts.append(magnitude[chance.permutation(len(magnitude))[: round(share * part * len(test))]])
        names.append(name)
    kind, magnitude = np.repeat(np.arange(3), list(map(len, parts))), np.concatenate(parts).astype(np.float32)
    survey, columns = folder / f"mixed-{share}", {band: magnitude[:, index] for index, band in enumerate(BANDS)}
    table = pa.table({"objid": np.arange(len(kind)), **columns}).take(chance.permutation(len(kind)))
    pq.write_table(table, folder / f"{survey.name}.parquet")
    hpc_ae("ingest", str(folder / f"{survey.name}.parquet"), "--out", str(survey / "stars"))
    config = {"run_dir": str(survey / "run"), "catalog": {"path": str(survey / "stars")}}
    (survey / "run.yaml").write_text(yaml.safe_dump(config | {"encode": {"model": str(folder / "run" / "model")}}))
    hpc_ae("encode", str(survey / "run.yaml"))
    hpc_ae("postprocess", str(survey / "run.yaml"))
    scores = open_catalog(survey / "run" / "scores").read(["objid", "anomaly_score", "tail_probability"])
    order = np.argsort(scores["objid"])
    for name, sign in (("anomaly_score", 1), ("tail_probability", -1)):
        score = np.nan_to_num(sign * scores[name][order].astype(np.float64), nan=-np.inf)
        hidden = {names[one]: (score[kind == one], magnitude[kind == one, 2]) for one in (1, 2)}
        compare(f"as postprocess, {share}, {name}", score[kind == 0], hidden, mixed)


def kinds(model: ScoreModel, mixed: Mix) -> None:
    """Stars and quasars among the strangest tenth of their brightness, and those of the kind "u brighter"."""
    values = {}
    for name, arrays in {"stars": mixed.stars, "quasars": mixed.hidden["quasars"]}.items():
        magnitude = arrays["magnitude"]
        found = find_kinds(model, {**model.score(arrays), "magnitude": magnitude}, BANDS)
        num = {kind.label: kind.num for kind in found}
        values[name] = sum(num.values()) / len(magnitude)
        values[f"{name}_u_brighter"] = num["u brighter"] / len(magnitude)
    report("anomalies, kinds", **{key: round(value, 4) for key, value in values.items()})


def speed(model: ScoreModel, stars: Arrays) -> dict[str, Any]:
    """Processor time of a score, microseconds a star."""
    model.score(stars)
    times = []
    for _ in range(5):
        started = time.process_time()
        model.score(stars)
        times.append(time.process_time() - started)
    return {"microseconds_per_star": min(times) / len(stars["quality"]) * 1e6}


def without(arrays: Arrays, name: str) -> Arrays:
    """The arrays but one."""
    return {key: values for key, values in arrays.items() if key != name}


def main() -> None:
    """All scores on one split of the sky, the calibration, and the time it takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--split", type=int, default=0)
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[0.003, 0.01], help='hidden ones in "as postprocess"'
    )
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="hpc_ae-anomalies-"))
    folder.mkdir(exist_ok=True)
    train_table, test_table = split_by_sky(folder, options.split)
    encode = encoder(folder)
    train, mixed = encode(train_table), mix(test_table, encode)
    for name, score in rivals(train).items():
        judge(name, score, mixed)
    started = time.process_time()
    model = fit_score_model(train)
    fit_seconds = time.process_time() - started
    plain = fit_score_model(without(train, "reconstruction"))
    judge("anomaly_score", lambda arrays: model.score(arrays)["anomaly_score"], mixed)
    judge("tail_probability", lambda arrays: -model.score(arrays)["tail_probability"], mixed)
    judge("anomaly_score without reconstruction", lambda arrays: plain.score(arrays)["anomaly_score"], mixed)
    rows = np.random.default_rng(1).permutation(len(train["quality"]))
    some = fit_score_model({name: values[rows[: 2 * len(rows) // 3]] for name, values in train.items()})
    calibration(some, train["magnitude"][rows[2 * len(rows) // 3 :]], "unseen stars of the same sky")
    calibration(model, mixed.stars["magnitude"], "stars of other sky")
    calibration(model, mixed.stars["magnitude"][mixed.off_plane], "stars of other sky off the plane")
    kinds(model, mixed)
    for share in options.shares:
        as_postprocess(share, folder, test_table, mixed, options.split)
    report("anomalies, time", fit_seconds=fit_seconds, **speed(model, mixed.stars))


if __name__ == "__main__":
    main()
