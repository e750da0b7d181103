"""Queries give exactly the stars asked for, bit for bit, and open only the shards that they must."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from catalog_factory import make_encoding, make_model
from commands import command, environment, hpc_ae
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from test_catalog import OpenWatch

from hpc_ae.catalog.catalog import Catalog, open_catalog
from hpc_ae.catalog.fields import field_of, split_field
from hpc_ae.catalog.records import KINDS
from hpc_ae.catalog.rows_text import TEXT_WRITERS
from hpc_ae.catalog.schema import columns_of
from hpc_ae.catalog.select import read_rows, shards_in_cone
from hpc_ae.catalog.shard import CHUNK_ROWS, Arrays
from hpc_ae.catalog.sky import Cone, angular_distance
from hpc_ae.errors import DamageError, InputError, StaleError
from hpc_ae.files import publish_json, read_json, seal
from hpc_ae.jobs.main import run_command
from hpc_ae.order import order
from hpc_ae.query import Selection, open_query, run_query
from hpc_ae.simulate import SimulateSettings, simulate

NUM_STARS, SHARD_ROWS = 30_000, 1_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plain/ of simulated stars, sky/ of the same in sky order, encoding/ of sky/, model/."""
    path = tmp_path_factory.mktemp("query")
    simulate(path / "plain", SimulateSettings(NUM_STARS, seed=3, bad_fraction=0.1, shard_rows=SHARD_ROWS))
    order(path / "plain", path / "sky", SHARD_ROWS)
    make_encoding(path / "encoding", path / "sky", make_model(path / "model"))
    return path


@pytest.fixture
def watches(folder: Path) -> Iterator[dict[str, OpenWatch]]:
    """A watch on the shards of each of the three catalogs."""
    found = {name: OpenWatch(*sorted((folder / name).glob("shard-*"))) for name in ("plain", "sky", "encoding")}
    yield found
    for watch in found.values():
        watch.close()


def opened(watch: OpenWatch) -> list[int]:
    """The shards that were opened since the last question."""
    return watch.places()


def answer(directory: Path, stars: Path | None = None, num_workers: int = 1, **selection: Any) -> Arrays:
    """All columns of the answer to a query."""
    query = open_query(directory, Selection(**selection), stars)
    parts: list[Arrays] = []
    run_query(query, lambda _, rows: parts.extend(rows), num_workers)
    assert query.num_found == sum(len(part["objid"]) for part in parts)
    names = [one.name for one in query.fields]
    return {name: np.concatenate([part[name] for part in parts]) for name in names} if parts else {}


def expected_rows(catalog: Catalog, cone: Cone) -> np.ndarray:
    """Rows of a catalog in a cone, by looking at all of them."""
    distance = angular_distance(catalog["ra"][:], catalog["dec"][:], cone.ra_deg, cone.dec_deg)
    return np.flatnonzero(distance <= cone.radius_deg)


