"""Stars as arrays for the tests of raw formats, what catalogs hold of them, and tables as the readers see them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.testing import assert_array_equal
from raw_files import run

from hpc_ae.catalog.catalog import Catalog, open_catalog
from hpc_ae.catalog.quality import drop_errors
from hpc_ae.catalog.shard import Arrays
from hpc_ae.export import ExportSettings, export
from hpc_ae.readers.first_rows import read_first
from hpc_ae.readers.open_raw import is_packed, open_tables, unpack
from hpc_ae.readers.raw_file import RawFile

BANDS = "ugriz"
BIG_ID = 2**53 + 1  # no double has it


def make_arrays(num_stars: int = 7, seed: int = 1) -> Arrays:
    """Good stars with ids beyond 2^53, coordinates, magnitudes and their errors."""
    rng = np.random.default_rng(seed)
    return {
        "objid": BIG_ID + 2 * rng.permutation(num_stars).astype(np.int64),
        "ra": rng.uniform(10, 350, num_stars),
        "dec": rng.uniform(-80, 80, num_stars),
        "magnitude": rng.uniform(14, 25, (num_stars, 5)).astype(np.float32),
        "magnitude_error": rng.uniform(0.01, 0.2, (num_stars, 5)).astype(np.float32),
    }


def columns_of(arrays: Arrays) -> Arrays:
    """The same with a column for each band: u, ..., err_u, ..."""
    bands = {band: arrays["magnitude"][:, index] for index, band in enumerate(BANDS)}
    errors = {f"err_{band}": arrays["magnitude_error"][:, index] for index, band in enumerate(BANDS)}
    return {name: arrays[name] for name in ("objid", "ra", "dec")} | bands | errors


def assert_holds(catalog: Catalog, arrays: Arrays) -> None:
    """A catalog has exactly these stars, bit for bit and in this order."""
    for name, values in arrays.items():
        assert catalog[name][:].dtype == values.dtype
        assert_array_equal(catalog[name][:], values, name, strict=True)


def tables(path: Path, work_dir: Path) -> list[tuple[RawFile, dict[str, pa.ChunkedArray]]]:
    """The tables of a raw file with the first values of all columns, as the readers hand them on."""
    data_path = path
    if is_packed(path):
        work_dir.mkdir(parents=True, exist_ok=True)
        data_path = work_dir / "unpacked"
        for old in work_dir.glob("unpacked*"):
            old.unlink()
        unpack(path, data_path)
    found = open_tables(path, data_path)
    every = [read_first(raw, range(len(raw.columns)), 10**6) for raw in found]
    return [(raw, dict(zip(raw.columns, columns, strict=True))) for raw, columns in zip(found, every, strict=True)]


def package_dir(name: str) -> Path:
    """Where an installed package lies."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def exported(catalog: Path, out: Path, to: str, split: bool = True) -> Path:
    """What `hpc-ae export` makes of a catalog."""
    export(catalog, out, ExportSettings(to, split=split, drop_unplaced=to == "hats"))
    return out


def assert_comes_back(stars: Path, to: str, tmp_path: Path, split: bool = True) -> None:
    """A catalog that is exported and ingested again is the same: ids, positions, magnitudes and errors bit for bit.

    The name of the exported file says nothing of its format. HATS has another order, and only stars with a position.
    """
    path = exported(stars, tmp_path / "stars.csv", to, split)
    again, before = run(tmp_path, path), open_catalog(stars)
    rows = np.arange(before.num_stars)
    if to == "hats":
        placed = rows[np.isfinite(before["ra"][:]) & np.isfinite(before["dec"][:])]
        ids = again["objid"][:]
        rows = placed[np.argsort(before["objid"][:][placed])][np.argsort(np.argsort(ids))]
    assert again.num_stars == len(rows)
    expected = {name: before[name][:][rows] for name in ("objid", "ra", "dec", "magnitude", "magnitude_error")}
    drop_errors(expected["magnitude_error"])  # simulated sentinels among the errors are NaN in a catalog
    assert_holds(again, expected)
    assert ((again["quality"][:] == 0) == (before["quality"][:][rows] == 0)).all()
