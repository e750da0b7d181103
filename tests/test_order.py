"""Sky order: every star once, sorted, ties as they came, the same bytes for any runs and workers, nothing half-made."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from catalog_factory import BANDS, make_encoding, make_model, make_stars, rewrite_shard, star_manifest
from commands import hpc_ae, start, write_config
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from raw_files import lines, refused, run, shard_bytes
from runs import make_config, train_here

from hpc_ae.catalog import skysort
from hpc_ae.catalog.catalog import Catalog, open_catalog
from hpc_ae.catalog.manifest import write_manifest
from hpc_ae.catalog.schema import STAR_FORMAT
from hpc_ae.catalog.shard import Arrays, write_shard
from hpc_ae.catalog.sky import NO_POSITION, healpix_of
from hpc_ae.errors import InputError, StaleError
from hpc_ae.files import publish_json, read_json, seal
from hpc_ae.order import order
from hpc_ae.verify import verify


def sky_stars(num_stars: int, seed: int = 1) -> Arrays:
    """Stars in a few places, many of them the same, some without a position; ids count the rows."""
    generator = np.random.default_rng(seed)
    place = generator.integers(0, max(1, num_stars // 3), num_stars)
    ra, dec = generator.uniform(0, 360, num_stars)[place], generator.uniform(-90, 90, num_stars)[place]
    ra[generator.random(num_stars) < 0.05] = np.nan
    dec[generator.random(num_stars) < 0.05] = 100.0
    return {
        "objid": np.arange(num_stars, dtype=np.int64) + (1 << 60),
        "ra": ra,
        "dec": dec,
        "magnitude": generator.uniform(14, 22, (num_stars, 5)).astype(np.float32),
        "quality": np.zeros(num_stars, np.uint16),
        "caution": np.where(np.isnan(ra), 8, np.where(dec > 90, 16, 0)).astype(np.uint16),
    }


def write_catalog(directory: Path, arrays: Arrays, shard_rows: int) -> Path:
    """A star catalog of some arrays."""
    directory.mkdir(parents=True)
    shards = []
    for index, first in enumerate(range(0, len(arrays["objid"]), shard_rows)):
        rows = {name: values[first : first + shard_rows] for name, values in arrays.items()}
        shards.append(write_shard(directory / f"shard-{index:05d}.h5", STAR_FORMAT, rows, BANDS, {}))
    write_manifest(directory, star_manifest(shards, BANDS, arrays))
    return directory


def assert_sorted(catalog: Catalog, arrays: Arrays, shard_rows: int) -> None:
    """The catalog has the rows of `arrays`, sorted stably, in equal shards, with the ranges that they have."""
    numbers = healpix_of(arrays["ra"], arrays["dec"])
    expected = np.argsort(numbers, kind="stable")
    for name, values in arrays.items():
        assert_array_equal(catalog[name][:], values[expected], strict=True)
    num_stars = len(expected)
    assert [shard.num_stars for shard in catalog.shards] == [
        min(shard_rows, num_stars - first) for first in range(0, num_stars, shard_rows)
    ]
    for index, shard in enumerate(catalog.shards):
        part = numbers[expected][index * shard_rows : (index + 1) * shard_rows]
        placed = part[part != NO_POSITION]
        assert (shard.healpix and shard.healpix.numbers) == ((placed[0], placed[-1]) if len(placed) else None)
    assert catalog.manifest.order == "healpix"
    assert verify(catalog.directory).ok


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 200), st.integers(20, 90), st.integers(20, 90), st.integers(20, 200), st.integers(0, 1000))
def test_any_catalog_is_sorted_stably(
    tmp_path_factory: pytest.TempPathFactory, num_stars: int, before: int, after: int, run_rows: int, seed: int
) -> None:
    """Whatever the shards before and after and the runs between: all rows, sorted, equal places as they came."""
    folder = tmp_path_factory.mktemp("order")
    arrays = sky_stars(num_stars, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(skysort, "RUN_ROWS", run_rows)
        patch.setattr(skysort, "_CUTS", 3)  # as many shards as one task cuts would be too many for a test
        order(write_catalog(folder / "stars", arrays, before), folder / "sky", after)
    assert_sorted(open_catalog(folder / "sky"), arrays, after)
    assert {path.name for path in (folder / "sky").iterdir()} == {"manifest.json", *shard_bytes(folder / "sky")}
    shutil.rmtree(folder)


def test_workers_and_runs_do_not_change_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process with many runs and two with one run write the same shards."""
    stars = write_catalog(tmp_path / "stars", sky_stars(3_000), 500)
    order(stars, tmp_path / "pool", 700, num_workers=2)
    monkeypatch.setattr(skysort, "RUN_ROWS", 500)
    order(stars, tmp_path / "serial", 700)
    assert len(shard_bytes(tmp_path / "pool")) == 5
    assert shard_bytes(tmp_path / "pool") == shard_bytes(tmp_path / "serial")


