"""Encoding: the same bytes for any number of ranks and after any kill, no star lost, no two models mixed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from commands import environment
from numpy.testing import assert_allclose, assert_array_equal
from runs import (
    BANDS,
    change_catalog,
    encode,
    finalise,
    finish,
    make_catalog,
    make_config,
    make_random_model,
    start_rank,
    write_config,
)

from hpc_ae.catalog.catalog import Catalog, open_catalog
from hpc_ae.catalog.schema import ENCODING_FORMAT
from hpc_ae.catalog.shard import Arrays, read_notes
from hpc_ae.catalog.view import view_image
from hpc_ae.config import RunConfig
from hpc_ae.errors import DamageError, HpcAeError, InputError, StaleError, WorkError
from hpc_ae.model.architecture import Architecture
from hpc_ae.model.forward import make_forward
from hpc_ae.model.kernel import load_kernel
from hpc_ae.model.weights import read_model_record, read_weights
from hpc_ae.runtime.ranks import Ranks, may_have_gpu

NUM_STARS, SHARD_ROWS = 2_000, 300
FLOATS = ("latent", "reconstruction_error", "reconstruction", "chi2")


@pytest.fixture(scope="module")
def catalog_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 simulated stars in seven shards, the last one short."""
    return make_catalog(tmp_path_factory.mktemp("encode") / "catalog", NUM_STARS, SHARD_ROWS)


@pytest.fixture(scope="module")
def model_dir(catalog_dir: Path) -> Path:
    """A model with random weights."""
    return make_random_model(catalog_dir.parent / "model", catalog_dir)


@pytest.fixture
def config(catalog_dir: Path, model_dir: Path, tmp_path: Path) -> RunConfig:
    """A run of its own for each test."""
    return make_config(tmp_path / "run", catalog_dir, encode={"model": str(model_dir)})


@pytest.fixture(scope="module")
def whole(catalog_dir: Path, model_dir: Path) -> RunConfig:
    """An encoding by one rank; tests only read it."""
    config = make_config(catalog_dir.parent / "whole", catalog_dir, encode={"model": str(model_dir)})
    encode_with(config, 1)
    return config


def encode_with(config: RunConfig, world_size: int) -> Catalog:
    """Encode by some ranks, one after the other, and finalise."""
    for rank in range(world_size):
        assert encode(config, Ranks(rank, world_size, rank, world_size)) == "done"
    finalise(config)
    return open_catalog(config.encoding_path)


def contents(directory: Path) -> dict[str, bytes]:
    """All files of an encoding catalog, hidden ones too; of the manifest, which tells of time, only the name."""
    files = {path.name: path for path in directory.iterdir()}
    return {name: b"" if name == "manifest.json" else path.read_bytes() for name, path in files.items()}


def columns_of(catalog: Catalog) -> Arrays:
    """All columns of all stars."""
    return catalog.read(catalog.columns)


@pytest.mark.parametrize("world_size", [2, 3, 9])
def test_same_bytes_for_any_world_size(whole: RunConfig, config: RunConfig, world_size: int) -> None:
    """Every shard and the view have the same bytes for any number of ranks, more than shards included."""
    manifest = encode_with(config, world_size).manifest
    assert contents(config.encoding_path) == contents(whole.encoding_path)
    assert manifest.catalog_digest == open_catalog(whole.encoding_path).digest


@pytest.mark.parametrize("shard_rows", [1, 2_000, 777])
def test_same_outputs_for_any_shard_size(whole: RunConfig, model_dir: Path, tmp_path: Path, shard_rows: int) -> None:
    """The same stars in other shards have the same outputs, bit by bit."""
    num_stars = 20 if shard_rows == 1 else NUM_STARS
    stars = make_catalog(tmp_path / "catalog", num_stars, shard_rows)
    got = columns_of(encode_with(make_config(tmp_path / "run", stars, encode={"model": str(model_dir)}), 2))
    expected = columns_of(open_catalog(whole.encoding_path))
    for name, values in got.items():
        assert values.tobytes() == expected[name][:num_stars].tobytes(), name


