"""open_catalog as its page says: the page's examples run; rows, chunks, joins, tables and circles are right."""

from __future__ import annotations

import doctest
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from catalog_factory import make_encoding, make_model, make_stars
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from hpc_ae import open_catalog
from hpc_ae.catalog.catalog import Catalog
from hpc_ae.catalog.sky import Cone, rows_in_cone
from hpc_ae.errors import InputError

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that looks like that of the quickstart: catalog, model, encoding; 2,500 stars in three shards."""
    run = tmp_path_factory.mktemp("work") / "runs" / "quickstart"
    stars = make_stars(run / "catalog", 2500, 1000)
    make_encoding(run / "encoding", stars, make_model(run / "model"))
    return run


@pytest.fixture
def stars(run_dir: Path) -> Catalog:
    """The star catalog."""
    return open_catalog(run_dir / "catalog")


@pytest.fixture
def encoding(run_dir: Path) -> Catalog:
    """The encoding catalog."""
    return open_catalog(run_dir / "encoding")


def test_examples_of_the_page(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example of docs/python.md does what the page shows."""
    monkeypatch.chdir(run_dir.parent.parent)
    page = (REPOSITORY / "docs" / "python.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "docs/python.md", "docs/python.md", 0)
    results = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF).run(test)
    assert results.attempted > 25 and results.failed == 0


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(-2500, 2499), max_size=30))
def test_rows_by_number(stars: Catalog, rows: list[int]) -> None:
    """Any rows in any order, repeated too, counted from the end too, are those of the whole column."""
    whole = stars["magnitude"][:]
    assert_array_equal(stars["magnitude"][rows], whole[rows] if rows else whole[:0])
    taken = stars.take(np.array(rows, np.int64), ["objid"])
    assert_array_equal(taken["objid"], stars["objid"][:][np.array(rows, np.int64)])


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(101, 3000))
def test_chunks_are_the_column_in_pieces(stars: Catalog, rows: int) -> None:
    """Chunks have the rows asked for, the last one what is left, and put together are the columns."""
    chunks = list(stars.iter_chunks(["objid", "magnitude"], rows))
    assert {len(chunk["objid"]) for chunk in chunks[:-1]} <= {rows}
    for name in ("objid", "magnitude"):
        assert_array_equal(np.concatenate([chunk[name] for chunk in chunks]), stars[name][:])


def test_whole_rows_and_selections(stars: Catalog) -> None:
    """A slice or a number gives all columns; a selection has its columns only, in its order, and leaves the catalog."""
    part = stars[990:1010]
    assert list(part) == stars.columns
    assert_array_equal(part["magnitude"], stars["magnitude"][990:1010])
    assert stars[1500]["objid"] == stars["objid"][1500] and stars[1500]["magnitude"].shape == (5,)
    few = stars[["magnitude", "objid"]]
    assert few.columns == ["magnitude", "objid"] and "ra" in stars and "ra" not in few
    assert list(few[:3]) == ["magnitude", "objid"] and few.to_table().colnames == ["magnitude", "objid"]
    with pytest.raises(InputError, match="no such column"):
        few["ra"]
    with pytest.raises(InputError, match="no such column"):
        stars[["objid", "latent"]]


def test_tables_of_masks_rows_and_parts(encoding: Catalog) -> None:
    """By a mask, by numbers, of a part that was read, to astropy, Arrow and pandas: the same rows, with units."""
    good = encoding["quality"] == 0
    numbers = np.flatnonzero(good)
    expected = encoding["latent"][:][good]
    ways = [
        encoding.to_table(["latent", "chi2"], good),
        encoding.to_table(["latent", "chi2"], numbers),
        encoding[["latent", "chi2"]][good].to_table(),
        encoding[["latent", "chi2"]].to_table(rows=good),
    ]
    for table in ways:
        assert table.colnames == ["latent", "chi2"]
        assert_array_equal(table["latent"], expected)
    assert encoding[good].to_table()["reconstruction"].unit == units.mag
    assert encoding[good].to_arrow(split=True)["latent_2"].to_pylist() == expected[:, 1].tolist()
    frame = encoding[["objid", "latent"]][good].to_pandas()
    assert list(frame.columns) == ["objid", "latent_1", "latent_2"] and frame["objid"].dtype == np.int64
    assert frame["latent_1"].tolist() == encoding.to_pandas(["latent"], good)["latent_1"].tolist()
    assert frame["latent_1"].tolist() == expected[:, 0].tolist()
    again = pickle.loads(pickle.dumps(encoding[good]))
    assert again.to_table()["chi2"].tolist() == ways[0]["chi2"].tolist()


