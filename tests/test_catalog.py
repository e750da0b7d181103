"""Catalogs on disk: what is written is read back, and no hostile file is believed or followed."""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from catalog_factory import BANDS, make_encoding, make_model, make_stars, star_manifest
from numpy.testing import assert_array_equal

from hpc_ae import open_catalog
from hpc_ae.catalog.catalog import Catalog
from hpc_ae.catalog.manifest import write_manifest
from hpc_ae.catalog.records import BandSums
from hpc_ae.catalog.schema import STAR_FORMAT, columns_of
from hpc_ae.catalog.shard import CHUNK_ROWS, Arrays, band_sums, read_notes, read_shard, shard_image, write_shard
from hpc_ae.catalog.view import view_sources
from hpc_ae.errors import DamageError, HpcAeError, InputError
from hpc_ae.files import publish_json, read_json, seal
from hpc_ae.verify import verify

NUM_STARS, SHARD_ROWS = 230, 50


def _star_arrays(num_stars: int) -> Arrays:
    """Arrays of every star column, with ids beyond 2^53 and numbers that use all bits."""
    generator = np.random.default_rng(2)
    return {
        "objid": np.arange(num_stars, dtype=np.int64) * 3 + (1 << 60) + 1,
        "ra": generator.uniform(0, 360, num_stars),
        "dec": generator.uniform(-90, 90, num_stars),
        "magnitude": generator.uniform(14, 22, (num_stars, 5)).astype(np.float32),
        "magnitude_error": generator.uniform(0.01, 0.1, (num_stars, 5)).astype(np.float32),
        "redshift": generator.normal(size=num_stars).astype(np.float32),
        "quality": (np.arange(num_stars) % 7 == 0).astype(np.uint16),
        "caution": (np.arange(num_stars) % 11 == 0).astype(np.uint16) * 2,
    }


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    """The stars of the catalog, as written."""
    return _star_arrays(NUM_STARS)