def test_no_star_is_lost(whole: RunConfig) -> None:
    """Ids, flags and counts are those of the star catalog, shard by shard, in the same order."""
    stars, encoding = open_catalog(whole.catalog_path), open_catalog(whole.encoding_path)
    assert (encoding.num_stars, encoding.num_good) == (stars.num_stars, stars.num_good) == (NUM_STARS, stars.num_good)
    keys = ("file", "num_stars", "num_good", "objid_digest")
    for index, record in enumerate(encoding.shards):
        assert all(getattr(record, key) == getattr(stars.shards[index], key) for key in keys)
        names = ["objid", "quality", "caution"]
        for name, values in encoding.read_shard(index, names).items():
            assert_array_equal(values, stars.read_shard(index, names)[name])


def test_nan_exactly_where_quality_is_not_0(whole: RunConfig) -> None:
    """Every float of a flagged star is NaN, and no float of a good one."""
    encoding = columns_of(open_catalog(whole.encoding_path))
    bad = encoding["quality"] != 0
    assert 0 < bad.sum() < NUM_STARS
    for name in FLOATS:
        values = encoding[name].reshape(NUM_STARS, -1)
        assert_array_equal(np.isnan(values).all(axis=1), bad, name)
        assert np.isfinite(values[~bad]).all()


def test_outputs_are_those_of_the_model(whole: RunConfig, model_dir: Path) -> None:
    """The catalog holds what the forward pass says of each star."""
    stars, encoding = open_catalog(whole.catalog_path), columns_of(open_catalog(whole.encoding_path))
    good = encoding["quality"] == 0
    expected = make_forward(read_weights(model_dir)[0])(stars["magnitude"][:][good])
    for name in ("latent", "reconstruction", "reconstruction_error"):
        assert_array_equal(encoding[name][good], getattr(expected, name), name)


def test_reconstruction_error_and_chi2(whole: RunConfig) -> None:
    """reconstruction_error and chi2 are what anybody computes from magnitude and reconstruction."""
    stars, encoding = columns_of(open_catalog(whole.catalog_path)), columns_of(open_catalog(whole.encoding_path))
    good = encoding["quality"] == 0
    residual = (stars["magnitude"].astype(float) - encoding["reconstruction"])[good]
    error = np.sqrt(np.square(residual).mean(axis=1))
    assert_allclose(encoding["reconstruction_error"][good], error, atol=1e-5)
    chi2 = np.square(residual / stars["magnitude_error"][good]).sum(axis=1)
    assert_allclose(encoding["chi2"][good], chi2, rtol=1e-4)


def _spoil_errors(arrays: Arrays) -> None:
    for row, value in enumerate((0.0, -0.02, np.nan, np.inf, -np.inf)):
        arrays["magnitude_error"][row, row] = value


def test_chi2_of_unusable_errors(whole: RunConfig, model_dir: Path, tmp_path: Path) -> None:
    """chi2 is NaN where an error is not finite and positive, and as before elsewhere; other outputs do not change."""
    stars = change_catalog(whole.catalog_path, tmp_path / "catalog", _spoil_errors)
    got = columns_of(encode_with(make_config(tmp_path / "run", stars, encode={"model": str(model_dir)}), 1))
    expected = columns_of(open_catalog(whole.encoding_path))
    spoilt = np.arange(NUM_STARS) % SHARD_ROWS < 5
    assert np.isnan(got["chi2"][spoilt]).all()
    assert_array_equal(got["chi2"][~spoilt], expected["chi2"][~spoilt])
    for name in FLOATS[:3]:
        assert_array_equal(got[name], expected[name])