def test_catalog_of_stars_without_positions(tmp_path: Path) -> None:
    """Where no star has a position the order stays, and no shard has a range."""
    arrays = {**sky_stars(50), "ra": np.full(50, np.nan), "caution": np.full(50, 8, np.uint16)}
    order(write_catalog(tmp_path / "stars", arrays, 20), tmp_path / "sky", 30)
    catalog = open_catalog(tmp_path / "sky")
    assert [shard.healpix for shard in catalog.shards] == [None, None]
    assert_sorted(catalog, arrays, 30)


def test_the_same_again_is_skipped_and_another_is_stale(tmp_path: Path) -> None:
    """The same order does nothing; other shards, and the catalog itself as its target, are refused."""
    stars = write_catalog(tmp_path / "stars", sky_stars(100), 30)
    order(stars, tmp_path / "sky", 40)
    before = (tmp_path / "sky" / "manifest.json").stat().st_mtime_ns
    order(stars, tmp_path / "sky", 40)
    assert (tmp_path / "sky" / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(StaleError, match="shard_rows: 40 -> 50"):
        order(stars, tmp_path / "sky", 50)
    with pytest.raises(InputError, match="in place"):
        order(stars, tmp_path / "sky" / ".." / "stars", 50)


# ingest


def rows_of(num_rows: int) -> list[str]:
    """Lines of a CSV: stars all over the sky, a tenth without ra, a few ids twice."""
    generator = np.random.default_rng(4)
    ra, dec = generator.uniform(0, 360, num_rows), generator.uniform(-90, 90, num_rows)
    ids = np.where(np.arange(num_rows) % 50 == 0, 7, np.arange(num_rows) + 10**18)
    return [
        f"{ids[row]},{'' if row % 10 == 3 else ra[row]},{dec[row]},"
        + f"{15 + row % 7},{15 + row % 3},{16 + row % 5},{15 + row % 4},{15 + row % 2}"
        for row in range(num_rows)
    ]


def test_ingest_in_sky_order_has_the_same_stars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--order healpix gives the rows of the plain ingest, sorted, with flags and counts the same; also after drops."""
    monkeypatch.setattr(skysort, "RUN_ROWS", 60)
    rows = [*rows_of(300), "5,1,1,-9999,15,15,15,15"]
    for bad in ("flag", "drop"):
        for name in ("plain", "sky"):
            (tmp_path / bad / name).mkdir(parents=True)
        plain = run(tmp_path / bad / "plain", lines(*rows), shard_rows=70, bad=bad)
        sky = run(tmp_path / bad / "sky", lines(*rows), shard_rows=70, bad=bad, order="healpix")
        assert_sorted(sky, {name: plain[name][:] for name in plain.columns}, 70)
        assert sky.manifest.flags == plain.manifest.flags and sky.manifest.flags["id_repeated"] == 6
        for key in ("num_rows", "num_dropped", "num_good", "inputs"):
            assert getattr(sky.manifest, key) == getattr(plain.manifest, key)
        assert {path.name for path in sky.directory.iterdir()} == {"manifest.json", *shard_bytes(sky.directory)}


def test_real_stars_keep_every_bit(shared_data: Path, tmp_path: Path) -> None:
    """The 290,327 real stars in sky order by two workers: ids, positions and magnitudes of each are unchanged."""
    path = shared_data / "sdss_photometric_stars.parquet"
    for name in ("plain", "sky"):
        (tmp_path / name).mkdir()
    plain = run(tmp_path / "plain", path, shard_rows=100_000)
    sky = run(tmp_path / "sky", path, shard_rows=100_000, order="healpix", num_workers=2)
    assert_sorted(sky, {name: plain[name][:] for name in plain.columns}, 100_000)


def test_order_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    """A catalog in another order is stale; one that was made before there was a choice is not."""
    run(tmp_path, lines(*rows_of(20)))
    assert "order" not in read_json(tmp_path / "catalog" / "manifest.json")["fingerprint"]
    run(tmp_path, lines(*rows_of(20)))
    with pytest.raises(StaleError, match="order: None -> healpix"):
        run(tmp_path, lines(*rows_of(20)), order="healpix")
    (tmp_path / "other").mkdir()
    assert "wrong order" in refused(tmp_path / "other", lines(*rows_of(20)), order="declination")


def test_order_in_a_config(tmp_path: Path) -> None:
    """catalog.order reaches the ingest of a run, and is refused beside a simulation."""
    raw = tmp_path / "raw.csv"
    raw.write_text(lines(*rows_of(300)))
    config = write_config(tmp_path, catalog={"source": {"raw": [str(raw)]}, "shard_rows": 100, "order": "healpix"})
    done = hpc_ae("run", config, "train.epochs=1", "train.partitions=2", "cluster.ranks_per_node=1")
    assert done.returncode == 0, done.stderr
    stars, encoding = (open_catalog(tmp_path / "run" / name) for name in ("catalog", "encoding"))
    assert [shard.healpix for shard in encoding.shards] == [shard.healpix for shard in stars.shards]
    assert encoding.manifest.order == stars.manifest.order == "healpix"
    assert verify(tmp_path / "run").ok
    done = hpc_ae("check", write_config(tmp_path, "simulated.yaml", catalog={"order": "healpix"}))
    assert done.returncode == 2 and "hpc-ae order" in done.stderr


# nothing half-made


@pytest.mark.parametrize("kind", ["rows", "h5"])
def test_killed_order_goes_on(kind: str, tmp_path: Path) -> None:
    """SIGKILL while runs or shards are written leaves no manifest; the next run clears that and is complete."""
    arrays = sky_stars(30_000)
    stars = write_catalog(tmp_path / "stars", arrays, 10_000)
    process = start("order", stars, "--out", tmp_path / "sky", "--shard-rows", 1_000, "--workers", 1)
    pattern = ".shard-rows-*" if kind == "rows" else "shard-*.h5"
    deadline = time.monotonic() + 60
    while not list((tmp_path / "sky").glob(pattern)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "sky" / "manifest.json").exists()
    assert any((tmp_path / "sky").iterdir())
    order(stars, tmp_path / "sky", 1_000)
    assert_sorted(open_catalog(tmp_path / "sky"), arrays, 1_000)
    assert {path.name for path in (tmp_path / "sky").iterdir()} == {"manifest.json", *shard_bytes(tmp_path / "sky")}


# verify


def found(directory: Path) -> list[str]:
    """What verify finds."""
    return [finding.what for finding in verify(directory).findings]


@pytest.fixture
def sky_dir(tmp_path: Path) -> Path:
    """A catalog of 250 simulated stars in sky order, in three shards."""
    order(make_stars(tmp_path / "plain"), tmp_path / "sky", 100)
    return tmp_path / "sky"


def reseal(directory: Path, index: int, healpix: object) -> None:
    """Give a shard another range in the manifest, and seal it as a writer with a bug would."""
    manifest = read_json(directory / "manifest.json")
    manifest["shards"][index]["healpix"] = healpix
    publish_json(directory / "manifest.json", seal(manifest))


def test_star_outside_its_range_is_found(sky_dir: Path) -> None:
    """A range that is narrower or wider than the stars of its shard is a finding."""
    true = open_catalog(sky_dir).shards[1].healpix.to_json()
    for wrong in (None, {**true, "first": str(int(true["first"]) + 1)}, {**true, "last": str(int(true["last"]) + 1)}):
        reseal(sky_dir, 1, wrong)
        assert "a shard's stars are not in its range of the sky" in found(sky_dir)


def test_stars_out_of_order_are_found(sky_dir: Path) -> None:
    """Two stars of a shard that changed places, and shards whose ranges cross, are findings."""
    catalog = open_catalog(sky_dir)
    arrays = catalog.read_shard(1, catalog.columns)
    swapped = {name: values[[0, 2, 1, *range(3, len(values))]] for name, values in arrays.items()}
    ranges = [shard.healpix.to_json() for shard in catalog.shards]
    rewrite_shard(sky_dir, 1, swapped)
    reseal(sky_dir, 1, ranges[1])
    assert found(sky_dir) == ["a shard's stars are not in sky order"]
    reseal(sky_dir, 0, ranges[1])
    assert "the shards are not in sky order" in found(sky_dir)


@pytest.mark.parametrize(
    "wrong", [3, {"first": "x", "last": "1"}, {"first": "5", "last": "1"}, {"first": "-1"}], ids=str
)
def test_range_that_is_none_is_found(sky_dir: Path, wrong: object) -> None:
    """A hostile range is a finding of verify and damage to a query, not a crash."""
    reseal(sky_dir, 2, wrong)
    assert "a shard's range in the sky is missing or wrong" in found(sky_dir)
    done = hpc_ae("query", sky_dir, "--cone", 1, 2, 3)
    assert done.returncode == 1 and "missing or wrong" in done.stderr and "Traceback" not in done.stderr


def test_range_of_an_encoding_is_its_stars(sky_dir: Path, tmp_path: Path) -> None:
    """An encoding whose ranges are not its star catalog's is found."""
    make_encoding(tmp_path / "encoding", sky_dir, make_model(tmp_path / "model"))
    for index, shard in enumerate(open_catalog(sky_dir).shards):
        reseal(tmp_path / "encoding", index, shard.healpix.to_json())
    manifest = {**read_json(tmp_path / "encoding" / "manifest.json"), "order": "healpix"}
    publish_json(tmp_path / "encoding" / "manifest.json", seal(manifest))
    assert verify(tmp_path / "encoding").ok
    first = open_catalog(sky_dir).shards[1].healpix.first
    reseal(tmp_path / "encoding", 1, {"first": first, "last": first})
    assert found(tmp_path / "encoding") == ["an encoding shard does not match its star shard in its range in the sky"]


# training


def test_training_on_pieces_of_sky_learns_as_well(shared_data: Path, tmp_path: Path) -> None:
    """The held-out error of the real stars is not worse in sky order: each partition is then a piece of the sky."""
    errors = {}
    for name, stars_order in (("input", "input"), ("sky", "healpix")):
        (tmp_path / name).mkdir()
        run(tmp_path / name, shared_data / "sdss_photometric_stars.parquet", shard_rows=100_000, order=stars_order)
        recipe = {"steps": 4_000, "batch_size": 512, "partitions": 64, "checkpoint_steps": 4_000, "validations": 5}
        config = make_config(tmp_path / name / "run", tmp_path / name / "catalog", **recipe)
        train_here(config)
        errors[name] = read_json(tmp_path / name / "run" / "model" / "model.json")["training"]["validation_mse_mag2"]
    assert errors["sky"] < 1.2 * errors["input"]