def test_mistakes_are_said(stars: Catalog) -> None:
    """Rows outside, masks of another length, chunks without rows, iterating star by star."""
    with pytest.raises(IndexError):
        stars.take([2500])
    with pytest.raises(IndexError, match="float64"):
        stars["objid"][[1.5, 2.5]]
    with pytest.raises(IndexError, match="mask"):
        stars["objid"][np.ones(3, bool)]
    with pytest.raises(InputError, match="chunk"):
        stars.iter_chunks(rows=0)
    with pytest.raises(TypeError):
        iter(stars)
    with pytest.raises(InputError, match="no such column"):
        stars.iter_chunks(["nothing"])


def test_iterating_a_column_gives_every_star(stars: Catalog) -> None:
    """A column is a sequence of its stars."""
    assert [int(one) for one in stars["objid"]] == stars["objid"][:].tolist()


def test_catalogs_are_pickled_and_printed(encoding: Catalog) -> None:
    """A pickled catalog, joined or selected, reads the same; its text says what and how many."""
    for catalog in (encoding, encoding.join(), encoding[["latent"]]):
        again = pickle.loads(pickle.dumps(catalog))
        assert again.columns == catalog.columns and len(again) == 2500
        assert_array_equal(again["latent"][990:1010], catalog["latent"][990:1010])
        assert "2500 stars" in repr(catalog) and str(encoding.directory) in repr(catalog)
    assert "joined with" in repr(encoding.join()) and "latent" in repr(encoding["latent"])


def test_join_has_both(encoding: Catalog, stars: Catalog) -> None:
    """A joined catalog has the stars' columns, then the encoding's, each as its own catalog has it."""
    both = encoding.join()
    own = ["latent", "reconstruction_error", "reconstruction", "chi2"]
    assert both.columns == [*stars.columns, *own]
    for name in both.columns:
        assert_array_equal(both[name][700:2100], (encoding if name in own else stars)[name][700:2100])
    assert stars.join() is stars
    with pytest.raises(InputError, match="is missing"):
        encoding.join(stars=encoding.directory / "nothing")
    with pytest.raises(InputError, match="not a catalog"):
        encoding.join(encoding.directory / "nothing")
    with pytest.raises(InputError, match="two catalogs of one kind"):
        encoding.join(encoding.directory)