def test_without_reconstruction(whole: RunConfig, model_dir: Path, catalog_dir: Path, tmp_path: Path) -> None:
    """reconstruction: false leaves that column out and changes no other."""
    encode_section = {"model": str(model_dir), "reconstruction": False}
    catalog = encode_with(make_config(tmp_path / "run", catalog_dir, encode=encode_section), 1)
    expected = open_catalog(whole.encoding_path)
    assert catalog.columns == [name for name in expected.columns if name != "reconstruction"]
    for name, values in columns_of(catalog).items():
        assert_array_equal(values, columns_of(expected)[name])


def test_without_errors(model_dir: Path, catalog_dir: Path, tmp_path: Path) -> None:
    """A star catalog without magnitude errors gives no chi2."""

    def drop_errors(arrays: Arrays) -> None:
        del arrays["magnitude_error"]

    stars = change_catalog(catalog_dir, tmp_path / "catalog", drop_errors)
    catalog = encode_with(make_config(tmp_path / "run", stars, encode={"model": str(model_dir)}), 1)
    assert "chi2" not in catalog.columns and "reconstruction" in catalog.columns


def test_view_shows_the_shards(whole: RunConfig, tmp_path: Path) -> None:
    """encoding.h5 read with plain h5py has every row of every column, also where the catalog has moved to."""
    catalog = open_catalog(whole.encoding_path)
    moved = shutil.copytree(whole.encoding_path, tmp_path / "elsewhere")
    with h5py.File(moved / "encoding.h5") as view:
        assert sorted(view) == sorted(catalog.columns)
        for name, values in columns_of(catalog).items():
            assert_array_equal(view[name][:], values)
            assert view[name].dtype == values.dtype


def test_manifest_names_its_inputs(whole: RunConfig, model_dir: Path) -> None:
    """The manifest has the digests of catalog and model, paths to them, and how it was computed."""
    manifest = open_catalog(whole.encoding_path).manifest
    assert manifest.inputs.catalog.digest == open_catalog(whole.catalog_path).digest
    assert manifest.inputs.model.digest == read_model_record(model_dir).digest
    found = (whole.encoding_path / manifest.inputs.catalog.path).resolve()
    assert found == whole.catalog_path.resolve()
    assert manifest.compute and manifest.latent == 2


def test_second_call_does_nothing(config: RunConfig) -> None:
    """An encoding that is there is not touched, before and after it is finalised."""
    for rank in range(2):
        encode(config, Ranks(rank, 2, rank, 2))
    shards = {path: path.stat().st_mtime_ns for path in config.encoding_path.glob("shard-*")}
    encode(config, Ranks())
    assert shards == {path: path.stat().st_mtime_ns for path in config.encoding_path.glob("shard-*")}
    finalise(config)
    files = {path: path.stat().st_mtime_ns for path in config.encoding_path.iterdir()}
    encode_with(config, 1)
    assert files == {path: path.stat().st_mtime_ns for path in config.encoding_path.iterdir()}


def test_stop_between_shards(whole: RunConfig, config: RunConfig) -> None:
    """A stop request ends the rank after the shard at hand; the next call goes on from there."""
    assert encode(config, Ranks(), lambda: True) == "interrupted"
    assert 0 < len(list(config.encoding_path.glob("shard-*.h5"))) < 7
    encode_with(config, 1)
    assert contents(config.encoding_path) == contents(whole.encoding_path)


def test_finalise_too_early(config: RunConfig) -> None:
    """Finalise before all ranks are done names the missing shards and writes nothing; it works afterwards."""
    encode(config, Ranks(0, 2, 0, 2))
    with pytest.raises(WorkError, match=r"3 of 7 shards missing, the first shard-00001\.h5"):
        finalise(config)
    assert not (config.encoding_path / "manifest.json").exists()
    assert not (config.encoding_path / "encoding.h5").exists()
    encode(config, Ranks(1, 2, 1, 2))
    assert finalise(config).num_stars == NUM_STARS


