"""The verb postprocess: its numbers against plain numpy on the whole catalog, and what it refuses."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import in_process
from survey_factory import NUM_STARS, SHARD_ROWS, make_encoding, make_stars

from hpc_ae.catalog.catalog import open_catalog
from hpc_ae.catalog.records import KINDS
from hpc_ae.catalog.schema import columns_of
from hpc_ae.errors import DamageError, InputError, StaleError
from hpc_ae.export import ExportSettings, export
from hpc_ae.files import publish_json, read_json, seal
from hpc_ae.ingest import IngestSettings, ingest
from hpc_ae.layout import shard_name
from hpc_ae.postprocess import PostprocessSettings, ReportPaths, postprocess
from hpc_ae.runtime.progress import ProgressRecord
from hpc_ae.survey.words import throughput_table

PNG_START = b"\x89PNG\r\n\x1a\n"
ALL_FILES = [
    *("anomalies.csv", "error_vs_magnitude.pdf", "error_vs_magnitude.png", "index.html", "latent_density.pdf"),
    *("latent_density.png", "latent_map.fits.gz", "locus.csv", "loss_curve.pdf", "loss_curve.png", "sky_map.fits"),
    "summary.json",
]


def write_metrics(path: Path) -> Path:
    """A metrics.jsonl as training leaves it: keys absent, null, not finite, and a last line cut short; and a line that
    is nested without end.
    """
    lines = [{"step": step, "epoch": step / 10, "train_mse_mag2": 1 / (1 + step)} for step in range(50)]
    lines += [{"step": 50, "train_mse_mag2": None, "validation_mse_mag2": 0.1, "learning_rate": 0.001}]
    lines += [{"step": 60, "validation_mse_mag2": float("nan")}, {"epoch": 3}]
    lines += [{"step": 61, "train_mse_mag2": 10**400}]
    path.write_text("\n".join(json.dumps(line) for line in lines) + f'\n{"[" * 100_000}\n[1]\n{{"step": 61, "tra')
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A star catalog, its encoding and the report of it."""
    folder = tmp_path_factory.mktemp("postprocess")
    make_encoding(folder / "encoding", make_stars(folder / "stars"))
    metrics_path = write_metrics(folder / "metrics.jsonl")
    paths = (folder / "encoding", folder / "stars", folder / "report")
    postprocess(ReportPaths(*paths, metrics_path), PostprocessSettings(100), 1, folder / "progress.json")
    return folder


def read_summary(directory: Path) -> dict[str, Any]:
    """summary.json, refusing NaN."""

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} in JSON")

    summary: dict[str, Any] = json.loads((directory / "summary.json").read_text(), parse_constant=refuse)
    return summary


def report(folder: Path, num: int = 20, metrics_path: Path | None = None, num_workers: int = 1) -> dict[str, Any]:
    """Postprocess `folder` and return the summary."""
    paths = ReportPaths(folder / "encoding", folder / "stars", folder / "report", metrics_path)
    postprocess(paths, PostprocessSettings(num), num_workers)
    return read_summary(folder / "report")


def test_all_files_are_there_and_whole(made: Path) -> None:
    """Every promised file exists, is what its name says, and nothing else is left."""
    assert sorted(path.name for path in (made / "scores").iterdir()) == [
        *("manifest.json", *(shard_name(index) for index in range(5)), "tallies.npz")
    ]
    assert sorted(path.name for path in (made / "report").iterdir()) == ALL_FILES
    for path in (made / "report").glob("*.png"):
        assert path.read_bytes().startswith(PNG_START)
    assert sorted(read_summary(made / "report")["files"]) == ALL_FILES[:-1]
    progress = json.loads((made / "progress.json").read_text())
    assert (progress["state"], progress["done"], progress["total"]) == ("done", NUM_STARS, NUM_STARS)


