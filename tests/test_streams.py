"""Standard streams as users leave them: closed, a pipe whose reader has gone, a full disk."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from commands import command, environment, hpc_ae, write_config
from runs import make_catalog
from slurm_cluster import SlurmCluster

from hpc_ae.files import read_json

STAGES = ("train", "encode", "finalise", "postprocess")


def shell(line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A line of bash; `hpc-ae` in it is ours. The status is that of the first command of its last pipe."""
    words = " ".join(shlex.quote(word) for word in command())
    script = f'hpc-ae() {{ {words} "$@"; }}\n{line}\nexit ${{PIPESTATUS[0]}}'
    return subprocess.run(
        ["bash", "-c", script],
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.slurm
@pytest.mark.parametrize(
    "rest",
    ["--parsable | head -1", pytest.param("| true", marks=pytest.mark.slow), "--parsable > /dev/full", ">&- 2>&-"],
)
def test_what_is_submitted_stays(slurm: SlurmCluster, no_jobs_left: None, tmp_path: Path, rest: str) -> None:
    """Jobs that are submitted stay so, whether or not their numbers can be told."""
    stars = make_catalog(tmp_path / "stars")
    cluster = {"kind": "slurm", "nodes": 1, "ranks_per_node": 1, "sbatch": {"begin": "now+3600"}}
    config = write_config(tmp_path, catalog={"path": str(stars), "source": None}, cluster=cluster)
    done = shell(f"hpc-ae run {config} --no-wait {rest}", **slurm.environment())
    assert done.returncode == 0, done.stderr
    records = [tmp_path / "run" / "jobs" / "state" / f"{stage}.json" for stage in STAGES]
    jobs = {read_json(path)["job_id"] for path in records}
    assert set(slurm.queue()) == jobs and len(jobs) == 4
    assert "Traceback" not in done.stderr and "cancelled again" not in done.stderr
    if "full" in rest:
        assert "what was to be said there is done: " + min(jobs, key=int) in done.stderr


@pytest.mark.parametrize("closed", [pytest.param("2>&-", marks=pytest.mark.slow), "<&- >&- 2>&-"])
def test_run_with_closed_streams(tmp_path: Path, closed: str) -> None:
    """A run ends well with nowhere to say so, and none of its files has what would have been said."""
    config = write_config(tmp_path, cluster={"ranks_per_node": 1})
    done = shell(f"hpc-ae run {config} {closed}")
    assert done.returncode == 0 and done.stdout + done.stderr == ""
    assert hpc_ae("verify", tmp_path / "run").returncode == 0


@pytest.mark.parametrize(
    ("rest", "status", "said"),
    [
        ("| true", 0, ""),
        ("| head -1", 0, ""),
        ("> /dev/full", 1, "standard output cannot be written"),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
    ],
)
def test_output_that_cannot_be_written(rest: str, status: int, said: str) -> None:
    """What prints for a reader ends without a word when that has gone, and says so where a disk is full."""
    done = shell(f"(sleep 1; hpc-ae init --page; hpc-ae init --page) {rest}")
    assert done.returncode == status, done.stderr
    assert said in done.stderr and (bool(done.stderr) == bool(said)), done.stderr


def test_messages_that_nobody_reads(tmp_path: Path) -> None:
    """An error is a status although its message cannot be written."""
    assert shell(f"hpc-ae status {tmp_path} 2>&-").returncode == 2
    assert shell(f"hpc-ae status {tmp_path} 2> /dev/full").returncode == 2
