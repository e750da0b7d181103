"""Catalogs made by MPI ranks, under mpiexec and under srun over two nodes, equal those of a process pool."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from commands import command, environment, hpc_ae
from slurm_cluster import SlurmCluster

from hpc_ae.files import read_json

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(600)]
STARS = ["--stars", "3000", "--seed", "4", "--bad-rows", "0.03", "--shard-rows", "300"]


@pytest.fixture(scope="module")
def raw_files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two CSV files of 1,500 and 700 stars, one id of which stands in both."""
    folder = tmp_path_factory.mktemp("raw")
    for name, first, num_rows in (("a.csv", 0, 1500), ("b.csv", 1499, 700)):
        rows = [
            f"{10**18 + first + row},{row * 0.2:.3f},{row * 0.05 - 45:.3f},"
            + ",".join(f"{band + row * 0.001:.3f}" for band in (19, 18, 17.5, 17, -9999 if row % 50 == 7 else 16.5))
            for row in range(num_rows)
        ]
        (folder / name).write_text("\n".join(["objid,ra,dec,u,g,r,i,z", *rows]) + "\n")
    return [str(folder / "a.csv"), str(folder / "b.csv")]


@pytest.fixture(scope="module", params=["simulate", "ingest"])
def verb(request: pytest.FixtureRequest, raw_files: list[str]) -> list[str]:
    """The words of a verb that makes a catalog; OUT stands for the catalog."""
    if request.param == "simulate":
        return ["simulate", "OUT", *STARS]
    return ["ingest", *raw_files, "--out", "OUT", "--shard-rows", "300"]


@pytest.fixture(scope="module")
def by_pool(verb: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalog that a pool of two processes makes."""
    out = tmp_path_factory.mktemp("pool") / "catalog"
    done = hpc_ae(*words_for(verb, out), "--workers", 2)
    assert done.returncode == 0, done.stderr
    return out


def words_for(verb: list[str], out: Path) -> list[str]:
    """A verb's words with the catalog's path."""
    return [str(out) if word == "OUT" else word for word in verb]


def run(launcher: list[str], words: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `hpc-ae` under a launcher."""
    return subprocess.run(
        [*launcher, *command(*words)],
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )


def srun(slurm: SlurmCluster, *options: str) -> tuple[list[str], dict[str, str]]:
    """The words and variables that start a step of tasks on both nodes."""
    found = slurm.environment()
    path = os.pathsep.join([environment()["PATH"], found["PATH"]])
    return ["srun", "--nodes=2", "--kill-on-bad-exit=1", *options], {**found, "PATH": path}


def check_equal(ours: Path, theirs: Path) -> None:
    """Two catalogs have the same shards byte for byte, and so the same digest."""
    names = sorted(path.name for path in theirs.iterdir())
    assert sorted(path.name for path in ours.iterdir()) == names
    assert len(names) > 5
    for name in names:
        if name != "manifest.json":
            assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    mine, other = (read_json(path / "manifest.json", sealed=True) for path in (ours, theirs))
    changing = {"digest", "provenance"}
    assert {key: mine[key] for key in mine.keys() - changing} == {key: other[key] for key in other.keys() - changing}
    assert mine["catalog_digest"] == other["catalog_digest"]


def test_mpiexec_equals_pool(mpiexec: str, verb: list[str], by_pool: Path, tmp_path: Path) -> None:
    """`mpiexec -n 3` makes the same catalog as the pool, byte for byte."""
    done = run([mpiexec, "-n", "3"], words_for(verb, tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    check_equal(tmp_path / "out", by_pool)


@pytest.mark.slurm
def test_srun_equals_pool(slurm: SlurmCluster, mpiexec: str, verb: list[str], by_pool: Path, tmp_path: Path) -> None:
    """`srun --mpi=pmi2` over two nodes makes the same catalog as the pool, byte for byte."""
    launcher, variables = srun(slurm, "--mpi=pmi2", "--ntasks=3")
    done = run(launcher, words_for(verb, tmp_path / "out"), **variables)
    assert done.returncode == 0, done.stderr
    check_equal(tmp_path / "out", by_pool)


def broken_raw(folder: Path) -> Path:
    """A CSV file with a word among its magnitudes."""
    raw = folder / "broken.csv"
    rows = [f"{row},10,10,19,18,17,16,{'bright' if row == 70 else 15}" for row in range(100)]
    raw.write_text("\n".join(["objid,ra,dec,u,g,r,i,z", *rows]) + "\n")
    return raw


def test_error_ends_all_ranks(mpiexec: str, tmp_path: Path) -> None:
    """An error in one MPI rank is one message and its status, and ends the others."""
    raw = broken_raw(tmp_path)
    done = run([mpiexec, "-n", "3"], ["ingest", str(raw), "--out", str(tmp_path / "out"), "--shard-rows", "20"])
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("bright") == 1 and str(raw) in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.slurm
def test_error_ends_the_step(slurm: SlurmCluster, mpiexec: str, tmp_path: Path) -> None:
    """An error in one MPI rank of a step over two nodes is one message, and ends the step with its status."""
    launcher, variables = srun(slurm, "--mpi=pmi2", "--ntasks=3")
    raw = broken_raw(tmp_path)
    words = ["ingest", str(raw), "--out", str(tmp_path / "out"), "--shard-rows", "20"]
    done = run(launcher, words, **variables)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("bright") == 1 and "Traceback" not in done.stderr


@pytest.mark.slurm
def test_step_without_matching_mpi(slurm: SlurmCluster, mpiexec: str, tmp_path: Path) -> None:
    """Tasks that MPI does not know of each other stop with status 2 and name cluster.mpi; nothing is written."""
    launcher, variables = srun(slurm, "--mpi=none", "--ntasks=2", "--kill-on-bad-exit=0")
    done = run(launcher, ["simulate", str(tmp_path / "out"), *STARS], **variables)
    assert done.returncode == 2, done.stderr
    assert "cluster.mpi" in done.stderr and "pmi2" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("out/shard-*"))