def test_summary_counts_and_origin(made: Path) -> None:
    """Stars, flags and digests are those of the catalogs."""
    summary = read_summary(made / "report")
    encoding, stars, scores = (open_catalog(made / name) for name in ("encoding", "stars", "scores"))
    num_good = int((stars["quality"][:] == 0).sum())
    assert 0 < num_good < NUM_STARS
    assert (summary["num_stars"], summary["num_good"]) == (NUM_STARS, num_good)
    assert summary["num_excluded"] == NUM_STARS - num_good and summary["num_not_finite"] == 0
    assert summary["flags"] == {"sentinel": NUM_STARS - num_good}
    made_from = {"catalog": stars.digest, "model": "sha256:abc", "encoding": encoding.digest, "scores": scores.digest}
    assert summary["inputs"] == made_from
    assert summary["fingerprint"]["settings"] == {"num_anomalies": 100}


def test_summary_errors_match_numpy(made: Path) -> None:
    """Mean, quantiles and squared errors over the good stars; bad rows are left out."""
    summary = read_summary(made / "report")
    error = open_catalog(made / "encoding")["reconstruction_error"][:].astype(float)
    error = error[np.isfinite(error)]
    stated = summary["error"]
    assert stated["mean"] == pytest.approx(error.mean(), rel=1e-12)
    assert stated["max"] == error.max()
    assert len(stated["quantiles"]) > 3
    for text, value in stated["quantiles"].items():
        expected = np.quantile(error, float(text))
        assert value == pytest.approx(expected, rel=stated["quantile_relative_precision"])
    squared = summary["squared_error"]
    assert squared["mean"] == pytest.approx((error**2).mean(), rel=1e-12)
    assert squared["median"] == pytest.approx(np.median(error**2), rel=squared["median_relative_precision"])


def test_summary_bands_and_latents_match_numpy(made: Path) -> None:
    """Per band the RMS and mean of magnitude - reconstruction; per latent dimension range, mean and std."""
    summary = read_summary(made / "report")
    encoding, stars = open_catalog(made / "encoding"), open_catalog(made / "stars")
    good = stars["quality"][:] == 0
    residual = (stars["magnitude"][:][good] - encoding["reconstruction"][:][good]).astype(float)
    for index, band in enumerate(stars.bands):
        numbers = summary["bands"][band]
        assert numbers["rms_mag"] == pytest.approx(np.sqrt((residual[:, index] ** 2).mean()), rel=1e-9)
        assert numbers["mean_residual_mag"] == pytest.approx(residual[:, index].mean(), abs=1e-9)
    latent = encoding["latent"][:][good].astype(float)
    assert len(summary["latent"]) == latent.shape[1] == 2
    for dim, numbers in enumerate(summary["latent"]):
        assert (numbers["min"], numbers["max"]) == (latent[:, dim].min(), latent[:, dim].max())
        assert numbers["mean"] == pytest.approx(latent[:, dim].mean(), abs=1e-9)
        assert numbers["std"] == pytest.approx(latent[:, dim].std(), rel=1e-9)