def test_stars_that_have_moved_are_said_once(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalog joined with stars at another place asks them for cones too, and from another working directory."""
    moved = shutil.copytree(run_dir / "encoding", tmp_path / "encoding")
    monkeypatch.chdir(tmp_path)
    relative = open_catalog("encoding")
    with pytest.raises(InputError, match="is missing"):
        relative.cone(100.0, -20.0, 900.0)
    both = pickle.dumps(relative.join(run_dir / "catalog"))
    monkeypatch.chdir("/")
    rows, found = pickle.loads(both).cone(100.0, -20.0, 900.0, ["ra", "latent"])
    expected, _ = open_catalog(moved).cone(100.0, -20.0, 900.0, stars=run_dir / "catalog")
    assert len(rows) > 0 and found["latent"].shape == (len(rows), 2)
    assert_array_equal(rows, expected)


def test_arrow_is_exact(encoding: Catalog) -> None:
    """Arrow has the catalog's types, ids beyond 2^53 among them, units and UCDs; split or not."""
    both = encoding.join()
    table = both.to_arrow()
    assert table.schema.field("objid").type == pa.int64() and table.num_rows == 2500
    assert table["objid"].to_pylist() == both["objid"][:].tolist() and min(table["objid"].to_pylist()) > 2**53
    assert table.schema.field("magnitude").metadata == {
        b"unit": b"mag",
        b"ucd": b"phot.mag",
        b"description": b"magnitude; elements: u, g, r, i, z",
    }
    assert_array_equal(table["latent"].combine_chunks().flatten().to_numpy().reshape(-1, 2), both["latent"][:])
    split = both.to_arrow(["latent"], slice(10, 20), split=True)
    assert split.column_names == ["latent_1", "latent_2"]
    assert_array_equal(split["latent_2"].to_numpy(), both["latent"][10:20][:, 1])


def test_what_numpy_users_type(encoding: Catalog) -> None:
    """Masks, lists of rows and comparisons work; an element of a vector says how it is read."""
    good = encoding["quality"] == 0
    assert_array_equal(good, encoding["quality"][:] == 0)
    assert_array_equal(encoding.take(good, ["objid"])["objid"], encoding["objid"][:][good])
    assert_array_equal(encoding[good]["objid"], encoding["objid"][:][good])
    assert encoding[[1, -2]]["objid"].tolist() == encoding["objid"][:][[1, -2]].tolist()
    assert_array_equal((encoding["chi2"] > 2) | (encoding["chi2"] <= 2), ~np.isnan(encoding["chi2"][:]))
    for name, said in (("latent_2", "\\['latent'\\]\\[:\\]\\[:, 1\\]"), ("latent_0", "numbered from 1")):
        with pytest.raises(InputError, match=said):
            encoding[name]


def test_table_of_no_rows_has_its_columns(encoding: Catalog) -> None:
    """An empty slice is a table without rows."""
    table = encoding.join().to_table(["ra", "latent"], slice(5, 5))
    assert len(table) == 0 and table["latent"].shape == (0, 2) and str(table["ra"].unit) == "deg"
    assert encoding.to_arrow(["latent"], slice(0, 0)).num_rows == 0


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ra=st.one_of(st.floats(0, 360), st.sampled_from([0.0, 360.0])),
    dec=st.one_of(st.floats(-90, 90), st.sampled_from([-90.0, 90.0])),
    radius=st.one_of(st.floats(0, 10_800), st.floats(0, 300), st.sampled_from([5_400.0, 10_800.0])),
)
def test_cone_is_what_astropy_says(stars: Catalog, ra: float, dec: float, radius: float) -> None:
    """A cone has exactly the stars whose separation by astropy is not above the radius; at poles and at ra 0 too."""
    rows, found = stars.cone(ra, dec, radius, ["objid"])
    everywhere = SkyCoord(stars["ra"][:], stars["dec"][:], unit="deg")
    separation = everywhere.separation(SkyCoord(ra, dec, unit="deg")).to_value(units.arcmin)
    sure = np.abs(separation - radius) > 1e-6  # arcmin: astropy's own rounding
    inside = np.zeros(2500, bool)
    inside[rows] = True
    assert_array_equal(inside[sure], (separation <= radius)[sure])
    assert (np.diff(rows) > 0).all()
    assert_array_equal(found["objid"], stars["objid"][:][rows])


def test_cone_of_an_encoding_is_that_of_its_stars(encoding: Catalog, stars: Catalog) -> None:
    """An encoding has no positions of its own: rows are those of its stars, columns its own."""
    rows, found = encoding.cone(100.0, -20.0, 900.0, ["objid", "latent"])
    expected, _ = stars.cone(100.0, -20.0, 900.0)
    assert_array_equal(rows, expected)
    assert 0 < len(rows) < 2500
    assert_array_equal(found["latent"], encoding["latent"][:][rows])
    empty, nothing = encoding.cone(100.0, -20.0, 0.0)
    assert len(empty) == 0 and nothing["latent"].shape == (0, 2)


def test_cone_is_exact_at_tiny_distances() -> None:
    """A milliarcsecond is told from two of them, where a cosine would not see a difference from zero."""
    mas = 1 / 3.6e6
    dec = np.array([30.0, 30.0 + mas, 30.0 + 2 * mas])
    assert rows_in_cone(np.full(3, 10.0), dec, Cone(10.0, 30.0, 60 * 1.5 * mas)).tolist() == [0, 1]


def test_positions_that_are_none_are_in_no_cone() -> None:
    """NaN and values outside the sphere are not found, not even by a cone that is the whole sky."""
    ra, dec = np.array([np.nan, 10.0, 10.0, -1.0, 361.0, 10.0]), np.array([0.0, np.nan, 91.0, 0.0, 0.0, 0.0])
    assert rows_in_cone(ra, dec, Cone(0.0, 0.0, 10_800.0)).tolist() == [5]


@pytest.mark.parametrize("cone", [(361, 0, 1), (0, 91, 1), (0, 0, -1), (float("nan"), 0, 1), (0, 0, 10_801)])
def test_wrong_cones_are_refused(stars: Catalog, cone: tuple[float, float, float]) -> None:
    """A circle that is none is an error, not an empty answer."""
    with pytest.raises(InputError, match="not a cone"):
        stars.cone(*cone)
