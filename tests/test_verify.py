"""verify finds and names whatever is damaged, and nothing where nothing is."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from catalog_factory import encode_rows, make_encoding, make_model, make_stars, rewrite_shard
from safetensors.numpy import save

from hpc_ae.catalog.catalog import open_catalog
from hpc_ae.catalog.schema import columns_of
from hpc_ae.catalog.view import write_view
from hpc_ae.config import load_config
from hpc_ae.errors import DamageError, InputError
from hpc_ae.files import digest_bytes, publish_bytes, publish_json, read_json, seal
from hpc_ae.jobs.status import open_run
from hpc_ae.model.weights import read_weights
from hpc_ae.verify import Verification, verify


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undamaged run: config, star catalog, model, encoding, a checkpoint, a report."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    run_dir.mkdir()
    write_config(run_dir)
    make_stars(run_dir / "catalog")
    make_model(run_dir / "model")
    make_encoding(run_dir / "encoding", run_dir / "catalog", run_dir / "model", uncertainty=True)
    step_dir = run_dir / "checkpoints" / "step-000000010"
    step_dir.mkdir(parents=True)
    data = save({"weight": np.ones((3, 2), np.float32)})
    publish_bytes(step_dir / "model.safetensors", data)
    publish_json(step_dir / "state.json", seal({"step": 10, "digests": {"model": digest_bytes(data)}}))
    make_report(run_dir / "report")
    return run_dir


def write_config(run_dir: Path, more: str = "") -> None:
    """The config of a run that made its star catalog."""
    source = "catalog: {source: {simulate: {stars: 250}}}"
    (run_dir / "config.yaml").write_text(f"run_dir: {run_dir}\n{source}\n{more}")


def make_report(directory: Path) -> None:
    """A report of two files, recorded as postprocess records them."""
    directory.mkdir()
    files = {"anomalies.csv": b"objid\n1\n", "figure.png": b"a picture"}
    for name, data in files.items():
        publish_bytes(directory / name, data)
    record = {"format": "hpc_ae/summary", "files": {name: digest_bytes(data) for name, data in files.items()}}
    publish_json(directory / "summary.json", seal(record))


@pytest.fixture
def run_dir(whole_run: Path, tmp_path: Path) -> Path:
    """A copy of the undamaged run to damage."""
    return Path(shutil.copytree(whole_run, tmp_path / "run"))


def named(result: Verification, name: str) -> list[str]:
    """What was found about files whose path holds `name`."""
    return [finding.what for finding in result.findings if name in finding.where]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_whole_run_is_ok(whole_run: Path, num_workers: int) -> None:
    """Nothing is found in an undamaged run; its stars are counted once, the shards of both catalogs."""
    result = verify(whole_run, num_workers=num_workers)
    assert result.findings == []
    assert (result.what, result.num_stars, result.num_shards) == ("run", 250, 6)


@pytest.mark.parametrize(
    ("part", "what", "num_shards"),
    [("catalog", "star catalog", 3), ("encoding", "encoding catalog", 3), ("model", "model", 0)],
)
def test_parts_are_recognised(whole_run: Path, part: str, what: str, num_shards: int) -> None:
    """A catalog or a model can be verified alone."""
    result = verify(whole_run / part)
    assert result.ok and (result.what, result.num_shards) == (what, num_shards)
    assert json.loads(json.dumps(result.record().to_json()))["ok"] is True


FLIPPED = {
    "catalog/shard-00000.h5": 12,
    "catalog/shard-00002.h5": 4,
    "encoding/shard-00001.h5": 12,
    "catalog/manifest.json": 10,
    "encoding/manifest.json": 8,
    "encoding/encoding.h5": 10,
    "model/model.json": 5,
    "model/model.safetensors": 4,
    "checkpoints/step-000000010/state.json": 3,
    "checkpoints/step-000000010/model.safetensors": 2,
    "report/summary.json": 4,
    "report/anomalies.csv": 2,
    "report/figure.png": 2,
}


def flip_bit(path: Path, seed: str) -> None:
    """Flip one bit of a file, chosen by the seed."""
    data = bytearray(path.read_bytes())
    bit = random.Random(seed).randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name, count in FLIPPED.items() for seed in range(count)])
def test_single_bit_flip_is_found_and_named(run_dir: Path, name: str, seed: int) -> None:
    """One flipped bit anywhere in a file is a finding that names the file, and no sound shard is blamed."""
    flip_bit(run_dir / name, f"{name} {seed}")
    result = verify(run_dir)
    assert named(result, name)
    if name.endswith(".h5"):  # a damaged manifest may contradict its sound shards
        assert {Path(finding.where.split(",")[0]).resolve() for finding in result.findings} == {run_dir / name}


@pytest.mark.slow
def test_two_hundred_bit_flips(run_dir: Path) -> None:
    """Of 200 single-bit flips over all kinds of files each is found and named (promise 7)."""
    unnoticed = []
    for seed in range(200):
        name = sorted(FLIPPED)[seed % len(FLIPPED)]
        sound = (run_dir / name).read_bytes()
        flip_bit(run_dir / name, f"long {seed}")
        if not named(verify(run_dir), name):
            unnoticed.append((name, seed))
        (run_dir / name).write_bytes(sound)
    assert unnoticed == []


def test_truncated_shard(run_dir: Path) -> None:
    """A truncated shard is named with its size, once for its star catalog and as unreadable."""
    path = run_dir / "catalog" / "shard-00001.h5"
    os.truncate(path, path.stat().st_size // 2)
    assert "a shard has the wrong size" in named(verify(run_dir / "catalog"), "shard-00001.h5")


def test_every_damaged_shard_is_named(run_dir: Path) -> None:
    """Damage in three files at once is three names: verify does not stop at the first."""
    catalog = run_dir / "catalog"
    (catalog / "shard-00000.h5").unlink()
    (catalog / "shard-00001.h5").write_bytes(b"no HDF5")
    (catalog / "manifest.json").write_bytes((catalog / "manifest.json").read_bytes().replace(b'"seed"', b'"sead"'))
    result = verify(catalog, num_workers=2)
    assert named(result, "shard-00000.h5") == ["a shard is missing"]
    assert named(result, "shard-00001.h5") and named(result, "manifest.json")


def test_extra_shard_and_debris(run_dir: Path) -> None:
    """A shard that the manifest does not name, and a killed writer's file, are findings."""
    catalog = run_dir / "encoding"
    shutil.copy(catalog / "shard-00000.h5", catalog / "shard-00003.h5")
    (catalog / ".shard-00001.h5.tmp-host-1").write_bytes(b"half")
    result = verify(catalog)
    assert named(result, "shard-00003.h5") == ["a shard that is not in the manifest"]
    assert named(result, ".shard-00001.h5.tmp") == ["a temporary file left by a killed process"]
    assert len(result.findings) == 2