def test_anomalies_are_the_exact_worst(made: Path) -> None:
    """The worst stars over all shards, ties by row, with their own columns and exact ids."""
    encoding, stars, scores = (open_catalog(made / name) for name in ("encoding", "stars", "scores"))
    score = scores["anomaly_score"][:]
    order = np.lexsort((np.arange(NUM_STARS), -np.nan_to_num(score, nan=-np.inf)))[:100]
    with (made / "report" / "anomalies.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["row"]) for row in rows] == order.tolist()
    assert [int(row["rank"]) for row in rows] == list(range(1, 101))
    assert [int(row["objid"]) for row in rows] == stars["objid"][:][order].tolist()
    for name, values in (
        *((name, stars[name]) for name in ("ra", "dec")),
        *((name, encoding[name]) for name in ("chi2", "reconstruction_error")),
        *((name, scores[name]) for name in ("anomaly_score", "tail_probability", "cluster")),
    ):
        assert np.array_equal(np.array([row[name] for row in rows], values[:].dtype), values[:][order]), name
    magnitude, model = stars["magnitude"][:][order], encoding["reconstruction"][:][order]
    for index, band in enumerate(stars.bands):
        assert np.array_equal(np.array([row[band] for row in rows], np.float32), magnitude[:, index])
        residual = np.array([row[f"residual_{band}"] for row in rows], np.float32)
        assert np.array_equal(residual, magnitude[:, index] - model[:, index])
    worst_id = read_summary(made / "report")["anomalies"]["worst_objid"]
    assert worst_id == str(stars["objid"][:][order[0]])


def test_two_workers_give_the_same_bytes(made: Path, tmp_path: Path) -> None:
    """Nothing depends on the number of workers, figures included."""
    paths = (made / "encoding", made / "stars", tmp_path / "report")
    postprocess(ReportPaths(*paths, made / "metrics.jsonl"), PostprocessSettings(100), 2)
    shards = [shard_name(index) for index in range(5)]
    assert (tmp_path / "scores" / "tallies.npz").read_bytes() == (made / "scores" / "tallies.npz").read_bytes()
    for name in shards:
        assert (tmp_path / "scores" / name).read_bytes() == (made / "scores" / name).read_bytes(), name
    for name in ALL_FILES:
        assert (tmp_path / "report" / name).read_bytes() == (made / "report" / name).read_bytes(), name


def test_done_is_skipped_and_another_is_refused(tmp_path: Path) -> None:
    """The same settings leave the report alone, others stop and name what changed; a lost figure is drawn again."""
    make_encoding(tmp_path / "encoding", make_stars(tmp_path / "stars"))
    report(tmp_path, 20)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "report").iterdir()}
    report(tmp_path, 20)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "report").iterdir()} == before
    with pytest.raises(StaleError, match=r"settings.num_anomalies: 20 -> 21"):
        report(tmp_path, 21)
    (tmp_path / "report" / "latent_density.png").unlink()
    report(tmp_path, 20)
    assert set((tmp_path / "report").iterdir()) == set(before)


def test_report_of_an_earlier_version_is_made_again(tmp_path: Path) -> None:
    """A summary that lacks what later versions say is of no report that is done: no error, it is made again."""
    make_encoding(tmp_path / "encoding", make_stars(tmp_path / "stars"))
    report(tmp_path, 20)
    path = tmp_path / "report" / "summary.json"
    whole = read_json(path)
    for name in ("latent_map", "clusters"):
        assert name in whole
    publish_json(path, seal({key: value for key, value in whole.items() if key not in ("latent_map", "clusters")}))
    report(tmp_path, 20)
    assert read_json(path)["clusters"] == whole["clusters"]


def test_another_star_catalog_is_refused(made: Path, tmp_path: Path) -> None:
    """The encoding is only ever read beside the stars that it was made from, and nothing is written otherwise."""
    make_stars(tmp_path / "stars", seed=2)
    with pytest.raises(StaleError, match="another star catalog"):
        postprocess(ReportPaths(made / "encoding", tmp_path / "stars", tmp_path / "report"), PostprocessSettings())
    with pytest.raises(InputError, match="wrong kind"):
        postprocess(ReportPaths(made / "stars", made / "stars", tmp_path / "report"), PostprocessSettings())
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("column", ["objid", "quality"])
def test_another_order_of_stars_is_damage(tmp_path: Path, column: str) -> None:
    """Ids or flags that differ in one row are found, the row is named, no summary appears."""

    def alter(values: np.ndarray) -> np.ndarray:
        values[SHARD_ROWS + 7] += 1
        return values

    make_encoding(tmp_path / "encoding", make_stars(tmp_path / "stars"), **{column: alter})
    with pytest.raises(DamageError, match=rf"differ in {column}(.|\n)*shard-00001.h5, row 7"):
        report(tmp_path)
    assert not (tmp_path / "report" / "summary.json").exists()


