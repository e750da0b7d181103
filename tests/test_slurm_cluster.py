"""The test cluster is a real Slurm: jobs, job steps, MPI and node loss over its two nodes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import conftest
import pytest
from slurm_cluster import SlurmCluster, SlurmError, free_ports, wait_until

MPI_PROGRAM = """
import os
from mpi4py import MPI
world = MPI.COMM_WORLD
line = f"{os.environ['SLURMD_NODENAME']} {world.rank} {world.size} {world.allreduce(world.rank)}\\n"
os.write(1, line.encode())  # in one piece: mpiexec mixes what the ranks print
"""


@pytest.mark.slurm
def test_both_nodes_are_idle(slurm: SlurmCluster) -> None:
    """A started cluster has two idle nodes and two partitions, `debug` being the default one."""
    assert slurm.node_states() == {"n1": "IDLE", "n2": "IDLE"}
    assert set(slurm.run("sinfo", "--noheader", "--format=%P %D").splitlines()) == {
        f"{name} 2" for name in ("debug*", "short", "low", "lowest", "high")
    }


@pytest.mark.slurm
def test_batch_job_runs_a_step_on_each_node(slurm: SlurmCluster) -> None:
    """`srun` in a batch job starts one task on each of the two nodes."""
    job_id = slurm.submit("srun --ntasks-per-node=1 bash -c 'echo $SLURM_PROCID $SLURMD_NODENAME'", "--nodes=2")
    assert slurm.wait(job_id) == "COMPLETED", slurm.output(job_id)
    assert sorted(slurm.output(job_id).split("\n")) == ["", "0 n1", "1 n2"]


@pytest.mark.slurm
def test_failed_job_is_reported(slurm: SlurmCluster) -> None:
    """The state of a job that exits with a non-zero status is FAILED, and stays visible."""
    assert slurm.wait(slurm.submit("exit 3")) == "FAILED"


@pytest.mark.slurm
def test_client_errors_are_shown(slurm: SlurmCluster) -> None:
    """A refused command raises with what Slurm printed."""
    with pytest.raises(SlurmError, match="invalid partition"):
        slurm.submit("true", "--partition=nowhere")


@pytest.mark.slurm
@pytest.mark.mpi
def test_mpi_over_two_nodes(slurm: SlurmCluster, mpiexec: str) -> None:
    """Four mpi4py ranks under `srun --mpi=pmi2` form one world over both nodes."""
    printed = slurm.run("srun", "--mpi=pmi2", "--nodes=2", "--ntasks=4", sys.executable, "-c", MPI_PROGRAM)
    ranks = sorted((line.split() for line in printed.split("\n") if line), key=lambda words: words[1])
    assert [words[1:] for words in ranks] == [[str(rank), "4", "6"] for rank in range(4)]
    assert {words[0] for words in ranks} == {"n1", "n2"}


@pytest.mark.mpi
def test_mpi_without_slurm(mpiexec: str) -> None:
    """`mpiexec -n 2` alone starts a world of two mpi4py ranks."""
    environment = {**os.environ, "SLURMD_NODENAME": "here"}
    command = [mpiexec, "-n", "2", sys.executable, "-c", MPI_PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert sorted(done.stdout.splitlines()) == ["here 0 2 1", "here 1 2 1"], done.stderr


@pytest.mark.slurm
def test_killed_node_takes_its_tasks_along(own_slurm: SlurmCluster) -> None:
    """A killed node's slurmd and tasks are gone; started again, it takes new work."""
    with own_slurm as cluster:
        job_id = cluster.submit(f"echo $$ > {cluster.directory}/task; exec sleep 600", "--nodelist=n2", "--no-requeue")
        cluster.wait_for(job_id, "RUNNING")
        task = cluster.directory / "task"
        assert wait_until(lambda: task.exists() and task.read_text().endswith("\n"), timeout=30)
        process = Path("/proc") / task.read_text().strip()
        assert (process / "cmdline").read_bytes()
        cluster.kill_node("n2", declare=True)
        assert not process.exists() or not (process / "cmdline").read_bytes()
        cluster.start_node("n2")
        assert cluster.wait(job_id) == "NODE_FAIL"
        assert cluster.run("srun", "--nodelist=n2", "--immediate=30", "echo", "again") == "again\n"


@pytest.mark.slurm
def test_nothing_is_left(own_slurm: SlurmCluster) -> None:
    """`stop` ends running jobs and daemons, removes the directory, and may be repeated."""
    with own_slurm as cluster:
        cluster.wait_for(cluster.submit("srun sleep 600", "--nodes=2"), "RUNNING")
        directory = str(cluster.directory).encode()
    cluster.stop()
    assert not cluster.directory.exists()
    assert not [path for path in Path("/proc").glob("[0-9]*/environ") if directory in _read(path)]


@pytest.mark.slurm
def test_failed_start_shows_the_log(own_slurm: SlurmCluster) -> None:
    """Where a daemon does not start, the error holds its log, and nothing is left behind."""
    own_slurm.conf_text = lambda: "NoSuchKey=1\n"  # type: ignore[method-assign]
    with pytest.raises(SlurmError, match="NoSuchKey"):
        own_slurm.start()
    assert not own_slurm.directory.exists()


def test_ports_are_different() -> None:
    """`free_ports` gives as many different ports as asked for."""
    assert len(set(free_ports(20))) == 20


def test_absent_things_skip_or_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """`need` skips where a real thing is absent, and fails where HPC_AE_REQUIRE names it."""
    monkeypatch.setitem(conftest.MISSING, "slurm", lambda: "not here")
    monkeypatch.delenv("HPC_AE_REQUIRE", raising=False)
    with pytest.raises(pytest.skip.Exception, match="not here"):
        conftest.need("slurm")
    monkeypatch.setenv("HPC_AE_REQUIRE", "mpi, slurm")
    with pytest.raises(pytest.fail.Exception, match="not here"):
        conftest.need("slurm")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