def test_swapped_shards(run_dir: Path) -> None:
    """Two shards with each other's names are both named, by their bytes and by their ids."""
    first, second = (run_dir / "encoding" / f"shard-0000{index}.h5" for index in (0, 1))
    first.rename(first.with_suffix(".old"))
    second.rename(first)
    first.with_suffix(".old").rename(second)
    result = verify(run_dir / "encoding")
    for path in (first, second):
        assert "the ids of a shard do not match the manifest" in named(result, path.name)


def _nan_in_good_row(arrays: dict[str, np.ndarray], column: str) -> None:
    arrays[column][np.flatnonzero(arrays["quality"] == 0)[7]] = np.nan


def _number_in_bad_row(arrays: dict[str, np.ndarray], column: str) -> None:
    arrays[column][np.flatnonzero(arrays["quality"] != 0)[0]] = 20.0


@pytest.mark.parametrize(
    ("part", "column", "damage"),
    [
        ("encoding", "latent", _nan_in_good_row),
        ("encoding", "reconstruction_error", _nan_in_good_row),
        ("encoding", "reconstruction", _number_in_bad_row),
        ("encoding", "chi2", _number_in_bad_row),
        ("catalog", "magnitude", _nan_in_good_row),
        ("catalog", "magnitude", _number_in_bad_row),
    ],
)
def test_values_against_quality(
    run_dir: Path, part: str, column: str, damage: Callable[[dict[str, np.ndarray], str], None]
) -> None:
    """A value that contradicts quality is found with its row even where the manifest was sealed over it."""
    catalog = open_catalog(run_dir / part)
    arrays = catalog.read_shard(1, catalog.columns)
    damage(arrays, column)
    rewrite_shard(run_dir / part, 1, arrays)
    result = verify(run_dir / part)
    assert named(result, f"shard-00001.h5, dataset {column}, row ") == ["values do not match the quality flags"]
    assert len(result.findings) == 1


