"""HATS: Parquet files by HEALPix pixel, of as high an order as keeps each below a number of rows, for lsdb and hats.

Two passes over the rows, in any order: `count` takes the positions, `append` deals the rows out to a file for each
pixel, `close` sorts each of these in memory and writes its Parquet file. Shape letters: N rows, P pixels.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from hpc_ae.catalog.arrow import arrow_table
from hpc_ae.catalog.fields import Field
from hpc_ae.catalog.shard import Arrays
from hpc_ae.catalog.sky import HEALPIX_LEVEL, NO_POSITION, healpix_of
from hpc_ae.errors import WorkError
from hpc_ae.files import publish_bytes
from hpc_ae.formats.parquet import open_parquet_file, parquet_schema
from hpc_ae.formats.table import TableInfo, create_file, fill_records, record_dtype

HIGHEST_ORDER = 9  # of a file's pixel: 7 arcmin wide; the counts of all such pixels take 25 MB
DEFAULT_THRESHOLD = 1_000_000
GROUP_ROWS = 65_536
INDEX = Field("_healpix_29", "<i8", ucd="pos.healpix", description="HEALPix pixel of order 29, nested scheme")
_SPILL = ".rows"
_DIR_PIXELS = 10_000  # pixels of one Dir=


class Pixel(NamedTuple):
    """A HEALPix pixel, nested scheme."""

    order: int
    number: int

    @property
    def path(self) -> str:
        """Path of the pixel's file below dataset/."""
        folder = self.number // _DIR_PIXELS * _DIR_PIXELS
        return f"Norder={self.order}/Dir={folder}/Npix={self.number}.parquet"


