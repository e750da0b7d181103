"""A full disk in any stage: one error with path and bytes, what was there before intact, and the rerun completes."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pytest
from commands import hpc_ae, write_config
from runs import encode, finalise, make_config, train_here

from hpc_ae.config import RunConfig
from hpc_ae.errors import WorkError
from hpc_ae.files import digest_file
from hpc_ae.ingest import IngestSettings, ingest
from hpc_ae.order import order
from hpc_ae.photometry import BANDS, simulate_stars
from hpc_ae.postprocess import PostprocessSettings, ReportPaths, postprocess
from hpc_ae.runtime.ranks import Ranks
from hpc_ae.simulate import SimulateSettings, simulate
from hpc_ae.verify import verify

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
DISK_BYTES = 24 << 20
NUM_STARS, SHARD_ROWS = 12_000, 4_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextlib.contextmanager
def almost_full(disk: Path, room: int) -> Iterator[None]:
    """Leave so many bytes of a file system, in whole pages."""
    state, ballast = os.statvfs(disk), disk / "ballast"
    with ballast.open("wb") as file:
        file.write(bytes(max(0, state.f_bavail * state.f_frsize - room)))
    yield
    ballast.unlink()


def do_simulate(config: RunConfig) -> None:
    """A star catalog."""
    simulate(config.catalog_path, SimulateSettings(NUM_STARS, shard_rows=SHARD_ROWS))


def do_ingest(config: RunConfig) -> None:
    """A star catalog of a CSV file that lies elsewhere."""
    raw = config.run_path.parent.parent / "raw.csv"
    if not raw.exists():
        magnitude = simulate_stars(0, NUM_STARS, 1)["magnitude"]
        columns = {band: magnitude[:, index] for index, band in enumerate(BANDS)}
        pc.write_csv(pa.table({"objid": np.arange(NUM_STARS), **columns}), raw)
    ingest([raw], config.catalog_path, IngestSettings({}, SHARD_ROWS, "flag"))


def do_train(config: RunConfig) -> None:
    """Checkpoints, metrics and a model."""
    train_here(config)


def do_encode(config: RunConfig) -> None:
    """Encoding shards."""
    encode(config, Ranks())


def do_finalise(config: RunConfig) -> None:
    """View and manifest."""
    finalise(config)


def do_postprocess(config: RunConfig) -> None:
    """The report."""
    paths = ReportPaths(config.encoding_path, config.catalog_path, config.run_path / "report")
    postprocess(paths, PostprocessSettings(50), 1)


CHAIN = [do_simulate, do_train, do_encode, do_finalise, do_postprocess]


def digests(disk: Path) -> dict[Path, str]:
    """Of every file of the stages before."""
    paths = [path for path in sorted(disk.rglob("[!.]*")) if path.is_file() and path.name != "ballast"]
    return {path: digest_file(path) for path in paths}


@pytest.mark.parametrize("room", [0, 4096, 40_000, 150_000])
@pytest.mark.parametrize("stage", [do_simulate, do_ingest, *CHAIN[1:]], ids=lambda stage: stage.__name__[3:])
def test_full_disk(stage: Callable[[RunConfig], None], room: int, disk: Path, tmp_path: Path) -> None:
    """With next to no room, and with room for a part of what a stage writes: it fails with the path and the bytes it
    needs, or it succeeds; nothing that was there changes; with room the same call completes, and all verifies.
    """
    config = make_config(disk / "run", disk / "stars", steps=40, checkpoint_steps=10)
    before: list[Callable[[RunConfig], None]] = [] if stage is do_ingest else CHAIN[: CHAIN.index(stage)]
    for earlier in before:
        earlier(config)
    there = digests(disk)
    with almost_full(disk, room):
        try:
            stage(config)
            failed = None
        except WorkError as error:
            failed = str(error)
        assert {path: digest_file(path) for path in there} == there
    if failed is None:
        assert room >= 40_000
    else:
        assert "the disk is full" in failed and str(disk) in failed and "bytes" in failed, failed
    after = CHAIN[1:4] if stage is do_ingest else CHAIN[CHAIN.index(stage) + 1 : 4]  # the report is not verified
    for later in (stage, *after):
        later(config)
    for part in (config.catalog_path, config.encoding_path):
        found = verify(part)
        assert found.ok, found.findings


@pytest.mark.parametrize("room", [0, 4096, 300_000, 1_000_000])
@pytest.mark.parametrize("make", ["order", "ingest"])
def test_full_disk_in_sky_order(make: str, room: int, disk: Path, tmp_path: Path) -> None:
    """Whether runs or shards no longer fit: one error with the path, nothing left; with room all stars are there."""
    stars, raw = tmp_path / "stars", tmp_path / "raw.csv"
    simulate(stars, SimulateSettings(NUM_STARS, shard_rows=SHARD_ROWS))
    raw.write_text(
        "ra,dec,u,g,r,i,z\n" + "".join(f"{row % 360},{row % 90},15,15,15,15,15\n" for row in range(NUM_STARS))
    )

    def work() -> None:
        if make == "order":
            order(stars, disk / "sky", SHARD_ROWS)
        else:
            ingest([raw], disk / "sky", IngestSettings({}, SHARD_ROWS, "flag", order="healpix"))

    with almost_full(disk, room), pytest.raises(WorkError, match="the disk is full") as caught:
        work()
    assert f"{disk / 'sky'}/" in caught.value.where and not (disk / "sky").exists()
    work()
    found = verify(disk / "sky")
    assert found.ok and found.num_stars == NUM_STARS


def test_command_on_a_full_disk(disk: Path, tmp_path: Path) -> None:
    """`hpc-ae run` on a full disk is one message with status 1, no crash; with room it completes."""
    config = write_config(tmp_path, run_dir=str(disk / "run"), catalog={"source": {"simulate": {"stars": 20_000}}})
    one = "cluster.ranks_per_node=1"
    for room in (0, 300_000):
        with almost_full(disk, room):
            done = hpc_ae("run", config, one)
        assert done.returncode == 1, (done.returncode, done.stderr)
        assert "the disk is full" in done.stderr and "Traceback" not in done.stderr, done.stderr
    done = hpc_ae("run", config, one)
    assert done.returncode == 0, done.stderr
    assert hpc_ae("verify", disk / "run").returncode == 0