def test_changed_id(run_dir: Path) -> None:
    """An encoding sealed over a changed id does not have the ids of its star shard."""
    catalog = open_catalog(run_dir / "encoding")
    arrays = catalog.read_shard(2, catalog.columns)
    arrays["objid"][3] += 1
    rewrite_shard(run_dir / "encoding", 2, arrays)
    assert named(verify(run_dir / "encoding"), "shard-00002.h5") == [
        "an encoding shard does not match its star shard in its ids"
    ]


@pytest.mark.parametrize("column", ["quality", "caution"])
def test_flags_that_are_not_copies(run_dir: Path, column: str) -> None:
    """An encoding sealed over other flags than its stars' is found, although its own counts agree."""
    catalog = open_catalog(run_dir / "encoding")
    arrays = catalog.read_shard(0, catalog.columns)
    bad = np.flatnonzero(arrays["quality"])[0]
    arrays[column][bad] = 8
    rewrite_shard(run_dir / "encoding", 0, arrays)
    what = "the flags of an encoding shard do not match its star shard"
    assert what in named(verify(run_dir / "encoding"), f"shard-00000.h5, dataset {column}")


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("num_stars", 251, "the manifest contradicts itself"),
        ("catalog_digest", "sha256:0", "the manifest contradicts itself"),
        ("bands", ["u", "g", "r", "z", "i"], "the bands do not match the manifest"),
        ("shards", [{"file": "../shard-00000.h5"}], "the manifest names a file that is no shard"),
        ("shards", 5, "a field of the manifest is missing or has the wrong type"),
        ("format", ["x"], "unknown catalog format"),
        ("columns", ["objid"], "the columns of a shard do not match its manifest"),
        ("bands", None, "the manifest has wrong bands or columns"),
    ],
)
def test_edited_and_resealed_manifest(run_dir: Path, key: str, value: object, what: str) -> None:
    """A manifest that was edited and sealed again is caught by what it says."""
    path = run_dir / "catalog" / "manifest.json"
    publish_json(path, seal({**read_json(path), key: value}))
    assert what in {finding.what for finding in verify(run_dir / "catalog").findings}


@pytest.mark.parametrize("text", ["", "{", "[]", "nonsense", '{"a": NaN}', '"\\ud800"', '{"a": "\\ud800"}', "[" * 9999])
def test_unparsable_manifest_is_a_finding(run_dir: Path, text: str) -> None:
    """A manifest that is no JSON object is a finding (status 1), not an error."""
    (run_dir / "catalog" / "manifest.json").write_text(text)
    result = verify(run_dir / "catalog")
    assert not result.ok and named(result, "manifest.json")


def test_unfinished_catalog_is_a_finding(run_dir: Path) -> None:
    """Shards without a manifest are an unfinished catalog."""
    (run_dir / "encoding" / "manifest.json").unlink()
    result = verify(run_dir / "encoding")
    assert result.what == "encoding catalog"
    assert [finding.what for finding in result.findings] == ["the catalog is unfinished: it has no manifest"]


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize(("part", "what"), [("catalog", "star catalog"), ("encoding", "encoding catalog")])
def test_unfinished_catalog_is_known_by_its_shards(run_dir: Path, part: str, what: str, damaged: bool) -> None:
    """Shards alone say of which kind their catalog is; a first one that cannot be read is passed over."""
    for name in ("manifest.json", "encoding.h5"):
        (run_dir / part / name).unlink(missing_ok=True)
    if damaged:
        (run_dir / part / "shard-00000.h5").write_bytes(b"no HDF5")
    result = verify(run_dir / part)
    assert result.what == what
    assert [finding.what for finding in result.findings] == ["the catalog is unfinished: it has no manifest"]