def test_truncated_shard_is_damage(tmp_path: Path) -> None:
    """A shard cut short stops the work and leaves no summary."""
    make_encoding(tmp_path / "encoding", make_stars(tmp_path / "stars"))
    path = tmp_path / "encoding" / shard_name(2)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DamageError, match="shard-00002"):
        report(tmp_path)
    assert not (tmp_path / "report" / "summary.json").exists()


def test_all_bad_catalog(tmp_path: Path) -> None:
    """A catalog without one good star gives nulls, an empty list and figures that say so."""
    make_encoding(tmp_path / "encoding", make_stars(tmp_path / "stars", bad_fraction=0.999999))
    summary = report(tmp_path)
    assert (summary["num_good"], summary["num_excluded"]) == (0, NUM_STARS)
    assert "no usable stars: every number is null" in summary["notes"]
    assert summary["error"]["mean"] is None and set(summary["error"]["quantiles"].values()) == {None}
    assert summary["squared_error"]["mean"] is None and summary["bands"] is None
    assert summary["latent"][0] == {"mean": None, "std": None, "min": None, "max": None}
    assert (tmp_path / "report" / "anomalies.csv").read_text().count("\n") == 1


@pytest.mark.parametrize("num_latent", [1, 3, pytest.param(5, marks=pytest.mark.slow)])
def test_other_numbers_of_latents(tmp_path: Path, num_latent: int) -> None:
    """One dimension, and more than two in pairs of the first four."""
    make_encoding(tmp_path / "encoding", make_stars(tmp_path / "stars"), num_latent)
    summary = report(tmp_path)
    pairs = list(itertools.combinations(range(1, min(num_latent, 4) + 1), 2))
    assert summary["latent_map"]["panels"] == ([list(pair) for pair in pairs] or [[1]])
    assert len(summary["latent"]) == num_latent and len(summary["latent_map"]["num_outside"]) == max(1, len(pairs))
    assert all(num < 0.01 * NUM_STARS for num in summary["latent_map"]["num_outside"])
    assert (tmp_path / "report" / "latent_density.png").read_bytes().startswith(PNG_START)


def test_without_optional_columns_and_metrics(tmp_path: Path) -> None:
    """No reconstruction, chi2 or metrics: the summary says what is missing, the list has fewer columns."""
    make_encoding(tmp_path / "encoding", make_stars(tmp_path / "stars"), optional=False)
    summary = report(tmp_path, metrics_path=tmp_path / "metrics.jsonl")
    assert summary["bands"] is None
    assert any("no reconstruction" in note for note in summary["notes"])
    assert any("loss_curve.png is left out" in note for note in summary["notes"])
    assert not (tmp_path / "report" / "loss_curve.png").exists()
    header = (tmp_path / "report" / "anomalies.csv").read_text().splitlines()[0]
    scores = "anomaly_score,tail_probability,cluster,reasons,explore,normal_objid,normal_ra,normal_dec"
    assert header == f"rank,row,objid,ra,dec,u,g,r,i,z,reconstruction_error,{scores}"


def test_good_stars_without_finite_outputs_are_counted(tmp_path: Path) -> None:
    """An infinite error of a good star enters no statistic and is said; where more anomalies are asked for than there
    are stars, every other good one is listed once.
    """

    def overflow(values: np.ndarray) -> np.ndarray:
        values[np.flatnonzero(np.isfinite(values))[:3]] = np.inf
        return values

    make_encoding(tmp_path / "encoding", make_stars(tmp_path / "stars"), reconstruction_error=overflow)
    summary = report(tmp_path, 10 * NUM_STARS)
    assert summary["num_not_finite"] == 3 and summary["error"]["max"] < 100
    assert summary["anomalies"]["num"] == summary["num_good"] - 3
    assert any(note.startswith("3 good stars") for note in summary["notes"])


