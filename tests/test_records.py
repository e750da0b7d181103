"""Records: written as they were read, refused where they do not hold, and one answer to whose stars an encoding has."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import ClassVar

import pytest
from catalog_factory import make_encoding, make_model, make_stars

from hpc_ae import open_catalog
from hpc_ae.catalog.records import EncodingManifest, ShardRecord, SkyRange, StarManifest
from hpc_ae.errors import DamageError, HpcAeError, InputError, StaleError
from hpc_ae.files import check_outside, publish_json, read_json, seal
from hpc_ae.order import order
from hpc_ae.record import Record
from hpc_ae.survey.pairs import open_survey
from hpc_ae.verify import verify


class Example(Record):
    """A record of every kind of field."""

    format_version: ClassVar[int | None] = 1
    nulls: ClassVar[frozenset[str]] = frozenset({"always"})
    nulls_said: ClassVar[frozenset[str]] = frozenset({"said"})
    placed_last: ClassVar[tuple[str, ...]] = ("first",)

    first: int
    version: int = 1
    left_out: int | None = None
    always: int | None = None
    said: int | None = None
    counts: dict[str, int] = {}  # noqa: RUF012


def test_what_is_written() -> None:
    """A None is left out, or null where it always is or was said; names of the user's keep their order."""
    one = Example(first=1, counts={"z": 1, "a": 2})
    assert list(one.to_json()) == ["version", "always", "counts", "first"]
    assert json.dumps(one.replaced(said=None).to_json()) == (
        '{"version": 1, "always": null, "said": null, "counts": {"z": 1, "a": 2}, "first": 1}'
    )
    text = '{"version": 1, "always": null, "counts": {"z": 1, "a": 2}, "first": 3}'
    assert json.dumps(Example.parse(json.loads(text), "here").to_json()) == text


def test_what_is_refused() -> None:
    """A newer version is one clear error; a wrong field is damage, a misspelt one in our own code a TypeError."""
    with pytest.raises(InputError, match="made by a newer version") as caught:
        Example.parse({"first": 1, "version": 2}, "here")
    assert caught.value.exit_status == 2 and "format version 2" in str(caught.value)
    for wrong in ({}, {"first": "1"}, {"first": True}, {"first": 1, "version": None}):
        with pytest.raises(DamageError, match="here"):
            Example.parse(wrong, "here")
    for version in (0, -3, True, 1.0, "1", None):
        with pytest.raises(DamageError, match="which version of its format"):
            Example.parse({"first": 1, "version": version}, "here")
    with pytest.raises(TypeError, match="frist"):
        Example(first=1).replaced(frist=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A star catalog, the same in sky order, another one, and an encoding of the first."""
    folder = tmp_path_factory.mktemp("records")
    make_stars(folder / "stars")
    make_stars(folder / "other", num_stars=120)
    order(folder / "stars", folder / "sky", 100)
    make_encoding(folder / "encoding", folder / "stars", make_model(folder / "model"))
    return folder


@pytest.mark.parametrize("name", ["stars", "sky", "encoding"])
def test_a_manifest_is_read_as_it_was_written(folder: Path, name: str) -> None:
    """What was read is written as the same fields with the same values; sky order has its own place in `order`'s."""
    values, manifest = read_json(folder / name / "manifest.json"), open_catalog(folder / name).manifest
    assert manifest.to_json() == values
    if name != "sky":
        assert json.dumps(manifest.to_json()) == json.dumps(values)
    else:
        assert list(values)[6:12] == ["objid", "bands", "columns", "order", "inputs", "fingerprint"]


def test_a_newer_catalog_is_refused(folder: Path, tmp_path: Path) -> None:
    """Reading it is wrong input with the way out, verify finds it: no traceback."""
    path = Path(shutil.copytree(folder / "stars", tmp_path / "stars")) / "manifest.json"
    publish_json(path, seal({**read_json(path), "version": 2}))
    with pytest.raises(InputError, match="made by a newer version of hpc_ae"):
        open_catalog(tmp_path / "stars")
    assert verify(tmp_path / "stars").findings[0].what == "made by a newer version of hpc_ae"


def test_ranges_that_were_not_said(folder: Path) -> None:
    """A range that is absent is not one that is null, and a copy of a record keeps the difference."""
    stars, sky = (open_catalog(folder / name).shards[0] for name in ("stars", "sky"))
    assert sky.says_sky and not stars.says_sky and "healpix" not in stars.to_json()
    assert stars.placed_like(sky).healpix == sky.healpix and sky.placed_like(stars) == sky
    empty = stars.replaced(healpix=None, objid_range=None)
    assert empty.says_sky and empty.to_json()["healpix"] is None
    assert ShardRecord.parse(empty.to_json(), "here").says_sky
    with pytest.raises(DamageError):
        SkyRange.parse({"first": "7", "last": "6"}, "here")


def test_one_shard_is_cheap_to_send(folder: Path) -> None:
    """The manifest of one shard leaves behind what the catalog was made from."""
    manifest = open_catalog(folder / "stars").manifest_as(StarManifest)
    one = manifest.of_shard(2)
    assert one.shards == manifest.shards[2:3] and one.num_stars == one.shards[0].num_stars
    assert one.bands == manifest.bands and not one.fingerprint and not one.provenance.command
    assert len(pickle.dumps(one)) < len(pickle.dumps(manifest))
    with pytest.raises(InputError, match="wrong kind of catalog"):
        open_catalog(folder / "stars").manifest_as(EncodingManifest)


def test_whose_stars_is_answered_alike(folder: Path) -> None:
    """Reading an encoding beside stars that it is not of, as a table, as a survey or in verify, is the same error."""
    said: list[HpcAeError] = []
    for ask in (
        lambda: open_catalog(folder / "encoding").join(folder / "other"),
        lambda: open_survey(folder / "encoding", folder / "other"),
    ):
        with pytest.raises(StaleError) as caught:
            ask()
        said.append(caught.value)
    first = verify(folder / "encoding", stars=folder / "other").findings[0]
    assert str(said[0]) == str(said[1])
    assert (said[0].what, said[0].where, said[0].got) == (first.what, first.where, first.got)


def test_outputs_lie_outside(folder: Path, tmp_path: Path) -> None:
    """An output inside one of the catalogs that it is made of is refused, however its path is written."""
    check_outside(tmp_path / "out", [folder / "stars", folder / "encoding"])
    for out in (folder / "stars", folder / "stars" / "a" / "b", folder / "encoding" / ".." / "stars" / "x"):
        with pytest.raises(InputError, match="inside the catalog"):
            check_outside(out, [folder / "encoding", folder / "stars"])