UNFINISHED = {"catalog": "star catalog", "model": "model", "encoding": "encoding", "report": "report"}


@pytest.mark.parametrize("emptied", [False, True])
@pytest.mark.parametrize("part", UNFINISHED)
def test_absent_part_of_a_run(run_dir: Path, part: str, emptied: bool) -> None:
    """A part that the config implies and that is not there, or empty, is a finding."""
    shutil.rmtree(run_dir / part)
    if emptied:
        (run_dir / part).mkdir()
    assert f"unfinished: there is no {UNFINISHED[part]}" in named(verify(run_dir), f"/run/{part}")


def test_run_that_has_only_begun(run_dir: Path) -> None:
    """All that is missing is said at once; a catalog that the config neither makes nor names is not asked for."""
    for part in UNFINISHED:
        shutil.rmtree(run_dir / part)
    whats = [f"unfinished: there is no {part}" for part in UNFINISHED.values()]
    assert {finding.what for finding in verify(run_dir).findings} == set(whats)
    (run_dir / "config.yaml").write_text(f"run_dir: {run_dir}\n")
    assert {finding.what for finding in verify(run_dir).findings} == set(whats[1:])


def test_named_catalog_that_is_absent(run_dir: Path, tmp_path: Path) -> None:
    """A star catalog that the config names must be there."""
    (run_dir / "config.yaml").write_text(f"run_dir: {run_dir}\ncatalog: {{path: {tmp_path / 'gone'}}}\n")
    result = verify(run_dir)
    assert named(result, str(tmp_path / "gone")) == ["unfinished: there is no star catalog"]
    assert len(result.findings) == 1 and result.num_stars == 0


def test_linked_model_inside_the_run(run_dir: Path) -> None:
    """The model that an encoding names is missed where its place is inside the run that is verified."""
    shutil.rmtree(run_dir / "model")
    assert "the model that encoded is missing" in named(verify(run_dir), "model.json")
    assert verify(run_dir / "encoding").ok


def test_model_outside_the_run(run_dir: Path, tmp_path: Path) -> None:
    """A model that the config names elsewhere is checked whole; RUN_DIR/model is not asked for then."""
    write_config(run_dir, f"encode: {{model: {tmp_path / 'other'}}}\n")
    path = run_dir / "encoding" / "manifest.json"
    record = read_json(path)
    record["inputs"]["model"]["path"] = "../../other"
    publish_json(path, seal(record))
    assert named(verify(run_dir), "other") == ["unfinished: there is no model"]
    shutil.move(run_dir / "model", tmp_path / "other")
    assert verify(run_dir).ok
    flip_bit(tmp_path / "other" / "model.safetensors", "elsewhere")
    assert named(verify(run_dir), "other/model.safetensors")


def test_report_that_is_not_whole(run_dir: Path) -> None:
    """A file that the summary names and that is not there is a finding, and so is what a killed writer left."""
    (run_dir / "report" / "figure.png").unlink()
    (run_dir / "report" / ".figure.png.tmp-host-1").write_bytes(b"half")
    result = verify(run_dir)
    assert named(result, "report/figure.png") == ["a file of the report is missing or cannot be read"]
    assert (
        named(result, ".figure.png.tmp") == ["a temporary file left by a killed process"] and len(result.findings) == 2
    )


@pytest.mark.parametrize("files", [None, 5, {"../config.yaml": "sha256:0"}])
def test_summary_that_names_no_files_of_its_own(run_dir: Path, files: object) -> None:
    """A sealed summary without files, or with one outside the report, is a finding."""
    path = run_dir / "report" / "summary.json"
    publish_json(path, seal({**read_json(path), "files": files}))
    assert named(verify(run_dir), "summary.json") == ["the summary does not list the files of the report"]


