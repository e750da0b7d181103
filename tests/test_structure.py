"""Structure of a survey: clusters, ridge and locus, maps, scores that go on after a kill, comparison of two runs."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import astropy.units as u
import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy_healpix import HEALPix
from survey_factory import NUM_STARS, make_encoding, make_stars

from hpc_ae.analysis.alignment import JointMoments, align, neighbour_overlap
from hpc_ae.analysis.density import find_clusters, trace_ridge
from hpc_ae.catalog.catalog import open_catalog
from hpc_ae.config import check_config
from hpc_ae.errors import DamageError, InputError, StaleError
from hpc_ae.export import ExportSettings, export
from hpc_ae.jobs.pipeline import discard
from hpc_ae.jobs.stages import make_run
from hpc_ae.layout import shard_name
from hpc_ae.postprocess import PostprocessSettings, ReportPaths, postprocess
from hpc_ae.query import Selection, open_query
from hpc_ae.runtime.executor import SerialMapper
from hpc_ae.runtime.progress import Progress
from hpc_ae.simulate import SimulateSettings, simulate
from hpc_ae.survey import strangest
from hpc_ae.survey.compare import compare_surveys
from hpc_ae.survey.pairs import open_survey
from hpc_ae.survey.scores import ScoredSurvey, read_scored, score_survey
from hpc_ae.verify import verify

CELLS = 256


def score(folder: Path, scores_dir: Path) -> ScoredSurvey:
    """The scores of the survey in `folder`, without a report."""
    survey = open_survey(folder / "encoding", folder / "stars")
    with Progress("scores", NUM_STARS, "stars", quiet=True) as progress:
        return score_survey(SerialMapper(), survey, scores_dir, progress)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A star catalog, its encoding, scores and report."""
    folder = tmp_path_factory.mktemp("structure")
    make_encoding(folder / "encoding", make_stars(folder / "stars"))
    postprocess(ReportPaths(folder / "encoding", folder / "stars", folder / "report"), PostprocessSettings(100))
    return folder