@pytest.fixture(scope="module")
def catalog(arrays: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """A star catalog of five shards, the last one shorter."""
    directory = tmp_path_factory.mktemp("stars")
    shards = []
    for index, start in enumerate(range(0, NUM_STARS, SHARD_ROWS)):
        rows = {name: values[start : start + SHARD_ROWS] for name, values in arrays.items()}
        shards.append(write_shard(directory / f"shard-{index:05d}.h5", STAR_FORMAT, rows, BANDS, {}))
    write_manifest(directory, star_manifest(shards, BANDS, arrays))
    return open_catalog(directory)


def test_round_trip_of_every_column(catalog: Catalog, arrays: Arrays) -> None:
    """Every column of the format is read back bit for bit, with its type."""
    of_gaps = {"band_state", "magnitude_limit"}  # tests/test_surveys.py, tests/test_masked.py
    assert set(catalog.columns) == set(columns_of(STAR_FORMAT)) - of_gaps
    for name, values in arrays.items():
        assert_array_equal(catalog[name][:], values, strict=True)
        assert_array_equal(np.asarray(catalog[name]), values, strict=True)
    assert len(catalog) == catalog.num_stars == NUM_STARS == len(catalog["objid"])


def test_shards_are_the_catalog_in_order(catalog: Catalog, arrays: Arrays) -> None:
    """Reading shard by shard gives all stars once, in order."""
    parts = list(catalog.iter_shards(["objid", "magnitude"]))
    assert [len(part["objid"]) for part in parts] == [50, 50, 50, 50, 30]
    assert_array_equal(np.concatenate([part["magnitude"] for part in parts]), arrays["magnitude"])


@pytest.mark.parametrize("num_stars", [1, CHUNK_ROWS, CHUNK_ROWS + 1])
def test_shards_of_any_length(tmp_path: Path, num_stars: int) -> None:
    """Shards of one row and last chunks of one row are read back; the same arrays are the same bytes."""
    arrays = _star_arrays(num_stars)
    write_shard(tmp_path / "shard-00000.h5", STAR_FORMAT, arrays, BANDS, {})
    found = read_shard(tmp_path / "shard-00000.h5", STAR_FORMAT, arrays)
    assert found.keys() == arrays.keys()
    for name, values in found.items():
        assert_array_equal(values, arrays[name], strict=True)
    again = shard_image(STAR_FORMAT, arrays, tuple(BANDS), {})
    assert bytes(again) == (tmp_path / "shard-00000.h5").read_bytes()


def test_band_sums_are_exact_enough() -> None:
    """Sums and squares over more than one block of rows agree with exact summation, extremes are exact."""
    magnitude, good = _star_arrays(20_001)["magnitude"], np.arange(20_001) % 7 != 0
    found = band_sums(magnitude, good)
    for band, column in enumerate(magnitude[good].T.astype(np.float64)):
        assert math.isclose(found.sum[band], math.fsum(column - 20), rel_tol=1e-11)
        assert math.isclose(found.square[band], math.fsum((column - 20) ** 2), rel_tol=1e-12)
        assert (found.min[band], found.max[band]) == (column.min(), column.max())
    assert band_sums(magnitude[:5], np.zeros(5, bool)) == BandSums((0,) * 5, (), (), (), ())


SLICES = [
    slice(None), slice(0, 0), slice(10, 20), slice(49, 51), slice(0, 50), slice(50, 100), slice(40, 190),
    slice(-7, None), slice(None, -225), slice(300, 400), slice(20, 10), slice(None, None, 7), slice(3, 228, 50),
    slice(None, None, -1), slice(200, 20, -13), slice(None, None, -49), slice(5, None, -1), slice(-1, -300, -3),
    slice(10, 20, -1), slice(229, 231), slice(0, 1000, 229), slice(0, 1000, 500),
]  # fmt: skip


@pytest.mark.parametrize("rows", SLICES, ids=str)
@pytest.mark.parametrize("name", ["objid", "magnitude"])
def test_slices_are_numpys(catalog: Catalog, arrays: Arrays, name: str, rows: slice) -> None:
    """Any slice over shards gives what numpy gives of the whole column, shape and type included."""
    assert_array_equal(catalog[name][rows], arrays[name][rows], strict=True)


@pytest.mark.parametrize("row", [0, 49, 50, 229, -1, -230])
def test_single_rows_are_numpys(catalog: Catalog, arrays: Arrays, row: int) -> None:
    """One row by its number, from either end."""
    assert catalog["objid"][row] == arrays["objid"][row]
    assert_array_equal(catalog["magnitude"][row], arrays["magnitude"][row])


@pytest.mark.parametrize("row", [230, -231])
def test_rows_outside_are_refused(catalog: Catalog, row: int) -> None:
    """A row that is not there is an IndexError, as for a list."""
    with pytest.raises(IndexError):
        catalog["objid"][row]


def test_ids_beyond_double_precision(catalog: Catalog, arrays: Arrays) -> None:
    """Ids above 2^53 keep their last digit, which a double would lose."""
    ids = catalog["objid"][:]
    assert ids.dtype == np.int64 and ids[1] - ids[0] == 3
    assert int(ids[0]) == 2**60 + 1 != int(float(ids[0]))


def test_table_has_units(catalog: Catalog, arrays: Arrays) -> None:
    """An astropy Table has the columns asked for, with units where the format has them."""
    table = catalog.to_table(["objid", "ra", "magnitude"], slice(45, 55))
    assert table.colnames == ["objid", "ra", "magnitude"] and len(table) == 10
    assert (str(table["ra"].unit), str(table["magnitude"].unit), table["objid"].unit) == ("deg", "mag", None)
    assert_array_equal(np.asarray(table["magnitude"]), arrays["magnitude"][45:55])
    assert set(catalog.to_table().colnames) == set(arrays)


def test_unknown_column_names_the_known(catalog: Catalog) -> None:
    """A column that is not there is wrong input; the message lists those that are."""
    with pytest.raises(InputError, match="one of objid, ra, dec, magnitude"):
        catalog["magnitudes"]
    with pytest.raises(InputError, match="no such column"):
        catalog.to_table(["objid", "latent"])


def test_same_arrays_same_bytes(catalog: Catalog, arrays: Arrays, tmp_path: Path) -> None:
    """A shard written twice from the same arrays has the same bytes."""
    rows = {name: values[:SHARD_ROWS] for name, values in arrays.items()}
    record = write_shard(tmp_path / "shard-00000.h5", STAR_FORMAT, rows, BANDS, {})
    assert record.digest == catalog.shards[0].digest


def test_view_reads_all_and_fills_what_is_missing(tmp_path: Path) -> None:
    """encoding.h5 shows all rows; a shard that is gone reads as NaN, -1 and 65535, which no star has."""
    make_encoding(tmp_path / "encoding", make_stars(tmp_path / "stars"), make_model(tmp_path / "model"))
    encoding = open_catalog(tmp_path / "encoding")
    whole = {name: encoding[name][:] for name in encoding.columns}
    with h5py.File(tmp_path / "encoding" / "encoding.h5") as view:
        for name, values in whole.items():
            assert_array_equal(view[name][:], values, strict=True)
    (tmp_path / "encoding" / "shard-00001.h5").unlink()
    with h5py.File(tmp_path / "encoding" / "encoding.h5") as view:
        for name, values in whole.items():
            fill = columns_of(encoding.format)[name].fill
            assert_array_equal(view[name][100:200], np.full_like(values[100:200], fill))
            assert_array_equal(view[name][200:], values[200:])
    with pytest.raises(DamageError, match=r"missing[\s\S]*shard-00001.h5"):
        encoding["latent"][:]


# --- what is no catalog -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [None, "directory", "file"])
def test_opening_what_is_no_catalog(tmp_path: Path, make: str | None) -> None:
    """No directory, an empty one, or a file: wrong input, status 2, with the way out."""
    path = tmp_path / "catalog"
    if make == "directory":
        path.mkdir()
    elif make == "file":
        path.write_text("stars")
    with pytest.raises(InputError, match="not a catalog") as caught:
        open_catalog(path)
    assert caught.value.exit_status == 2 and "hpc-ae simulate" in str(caught.value)


def _reseal(directory: Path, changes: dict[str, object], drop: str = "") -> None:
    manifest = {**read_json(directory / "manifest.json"), **changes}
    manifest.pop(drop, None)
    publish_json(directory / "manifest.json", seal(manifest))


@pytest.fixture
def copied(catalog: Catalog, tmp_path: Path) -> Path:
    """A copy of the star catalog, to damage."""
    return Path(shutil.copytree(catalog.directory, tmp_path / "copied"))


@pytest.mark.parametrize("key", ["shards", "num_stars", "num_good", "catalog_digest", "bands", "columns", "format"])
def test_manifest_lacks_a_field(copied: Path, key: str) -> None:
    """A manifest without a field is damage, whichever field it is."""
    _reseal(copied, {}, drop=key)
    with pytest.raises(DamageError, match=r"manifest\.json"):
        open_catalog(copied)


@pytest.mark.parametrize(
    "shard",
    [
        {"file": "../stars/shard-00000.h5"},
        {"file": "/etc/passwd"},
        {"file": "shard-00000.h5/../../x.h5"},
        {"file": "shard-00000.h5\n"},
        {"num_stars": -50},
        {"num_stars": 10**12},
        {"num_stars": "50"},
        {"num_good": 1.5},
        {"file": "shard-00001.h5"},
    ],
    ids=str,
)
def test_hostile_manifest(copied: Path, shard: dict[str, object]) -> None:
    """A manifest that names foreign files, one file twice, or impossible numbers of stars is refused."""
    manifest = read_json(copied / "manifest.json")
    manifest["shards"][0].update(shard)
    num_stars = sum(int(record["num_stars"]) for record in manifest["shards"])
    _reseal(copied, {"shards": manifest["shards"], "num_stars": num_stars})
    with pytest.raises(DamageError):
        open_catalog(copied)


def test_shard_with_other_rows_than_the_manifest(copied: Path) -> None:
    """A shard with another number of stars is damage, not a shorter answer."""
    shutil.copy(copied / "shard-00004.h5", copied / "shard-00001.h5")
    with pytest.raises(DamageError, match=r"got: +30"):
        open_catalog(copied)["objid"][:]


def test_flipped_value_is_not_read(copied: Path, arrays: Arrays) -> None:
    """A flipped bit in the values is an error that names file and dataset, not a wrong number."""
    path = copied / "shard-00000.h5"
    data = path.read_bytes()
    where = data.index(arrays["magnitude"][:SHARD_ROWS].tobytes()) + 5
    path.write_bytes(data[:where] + bytes([data[where] ^ 16]) + data[where + 1 :])
    with pytest.raises(DamageError, match=r"shard-00000\.h5, dataset magnitude"):
        open_catalog(copied)["magnitude"][:10]


def test_notes_of_a_shard(tmp_path: Path) -> None:
    """What a shard's file says of its making is read back as text, empty and beyond ASCII too."""
    notes = {"seed": "1", "empty": "", "name": "Sagittarius é", "long": "x" * 5000}
    path = tmp_path / "shard-00000.h5"
    write_shard(path, STAR_FORMAT, _star_arrays(3), BANDS, notes)
    assert read_notes(path, STAR_FORMAT) == {"format": STAR_FORMAT, **notes}


# --- hostile shards -----------------------------------------------------------------------------------------------


class OpenWatch:
    """Says whether anything opened some files, in C libraries too: inotify with IN_OPEN."""

    def __init__(self, *paths: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK)
        in_open = 0x20
        assert self._descriptor >= 0
        numbers = [libc.inotify_add_watch(self._descriptor, os.fsencode(path), in_open) for path in paths]
        assert all(number >= 0 for number in numbers)
        self._places = {number: place for place, number in enumerate(numbers)}

    def places(self) -> list[int]:
        """Which of the files were opened since the last question, by their place among the paths."""
        event, found = struct.Struct("iIII"), set()
        try:
            while data := os.read(self._descriptor, 1 << 16):
                found |= {
                    self._places[number] for number, *_ in event.iter_unpack(data)
                }  # a file's events have no name
        except BlockingIOError:
            pass
        return sorted(found)

    def opened(self) -> bool:
        """Whether one was opened since the last question."""
        return bool(self.places())

    def close(self) -> None:
        """Stop watching."""
        os.close(self._descriptor)


Attack = Callable[[Path, Path], None]


def _replace(shard: Path, make: Callable[[h5py.File], object]) -> None:
    with h5py.File(shard, "r+") as file:
        del file["magnitude"]
        make(file)


def external_storage(shard: Path, foreign: Path) -> None:
    """A dataset whose bytes are those of another file."""
    size = SHARD_ROWS * 5 * 4
    _replace(
        shard, lambda file: file.create_dataset("magnitude", (SHARD_ROWS, 5), "<f4", external=[(str(foreign), 0, size)])
    )


def external_link(shard: Path, foreign: Path) -> None:
    """A link into another file."""
    _replace(shard, lambda file: file.__setitem__("magnitude", h5py.ExternalLink(str(foreign), "/magnitude")))


def soft_link_to_external(shard: Path, foreign: Path) -> None:
    """A soft link over an external link."""

    def make(file: h5py.File) -> None:
        file["out"] = h5py.ExternalLink(str(foreign), "/")
        file["magnitude"] = h5py.SoftLink("/out/magnitude")

    _replace(shard, make)


def virtual_dataset(shard: Path, foreign: Path) -> None:
    """A virtual dataset over another file."""
    layout = h5py.VirtualLayout((SHARD_ROWS, 5), "<f4")
    layout[:] = h5py.VirtualSource(str(foreign), "magnitude", (SHARD_ROWS, 5))
    _replace(shard, lambda file: file.create_virtual_dataset("magnitude", layout))


def unlimited_virtual_dataset(shard: Path, foreign: Path) -> None:
    """A virtual dataset without a fixed length, which opens its source as soon as its shape is asked for."""

    def make(file: h5py.File) -> None:
        space = h5py.h5s.create_simple((SHARD_ROWS, 5), (h5py.h5s.UNLIMITED, 5))
        space.select_hyperslab((0, 0), (h5py.h5s.UNLIMITED, 1), block=(1, 5))
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_virtual(space, os.fsencode(foreign), b"magnitude", space)
        h5py.h5d.create(file.id, b"magnitude", h5py.h5t.IEEE_F32LE, space, creation)

    _replace(shard, make)


def symlinked_shard(shard: Path, foreign: Path) -> None:
    """A shard that is a symbolic link."""
    shard.unlink()
    shard.symlink_to(foreign)


REACHING = [
    external_storage, external_link, soft_link_to_external, virtual_dataset, unlimited_virtual_dataset, symlinked_shard,
]  # fmt: skip


def soft_link(shard: Path, foreign: Path) -> None:
    """A soft link inside the file."""
    _replace(shard, lambda file: file.__setitem__("magnitude", h5py.SoftLink("/magnitude_error")))


def soft_link_loop(shard: Path, foreign: Path) -> None:
    """A soft link to itself."""
    _replace(shard, lambda file: file.__setitem__("magnitude", h5py.SoftLink("/magnitude")))


def group_loop(shard: Path, foreign: Path) -> None:
    """A group that contains itself."""
    _replace(shard, lambda file: file.__setitem__("magnitude", file["/"]))


def unknown_dataset(shard: Path, foreign: Path) -> None:
    """A dataset that the format does not know."""
    with h5py.File(shard, "r+") as file:
        file["payload"] = np.zeros(SHARD_ROWS)


def huge_length(shard: Path, foreign: Path) -> None:
    """A dataset that declares 10^12 rows and stores none."""
    _replace(shard, lambda file: file.create_dataset("magnitude", (10**12, 5), "<f4", chunks=(1024, 5)))


def huge_width(shard: Path, foreign: Path) -> None:
    """A compressed dataset that declares 10^9 columns and stores none."""
    _replace(
        shard,
        lambda file: file.create_dataset(
            "magnitude", (SHARD_ROWS, 10**9), "<f4", chunks=(1, 10**6), compression="gzip"
        ),
    )


def huge_chunk(shard: Path, foreign: Path) -> None:
    """A compressed dataset of one small row in a chunk that declares 4 GB, of which nothing is stored."""
    _replace(
        shard,
        lambda file: file.create_dataset(
            "magnitude", (SHARD_ROWS, 5), "<f4", maxshape=(None, 5), chunks=(2 * 10**8, 5), compression="gzip"
        ),
    )


def vast_chunk(shard: Path, foreign: Path) -> None:
    """A chunk of far more elements than the dataset has: 3 GB are unpacked for 50 rows."""

    def make(file: h5py.File) -> None:
        shape, most = (SHARD_ROWS, 5), (None, None)
        dataset = file.create_dataset("magnitude", shape, "<f4", maxshape=most, chunks=(1_000_000, 800), compression=9)
        dataset.id.write_direct_chunk((0, 0), zlib.compress(bytes(1 << 24)) * 200)

    _replace(shard, make)


def unknown_filter(shard: Path, foreign: Path) -> None:
    """A dataset through a filter that the format does not use."""
    _replace(shard, lambda file: file.create_dataset("magnitude", data=np.ones((SHARD_ROWS, 5), "<i4"), scaleoffset=3))


def many_bands(shard: Path, foreign: Path) -> None:
    """A hundred bands where the manifest has five."""
    _replace(shard, lambda file: file.create_dataset("magnitude", data=np.ones((SHARD_ROWS, 100), np.float32)))


def plugin_filter(shard: Path, foreign: Path) -> None:
    """A dataset that asks for a filter plug-in."""

    def make(file: h5py.File) -> None:
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk((SHARD_ROWS, 5))
        creation.set_filter(32_099, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((SHARD_ROWS, 5))
        h5py.Dataset(h5py.h5d.create(file.id, b"magnitude", h5py.h5t.IEEE_F32LE, space, creation))[:] = 1.0

    _replace(shard, make)


def wrong_type(shard: Path, foreign: Path) -> None:
    """A dataset of a type that numpy has not."""

    def make(file: h5py.File) -> None:
        space = h5py.h5s.create_simple((SHARD_ROWS, 5))
        h5py.h5d.create(file.id, b"magnitude", h5py.h5t.STD_B32LE, space)

    _replace(shard, make)


def strings(shard: Path, foreign: Path) -> None:
    """A dataset of strings."""
    _replace(shard, lambda file: file.create_dataset("magnitude", data=[["x"] * 5] * SHARD_ROWS))


def odd_format(shard: Path, foreign: Path) -> None:
    """A file whose format attribute is an array."""
    with h5py.File(shard, "r+") as file:
        file.attrs["format"] = np.zeros(4)


def a_directory(shard: Path, foreign: Path) -> None:
    """A directory where a shard should be."""
    shard.unlink()
    shard.mkdir()


def a_pipe(shard: Path, foreign: Path) -> None:
    """A named pipe where a shard should be: reading it would wait for ever."""
    shard.unlink()
    os.mkfifo(shard)


CONTAINED = [
    soft_link, soft_link_loop, group_loop, unknown_dataset, huge_length, huge_width, huge_chunk, vast_chunk, many_bands,
    unknown_filter,
    plugin_filter, wrong_type, strings, odd_format, a_directory, a_pipe,
]  # fmt: skip


def _foreign_file(path: Path) -> Path:
    """A file that an attack wants read: a valid shard elsewhere."""
    path.write_bytes(shard_image(STAR_FORMAT, _star_arrays(SHARD_ROWS), BANDS, {}))
    return path


@pytest.mark.parametrize("attack", REACHING + CONTAINED, ids=lambda attack: attack.__name__)
def test_hostile_shard_is_refused(copied: Path, tmp_path: Path, attack: Attack) -> None:
    """Reading a hostile shard is an error that names it, verify finds it, and nothing opens the foreign file."""
    foreign = _foreign_file(tmp_path / "foreign.h5")
    shard = copied / "shard-00000.h5"
    attack(shard, foreign)
    watch = OpenWatch(foreign)
    with pytest.raises(HpcAeError, match=r"shard-00000\.h5"):
        open_catalog(copied)["magnitude"][:]
    assert any("shard-00000.h5" in finding.where for finding in verify(copied).findings)
    assert not watch.opened()
    watch.close()


@pytest.mark.parametrize("attack", REACHING, ids=lambda attack: attack.__name__)
def test_attacks_would_work_on_plain_h5py(copied: Path, tmp_path: Path, attack: Attack) -> None:
    """The attacks are real and the watch sees them: plain h5py opens the foreign file."""
    foreign = _foreign_file(tmp_path / "foreign.h5")
    attack(copied / "shard-00000.h5", foreign)
    watch = OpenWatch(foreign)
    with h5py.File(copied / "shard-00000.h5", "r") as file:
        file["magnitude"][:]
    assert watch.opened()
    watch.close()


@pytest.mark.parametrize("attack", REACHING[:5], ids=lambda attack: attack.__name__)
def test_hostile_view_is_not_followed(copied: Path, tmp_path: Path, attack: Attack) -> None:
    """The sources of a view are listed without opening a foreign file; a foreign one has -1 rows."""
    foreign = _foreign_file(tmp_path / "foreign.h5")
    attack(copied / "shard-00000.h5", foreign)
    watch = OpenWatch(foreign)
    assert view_sources(copied / "shard-00000.h5")["magnitude"].num_rows == -1
    assert not watch.opened()
    watch.close()