def test_cone_opens_only_its_shards(folder: Path, watches: dict[str, OpenWatch]) -> None:
    """A cone opens the shards that the ranges say, which hold all its stars; of an encoding and its stars the same."""
    sky = open_catalog(folder / "sky")
    for place in (77, 15_000, 29_123):
        cone = Cone(float(sky["ra"][place]), float(sky["dec"][place]), 30.0)
        rows = expected_rows(sky, cone)
        for watch in watches.values():
            opened(watch)
        found = answer(folder / "sky", cone=cone)
        must = sorted(set((rows // SHARD_ROWS).tolist()))
        looked = opened(watches["sky"])
        assert set(must) <= set(looked) == set(shards_in_cone(sky, cone.ra_deg, cone.dec_deg, 30.0))
        assert len(looked) <= len(must) + 2 < 8
        assert not opened(watches["plain"]) and not opened(watches["encoding"])
        for name in sky.columns:
            assert_array_equal(found[name], sky[name][:][rows], strict=True)
        opened(watches["sky"])
        answer(folder / "encoding", cone=cone)
        assert opened(watches["sky"]) == looked and opened(watches["encoding"]) == must


def test_hostile_look_at_no_shard(folder: Path, watches: dict[str, OpenWatch]) -> None:
    """A query that is refused, or that asks for ids which no shard can have, opens no shard."""
    with pytest.raises(InputError, match="no such column"):
        open_query(folder / "sky", Selection(cone=Cone(1, 1, 1), columns=("objid", "latent")))
    assert answer(folder / "sky", objids=(5, 2**63 - 1)) == {}
    assert not opened(watches["sky"])


@settings(max_examples=12, deadline=None)
@given(st.floats(0, 360), st.floats(-90, 90), st.one_of(st.floats(0, 600), st.floats(0, 10800)))
def test_cones_of_all_catalogs_agree(folder: Path, ra_deg: float, dec_deg: float, radius: float) -> None:
    """Sky order or none, star or encoding catalog: the same stars, those that a look at all of them finds."""
    cone = Cone(ra_deg, dec_deg, radius)
    plain = open_catalog(folder / "plain")
    ids = plain["objid"][:][expected_rows(plain, cone)]
    for name in ("plain", "sky", "encoding"):
        found = answer(folder / name, cone=cone, columns=("objid",)).get("objid", np.empty(0, np.int64))
        assert_array_equal(np.sort(found), np.sort(ids))


def test_pool_gives_the_same(folder: Path) -> None:
    """Two workers over all shards give the rows of one, in the same order."""
    cone = Cone(180, 30, 3000)
    one, two = (answer(folder / "plain", num_workers=workers, cone=cone) for workers in (1, 2))
    assert len(one["objid"]) > 2_000
    for name, values in one.items():
        assert_array_equal(values, two[name], strict=True)


def test_ids_are_exact_and_open_few_shards(folder: Path, watches: dict[str, OpenWatch]) -> None:
    """An id beyond 2^53 finds its star and no neighbour; where ids ascend, one shard is opened."""
    plain = open_catalog(folder / "plain")
    ids = plain["objid"][:][[0, 7_500, 29_999]]
    assert int(ids[0]) > 2**53 and float(ids[0]) == float(ids[0] + 1)  # as doubles it and its neighbour are one
    for row, objid in zip((0, 7_500, 29_999), ids.tolist(), strict=True):
        opened(watches["plain"])
        found = answer(folder / "plain", objids=(objid,))
        assert opened(watches["plain"]) == [row // SHARD_ROWS]
        assert found["objid"].tolist() == [objid] and found["ra"][0] == plain["ra"][row]
    found = answer(folder / "encoding", objids=tuple(ids.tolist()), columns=("objid", "latent"))
    assert sorted(found["objid"].tolist()) == sorted(ids.tolist()) and found["latent"].shape == (3, 2)


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 3 * CHUNK_ROWS), max_size=8))
def test_rows_far_apart_are_read_alone(tmp_path_factory: pytest.TempPathFactory, rows: set[int]) -> None:
    """Any rows of a shard of several chunks are those of the whole column."""
    directory = _Long.directory(tmp_path_factory)
    catalog = open_catalog(directory)
    chosen = np.array(sorted(rows), np.int64)
    found = read_rows(catalog, 0, ["objid", "magnitude"], chosen)
    for name, values in found.items():
        assert_array_equal(values, catalog[name][:][chosen], strict=True)


class _Long:
    """A catalog of one long shard, made once."""

    made: Path | None = None

    @classmethod
    def directory(cls, factory: pytest.TempPathFactory) -> Path:
        """Where it is."""
        if cls.made is None:
            cls.made = factory.mktemp("long") / "stars"
            simulate(cls.made, SimulateSettings(3 * CHUNK_ROWS + 1))
        return cls.made


# joins


def test_join_has_the_rows_of_both(folder: Path) -> None:
    """--join gives both catalogs' columns of the same stars; naming a star's column joins it alone."""
    sky, encoding = open_catalog(folder / "sky"), open_catalog(folder / "encoding")
    cone = Cone(180, 30, 300)
    rows = expected_rows(sky, cone)
    assert len(rows) > 10
    found = answer(folder / "encoding", cone=cone, join=True)
    assert set(found) == set(sky.columns) | set(encoding.columns)
    for name, values in found.items():
        whole = (encoding if name in encoding.columns else sky)[name][:]
        assert_array_equal(values, whole[rows], strict=True)
    named = answer(folder / "encoding", objids=tuple(found["objid"].tolist()), columns=("dec", "latent", "objid"))
    assert list(named) == ["dec", "latent", "objid"]
    assert_array_equal(named["dec"], found["dec"])
    with pytest.raises(InputError, match="for encodings"):
        open_query(folder / "sky", Selection(cone=cone, join=True))


def test_stars_that_have_moved_or_are_others(folder: Path, tmp_path: Path) -> None:
    """An encoding alone: ids work, a cone asks for --stars, other stars are refused, damaged links are damage."""
    alone = tmp_path / "encoding"
    alone.symlink_to(folder / "encoding")
    copied = Path(str(tmp_path / "deeper" / "still" / "encoding"))
    copied.parent.mkdir(parents=True)
    import shutil

    shutil.copytree(folder / "encoding", copied)
    objid = int(open_catalog(copied)["objid"][5])
    cone = Cone(180, 30, 300)
    assert len(answer(copied, objids=(objid,))["objid"]) == 1
    with pytest.raises(InputError, match="--stars"):
        answer(copied, cone=cone)
    assert len(answer(copied, folder / "sky", cone=cone)["objid"]) > 10
    with pytest.raises(StaleError, match="not the star catalog"):
        answer(copied, folder / "plain", cone=cone)
    with pytest.raises(InputError, match="not the star catalog"):
        answer(copied, folder / "encoding", cone=cone)
    manifest = read_json(copied / "manifest.json")
    manifest["inputs"] = {}
    publish_json(copied / "manifest.json", seal(manifest))
    with pytest.raises(DamageError, match="does not name its catalog"):
        answer(copied, cone=cone)


@pytest.mark.parametrize("limits", [3, ["a", "b"], ["1"], {"low": 1}], ids=str)
def test_hostile_range_of_ids(folder: Path, tmp_path: Path, limits: object) -> None:
    """A range of ids that is none is damage, and a catalog without ranges is looked through."""
    import shutil

    shutil.copytree(folder / "plain", tmp_path / "stars")
    manifest = read_json(tmp_path / "stars" / "manifest.json")
    objid = int(open_catalog(folder / "plain")["objid"][3])
    manifest["shards"][2]["objid_range"] = limits
    publish_json(tmp_path / "stars" / "manifest.json", seal(manifest))
    with pytest.raises(DamageError, match="range of ids"):
        answer(tmp_path / "stars", objids=(objid,))
    for shard in manifest["shards"]:
        del shard["objid_range"]
    publish_json(tmp_path / "stars" / "manifest.json", seal(manifest))
    assert len(open_query(tmp_path / "stars", Selection(objids=(objid,))).shards) == 30
    assert answer(tmp_path / "stars", objids=(objid,))["objid"].tolist() == [objid]


@pytest.mark.parametrize(
    "selection", [{}, {"cone": Cone(1, 1, 1), "objids": (1,)}, {"objids": (-1,)}, {"objids": (2**63,)}], ids=str
)
def test_selections_that_cannot_be(folder: Path, selection: dict[str, Any]) -> None:
    """Neither or both of cone and ids, the id that stands for none, and ids of more than 64 bits are wrong input."""
    with pytest.raises(InputError):
        open_query(folder / "sky", Selection(**selection))


# the command


def rows_of(text: str, delimiter: str = ",") -> list[dict[str, str]]:
    """The rows of a CSV, read by the standard library."""
    return list(csv.DictReader(io.StringIO(text), delimiter=delimiter))


def test_formats_read_back_bit_by_bit(folder: Path, tmp_path: Path) -> None:
    """CSV, TSV and JSON have every bit of ids and floats; NaN is empty or null; a file is the same as the output."""
    encoding = open_catalog(folder / "encoding")
    words = ("query", folder / "encoding", "--cone", 180, 30, 300, "--join")
    done = hpc_ae(*words)
    assert done.returncode == 0, done.stderr
    found = rows_of(done.stdout)
    rows = expected_rows(open_catalog(folder / "sky"), Cone(180, 30, 300))
    assert [int(row["objid"]) for row in found] == encoding["objid"][:][rows].tolist()
    errors = encoding["reconstruction_error"][:][rows]
    assert np.isnan(errors).any()
    assert_array_equal(np.float32([row["reconstruction_error"] or "nan" for row in found]), errors)
    assert_array_equal(np.float32([row["latent_2"] or "nan" for row in found]), encoding["latent"][:][rows][:, 1])
    assert {"magnitude_u", "magnitude_error_z", "reconstruction_r", "ra", "chi2"} <= set(found[0])
    assert rows_of(hpc_ae(*words, "--to", "tsv").stdout, "\t") == found
    records = json.loads(hpc_ae(*words, "--json").stdout)
    assert [row["objid"] for row in records] == [row["objid"] for row in found]  # strings: above 2^53
    assert_array_equal(np.float32([np.nan if row["chi2"] is None else row["chi2"] for row in records]),
                       encoding["chi2"][:][rows])  # fmt: skip
    done = hpc_ae(*words, "--out", tmp_path / "stars.csv")
    assert done.returncode == 0 and rows_of((tmp_path / "stars.csv").read_text()) == found
    assert list(tmp_path.iterdir()) == [tmp_path / "stars.csv"] and done.stdout == ""
    assert hpc_ae(*words, "--out", "/dev/stdout").returncode == 2


def test_elements_of_vectors(folder: Path) -> None:
    """Single bands and latents can be asked for, of the encoding and of its stars, in the order that was said."""
    words = ("query", folder / "encoding", "--cone", 180, 30, 300, "--columns")
    whole = rows_of(hpc_ae(*words[:-1], "--join").stdout)
    for names in (["latent_2", "objid"], ["magnitude_g", "latent_1", "magnitude_u"]):
        found = rows_of(hpc_ae(*words, ",".join(names)).stdout)
        assert list(found[0]) == names and found == [{name: row[name] for name in names} for row in whole]
    refused = hpc_ae(*words, "latent_0")
    assert refused.returncode == 2 and "numbered from 1" in refused.stderr
    wrong = hpc_ae("query", folder, "--objid", 5)
    assert wrong.returncode == 2 and f"name {folder / 'encoding'}" in wrong.stderr


def test_an_answer_replaces_no_part_of_the_catalog(folder: Path) -> None:
    """`--out` inside the catalog is refused: its manifest would be gone."""
    manifest = (folder / "sky" / "manifest.json").read_bytes()
    words = ["query", str(folder / "sky"), "--cone", "1", "2", "3", "--out", str(folder / "sky" / "manifest.json")]
    assert run_command(words) == 2
    assert (folder / "sky" / "manifest.json").read_bytes() == manifest


def test_words_after_the_options(folder: Path) -> None:
    """`--objid 1 2 --columns objid ra`, in any order; ids that are not there are named, status 1; the rest is shown."""
    first, second = map(str, open_catalog(folder / "plain")["objid"][:2])
    done = hpc_ae("query", folder / "plain", "--objid", first, second, 12, "--columns", "ra", "objid", "--to", "csv")
    assert done.returncode == 1 and "1 of the ids do not exist: 12" in done.stderr
    assert [row["objid"] for row in rows_of(done.stdout)] == [first, second]
    assert done.stdout.startswith("ra,objid\n")
    done = hpc_ae("query", folder / "plain", "--objid", first, "--columns", "objid,ra", "--to", "table")
    assert done.returncode == 0 and [len(line) for line in done.stdout.splitlines()] == [33, 33]
    for words in (("5", "--cone", 1, 2, 3), ("ra", "--objid", first), ("--objid", "x"), ("--cone", 1, 91, 3)):
        done = hpc_ae("query", folder / "plain", *words)
        assert done.returncode == 2 and "Traceback" not in done.stderr and done.stdout == "", words


def test_empty_answers(folder: Path) -> None:
    """A cone without stars is status 0: the names alone, or an empty JSON array; negative numbers are no options."""
    words = ("query", folder / "sky", "--cone", "0.25", "-89.9", "0")
    done = hpc_ae(*words)
    assert (
        done.returncode == 0
        and done.stdout.startswith("objid,ra,dec,magnitude_u,")
        and len(done.stdout.splitlines()) == 1
    )
    assert "0 stars; opened" in done.stderr
    assert json.loads(hpc_ae(*words, "--json").stdout) == []


def test_closed_pipe_is_no_error(folder: Path) -> None:
    """`hpc-ae query ... | head -1` ends without a message."""
    import subprocess

    process = subprocess.Popen(
        command("query", folder / "plain", "--cone", 180, 30, 10800),
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().startswith("objid")
    process.stdout.close()
    text = process.stderr.read()
    assert process.wait(60) == 0 and "Error" not in text and "hpc-ae:" not in text
    process.stderr.close()


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("form", sorted(TEXT_WRITERS))
def test_every_column_in_every_form(kind: str, form: str) -> None:
    """Each dtype of each kind of catalog, with its largest and smallest values, in each form of text."""
    fields, arrays = [], {}
    for column in columns_of(kind).values():
        field = field_of(column, ["u", "g"] if column.width else [])
        dtype = np.dtype(field.dtype)
        info = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
        values = np.array([info.min, info.max, 0, np.nan if dtype.kind == "f" else 1], dtype)
        fields.append(field)
        arrays[column.name] = np.stack([values, values], axis=1) if column.width else values
    file = io.StringIO()
    TEXT_WRITERS[form](file, fields, iter([arrays]))
    text = file.getvalue()
    names = [part.name for field in fields for part in split_field(field)]
    if form == "json":
        assert [list(row) for row in json.loads(text)] == [names] * 4
        return
    lines = text.splitlines()
    assert len(lines) == 5 and all(name in lines[0] for name in names)
    if form in ("csv", "tsv"):
        separator = "," if form == "csv" else "\t"
        assert lines[0].split(separator) == names
        for field in (field for field in fields if not field.elements):
            place = names.index(field.name)
            texts = [line.split(separator)[place] or "nan" for line in lines[1:]]
            read = np.array(texts if field.dtype[1] == "f" else [int(text) for text in texts]).astype(field.dtype)
            assert_array_equal(read, arrays[field.name], err_msg=field.name)