def test_killed_between_shard_and_record(whole: RunConfig, config: RunConfig) -> None:
    """A shard whose writer died before writing its record is taken as it is, with the same manifest entry."""
    encode(config, Ranks())
    (config.encoding_path / ".shard-00002.json").unlink()
    (config.encoding_path / ".shard-00003.h5.tmp-node-1").write_bytes(b"half")
    records = finalise(config).shards
    assert records == open_catalog(whole.encoding_path).manifest.shards
    assert contents(config.encoding_path) == contents(whole.encoding_path)


@pytest.fixture
def own_model(catalog_dir: Path, tmp_path: Path) -> RunConfig:
    """A run with a model of its own, which a test may replace."""
    make_random_model(tmp_path / "run" / "model", catalog_dir, seed=1)
    return make_config(tmp_path / "run", catalog_dir)


def test_retrained_model_is_not_mixed_in(own_model: RunConfig, catalog_dir: Path) -> None:
    """With another model in its place half an encoding is not gone on with: StaleError names the shard."""
    encode(own_model, Ranks(0, 2, 0, 2))
    make_random_model(own_model.model_path, catalog_dir, seed=2)
    with pytest.raises(StaleError, match=r"shard-00000\.h5[\s\S]*model_digest[\s\S]*--redo encode"):
        encode(own_model, Ranks(0, 2, 0, 2))
    with pytest.raises(StaleError, match=r"shard-00000\.h5"):  # nor by a rank whose own shards are not there yet
        encode(own_model, Ranks(1, 2, 1, 2))
    with pytest.raises(StaleError, match=r"shard-00000\.h5"):
        finalise(own_model)
    assert not (own_model.encoding_path / "manifest.json").exists()


def test_retrained_model_under_a_finished_encoding(own_model: RunConfig, catalog_dir: Path) -> None:
    """A finished encoding of another model is not taken for done."""
    encode_with(own_model, 1)
    make_random_model(own_model.model_path, catalog_dir, seed=2)
    for work in (lambda: encode(own_model, Ranks()), lambda: finalise(own_model)):
        with pytest.raises(StaleError, match=r"model: sha256:[\s\S]*--redo encode"):
            work()


def test_other_settings_are_stale(config: RunConfig, model_dir: Path) -> None:
    """Switching the reconstruction off half way is a StaleError."""
    encode(config, Ranks(0, 2, 0, 2))
    section = {"model": str(model_dir), "reconstruction": False}
    with pytest.raises(StaleError, match="reconstruction"):
        encode(make_config(config.run_path, config.catalog_path, encode=section), Ranks())


def test_changed_star_catalog_is_stale(catalog_dir: Path, model_dir: Path, tmp_path: Path) -> None:
    """A star shard that was made again with other numbers makes its encoding shard stale."""

    def shift(arrays: Arrays) -> None:
        arrays["magnitude"] += np.float32(0.1)

    encode(make_config(tmp_path / "run", catalog_dir, encode={"model": str(model_dir)}), Ranks(0, 2, 0, 2))
    stars = change_catalog(catalog_dir, tmp_path / "catalog", shift)
    with pytest.raises(StaleError, match=r"shard-00000\.h5[\s\S]*star_shard_digest"):
        encode(make_config(tmp_path / "run", stars, encode={"model": str(model_dir)}), Ranks())


def test_other_bands(catalog_dir: Path, tmp_path: Path) -> None:
    """A model of other bands is refused before anything is written."""
    make_random_model(tmp_path / "run" / "model", catalog_dir, bands=("u", "g", "r", "i", "y"))
    with pytest.raises(InputError, match=r"'y'[\s\S]*'z'"):
        encode(make_config(tmp_path / "run", catalog_dir), Ranks())
    assert not (tmp_path / "run" / "encoding").exists()


def test_no_model(catalog_dir: Path, tmp_path: Path) -> None:
    """Without a model the message says how to get one."""
    with pytest.raises(InputError, match="there is no model"):
        encode(make_config(tmp_path / "run", catalog_dir), Ranks())


def flip_in_dataset(path: Path, name: str) -> None:
    """Flip a bit inside the stored numbers of a dataset."""
    with h5py.File(path) as file:
        start = file[name].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[start + 11] ^= 16
    path.write_bytes(data)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip_magnitude(path: Path) -> None:
    flip_in_dataset(path, "magnitude")