def counts_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Stars per cell of the unit square."""
    return np.histogram2d(x, y, CELLS, [[0, 1], [0, 1]])[0].astype(np.int64)


def test_clusters_are_the_clumps() -> None:
    """Three clumps of unequal size in a thin field: three clusters, the richest first, and no cluster of the noise."""
    rng = np.random.default_rng(1)
    centres, sizes = np.array([[0.3, 0.3], [0.7, 0.4], [0.5, 0.8]]), [60_000, 30_000, 15_000]
    clumps = [rng.normal(centre, 0.03, (size, 2)) for centre, size in zip(centres, sizes, strict=True)]
    field = rng.uniform(0, 1, (3000, 2))
    labels = find_clusters(counts_of(*np.concatenate([*clumps, field]).T))
    assert labels.max() == 2
    at_centres = labels[tuple((centres * CELLS).astype(int).T)]
    assert at_centres.tolist() == [0, 1, 2]
    for number, clump in enumerate(clumps):
        inside = ((clump >= 0) & (clump < 1)).all(axis=1)
        assert (labels[tuple((clump[inside] * CELLS).astype(int).T)] == number).mean() > 0.97
    assert find_clusters(np.zeros((CELLS, CELLS), np.int64)).max() == -1
    line = np.bincount((rng.normal(0.4, 0.05, 20_000) * CELLS).astype(int), minlength=CELLS)
    assert set(find_clusters(line).tolist()) == {-1, 0}


def test_ridge_leads_from_blue_to_red() -> None:
    """Where a plane is wider in brightness than in colour, the ridge still runs along the colours."""
    rng = np.random.default_rng(4)
    colour, brightness = rng.normal(0.5, 0.1, 200_000), rng.normal(0.5, 0.15, 200_000)
    counts = counts_of(brightness, colour)
    per_cell = np.broadcast_to(np.arange(CELLS) / CELLS, counts.shape)
    points = trace_ridge(counts, per_cell).points / CELLS
    assert points[0, 1] < 0.34 and points[-1, 1] > 0.66 and np.ptp(points[:, 0]) < 0.2


@pytest.mark.parametrize("seed", range(4))
def test_ridge_of_few_stars_is_no_stub(seed: int) -> None:
    """Colours of single stars scatter, and cells have few: the ridge leads from end to end all the same."""
    rng = np.random.default_rng(seed)
    along = rng.uniform(0, 1, 20_000)
    x, y = 0.15 + 0.7 * along, 0.5 + rng.normal(0, 0.06, len(along))
    counts, stars = counts_of(x, y), along + rng.normal(0, 0.5, len(along))
    with np.errstate(invalid="ignore"):
        colour = np.histogram2d(x, y, CELLS, [[0, 1], [0, 1]], weights=stars)[0] / counts
    points = trace_ridge(counts, colour).points / CELLS
    assert points[0, 0] < 0.22 and points[-1, 0] > 0.78


def test_ridge_follows_a_bent_locus() -> None:
    """The ridge runs within two cells along a bow, from one end to the other, evenly, whatever lies beside it."""
    rng = np.random.default_rng(2)
    angle = rng.uniform(0, np.pi, 200_000)
    x, y = (0.5 + 0.35 * np.cos(angle), 0.3 + 0.35 * np.sin(angle))
    x, y = (np.append(values + rng.normal(0, 0.01, len(angle)), rng.uniform(0, 1, 2000)) for values in (x, y))
    points = trace_ridge(counts_of(x, y)).points
    radius = np.hypot(*((points + 0.5) / CELLS - [0.5, 0.3]).T)
    assert np.abs(radius - 0.35)[3:-3].max() * CELLS < 2
    assert abs(points[0, 0] - 0.15 * CELLS) < 8 and abs(points[-1, 0] - 0.85 * CELLS) < 8
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    assert steps.max() < 1.2 * steps.min()
    assert len(trace_ridge(np.zeros((CELLS, CELLS), np.int64)).points) == 0


def test_score_catalog_is_one_of_the_same_stars(made: Path) -> None:
    """Same shards, rows and ids as the encoding; NaN and -1 where a star is not good; found whole by verify."""
    scores, encoding = open_catalog(made / "scores"), open_catalog(made / "encoding")
    assert scores.manifest.format == "hpc_ae/score-catalog" and len(scores.shards) == len(encoding.shards)
    assert np.array_equal(scores["objid"][:], encoding["objid"][:])
    good = encoding["quality"][:] == 0
    score_of, tail, cluster = (scores[name][:] for name in ("anomaly_score", "tail_probability", "cluster"))
    assert np.isnan(score_of[~good]).all() and np.isnan(tail[~good]).all() and (cluster[~good] == -1).all()
    assert np.isfinite(score_of[good]).all() and ((tail[good] > 0) & (tail[good] <= 1)).all()
    assert cluster.max() == len(read_summary(made)["clusters"]) - 1
    result = verify(made / "scores")
    assert result.ok and (result.what, result.num_stars) == ("score catalog", NUM_STARS)
    assert "magnitude_u" in scores.join().to_table(["magnitude", "anomaly_score"], slice(0, 5), split=True).colnames


def test_stars_encoding_and_scores_are_one_table(made: Path, tmp_path: Path) -> None:
    """From either of them, named or not, by path or opened: the same columns, of the same stars; exported, queried."""
    stars, encoding, scores = (open_catalog(made / name) for name in ("stars", "encoding", "scores"))
    every = list(dict.fromkeys([*stars.columns, *encoding.columns, *scores.columns]))
    ways = (encoding.join(), scores.join(), stars.join(encoding, made / "scores"), encoding.join(scores).join(stars))
    for both in ways:
        assert both.columns == every
        for name, catalog in (("ra", stars), ("latent", encoding), ("cluster", scores)):
            assert np.array_equal(both[name][390:410], catalog[name][390:410], equal_nan=True)
    alone = encoding.join(scores)
    assert "ra" not in alone and alone.columns[:4] == encoding.columns[:4]
    good = (scores["quality"] == 0) & (np.asarray(scores["cluster"]) == 0)
    table = scores.join().to_table(["objid", "latent", "anomaly_score"], good, split=True)
    assert table.colnames == ["objid", "latent_1", "latent_2", "anomaly_score"] and len(table) == good.sum()
    export(made / "encoding", tmp_path / "all.parquet", ExportSettings("parquet", split=False), join=True)
    assert pq.read_table(tmp_path / "all.parquet").column_names == every
    asked = open_query(made / "encoding", Selection(objids=(int(stars["objid"][7]),), columns=("ra", "cluster")))
    assert next(asked.parts(SerialMapper()))["cluster"] == scores["cluster"][7]


def test_scores_of_another_encoding_are_not_joined(made: Path, tmp_path: Path) -> None:
    """Where they are asked for they are refused, else left out; those of other stars too."""
    shutil.copytree(made / "stars", tmp_path / "stars")
    make_encoding(tmp_path / "encoding", tmp_path / "stars", 1)
    shutil.copytree(made / "scores", tmp_path / "scores")
    encoding = open_catalog(tmp_path / "encoding")
    assert "ra" in encoding.join() and "cluster" not in encoding.join()
    with pytest.raises(StaleError, match="scores of another encoding"):
        encoding.join(tmp_path / "scores")
    simulate(tmp_path / "others", SimulateSettings(300, 5))
    with pytest.raises(StaleError, match="not the star catalog"):
        open_catalog(made / "scores").join(tmp_path / "others")


def read_summary(folder: Path) -> dict:
    """summary.json of a report."""
    return json.loads((folder / "report" / "summary.json").read_text())


@pytest.mark.parametrize("name", ["shard-00002.h5", "tallies.npz", "manifest.json"])
def test_flipped_bit_in_scores_is_found(made: Path, tmp_path: Path, name: str) -> None:
    """One flipped bit in a shard, in the tallies or in the manifest is a finding that names the file."""
    shutil.copytree(made, tmp_path / "run")
    path = tmp_path / "run" / "scores" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)
    result = verify(tmp_path / "run" / "scores")
    assert result.what == "score catalog" and any(name in finding.where for finding in result.findings)


def test_maps_are_those_of_numpy(made: Path) -> None:
    """FITS maps of sky and latents: nested HEALPix with stars and mean error per pixel, images with coordinates."""
    encoding, stars = open_catalog(made / "encoding"), open_catalog(made / "stars")
    good = encoding["quality"][:] == 0
    sky = Table.read(made / "report" / "sky_map.fits")
    assert sky.meta["ORDERING"] == "NESTED" and sky.meta["PIXTYPE"] == "HEALPIX"
    pixels = HEALPix(sky.meta["NSIDE"], "nested").lonlat_to_healpix(stars["ra"][:] * u.deg, stars["dec"][:] * u.deg)
    assert np.array_equal(sky["COUNT"], np.bincount(pixels[good], minlength=len(sky)))
    densest = int(np.argmax(sky["COUNT"]))
    here = good & (pixels == densest)
    assert sky["ERROR"][densest] == pytest.approx(encoding["reconstruction_error"][:][here].mean(), rel=1e-5)
    assert sky["LATENT_2"][densest] == pytest.approx(encoding["latent"][:][here, 1].mean(), rel=1e-4)
    with fits.open(made / "report" / "latent_map.fits.gz") as maps:
        assert {"COUNT_256", "COUNT_1024", "MEAN_G-R", "MEAN_ERROR", "MEAN_R"} <= {hdu.name for hdu in maps}
        header, counts = maps["COUNT_256"].header, maps["COUNT_256"].data
        y, x = np.unravel_index(np.argmax(counts), counts.shape)
        low = [header[f"CRVAL{axis}"] + header[f"CDELT{axis}"] * place for axis, place in ((1, x), (2, y))]
        size = [header[f"CDELT{axis}"] for axis in (1, 2)]
        latent = encoding["latent"][:].astype(float)
        inside = good & ((latent >= low) & (latent < np.add(low, size))).all(axis=1)
        assert abs(inside.sum() - counts[y, x]) <= 1  # a star on the edge of a cell
        colour = stars["magnitude"][:][:, 1] - stars["magnitude"][:][:, 2]
        assert maps["MEAN_G-R"].data[y, x] == pytest.approx(colour[inside].mean(), abs=0.05)
        assert maps["COUNT_1024"].data.sum() == counts.sum() == maps["COUNT_512"].data.sum()


def test_locus_has_the_colours_of_the_stars_on_it(made: Path) -> None:
    """Along the ridge the median colours are within the spread of stars near it, and the ends differ in colour."""
    with (made / "report" / "locus.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 64 and [float(row["position"]) for row in rows] == pytest.approx(np.linspace(0, 1, 64))
    known = [row for row in rows if row["median_g-r"]]
    assert len(known) > 10 and sum(int(row["num_stars"]) for row in rows) > 0.1 * NUM_STARS
    medians = np.array([[float(row[f"median_{name}"]) for name in ("u-g", "g-r", "r-i", "i-z")] for row in known])
    means = np.array([[float(row[f"mean_{name}"]) for name in ("u-g", "g-r", "r-i", "i-z")] for row in known])
    assert np.abs(medians - means).mean() < 0.1
    assert medians[-1, 1] + medians[-1, 2] > 1.0 + medians[0, 1] + medians[0, 2]  # g-i, from blue to red
    assert (np.diff(medians[:, 1]) > -0.15).all()
    assert all(float(row["p16_g-r"]) <= float(row["median_g-r"]) <= float(row["p84_g-r"]) for row in known)


def test_another_number_of_anomalies_reads_no_star(made: Path, tmp_path: Path) -> None:
    """With scores there, a report of more anomalies is made although no shard of stars or encoding is left."""
    shutil.copytree(made, tmp_path / "run")
    for name in ("stars", "encoding"):
        for path in (tmp_path / "run" / name).glob("shard-*.h5"):
            path.unlink()
    shutil.rmtree(tmp_path / "run" / "report")
    folder = tmp_path / "run"
    paths = ReportPaths(folder / "encoding", folder / "stars", folder / "report")
    postprocess(paths, PostprocessSettings(300))
    lines = (folder / "report" / "anomalies.csv").read_text().splitlines()
    assert len(lines) == 301 and lines[:101] == (made / "report" / "anomalies.csv").read_text().splitlines()


def test_more_anomalies_than_were_kept(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by the column of scores and described by the few rows: the same stars with the same columns."""
    survey, scored = open_survey(made / "encoding", made / "stars"), read_scored(made / "scores")
    kept = strangest.find_strangest(SerialMapper(), survey, made / "scores", scored, 700)
    monkeypatch.setattr(strangest, "NUM_KEPT", 50)
    found = strangest.find_strangest(SerialMapper(), survey, made / "scores", scored, 700)
    assert found.keys() == kept.keys() and len(found["row"]) == 700
    assert all(np.array_equal(found[name], kept[name]) for name in kept)


