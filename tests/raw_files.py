"""Raw files for the tests of ingest, and what they become."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpc_ae.catalog.catalog import Catalog, open_catalog
from hpc_ae.errors import InputError
from hpc_ae.ingest import IngestSettings, ingest

HEADER = "objid,ra,dec,u,g,r,i,z"
STARS = ["1,10.5,-0.5,19.1,18.2,17.3,16.4,15.5", "2,11.5,0.5,20.1,19.2,18.3,17.4,16.5", "3,12.5,1.5,21,20,19,18,17"]


def lines(*rows: str, header: str = HEADER) -> str:
    """A CSV of a header and rows."""
    return "".join(line + "\n" for line in (header, *rows))


def write(path: Path, content: str | bytes) -> Path:
    """Write a raw file as it is, without translating line ends."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def run(tmp_path: Path, *contents: str | bytes | Path, num_workers: int = 1, **values: Any) -> Catalog:
    """Ingest some raw files, given by content or path, and open the catalog."""
    paths = [
        item if isinstance(item, Path) else write(tmp_path / f"raw-{index}", item)
        for index, item in enumerate(contents)
    ]
    ingest(paths, tmp_path / "catalog", IngestSettings(**values), num_workers)
    return open_catalog(tmp_path / "catalog")


def refused(tmp_path: Path, *contents: str | bytes | Path, **values: Any) -> str:
    """The message that refuses an ingest, after checking that nothing is left of it."""
    with pytest.raises(InputError) as caught:
        run(tmp_path, *contents, **values)
    assert not (tmp_path / "catalog").exists()
    return str(caught.value)


def column(path: Path, name: str, skip: int = 0) -> list[str]:
    """One column of a CSV as text, read by the standard library."""
    with path.open(newline="") as file:
        for _ in range(skip):
            next(file)
        return [row[name] for row in csv.DictReader(file)]


def assert_stars(catalog: Catalog, ids: tuple[int, ...] = (1, 2, 3)) -> None:
    """The catalog holds `STARS`."""
    assert catalog["objid"][:].tolist() == list(ids)
    assert catalog["ra"][:].tolist() == [10.5, 11.5, 12.5]
    assert catalog["dec"][:].tolist() == [-0.5, 0.5, 1.5]
    assert (catalog["magnitude"][0] == np.float32([19.1, 18.2, 17.3, 16.4, 15.5])).all()
    assert not catalog["quality"][:].any() and not catalog["caution"][:].any()


def shard_bytes(directory: Path) -> dict[str, bytes]:
    """The content of every shard."""
    return {path.name: path.read_bytes() for path in directory.glob("shard-*.h5")}
