"""Compressed catalogs: bounds for every star, all else bit for bit, damage found, the same bits anywhere."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import zstandard
from astropy.table import Table
from commands import REPOSITORY, in_process
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.testing import assert_array_equal
from runs import change_catalog, encode, finalise, make_catalog

from hpc_ae.analysis.compression import CoderSample, make_coder
from hpc_ae.analysis.compression_table import TableInput, compression_table
from hpc_ae.analysis.grids import Grid, LatentGrid
from hpc_ae.analysis.planes import column_of_streams, column_streams, from_planes, to_planes, unzigzag, zigzag
from hpc_ae.catalog.catalog import Catalog, open_catalog
from hpc_ae.catalog.shard import Arrays
from hpc_ae.compress import CompressSettings, compress, parse_max_error
from hpc_ae.config import RunConfig, check_config
from hpc_ae.decompress import decompress, open_compressed
from hpc_ae.errors import DamageError, HpcAeError, InputError, StaleError
from hpc_ae.export import ExportSettings, export
from hpc_ae.files import read_json, seal
from hpc_ae.formats.streams import PackedBlock, compressed, gzip_codec, pack_block, zstd_codec
from hpc_ae.model.architecture import Architecture
from hpc_ae.model.autoencoder import make_autoencoder
from hpc_ae.model.exact import ExactDecoder, exp, load_decoder
from hpc_ae.model.files import read_model, write_model
from hpc_ae.model.weights import Origin
from hpc_ae.runtime.ranks import Ranks
from hpc_ae.verify import verify

BANDS = ("u", "g", "r", "i", "z")
MIXED = (0.05, 0.01, 0.0, 0.02, 0.001)
EDGES = np.array(
    [0.0, 30.0, np.nextafter(np.float32(30), np.float32(0)), 1e-45, 0.005, 15.995, 15.005, 16.0], np.float32
)


def make_model(directory: Path) -> Path:
    """A model of untrained weights for the five bands."""
    model = make_autoencoder(Architecture(BANDS, (8, 8), 2), [19.8, 18.6, 18.1, 17.8, 17.6], [1.5] * 5, seed=3)
    write_model(directory, model.architecture, model.state_dict(), Origin())
    return directory


def add_edges(arrays: Arrays) -> None:
    """Magnitudes at the limits and between two steps, a NaN with a payload in a bad row, ids that are far apart."""
    good = np.flatnonzero(arrays["quality"] == 0)
    for band in range(5):
        arrays["magnitude"][good[: len(EDGES)], band] = np.roll(EDGES, band)
    bad = np.flatnonzero(arrays["quality"] != 0)
    arrays["magnitude"][bad[0]] = np.uint32(0x7FC12345).view(np.float32)
    arrays["quality"][bad[0]] = 2
    arrays["ra"][3], arrays["caution"][3] = np.nan, 8
    arrays["objid"][5], arrays["objid"][6] = np.iinfo(np.int64).min, np.iinfo(np.int64).max


def encode_here(folder: Path, stars: Path, model: Path) -> Path:
    """The encoding catalog of some stars."""
    config: RunConfig = check_config(
        {"run_dir": str(folder), "catalog": {"path": str(stars)}, "encode": {"model": str(model), "compute": "torch"}},
        "test",
    )
    encode(config, Ranks())
    finalise(config)
    return folder / "encoding"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """An encoding catalog of three shards with bad rows and edges, its stars, its model."""
    folder = tmp_path_factory.mktemp("compression")
    stars = change_catalog(make_catalog(folder / "simulated", 3_000, 1_200), folder / "stars", add_edges)
    model = make_model(folder / "model")
    return encode_here(folder / "run", stars, model), stars, model


@pytest.fixture(scope="module")
def packed(places: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, compressed with another maximum error in each band; not to be changed."""
    out = tmp_path_factory.mktemp("packed") / "stars.z"
    compress(places[0], out, CompressSettings(MIXED, latent_bits=3))
    return out


