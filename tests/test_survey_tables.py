"""What the report says of compression, noise removal and the kinds of strange stars, against the stars themselves."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from catalog_factory import star_manifest
from survey_factory import make_encoding, make_stars

from hpc_ae.analysis.denoising import fit_uncertainty
from hpc_ae.catalog.catalog import open_catalog
from hpc_ae.catalog.manifest import write_manifest
from hpc_ae.catalog.schema import STAR_FORMAT
from hpc_ae.catalog.shard import Arrays, write_shard
from hpc_ae.files import publish_json, read_json, seal
from hpc_ae.model.architecture import Architecture
from hpc_ae.model.autoencoder import make_autoencoder
from hpc_ae.model.files import write_model
from hpc_ae.model.weights import Origin
from hpc_ae.postprocess import PostprocessSettings, ReportPaths, postprocess
from hpc_ae.survey.pairs import Survey, open_survey
from hpc_ae.survey.scores import read_scored
from hpc_ae.survey.tables import ModelTables, model_tables

PLANTED = slice(100, 140)


def plant(columns: np.ndarray) -> np.ndarray:
    """Forty stars whose u alone is 1.5 mag brighter."""
    columns[PLANTED, 0] -= 1.5
    return columns


def link_model(folder: Path, uncertainty: dict[str, object] | None) -> None:
    """A model beside the encoding, which its manifest names."""
    model = make_autoencoder(Architecture(tuple("ugriz"), (8, 8), 2), [19.8, 18.6, 18.1, 17.8, 17.6], [1.5] * 5, seed=3)
    digest = write_model(folder / "model", model.architecture, model.state_dict(), Origin(uncertainty=uncertainty))
    path = folder / "encoding" / "manifest.json"
    manifest = {key: value for key, value in read_json(path).items() if key != "digest"}
    manifest["inputs"]["model"]["digest"] = digest
    publish_json(path, seal(manifest))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stars, an encoding, its model with a table of uncertainties, scores and report."""
    folder = tmp_path_factory.mktemp("tables")
    stars = open_catalog(make_stars(folder / "stars", bad_fraction=0))
    make_encoding(folder / "encoding", folder / "stars")
    values = stars["magnitude"][:], stars["magnitude_error"][:], open_catalog(folder / "encoding")["reconstruction"][:]
    table = fit_uncertainty(*values, np.tile(0.4 * np.eye(5, dtype=np.float32), (len(stars), 1, 1)))
    assert table is not None
    link_model(folder, table.record())
    postprocess(ReportPaths(folder / "encoding", folder / "stars", folder / "report"), PostprocessSettings(50))
    return folder


@pytest.fixture(scope="module")
def drawn(made: Path) -> Arrays:
    """The stars drawn by chance."""
    return read_scored(made / "scores").facts.drawn


def survey_of(folder: Path) -> Survey:
    """The encoding with its stars."""
    return open_survey(folder / "encoding", folder / "stars")


def test_drawn_stars_are_of_the_survey(made: Path, drawn: Arrays) -> None:
    """Every star of a small survey, each column as the catalogs have it."""
    survey = survey_of(made)
    np.testing.assert_array_equal(drawn["magnitude"], survey.stars["magnitude"][:])
    np.testing.assert_array_equal(drawn["reconstruction"], survey.encoding["reconstruction"][:])


def test_compression_keeps_its_bounds(made: Path, drawn: Arrays) -> None:
    """No error above its bound, fewer bits for looser ones, and without a bound the fewest."""
    table = model_tables(survey_of(made), drawn).compression
    assert table is not None and {row[0] for row in table.rows} == {0.001, 0.01, 0.05, "none"}
    for bound, _, bits, with_model, largest, _ in table.rows:
        assert 0 < bits <= with_model
        assert bound == "none" or 0 < largest <= bound
    for method in {row[1] for row in table.rows}:
        bits = [row[2] for row in table.rows if row[1] == method]
        assert bits == sorted(bits, reverse=True)


def test_errors_are_those_of_the_stars(made: Path, drawn: Arrays) -> None:
    """Catalog errors and residuals by magnitude are numpy's; the combination is no worse than the catalog."""
    table = model_tables(survey_of(made), drawn).denoising
    assert table is not None and len(table.rows) >= 10
    r = drawn["magnitude"][:, 2]
    for span, num, band, own, size, _, combined in table.rows:
        low, high = map(float, span.split("-"))
        inside, index = (r >= low) & (r < high), "ugriz".index(band)
        assert num == inside.sum()
        assert own == pytest.approx(np.median(drawn["magnitude_error"][inside, index]), rel=1e-6)
        residual = np.abs(drawn["magnitude"] - drawn["reconstruction"])[inside, index]
        assert size == pytest.approx(np.quantile(residual, 0.6827), rel=1e-5)
        assert combined <= own * 1.0001


def test_page_has_the_tables(made: Path) -> None:
    """Both are in the page, and the kinds of strange stars."""
    page = (made / "report" / "index.html").read_text()
    assert "linear prediction of bands" in page and "Uncertainty" not in page
    assert "learned from held-out stars" in page and "Kinds of strange stars" in page


@pytest.mark.parametrize("change", ["gone", "another", "damaged"])
def test_without_its_model_there_is_no_table(made: Path, drawn: Arrays, tmp_path: Path, change: str) -> None:
    """Where the model has gone, is another or is damaged, the report says how such tables are made instead."""
    folder = Path(shutil.copytree(made, tmp_path / "copy"))
    weights = folder / "model" / "model.safetensors"
    if change == "gone":
        shutil.rmtree(folder / "model")
    elif change == "another":
        model = make_autoencoder(Architecture(tuple("ugriz"), (8, 8), 2), [0.0] * 5, [1.0] * 5, seed=4)
        write_model(folder / "model", model.architecture, model.state_dict(), Origin())
    else:
        weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert model_tables(survey_of(folder), drawn) == ModelTables()


def test_stars_of_a_kind_are_found(tmp_path: Path) -> None:
    """Forty stars with an excess in u among 5,000 are the strangest of the kind `u brighter`."""
    simulated = open_catalog(make_stars(tmp_path / "simulated", bad_fraction=0))
    arrays = simulated.read(simulated.columns)
    arrays["magnitude"] = plant(arrays["magnitude"])
    (tmp_path / "stars").mkdir()
    records = [write_shard(tmp_path / "stars" / "shard-00000.h5", STAR_FORMAT, arrays, simulated.bands, {})]
    write_manifest(tmp_path / "stars", star_manifest(records, simulated.bands, simulated.columns))
    make_encoding(tmp_path / "encoding", tmp_path / "stars")
    paths = ReportPaths(tmp_path / "encoding", tmp_path / "stars", tmp_path / "report")
    postprocess(paths, PostprocessSettings(50))
    found = read_scored(tmp_path / "scores").facts.kinds
    one = found["label"].tolist().index("u brighter")
    assert found["num"][one] >= 30 and found["excess"][one, 0] == pytest.approx(-1.5, abs=0.3)
    planted = set(arrays["objid"][PLANTED].tolist())
    shown = found["objid"][one, : found["num_shown"][one]].tolist()
    assert sum(objid in planted for objid in shown) >= 5
