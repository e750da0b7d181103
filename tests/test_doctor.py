"""`doctor`: each row is what is so on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import command, environment, hpc_ae
from slurm_cluster import SlurmCluster

from hpc_ae.jobs.doctor import quota_left_gb
from hpc_ae.jobs.doctor_nodes import read_answers

ROWS = (
    "python", "torch", "gpus", "hdf5", "mpi", "compiler", "kernel", "slurm", "accounting", "run directory",
    "file locks", "clock", "free disk", "quota", "free memory", "umask", "network",
)  # fmt: skip


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


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Disk quotas for user a (uid 1000): none\n", None),
        (
            "     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace\n"
            "      /dev/sda1 5000000  8000000 9000000              10       0       0        \n",
            3.072,
        ),
        ("     /scratch 9000000* 8000000 10000000       - 1000 0 0 -\n", -1.024),
        ("     /scratch 9000000 0 0       - 1000 0 0 -\n", None),
    ],
)
def test_quota_is_read(text: str, left: float | None) -> None:
    """The nearest limit of quota's or lfs quota's answer; nothing where none is set."""
    assert quota_left_gb(text) == (None if left is None else pytest.approx(left))


def test_nodes_that_do_not_see_the_directory(tmp_path: Path) -> None:
    """A node without the run directory says so and stops; the row fails and names it."""
    words = [sys.executable, "-m", "hpc_ae.jobs.doctor_nodes", str(tmp_path / "nowhere")]
    done = subprocess.run(words, env=environment(SLURMD_NODENAME="n7"), capture_output=True, text=True, timeout=240)
    assert done.returncode == 3
    [row] = read_answers(done, 2)
    assert row.level == "fail" and "n7" in row.found and "all nodes mount" in row.fix
    [silent] = read_answers(None, 2)
    assert silent.level == "fail" and "0 of 2 nodes answer" in silent.found


@pytest.mark.slurm
def test_across_nodes_in_an_allocation(any_slurm: SlurmCluster, tmp_path: Path) -> None:
    """Inside an allocation of two nodes: both see the run directory, an all-reduce is timed, nothing is left."""
    exports = "\n".join(f"export {name}='{environment()[name]}'" for name in ("PYTHONPATH", "PATH"))
    words = " ".join(f"'{word}'" for word in command("doctor", tmp_path, "--json"))
    job_id = any_slurm.submit(f"{exports}\n{words}", "--nodes=2", "--ntasks-per-node=1")
    assert any_slurm.wait(job_id, timeout=120) == "COMPLETED", any_slurm.output(job_id)
    text = any_slurm.output(job_id)
    rows = {row["name"]: row for row in json.loads(text[text.index("{") : text.rindex("}") + 1])["findings"]}
    assert rows["nodes"]["level"] == "ok" and "n1, n2" in rows["nodes"]["found"]
    assert rows["all-reduce"]["level"] in ("ok", "warn") and "us for one gradient" in rows["all-reduce"]["found"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slurm
def test_accounting_is_seen(accounted_slurm: SlurmCluster, tmp_path: Path) -> None:
    """With slurmdbd the accounting row says that sacct answers."""
    assert rows_of(tmp_path, **accounted_slurm.environment())[1]["accounting"]["found"] == "sacct answers"


@pytest.mark.slurm
def test_on_slurm(slurm: SlurmCluster, tmp_path: Path) -> None:
    """The cluster's version and partitions are shown; without slurmdbd the accounting row says so and is no failure."""
    status, rows = rows_of(tmp_path, **slurm.environment())
    assert status == 0
    assert rows["slurm"]["level"] == "ok" and "debug" in rows["slurm"]["found"]
    assert "squeue" in rows["accounting"]["found"]