def cut_pixels(counts: np.ndarray, threshold: int) -> list[Pixel]:
    """The largest pixels that hold at most `threshold` rows each and together all, in the order of the sky.

    `counts` (P,) are the rows of each pixel of the highest order; one of those may hold more.
    """
    highest = int(np.log2(len(counts) // 12)) // 2
    taken = np.zeros(12, bool)
    found = []
    for order in range(highest + 1):
        span = 4 ** (highest - order)
        rows = counts.reshape(-1, span).sum(axis=1)
        chosen = ~taken & (rows > 0) & ((rows <= threshold) | (order == highest))
        found += [(int(number) * span, Pixel(order, int(number))) for number in np.flatnonzero(chosen)]
        taken = np.repeat(taken | chosen, 4)
    return [pixel for _, pixel in sorted(found)]


class HatsWriter:
    """Writes a HATS catalog into a directory that is there; the columns must have `ra` and `dec`."""

    def __init__(self, path: Path, info: TableInfo, threshold: int = DEFAULT_THRESHOLD) -> None:
        self.path, self.threshold = path, threshold
        self.info = TableInfo(info.name, (INDEX, *info.fields), info.num_rows, info.notes, info.flags)
        self.num_rows = self.num_unplaced = 0
        self._dtype = record_dtype(self.info.fields, "<")
        self._counts = np.zeros(12 * 4**HIGHEST_ORDER, np.int64)
        self._schema = parquet_schema(self.info)
        self._pixels: list[Pixel] = []
        self._footers: list[Any] = []
        self._places = np.empty(0, np.int32)

    def count(self, ra: np.ndarray, dec: np.ndarray) -> None:
        """Take the positions (N,) in degrees of some rows; all must be counted before the first `append`."""
        pixels = healpix_of(ra, dec)
        placed = pixels[pixels != NO_POSITION]
        self.num_unplaced += len(pixels) - len(placed)
        self._counts += np.bincount(placed >> 2 * (HEALPIX_LEVEL - HIGHEST_ORDER), minlength=len(self._counts))

    def append(self, arrays: Arrays) -> None:
        """Deal some rows out to the files of their pixels; those without a position are left out."""
        self._cut()
        index = healpix_of(arrays["ra"], arrays["dec"])
        order = np.argsort(index, kind="stable")[: np.count_nonzero(index != NO_POSITION)]
        records = fill_records(self._dtype, {**arrays, INDEX.name: index})[order]
        places = self._places[records[INDEX.name] >> 2 * (HEALPIX_LEVEL - HIGHEST_ORDER)]
        edges = np.flatnonzero(np.diff(places, prepend=-1, append=-1))
        for start, stop in pairwise(edges):
            with self._spill_path(int(places[start])).open("ab") as file:
                file.write(records[start:stop].data)

    def _cut(self) -> None:
        """Decide the pixels, once, when all positions are counted."""
        if len(self._places):
            return
        self._pixels = cut_pixels(self._counts, self.threshold)
        self._places = np.full(len(self._counts), -1, np.int32)
        for place, pixel in enumerate(self._pixels):
            span = 4 ** (HIGHEST_ORDER - pixel.order)
            self._places[pixel.number * span : (pixel.number + 1) * span] = place
        (self.path / _SPILL).mkdir(mode=0o700)

    def _spill_path(self, place: int) -> Path:
        return self.path / _SPILL / f"{place:06d}"

    def write_pixels(self) -> Iterator[int]:
        """Sort and write the pixels that are left, and after each say how many rows are written in all."""
        self._cut()
        for place in range(len(self._footers), len(self._pixels)):
            self._footers.append(self._write_pixel(place, self._pixels[place]))
            yield self.num_rows

    def close(self) -> None:
        """Write the pixels that are left, then the catalog's own files."""
        for _ in self.write_pixels():
            pass
        (self.path / _SPILL).rmdir()
        dataset = self.path / "dataset"
        dataset.mkdir(mode=0o700, exist_ok=True)
        for name, collected in (("_common_metadata", None), ("_metadata", self._footers)):
            create_file(dataset / name).close()
            pq.write_metadata(self._schema, dataset / name, metadata_collector=collected)
        rows = [f"{pixel.order},{pixel.number}\n" for pixel in self._pixels]
        publish_bytes(self.path / "partition_info.csv", "".join(["Norder,Npix\n", *rows]).encode())
        for name in ("hats.properties", "properties"):  # the second is how older readers know it
            publish_bytes(self.path / name, _properties_text(self._properties()).encode())

    def abandon(self) -> None:
        """Nothing is open between calls."""

    def _write_pixel(self, place: int, pixel: Pixel) -> Any:
        """Sort the rows of one pixel, write its file, and return the footer."""
        spill_path, path = self._spill_path(place), self.path / "dataset" / pixel.path
        records = np.fromfile(spill_path, self._dtype)
        span = 4 ** (HIGHEST_ORDER - pixel.order)
        expected = int(self._counts[pixel.number * span : (pixel.number + 1) * span].sum())
        if len(records) != expected:
            what = "rows were lost on their way to a pixel"
            raise WorkError(what, where=path, got=f"{len(records)} rows", expected=f"{expected} rows")
        records = records[np.argsort(records[INDEX.name], kind="stable")]
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        footers: list[Any] = []
        with open_parquet_file(path, self._schema, footers) as writer:
            table = arrow_table(self._schema, {name: records[name] for name in self.info.names})
            writer.write_table(table, row_group_size=GROUP_ROWS)
        footers[0].set_file_path(pixel.path)
        self.num_rows += len(records)
        spill_path.unlink()
        return footers[0]

    def _properties(self) -> dict[str, str]:
        """What `hats` calls the properties of a catalog; notes of ours begin with hpc_ae_."""
        fraction = sum(4.0**-pixel.order for pixel in self._pixels) / 12
        now = datetime.datetime.now(datetime.UTC)
        return {
            "obs_collection": self.info.name,
            "dataproduct_type": "object",
            "hats_nrows": str(self.num_rows),
            "hats_col_ra": "ra",
            "hats_col_dec": "dec",
            "hats_col_healpix": INDEX.name,
            "hats_col_healpix_order": str(HEALPIX_LEVEL),
            "hats_npix_suffix": ".parquet",
            "hats_max_rows": str(self.threshold),
            "hats_order": str(max((pixel.order for pixel in self._pixels), default=0)),
            "hats_version": "v0.1",
            "hats_builder": self.info.notes.get("package", "hpc_ae"),
            "hats_creation_date": now.strftime("%Y-%m-%dT%H:%MUTC"),
            "moc_sky_fraction": f"{fraction:.5f}",
            **{f"hpc_ae_{key}": text for key, text in self.info.notes.items()},
        }


def _properties_text(values: Mapping[str, str]) -> str:
    """Java's properties: `key=value` lines, where a backslash is written twice and a line has no end in it."""
    lines = [f"{key}={' '.join(text.split()).replace(chr(92), chr(92) * 2)}\n" for key, text in values.items()]
    return "".join(["#HATS catalog\n", *lines])
