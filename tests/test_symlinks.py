"""Runs, catalogs and models behind symbolic links, as on a cluster whose home leads to a scratch file system."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from commands import hpc_ae, write_config
from runs import make_catalog, make_random_model

from hpc_ae import open_catalog
from hpc_ae.catalog.link import linked_place, relative_path
from hpc_ae.files import read_json

LINKED = ("runs", "stars", "models")


def make_home(folder: Path, linked: tuple[str, ...]) -> Path:
    """A home with stars and a model; the directories of `linked` in it lead to a scratch file system elsewhere."""
    home, scratch = folder / "home" / "u", folder / "far" / "away" / "scratch"
    for name in LINKED:
        place = scratch / name if name in linked else home / name
        place.mkdir(parents=True)
    home.mkdir(parents=True, exist_ok=True)
    for name in linked:
        (home / name).symlink_to(os.path.relpath(scratch / name, home))
    make_catalog(home / "stars" / "sdss")
    make_random_model(home / "models" / "m", home / "stars" / "sdss")
    return home


def check_links(run_dir: Path) -> None:
    """All that follows the links of an encoding finds its stars and its model."""
    done = hpc_ae("verify", run_dir / "encoding")
    assert done.returncode == 0, done.stdout
    encoding = open_catalog(run_dir / "encoding")
    wanted = str(encoding["objid"][7])
    joined = hpc_ae("query", run_dir / "encoding", "--join", "--objid", wanted, "--columns", "objid", "magnitude")
    assert joined.returncode == 0 and wanted in joined.stdout, joined.stderr
    assert encoding.join()["magnitude"][:].shape == (2000, 5)


@pytest.mark.parametrize(
    "linked",
    [("runs",), *(pytest.param(names, marks=pytest.mark.slow) for names in (("stars",), ("models",), LINKED))],
    ids="+".join,
)
def test_links_behind_symbolic_links(linked: tuple[str, ...], tmp_path: Path) -> None:
    """Each of the three, and all, behind a symbolic link: the stars are found, also when all have moved together."""
    home = make_home(tmp_path, linked)
    names = {
        "catalog": {"path": str(home / "stars" / "sdss"), "source": None},
        "encode": {"model": str(home / "models" / "m")},
    }
    config = write_config(tmp_path, run_dir=str(home / "runs" / "a"), **names)
    done = hpc_ae("run", config)
    assert done.returncode == 0, done.stderr
    check_links(home / "runs" / "a")
    ordered = hpc_ae("order", home / "stars" / "sdss", "--out", home / "runs" / "ordered")
    assert ordered.returncode == 0, ordered.stderr
    link = read_json(home / "runs" / "ordered" / "manifest.json")["inputs"]["catalog"]["path"]
    assert (home / "runs" / "ordered" / link).samefile(home / "stars" / "sdss")
    (tmp_path / "new").mkdir()
    for name in ("home", "far"):
        shutil.move(tmp_path / name, tmp_path / "new" / name)
    moved = tmp_path / "new" / "home" / "u" / "runs" / "a"
    check_links(moved)
    assert hpc_ae("verify", moved).returncode == 0
    assert hpc_ae("export", moved / "encoding", "--join", "--to", "fits", tmp_path / "t.fits").returncode == 0


def test_relative_path(tmp_path: Path) -> None:
    """By the names where these lead there, so that nothing changes where there is no link; else by the real places."""
    home = make_home(tmp_path, ("runs",))
    (home / "runs" / "a").mkdir()
    assert relative_path(home / "stars" / "sdss", home / "models") == "../stars/sdss"
    path = relative_path(home / "stars" / "sdss", home / "runs" / "a")
    assert path.startswith("../../../../../home") and (home / "runs" / "a" / path).samefile(home / "stars" / "sdss")
    assert relative_path(home / "runs" / "a" / "b", home / "runs" / "a" / "c") == "../b"  # neither is there yet
    # as earlier versions wrote it, by names alone
    assert linked_place(home / "runs" / "a", "../../stars/sdss") == home / "stars" / "sdss"
    assert linked_place(home / "models" / "m", "../../nowhere") == home / "models" / "m" / "../../nowhere"
