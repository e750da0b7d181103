"""`doctor`: each row is what is so on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import hpc_ae
from slurm_cluster import SlurmCluster

ROWS = ("python", "torch", "gpus", "hdf5", "mpi", "kernel", "slurm", "accounting", "file locks", "clock", "umask")


def rows_of(run_dir: Path, **variables: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit status, and the rows by name."""
    done = hpc_ae("doctor", run_dir, "--json", **variables)
    return done.returncode, {row["name"]: row for row in json.loads(done.stdout)["findings"]}


def test_rows_of_this_machine(tmp_path: Path) -> None:
    """Nothing fails where the tests run; the table has every row; the file system is left as it was."""
    status, rows = rows_of(tmp_path / "not" / "there" / "yet")
    assert status == 0 and all(row["level"] != "fail" for row in rows.values()), rows
    assert str(tmp_path) in rows["run directory"]["found"] and list(tmp_path.iterdir()) == []
    text = hpc_ae("doctor", tmp_path).stdout
    assert all(name in text for name in ROWS)


def test_missing_compiler_and_slurm(tmp_path: Path) -> None:
    """Without a compiler and Slurm on PATH the kernel is a warning with its mend, and runs are local."""
    status, rows = rows_of(tmp_path, PATH=str(tmp_path), HPC_AE_CACHE_DIR=str(tmp_path / "cache"))
    assert status == 0
    assert rows["kernel"]["level"] == "warn" and "g++" in rows["kernel"]["fix"]
    assert rows["slurm"]["level"] == "ok" and "local" in rows["slurm"]["found"]


def test_directory_that_cannot_be_written(tmp_path: Path) -> None:
    """A run directory in a place like /proc fails, with status 1."""
    status, rows = rows_of(Path("/proc"))
    assert status == 1 and rows["run directory"]["level"] == "fail"


@pytest.mark.slurm
def test_on_slurm(slurm: SlurmCluster, tmp_path: Path) -> None:
    """The cluster's version and partitions are shown; without slurmdbd the accounting row says so and is no failure."""
    status, rows = rows_of(tmp_path, **slurm.environment())
    assert status == 0
    assert rows["slurm"]["level"] == "ok" and "debug" in rows["slurm"]["found"]
    assert "squeue" in rows["accounting"]["found"]
