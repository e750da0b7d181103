"""The way of real stars through every form and back, CSV, catalog, sky order, FITS, catalog, CSV: no bit changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
from astropy.table import Table
from commands import hpc_ae
from numpy.testing import assert_array_equal

from hpc_ae.catalog.catalog import Catalog, open_catalog
from hpc_ae.catalog.schema import DEFAULT_BANDS
from hpc_ae.export import ExportSettings, export
from hpc_ae.ingest import IngestSettings, ingest
from hpc_ae.order import order

FIRST_ID = 1_237_645_879_551_066_112  # of SDSS's: ids above 2^53
ALL_SKY = ("--cone", 0, 90, 180 * 60)


def write_csv(shared_data: Path, path: Path) -> pa.Table:
    """The real stars with ids as long as SDSS's, as text; what was written."""
    stars = pq.read_table(shared_data / "sdss_photometric_stars.parquet")
    objid = stars["objid"].to_numpy().astype(np.int64) + FIRST_ID
    stars = stars.set_column(0, "objid", pa.array(objid)).replace_schema_metadata(None)
    csv.write_csv(stars, path)
    return stars


def make(raw: Path, out: Path) -> Catalog:
    """A catalog of one raw file."""
    ingest([raw], out, IngestSettings(shard_rows=50_000), num_workers=2)
    return open_catalog(out)


def assert_same(catalog: Catalog, stars: pa.Table) -> None:
    """Every star once, each with its own bits, whatever the order."""
    assert catalog.num_stars == len(stars)
    objid = stars["objid"].to_numpy()
    mine, its = np.argsort(catalog["objid"][:], kind="stable"), np.argsort(objid, kind="stable")
    assert_array_equal(catalog["objid"][:][mine], objid[its])
    for name in ("ra", "dec"):
        assert_array_equal(catalog[name][:][mine].view(np.int64), stars[name].to_numpy()[its].view(np.int64))
    for name, prefix in (("magnitude", ""), ("magnitude_error", "err_")):
        values = np.stack([stars[prefix + band].to_numpy() for band in DEFAULT_BANDS], axis=1)[its]
        got = catalog[name][:][mine]
        if prefix:  # an error that is none became NaN
            values = np.where(np.isfinite(got), values, np.nan).astype(np.float32)
        assert_array_equal(got.view(np.int32), values.view(np.int32))


def test_there_and_back(shared_data: Path, tmp_path: Path) -> None:
    """Of the 290,327 stars no id, position, magnitude or error loses a bit, and astropy reads the same FITS."""
    stars = write_csv(shared_data, tmp_path / "stars.csv")
    assert len(stars) == 290_327
    plain = make(tmp_path / "stars.csv", tmp_path / "plain")
    assert_same(plain, stars)
    order(plain.directory, tmp_path / "sky", 50_000)
    sky = open_catalog(tmp_path / "sky")
    assert_same(sky, stars)
    export(sky.directory, tmp_path / "sky.fits", ExportSettings(to="fits"))
    table = Table.read(tmp_path / "sky.fits")
    assert_array_equal(np.asarray(table["objid"]), sky["objid"][:])
    assert_array_equal(np.asarray(table["magnitude_u"]), sky["magnitude"][:][:, 0])
    back = make(tmp_path / "sky.fits", tmp_path / "back")
    for name in back.columns:
        assert_array_equal(back[name][:], sky[name][:], strict=True)
    assert back.columns == sky.columns
    text = tmp_path / "back.csv"
    done = hpc_ae("query", back.directory, *ALL_SKY, "--to", "csv", "--out", text)
    assert done.returncode == 0, done.stderr
    again = make(text, tmp_path / "again")
    assert_same(again, stars)
    for name in ("objid", "ra", "dec", "magnitude", "quality"):
        assert_array_equal(again[name][:], sky[name][:], strict=True)