def assert_same(catalog: Catalog, stars: Catalog, max_error: tuple[float, ...] | None) -> None:
    """Every column bit for bit but magnitudes of good stars, and these within their error."""
    assert catalog.columns == stars.columns and len(catalog) == len(stars)
    for name in stars.columns:
        if name != "magnitude":
            assert catalog[name][:].tobytes() == stars[name][:].tobytes(), name
    good = stars["quality"][:] == 0
    found, magnitude = catalog["magnitude"][:], stars["magnitude"][:]
    assert found[~good].tobytes() == magnitude[~good].tobytes() and good.sum() < len(good)
    if max_error is not None:
        error = np.abs(found[good].astype(np.float64) - magnitude[good].astype(np.float64))
        assert (error <= np.array(max_error)).all()


@pytest.mark.parametrize(
    ("max_error", "bits"), [(MIXED, 3), ((0.01,) * 5, 0), ((0.0,) * 5, 4), ((1e-5,) * 5, 2), ((1.0,) * 5, 5), (None, 9)]
)
def test_round_trip(
    places: tuple[Path, Path, Path], tmp_path: Path, max_error: tuple[float, ...] | None, bits: int
) -> None:
    """Ids, positions, flags, bad rows come back bit for bit, good magnitudes within the error, whatever it is."""
    done = compress(places[0], tmp_path / "z", CompressSettings(max_error, bits))
    assert done is not None and done.latent_bits == bits
    assert_same(open_compressed(tmp_path / "z"), open_catalog(places[1]), max_error)
    if max_error == (0.0,) * 5:
        assert set(done.most.values()) == {0.0}