@pytest.mark.parametrize("made", [True, False])
def test_nothing_to_verify(tmp_path: Path, made: bool) -> None:
    """An empty or absent directory is wrong input, status 2."""
    directory = tmp_path / "empty"
    if made:
        directory.mkdir()
    with pytest.raises(InputError, match="nothing here that can be verified") as caught:
        verify(directory)
    assert caught.value.exit_status == 2


def test_star_catalog_moved(run_dir: Path, tmp_path: Path) -> None:
    """A star catalog that is not where the encoding says is a finding; --stars says where it is."""
    moved = (run_dir / "catalog").rename(tmp_path / "elsewhere")
    result = verify(run_dir / "encoding")
    assert [finding.what for finding in result.findings] == [
        "the star catalog of the encoding is missing; give its path with --stars"
    ]
    assert verify(run_dir / "encoding", stars=moved).ok
    assert verify(run_dir, stars=moved).num_stars == 250


def test_other_star_catalog(run_dir: Path, tmp_path: Path) -> None:
    """An encoding held against another star catalog is named shard by shard."""
    other = make_stars(tmp_path / "other", num_stars=120)
    result = verify(run_dir / "encoding", stars=other)
    assert "this is not the star catalog that was encoded" in named(result, "manifest.json")
    assert "an encoding shard does not match its star shard in its rows" in named(result, "shard-00001.h5")


def a_pipe(path: Path) -> None:
    """Reading it would wait for ever."""
    os.mkfifo(path)


def no_end(path: Path) -> None:
    """Reading it would take all memory."""
    path.symlink_to("/dev/zero")


def a_link(path: Path) -> None:
    """The right file, but elsewhere: another user's next day."""
    path.symlink_to(path.with_name(f"real-{path.name}"))