def test_good_stars_without_a_reconstruction_are_counted(tmp_path: Path) -> None:
    """NaN reconstructions beside finite errors, which a foreign encoding may have, enter no statistic and are said."""

    def lose(values: np.ndarray) -> np.ndarray:
        values[np.flatnonzero(np.isfinite(values).all(axis=1))[:4], 1] = np.nan
        return values

    make_encoding(tmp_path / "encoding", make_stars(tmp_path / "stars"), reconstruction=lose)
    summary = report(tmp_path)
    assert summary["num_not_finite"] == 4 and summary["anomalies"]["num"] > 0
    assert any(note.startswith("4 good stars") for note in summary["notes"])


def test_page_names_raw_files_as_text(tmp_path: Path) -> None:
    """The raw files are in the provenance, twenty of them by name; markup in a name stays text."""
    lines = (
        "objid,ra,dec,u,g,r,i,z,err_u,err_g,err_r,err_i,err_z\n" + "1,10,20,19,18,17,16.5,16.2,.1,.1,.1,.1,.1\n" * 30
    )
    raws = [tmp_path / f"{index:02d}<img src=x onerror=alert(1)>.csv" for index in range(22)]
    for path in raws:
        path.write_text(lines)
    ingest(raws, tmp_path / "stars", IngestSettings())
    make_encoding(tmp_path / "encoding", tmp_path / "stars")
    report(tmp_path)
    page = (tmp_path / "report" / "index.html").read_text()
    assert "00&lt;img src=x onerror=alert(1)&gt;.csv, sha256:" in page and "<img" not in page
    assert page.count("onerror=") == 22 and "22 in all" in page  # the first one in the title and the headline too


def test_throughput_of_a_resumed_stage() -> None:
    """Stars, seconds and rate are those of the same process; a stage that had nothing to do is left out."""
    speed = ProgressRecord(
        **{"what": "encode", "done": 100, "first": 60, "seconds": 4.0, "rate": 10.0},
        **{"state": "done", "total": 100, "unit": "stars", "note": "", "time": 0.0, "pid": 1},
    )
    idle = speed.model_copy(update={"what": "train", "first": 100, "rate": 0.0})
    table = throughput_table([speed, idle])
    assert table is not None and table.rows == (("encode", 40, 4.0, 10.0),)


@pytest.mark.parametrize(("name", "begins"), [("a.fits", b"SIMPLE"), ("a.PARQUET", b"PAR1"), ("a.vot", b"<?xml")])
def test_export_by_the_name(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, begins: bytes
) -> None:
    """The end of a file's name is its format; another one is asked for, CSV with where it is."""
    assert in_process(capsys, "export", made / "scores", tmp_path / name)[0] == 0
    assert (tmp_path / name).read_bytes().startswith(begins)
    for wrong, said in (("a.csv", "hpc-ae query writes CSV"), ("a", "--to fits")):
        status, message = in_process(capsys, "export", made / "scores", tmp_path / wrong)
        assert status == 2 and said in message and not (tmp_path / wrong).exists()


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("to", ["fits", "parquet", "votable", "hdf5-table"])
def test_every_column_in_every_export(made: Path, tmp_path: Path, to: str, *, split: bool) -> None:
    """Stars, encoding and scores, all of whose types are there, in each format of `export`, which reads every row back
    before the file appears.
    """
    for name in ("stars", "encoding", "scores"):
        catalog = open_catalog(made / name)
        done = export(made / name, tmp_path / name, ExportSettings(to, split=split))
        assert done.num_rows == catalog.num_stars == NUM_STARS
    types = {column.dtype for name in ("stars", "encoding", "scores") for column in open_catalog(made / name).fields()}
    in_gaps = {"|u1"}  # of catalogs whose stars may lack bands: tests/test_masked.py
    assert types == {one.dtype for kind in KINDS for one in columns_of(kind).values()} - in_gaps