def test_star_catalog_comes_back(packed: Path, places: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """`--to catalog` gives a star catalog that is verified, says its errors, and is refused inside its own input."""
    assert decompress(packed, tmp_path / "stars") == 3_000
    assert verify(tmp_path / "stars").ok
    stars = open_catalog(tmp_path / "stars")
    assert_same(stars, open_catalog(places[1]), MIXED)
    assert stars.manifest.inputs.compressed.error.max["r"] == 0.0
    with pytest.raises(InputError, match="inside the catalog"):
        decompress(packed, packed / "stars")
    assert decompress(packed, tmp_path / "stars", overwrite=True) == 3_000
    with pytest.raises(InputError, match="not an earlier export"):  # a catalog that is nobody's copy
        decompress(packed, places[1], overwrite=True)


def all_bad(arrays: Arrays) -> None:
    """No star is good."""
    arrays["magnitude"][:] = np.nan
    arrays["quality"][:] = 2


def test_no_good_star(places: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """A catalog without a good star comes back bit for bit, and its file of many planes of nothing is verified."""
    stars = change_catalog(places[1], tmp_path / "stars", all_bad)
    encoding = encode_here(tmp_path / "run", stars, places[2])
    done = compress(encoding, tmp_path / "z", CompressSettings((0.01,) * 5, 3))
    assert done is not None and set(done.most.values()) == {0.0} and verify(tmp_path / "z").ok
    catalog = open_compressed(tmp_path / "z")
    assert catalog["magnitude"][:].tobytes() == open_catalog(stars)["magnitude"][:].tobytes()


def test_many_blocks(places: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of several blocks, the last one shorter: the same stars, and slices across blocks and shards."""
    monkeypatch.setattr("hpc_ae.formats.compressed_write.BLOCK_ROWS", 500)
    compress(places[0], tmp_path / "z", CompressSettings(MIXED, 2))
    catalog, stars = open_compressed(tmp_path / "z"), open_catalog(places[1])
    assert [block.num_stars for block in catalog.shards[0].blocks] == [500, 500, 200]
    assert_same(catalog, stars, MIXED)
    assert_array_equal(catalog["objid"][499:1_701], stars["objid"][499:1_701])
    assert verify(tmp_path / "z").ok
    path = tmp_path / "z" / "shard-00000.zst"
    data = bytearray(path.read_bytes())
    data[8 + catalog.shards[0].blocks[0].num_bytes + 100] ^= 1  # in the second block
    path.write_bytes(data)
    assert catalog["objid"][:500].shape == (500,)
    with pytest.raises(DamageError, match="block 1"):
        catalog["objid"][400:600]


def test_any_number_of_workers(packed: Path, places: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Two processes write the same bytes as one."""
    compress(places[0], tmp_path / "z", CompressSettings(MIXED, latent_bits=3), num_workers=2)
    serial, pool = ({path.name: path.read_bytes() for path in out.glob("shard-*")} for out in (packed, tmp_path / "z"))
    assert len(serial) == 3 and serial == pool


def test_reads_like_a_catalog(packed: Path, places: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Slices, rows and an export to FITS are those of the stars."""
    catalog, stars = open_compressed(packed), open_catalog(places[1])
    assert_array_equal(catalog["objid"][1_100:1_300], stars["objid"][1_100:1_300])
    assert_array_equal(catalog["ra"][[2_900, 7]], stars["ra"][[2_900, 7]])
    assert catalog["objid"][5:5].shape == (0,)
    export(packed, tmp_path / "stars.fits", ExportSettings("fits"))
    table = Table.read(tmp_path / "stars.fits")
    assert_array_equal(table["objid"], stars["objid"][:])
    assert_array_equal(table["magnitude_u"], catalog["magnitude"][:][:, 0])
    with pytest.raises(InputError, match="cannot be read directly"):
        open_catalog(packed)


def test_few_bits_are_chosen_and_columns_left_out(places: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Without --latent-bits those that make the file smallest are taken; errors of magnitudes can be left out."""
    columns = ("objid", "ra", "dec", "magnitude", "quality", "caution")
    done = compress(places[0], tmp_path / "z", CompressSettings((0.01,) * 5, None, columns))
    assert done is not None and set(done.column_bytes) == set(columns)
    for bits in (0, 2, 3, 4, 5):
        other = compress(places[0], tmp_path / f"z{bits}", CompressSettings((0.01,) * 5, bits, columns))
        assert other is not None and done.num_bytes <= 1.002 * other.num_bytes
        assert (bits == done.latent_bits) == (done.num_bytes == other.num_bytes)
    assert open_compressed(tmp_path / "z").columns == list(columns)
    with pytest.raises(InputError, match="columns of a star catalog"):
        compress(places[0], tmp_path / "y", CompressSettings((0.01,) * 5, None, columns[1:]))


def test_wrong_inputs(packed: Path, places: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """A star catalog, another model, an output that is there, and errors that are none are refused; nothing is left."""
    encoding, stars, _ = places
    wanted = CompressSettings((0.01,) * 5, 3)
    with pytest.raises(InputError, match="only an encoding"):
        compress(stars, tmp_path / "z", wanted)
    other = make_autoencoder(Architecture(BANDS, (8, 8), 2), [18.0] * 5, [1.0] * 5, seed=4)
    write_model(tmp_path / "other", other.architecture, other.state_dict(), Origin())
    with pytest.raises(StaleError, match="not the model that encoded"):
        compress(encoding, tmp_path / "z", wanted, model=tmp_path / "other")
    with pytest.raises(InputError, match="already exists"):
        compress(encoding, packed, wanted)
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="not an earlier export"):
        compress(encoding, tmp_path / "mine", CompressSettings((0.01,) * 5, 3, overwrite=True))
    for text in ("0.01,0.02", "u=0.1", "-1", "2", "nan", "1e-7", "u=a,g=1,r=1,i=1,z=1", "u=1,u=1,g=1,r=1,i=1,z=1", ""):
        with pytest.raises(InputError):
            parse_max_error(text, BANDS)
    assert parse_max_error("u=0.05,g=0.01,r=0,i=0.02,z=0.001", BANDS) == MIXED
    assert parse_max_error("none", BANDS) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "other"]


def test_examples_of_the_page(
    places: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands and the Python code of docs/export.md compress, verify and restore, and say the errors."""
    page = (REPOSITORY / "docs" / "export.md").read_text().partition("## Compressed")[2]
    commands = re.findall(r"^hpc-ae (.*?)(?:#.*)?$", page, re.MULTILINE)
    assert len(commands) == 5
    monkeypatch.chdir(tmp_path)
    for words in commands:
        one = shlex.split(words.replace("runs/quickstart/encoding", str(places[0])))
        status, said = in_process(capsys, *one, "--workers", "1")
        assert status == 0, said
        assert "compressed" not in one or ("latents of" in said and "star by star" in said)
    assert verify(tmp_path / "stars").ok and len(Table.read("stars.fits")) == 3_000
    assert_same(open_compressed("stars.z"), open_catalog(places[1]), (0.05, 0.01, 0.01, 0.01, 0.02))
    for code in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        exec(code, {})


@pytest.mark.parametrize(
    "words", ["--to compressed --good", "--to fits --max-error 0.1", "--to catalog", "--to compressed --max-error 2"]
)
def test_wrong_options(
    places: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    """Options of other formats, errors that cannot be kept and a catalog that is not compressed end with status 2."""
    status, _ = in_process(capsys, "export", places[0], tmp_path / "y", *words.split())
    assert status == 2 and not (tmp_path / "y").exists()


def changed(packed: Path, target: Path) -> Path:
    """A copy to be damaged."""
    shutil.copytree(packed, target)
    return target


def reseal(directory: Path, change: dict[str, object]) -> None:
    """Change fields of the manifest and seal it again, as a forger would."""
    manifest = read_json(directory / "manifest.json")
    (directory / "manifest.json").write_text(json.dumps(seal({**manifest, **change})))


def read_all(directory: Path) -> None:
    """Read every column of every star."""
    catalog = open_compressed(directory)
    for index in range(len(catalog.shards)):
        catalog.read_shard(index, catalog.columns)


def test_sound_is_verified(packed: Path) -> None:
    """A compressed catalog that was not touched has no findings."""
    result = verify(packed)
    assert (result.ok, result.what, result.num_stars) == (True, "compressed catalog", 3_000)


@pytest.mark.parametrize("name", ["shard-00001.zst", "manifest.json", "model/model.safetensors", "model/model.json"])
def test_bit_flips(packed: Path, tmp_path: Path, name: str) -> None:
    """A flipped bit is an error where it is read, and a finding that names the file."""
    directory = changed(packed, tmp_path / "z")
    data = bytearray((directory / name).read_bytes())
    for seed in range(4):
        place = int(np.random.default_rng(seed).integers(len(data)))
        flipped = data.copy()
        flipped[place] ^= 1 << (seed % 8)
        (directory / name).write_bytes(flipped)
        result = verify(directory)
        assert any(name in finding.where for finding in result.findings), (place, result.findings)
    if name != "manifest.json":  # white space in the manifest says nothing else
        with pytest.raises(DamageError):
            read_all(directory)


def test_truncated_and_missing(packed: Path, tmp_path: Path) -> None:
    """A file that is cut off, one that is missing, and one too many are named."""
    directory = changed(packed, tmp_path / "z")
    os.truncate(directory / "shard-00000.zst", 1_000)
    (directory / "shard-00002.zst").unlink()
    (directory / ".shard-00001.zst.tmp-host-1").write_bytes(b"half")
    whats = {Path(found.where.split(",")[0]).name: found.what for found in verify(directory).findings}
    assert set(whats) == {"shard-00000.zst", "shard-00002.zst", ".shard-00001.zst.tmp-host-1"}
    with pytest.raises(DamageError, match="wrong size"):
        read_all(directory)


@pytest.mark.parametrize(
    "change",
    [
        {"latent_bits": 40},
        {"latent_bits": 5},
        {"latent_low": [float(10**300), 0.0]},
        {"latent_low": [0.0], "latent_high": [1.0]},
        {"max_error": [0.5] * 5},
        {"max_error": [0.01] * 4},
        {"max_error": None},
        {"predictor": {"order": [0, 1, 2, 3, 4], "table": [[]], "spread": []}},
        {"num_stars": 10**12},
        {"bands": ["u", "g"]},
        {"columns": ["objid", "../../x"]},
        {"shards": [{"file": "../shard-00000.zst", "num_stars": 1, "num_good": 1, "num_bytes": 9, "blocks": []}]},
        {"version": 2},
        {"inputs": {}},
        {"error": {}},
    ],
)
def test_forged_manifest(packed: Path, tmp_path: Path, change: dict[str, object]) -> None:
    """A sealed manifest that says something else than the blocks ends with one clear error, in verify with findings."""
    directory = changed(packed, tmp_path / "z")
    reseal(directory, change)
    assert not verify(directory).ok
    with pytest.raises(HpcAeError):
        read_all(directory)


def test_lying_sizes() -> None:
    """Frames that claim gigabytes, or directories that do, are refused before memory is taken."""
    block, _ = pack_block({"a": np.zeros((1, 100), np.uint8)}, {})
    assert_array_equal(PackedBlock(block, 100)["a"][0], np.zeros(100, np.uint8))
    with pytest.raises(DamageError, match="does not match its directory"):
        PackedBlock(block, 99)
    bomb = compressed(bytes(1 << 26))
    head = compressed(json.dumps({"a": [100, [len(bomb)]]}).encode())
    lying = len(head).to_bytes(4, "little") + head + bomb
    with pytest.raises(DamageError, match="size of a frame"):
        PackedBlock(lying, 100)["a"]
    endless = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 26))
    with pytest.raises(DamageError):
        PackedBlock(len(endless).to_bytes(4, "little") + endless, 100)
    for cut in (0, 3, 5, len(block) - 1):
        with pytest.raises(DamageError):
            PackedBlock(block[:cut], 100)


def block_of(head: bytes, rest: bytes = b"") -> bytes:
    """A block whose directory is such bytes, in a frame as it should be."""
    frame = compressed(head, 1)
    return len(frame).to_bytes(4, "little") + frame + rest


SOUND, _ = pack_block({"a": np.zeros((1, 100), np.uint8), "b": np.arange(60, dtype=np.uint8).reshape(2, 30)}, {})
FRAMES = [compressed(bytes(100), 1), compressed(bytes(101), 1), b"no frame at all", b""]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 1 << 70) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


@st.composite
def claims(draw: st.DrawFn) -> bytes:
    """A block of some frames whose directory is of the right form, and tells of their content what may not be true."""
    frames = draw(st.lists(st.sampled_from(FRAMES), max_size=3))
    size = draw(st.sampled_from([100, 100, 101, True, -1]))
    return block_of(json.dumps({"a": [size, [len(frame) for frame in frames]]}).encode(), b"".join(frames))


@st.composite
def flipped_blocks(draw: st.DrawFn) -> bytes:
    """A sound block of which one byte is another."""
    data = bytearray(SOUND)
    data[draw(st.integers(0, len(data) - 1))] ^= draw(st.integers(1, 255))
    return bytes(data)


BLOCKS = {
    "bytes": st.binary(max_size=200),
    "directory": st.binary(max_size=60).map(block_of),
    "json": json_values.map(lambda value: block_of(json.dumps(value).encode())),
    "streams": json_values.map(lambda value: block_of(json.dumps({"a": value}).encode())),
    "claims": claims(),
    "flipped": flipped_blocks(),
}


@pytest.mark.parametrize(
    ("kind", "reached"),
    [
        ("bytes", {"a block is cut off", "a block has no directory"}),
        ("directory", {"a block has no directory"}),
        ("json", {"a block has no directory", "the directory of a block is wrong", "sound"}),
        ("streams", {"the directory of a block is wrong"}),
        ("claims", {"the size of a frame does not match its directory", "a frame cannot be decompressed", "sound"}),
        ("flipped", {"a block has no directory", "a frame cannot be decompressed", "sound"}),
    ],
)
def test_any_bytes_are_a_block_or_damage(kind: str, reached: set[str]) -> None:
    """Bytes of any kind, at any depth of a block, are a block or a DamageError; each of these is met on the way."""
    met = set()

    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(BLOCKS[kind])
    def read(data: bytes) -> None:
        try:
            block = PackedBlock(data, 1_000)
            for name in block:
                assert all(plane.dtype == np.uint8 for plane in block[name])
            met.add("sound")
        except DamageError as error:
            met.add(error.what)

    read()
    assert reached <= met


magnitudes = st.floats(0, 30, width=32)


@st.composite
def near_edges(draw: st.DrawFn, max_error: float) -> np.ndarray:
    """Magnitudes (N, 2) at half steps of the grid and their neighbours in float32, and anywhere."""
    step = Grid((max_error,)).steps()[0] or 1.0
    half = draw(st.lists(st.integers(0, int(30 / step) * 2), min_size=1, max_size=20))
    middle = np.float32(np.minimum(np.array(half) * step / 2, 30.0))
    around = np.concatenate([middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(30)), EDGES])
    more = draw(npst.arrays(np.float32, len(around), elements=magnitudes))
    return np.stack([around, more], axis=1)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.sampled_from([0.0, 1e-5, 0.001, 0.01, 0.1, 1.0]) | st.floats(1e-5, 1.0), st.integers(0, 5))
def test_bound_holds(data: st.DataObject, max_error: float, bits: int) -> None:
    """|decoded - magnitude| <= max error at rounding edges, whatever the model predicts, NaN latents included."""
    magnitude = data.draw(near_edges(max_error))
    num = len(magnitude)
    predicted = data.draw(npst.arrays(np.float64, (num, 2), elements=st.floats(-1e6, 1e6) | st.floats()))
    latent = data.draw(npst.arrays(np.float32, (num, 2), elements=st.floats(width=32)))
    finite = latent[np.isfinite(latent).all(axis=1)]
    grid = LatentGrid.of(finite, bits)
    integers = grid.to_integers(latent)
    coder = make_coder((max_error, max_error), grid, CoderSample(magnitude, integers, predicted))
    streams = {name: list(planes) for name, planes in coder.encode(magnitude, integers, predicted).items()}
    assert_array_equal(coder.decode_latents(streams, num), integers)
    decoded = coder.decode(streams, integers, predicted)
    assert decoded.dtype == np.float32 and (decoded >= 0).all() and (decoded <= 30).all()
    assert np.abs(decoded.astype(np.float64) - magnitude.astype(np.float64)).max() <= max_error
    if max_error == 0:
        assert decoded.tobytes() == magnitude.tobytes()


@settings(max_examples=60, deadline=None)
@given(npst.arrays(st.sampled_from(["<i8", "<u2", "<f8", "<f4"]), st.integers(0, 40)), st.booleans())
@example(np.array([np.iinfo(np.int64).min, np.iinfo(np.int64).max, 0]), True)
def test_columns_without_loss(values: np.ndarray, delta: bool) -> None:
    """Planes of any column give its bits back, with and without differences: NaN payloads, -0 and extremes too."""
    streams = {name: list(planes) for name, planes in column_streams("x", values, delta=delta).items()}
    found = column_of_streams(streams, "x", values.dtype.str, values.shape)
    assert found.dtype == values.dtype and found.tobytes() == values.tobytes()


@settings(max_examples=60, deadline=None)
@given(npst.arrays(np.int64, st.integers(0, 40)))
def test_planes(values: np.ndarray) -> None:
    """Zigzag and planes are undone exactly, and small numbers take few planes."""
    planes = to_planes(zigzag(values))
    assert_array_equal(unzigzag(from_planes(list(planes), len(values))), values)
    assert len(planes) <= 1 or values.max() > 127 or values.min() < -127  # the smallest int64 has no absolute value


def test_decoder_is_exact(places: tuple[Path, Path, Path]) -> None:
    """The decoder is PyTorch's in double precision, and gives a star the same bits in any company."""
    import torch

    model, record = read_model(places[2])
    decode = load_decoder(places[2], record.digest)
    latent = np.random.default_rng(1).normal(size=(3_000, 2)) * 3
    with torch.inference_mode():
        double = model.double()
        expected = double.decoder(torch.from_numpy(latent)) * double.scaling.std + double.scaling.mean
    found = decode(latent)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-11)
    assert found[7:8].tobytes() == decode(latent[7:8]).tobytes()
    assert found[::-3].tobytes() == decode(latent[::-3]).tobytes()
    values = np.random.default_rng(2).uniform(-700, 700, 10_000)
    np.testing.assert_allclose(exp(values), np.exp(values), rtol=1e-15)


def test_decoder_has_these_bits() -> None:
    """A fixed small decoder gives these very bits: on every machine that runs this test."""
    generator = np.random.Generator(np.random.PCG64(0))
    tensors = {
        "decoder.0.weight": generator.random((6, 2)) - 0.5,
        "decoder.0.bias": generator.random(6),
        "decoder.2.weight": generator.random(6),
        "decoder.2.bias": generator.random(6),
        "decoder.3.weight": generator.random((3, 6)) - 0.5,
        "decoder.3.bias": generator.random(3),
        "scaling.mean": np.array([19.0, 18.0, 17.0]),
        "scaling.std": np.array([1.5, 1.25, 1.0]),
    }
    found = ExactDecoder(tensors)(generator.random((2, 2)) * 8 - 4)
    assert [value.hex() for value in found.reshape(-1)] == EXPECTED_BITS


EXPECTED_BITS = [
    *("0x1.311978f1bb6f2p+4", "0x1.396eb3575a771p+4", "0x1.19332b210e16fp+4"),
    *("0x1.2c38af14a8da3p+4", "0x1.3fafd31615f35p+4", "0x1.1cf4d05212500p+4"),
]


_DECODE = """
import hashlib, sys
import numpy as np
from safetensors.numpy import load_file
from hpc_ae.model.exact import ExactDecoder

latent = np.random.Generator(np.random.PCG64(1)).random((2000, 2)) * 6 - 3
print(hashlib.sha256(ExactDecoder(load_file(sys.argv[1]))(latent).tobytes()).hexdigest())
"""


def test_decoder_with_other_instructions(places: tuple[Path, Path, Path]) -> None:
    """numpy decodes the same bits without the vector instructions of this machine, as on another one."""
    room = "numpy._core" if np.__version__ >= "2" else "numpy.core"
    core = importlib.import_module(f"{room}._multiarray_umath")
    present = " ".join(name for name in core.__cpu_dispatch__ if core.__cpu_features__.get(name))
    if not present:
        pytest.skip("numpy has no instructions here that could be switched off")
    digests = set()
    for disabled in ("", present):
        variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), "NPY_DISABLE_CPU_FEATURES": disabled}
        weights = str(places[2] / "model.safetensors")
        done = subprocess.run([sys.executable, "-c", _DECODE, weights], env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1


def test_table(places: tuple[Path, Path, Path]) -> None:
    """The table has every method, its errors hold, and the model counts less the more stars there are."""
    joined = open_catalog(places[0]).join()
    arrays = joined.read(["magnitude", "latent", "quality"])
    good = arrays["quality"] == 0
    decode = load_decoder(places[2], read_json(places[2] / "model.json")["digest"])
    given = TableInput(arrays["magnitude"][good], arrays["latent"][good], decode, BANDS, 5_000)
    rows = compression_table(given, [zstd_codec(), gzip_codec()], (0.01, 0.05), (3,), (8,))
    assert len(rows) == 2 * 6 + 1 and json.dumps([asdict(row) for row in rows])
    for row in rows:
        few, many = row.bits_with_model.values()
        assert few >= many >= row.bits_per_star > 0
        assert all(row.rms_mag[band] <= row.max_mag[band] for band in BANDS)
        if row.max_error is not None:
            assert max(row.max_mag.values()) <= row.max_error
    assert rows[0].bits_per_star > rows[4].bits_per_star