@pytest.mark.parametrize("damage", [_flip_magnitude, _truncate, Path.unlink])
def test_damaged_star_shard(catalog_dir: Path, model_dir: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """A damaged, cut or lost star shard is a DamageError that names it; nothing is published for it."""
    stars = shutil.copytree(catalog_dir, tmp_path / "catalog")
    damage(stars / "shard-00004.h5")
    config = make_config(tmp_path / "run", stars, encode={"model": str(model_dir)})
    with pytest.raises(DamageError, match=r"catalog/shard-00004\.h5"):
        encode(config, Ranks())
    names = [path.name for path in config.encoding_path.glob("shard-*.h5")]
    assert "shard-00004.h5" not in names
    with pytest.raises(HpcAeError):
        finalise(config)


def test_damaged_weights(config: RunConfig, own_model: RunConfig) -> None:
    """Flipped bits in the model are a DamageError; nothing is encoded with it."""
    path = own_model.model_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamageError, match=r"model\.safetensors"):
        encode(own_model, Ranks())
    assert not list(own_model.encoding_path.glob("shard-*.h5"))


def test_encoding_shard_of_other_stars(config: RunConfig) -> None:
    """An encoding shard that took another's place is found when the manifest is made."""
    encode(config, Ranks())
    shutil.copy(config.encoding_path / "shard-00001.h5", config.encoding_path / "shard-00002.h5")
    with pytest.raises(StaleError, match=r"shard-00002\.h5[\s\S]*star_shard_digest"):
        finalise(config)


def test_view_does_not_tell_the_time(config: RunConfig) -> None:
    """The view made a second later has the same bytes."""
    records = encode_with(config, 1).manifest.shards
    columns, widths = open_catalog(config.encoding_path).columns, {"B": 5, "L": 2}
    images = [view_image(records, columns, widths)]
    time.sleep(1.1)
    images.append(view_image(records, columns, widths))
    assert images[0] == images[1] == (config.encoding_path / "encoding.h5").read_bytes()


def test_two_ways_to_compute_are_not_mixed(config: RunConfig, model_dir: Path) -> None:
    """Shards of one encoding that were computed in different ways are found when the manifest is made."""
    section = {"model": str(model_dir), "compute": "torch"}
    encode(make_config(config.run_path, config.catalog_path, encode=section), Ranks(0, 2, 0, 2))
    encode(config, Ranks(1, 2, 1, 2))
    names = {read_notes(path, ENCODING_FORMAT)["compute"] for path in config.encoding_path.glob("shard-*.h5")}
    if len(names) == 1:
        pytest.skip("the fused kernel cannot be built here")
    with pytest.raises(WorkError, match="different ways"):
        finalise(config)


def test_encoding_on_a_cpu_does_without_pytorch(own_model: RunConfig) -> None:
    """A rank in whose process PyTorch cannot be imported encodes all the same, and the stage is then seen as done."""
    if may_have_gpu():
        pytest.skip("there may be a GPU here: PyTorch is asked")
    try:
        load_kernel(Architecture(BANDS))
    except HpcAeError as error:
        pytest.skip(f"PyTorch computes here: {error.what}")
    code = "import sys; sys.modules['torch'] = None; from hpc_ae.jobs.main import run_command; "
    code += "sys.exit(run_command(['encode', sys.argv[1]]))"
    command = ["-c", code, str(write_config(own_model))]
    ((status, said),) = finish([start_rank(command, Ranks(0, 1, 0, 1))])
    assert status == 0, said
    assert len(list(own_model.encoding_path.glob("shard-*.h5"))) == len(open_catalog(own_model.catalog_path).shards)
    for _ in range(2):  # the second finds the stage done
        done = subprocess.run([sys.executable, *command], env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert open_catalog(own_model.encoding_path).num_good > 0