def test_killed_scoring_goes_on(made: Path, tmp_path: Path) -> None:
    """A pass that ends at a damaged shard leaves the parts before it, which are not made again; the end is the same."""
    shutil.copytree(made / "encoding", tmp_path / "encoding")
    shutil.copytree(made / "stars", tmp_path / "stars")
    path = tmp_path / "stars" / shard_name(3)
    whole = path.read_bytes()
    sample = score(tmp_path, tmp_path / "whole")  # its digest has the sample's rows: all shards are read for it
    scores_dir = tmp_path / "scores"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hpc_ae.survey.scan.healpix_of", _failing_at(path))
        with pytest.raises(DamageError, match="as if killed"):
            score(tmp_path, scores_dir)
    before = {one.name: one.stat().st_mtime_ns for one in scores_dir.glob("shard-*.h5")}
    assert sorted(before) == [shard_name(index) for index in range(3)] and not verify(scores_dir).ok
    again = score(tmp_path, scores_dir)
    assert {name: (scores_dir / name).stat().st_mtime_ns for name in before} == before
    assert again.tally.errors.error.num == sample.tally.errors.error.num
    for name in ("tallies.npz", *(shard_name(index) for index in range(5))):
        assert (scores_dir / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert path.read_bytes() == whole and verify(scores_dir).ok and not (scores_dir / ".parts").exists()


def _failing_at(path: Path):
    """healpix_of that fails at the fourth shard, as if the process had died there."""
    from hpc_ae.catalog.sky import healpix_of

    calls = iter(range(3))

    def failing(ra: np.ndarray, dec: np.ndarray, level: int) -> np.ndarray:
        if next(calls, None) is None:
            raise DamageError("as if killed", where=path)
        return healpix_of(ra, dec, level)

    return failing


def test_scores_of_another_encoding_are_refused(made: Path, tmp_path: Path) -> None:
    """Scores, finished or not, of another encoding stop the work and are left as they are."""
    shutil.copytree(made / "stars", tmp_path / "stars")
    make_encoding(tmp_path / "encoding", tmp_path / "stars", 1)
    shutil.copytree(made / "scores", tmp_path / "scores")
    with pytest.raises(StaleError, match="encoding: sha256"):
        score(tmp_path, tmp_path / "scores")
    assert verify(tmp_path / "scores", stars=made / "stars").num_stars == NUM_STARS


def test_alignment_undoes_a_similarity() -> None:
    """A rotated, scaled and shifted copy aligns without rest; a stretched one only linearly; noise not at all."""
    rng = np.random.default_rng(3)
    latent = rng.normal(0, [2.0, 1.0], (5000, 2))
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    other = 3.0 * latent @ turn + [5.0, -7.0]
    halves = [JointMoments.of(other[rows], latent[rows]) for rows in (slice(0, 1234), slice(1234, None))]
    found = align(halves[0].merge(halves[1]), 2)
    assert found.disparity < 1e-12 and found.scale == pytest.approx(1 / 3)
    np.testing.assert_allclose(found.rotation, turn.T, atol=1e-12)
    assert found.displacement(other, latent).max() < 1e-6
    stretched = align(JointMoments.of(latent * [5.0, 1.0], latent), 2)
    assert stretched.disparity > 0.05 and stretched.linear == pytest.approx(1.0)
    assert align(JointMoments.of(rng.normal(0, 1, (5000, 2)), latent), 2).disparity > 0.99
    assert neighbour_overlap(other, latent, 10) == 1.0
    assert neighbour_overlap(rng.normal(0, 1, (5000, 2)), latent, 10) < 0.02


def compare(folder: Path, other_dir: Path, out_dir: Path) -> tuple[dict, list[dict[str, str]]]:
    """compare.json and the rows of compare.csv."""
    out_dir.mkdir()
    compare_surveys(SerialMapper(), open_survey(folder / "encoding", folder / "stars"), other_dir, out_dir)
    with (out_dir / "compare.csv").open(newline="") as file:
        return json.loads((out_dir / "compare.json").read_text()), list(csv.DictReader(file))


def test_stars_that_moved_come_first(made: Path, tmp_path: Path) -> None:
    """Two stars that lie elsewhere in the other run's turned latents lead the list; the others are all matched."""
    good = np.flatnonzero(open_catalog(made / "stars")["quality"][:] == 0)
    moved = good[[17, 4000]]

    def turn(values: np.ndarray) -> np.ndarray:
        turned = values[:, ::-1] * [2.0, -2.0] + 1.0
        turned[moved] += [[30.0, 0.0], [0.0, 60.0]]
        return turned

    make_encoding(tmp_path / "other", made / "stars", latent=turn)
    record, rows = compare(made, tmp_path / "other", tmp_path / "out")
    assert record["matched_by"] == "row" and record["num_matched"] == len(good)
    assert record["procrustes_disparity"] < 0.05 and record["neighbour_overlap"] > 0.95
    assert [int(row["row"]) for row in rows[:2]] == moved[::-1].tolist() and len(rows) == 1000
    ids = open_catalog(made / "stars")["objid"][moved[::-1]]
    assert [row["objid"] for row in rows[:2]] == [str(one) for one in ids]


def test_other_catalogs_are_matched_by_id(made: Path, tmp_path: Path) -> None:
    """An encoding of other shards with some of the stars is matched by objid; one without any is refused."""
    from hpc_ae.simulate import SimulateSettings, simulate

    simulate(tmp_path / "fewer", SimulateSettings(3000, 1, 0.03, 3000))
    make_encoding(tmp_path / "other", tmp_path / "fewer")
    ours, theirs = (open_catalog(path)["objid"][:] for path in (made / "stars", tmp_path / "fewer"))
    common = len(np.intersect1d(ours, theirs))
    record, rows = compare(made, tmp_path / "other", tmp_path / "out")
    assert record["matched_by"] == "objid" and 0.9 * common < record["num_matched"] <= common and len(rows) == 1000
    assert record["linear_r_squared"] > 0.99
    simulate(tmp_path / "strange", SimulateSettings(1000, 5, 0.0, 1000))
    strange = make_encoding(tmp_path / "third", tmp_path / "strange", objid=lambda values: values + 10**15)
    with pytest.raises(InputError, match="no star in common"):
        compare(made, strange, tmp_path / "out2")


def test_redo_keeps_scores_of_the_same_encoding(made: Path, tmp_path: Path) -> None:
    """--redo postprocess discards the report alone; --redo encode, and another encoding's scores, go with it."""
    run_dir = tmp_path / "run"
    shutil.copytree(made, run_dir)
    (run_dir / "stars").rename(run_dir / "catalog")
    values = {"run_dir": str(run_dir), "catalog": {"source": {"simulate": {"stars": NUM_STARS}}}}
    config = check_config(values, "a test")
    discard(make_run(config), ["postprocess"])
    assert (run_dir / "scores" / "manifest.json").exists() and not (run_dir / "report").exists()
    shutil.rmtree(run_dir / "encoding")
    make_encoding(run_dir / "encoding", run_dir / "catalog", 1)
    discard(make_run(config), ["postprocess"])
    assert not (run_dir / "scores").exists() and (run_dir / "encoding").exists()


def test_large_shards_are_scored_in_blocks(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that is read block by block gets the same scores, and adds up to the same counts."""
    # A shard of more than one block would be of millions of rows.
    monkeypatch.setattr("hpc_ae.survey.scan._BLOCK_ROWS", 500)
    found, whole = score(made, tmp_path / "scores"), read_scored(made / "scores")
    for one, other in zip(found.tally.maps.counts, whole.tally.maps.counts, strict=True):
        assert np.array_equal(one, other)
    assert len(found.tally.strangest["row"]) == len(whole.tally.strangest["row"])
    for name in ("objid", "cluster"):
        assert np.array_equal(open_catalog(tmp_path / "scores")[name][:], open_catalog(made / "scores")[name][:])
    scores = [open_catalog(path)["anomaly_score"][:] for path in (tmp_path / "scores", made / "scores")]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4, atol=1e-4)


def test_verify_of_a_run_covers_scores_and_comparison(made: Path, tmp_path: Path) -> None:
    """Whole ones are no finding; a changed comparison is one, and so are scores that are gone but have a report."""
    run_dir = tmp_path / "run"
    shutil.copytree(made, run_dir)
    (run_dir / "config.yaml").write_text(f"run_dir: {run_dir}\ncatalog: {{path: {run_dir / 'stars'}}}\n")
    compare_surveys(
        SerialMapper(), open_survey(run_dir / "encoding", run_dir / "stars"), run_dir / "encoding", run_dir / "report"
    )
    assert {finding.what for finding in verify(run_dir).findings} <= {
        "unfinished: there is no model",
        "the model that encoded is missing",
    }
    (run_dir / "report" / "compare.csv").write_text("rank")
    shutil.rmtree(run_dir / "scores")
    found = [finding.what for finding in verify(run_dir).findings]
    assert "a file of the report has changed since it was written" in found
    assert "unfinished: there is no score catalog" in found