@pytest.mark.parametrize("make", [a_pipe, no_end, a_link], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", FLIPPED)
def test_what_is_no_regular_file(run_dir: Path, name: str, make: Callable[[Path], None]) -> None:
    """A pipe, a device or a link in place of a file of a run is named; nothing waits for it or follows it."""
    path = run_dir / name
    path.rename(path.with_name(f"real-{path.name}"))
    make(path)
    assert named(verify(run_dir), f"/{path.parent.relative_to(run_dir)}")


@pytest.mark.parametrize("make", [a_pipe, no_end], ids=lambda make: make.__name__)
def test_config_that_is_no_regular_file(run_dir: Path, make: Callable[[Path], None]) -> None:
    """A pipe or a device in place of a run's config ends in an error."""
    (run_dir / "config.yaml").unlink()
    make(run_dir / "config.yaml")
    with pytest.raises(InputError):
        open_run(run_dir)
    with pytest.raises(InputError, match=r"more than 4,194,304 bytes"):
        load_config(Path("/dev/zero"))


def test_sparse_weights_take_no_memory(run_dir: Path) -> None:
    """A file of weights that is larger than its network can need is refused by its size."""
    with (run_dir / "model" / "model.safetensors").open("r+b") as file:
        file.truncate(1 << 40)
    assert named(verify(run_dir / "model"), "model.safetensors") == ["the file is too large to be what it should be"]
    with pytest.raises(DamageError, match="too large"):
        read_weights(run_dir / "model")


def test_other_model(run_dir: Path) -> None:
    """A model that is not the one that encoded is a finding; a model that is not there is none."""
    path = run_dir / "model" / "model.json"
    publish_json(path, seal({**read_json(path), "steps": 7}))
    assert named(verify(run_dir / "encoding"), "model.json") == ["this is not the model that encoded"]
    shutil.rmtree(run_dir / "model")
    assert verify(run_dir / "encoding").ok


def test_weights_that_are_not_finite(run_dir: Path) -> None:
    """A NaN among the weights is found although every digest holds."""
    data = save({"encoder.0.weight": np.array([1.0, np.nan], np.float32)})
    publish_bytes(run_dir / "model" / "model.safetensors", data)
    path = run_dir / "model" / "model.json"
    publish_json(path, seal({**read_json(path), "weights_digest": digest_bytes(data)}))
    result = verify(run_dir / "model")
    assert named(result, "tensor encoder.0.weight") == ["a weight is not finite"] and len(result.findings) == 1


@pytest.mark.parametrize("data", [b"", b"\xff" * 64, (1 << 40).to_bytes(8, "little") + b"{}", b"\x80\x04pickle"])
def test_weights_with_a_lying_header(run_dir: Path, data: bytes) -> None:
    """A file that is no safetensors is a finding, whatever its header declares."""
    (run_dir / "model" / "model.safetensors").write_bytes(data)
    assert "the weights are not a readable safetensors file" in named(verify(run_dir / "model"), "model.safetensors")


def test_view_of_fewer_shards(run_dir: Path) -> None:
    """A view that leaves out a shard is named, with every dataset where it was written so; so is a missing view."""
    encoding = open_catalog(run_dir / "encoding")
    record = write_view(encoding.directory, encoding.shards[:2], encoding.columns, {"B": 5, "L": 2})
    assert "the view does not show the shards" in named(verify(encoding.directory), "encoding.h5")[0]
    path = encoding.directory / "manifest.json"
    publish_json(path, seal({**read_json(path), "view": record.to_json()}))
    result = verify(encoding.directory)
    assert len(named(result, "encoding.h5, dataset")) == len(encoding.columns)
    (encoding.directory / "encoding.h5").unlink()
    assert named(verify(encoding.directory), "encoding.h5") == ["the view of the encoding catalog is missing"]


def test_damage_in_a_dataset_is_located(run_dir: Path) -> None:
    """A flipped bit in the values names the dataset, not the file alone."""
    path = run_dir / "catalog" / "shard-00000.h5"
    data = path.read_bytes()
    values = open_catalog(run_dir / "catalog").read_shard(0, ["magnitude_error"])
    where = data.index(values["magnitude_error"].tobytes()) + 33
    path.write_bytes(data[:where] + bytes([data[where] ^ 4]) + data[where + 1 :])
    assert named(verify(run_dir / "catalog"), "shard-00000.h5, dataset magnitude_error")


def test_run_with_a_damaged_config(run_dir: Path) -> None:
    """A config that cannot be read is a finding, and the rest of the run is verified all the same."""
    (run_dir / "config.yaml").write_text("run_dir: [")
    result = verify(run_dir)
    assert len(result.findings) == 1 and named(result, "config.yaml") and result.num_shards == 6


def test_factory_covers_the_format(whole_run: Path) -> None:
    """The encoding of these tests has every column that the format knows, so that each is checked."""
    encoding = open_catalog(whole_run / "encoding")
    assert set(encoding.columns) == set(columns_of(encoding.format)) - {"num_bands"}  # that one in tests/test_masked.py
    stars = open_catalog(whole_run / "catalog").read_shard(0, ["objid", "quality", "caution", "magnitude"])
    np.testing.assert_array_equal(encode_rows(stars)["latent"], encoding["latent"][:100])


@pytest.mark.mpi
def test_verify_under_mpi(run_dir: Path, mpiexec: str, tmp_path: Path) -> None:
    """Three MPI ranks find what one process finds; the ranks that serve report nothing of their own."""
    flip_bit(run_dir / "encoding" / "shard-00001.h5", "mpi")
    script = "import os, sys, pathlib as p, hpc_ae.verify as v; found = v.verify(p.Path(sys.argv[1])).findings; "
    script += "p.Path(sys.argv[2], str(os.getpid())).write_text(str(len(found)))"  # mpiexec mixes what ranks print
    (tmp_path / "found").mkdir()
    command = [mpiexec, "-n", "3", sys.executable, "-c", script, str(run_dir), str(tmp_path / "found")]
    subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    numbers = [int(path.read_text()) for path in (tmp_path / "found").iterdir()]
    assert sorted(numbers) == [0, 0, len(verify(run_dir).findings)]
