"""The mapper gives results in task order, however many workers there are, and says when one died."""

from __future__ import annotations

import contextlib
import math
import operator
import os
import signal
import time
from pathlib import Path

import pytest
from commands import await_sign, hpc_ae, start
from slurm_cluster import wait_until

from hpc_ae.errors import DamageError, WorkError
from hpc_ae.files import read_json
from hpc_ae.runtime.executor import PoolMapper, SerialMapper, launched_size, open_mapper
from hpc_ae.simulate import SimulateSettings, simulate


@pytest.fixture(autouse=True)
def launched_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variables of mpiexec or srun."""
    for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)


def test_one_worker_is_this_process() -> None:
    """One worker starts no process."""
    with open_mapper(1) as mapper:
        assert isinstance(mapper, SerialMapper)
        assert set(mapper.map(_process_id, range(3))) == {os.getpid()}


def _process_id(task: int) -> int:
    return os.getpid()


def _late_first(task: int) -> int:
    time.sleep(0.2 if task == 0 else 0.0)
    return task


def test_results_come_in_task_order() -> None:
    """Results are in task order although the first task ends last."""
    with open_mapper(2) as mapper:
        assert isinstance(mapper, PoolMapper)
        assert list(mapper.map(_late_first, range(40))) == list(range(40))


@pytest.mark.parametrize("num_tasks", [0, 1, 4, 5, 6, 23])
def test_same_results_with_one_and_two_workers(num_tasks: int) -> None:
    """The number of workers does not show in the results, for fewer and more tasks than are in flight."""
    results = []
    for num_workers in (1, 2):
        with open_mapper(num_workers) as mapper:
            assert mapper is not None
            results.append(list(mapper.map(math.sqrt, range(num_tasks))))
    assert results[0] == results[1] == [math.sqrt(task) for task in range(num_tasks)]


def test_same_catalog_with_one_and_two_workers(tmp_path: Path) -> None:
    """A simulated catalog has the same digests whatever the number of workers."""
    digests = []
    for num_workers in (1, 2):
        simulate(tmp_path / str(num_workers), SimulateSettings(3000, 5, 0.02, shard_rows=700), num_workers)
        digests.append(read_json(tmp_path / str(num_workers) / "manifest.json")["catalog_digest"])
    assert digests[0] == digests[1]


@pytest.mark.parametrize("length", [70, 71, 200])
def test_long_temporary_directory(tmp_path: Path, length: int) -> None:
    """However long TMPDIR is, a pool finds a place for its sockets."""
    place = tmp_path / ("t" * max(1, length - 1 - len(str(tmp_path))))
    place.mkdir()
    words = ("simulate", tmp_path / "stars", "--stars", 3000, "--shard-rows", 1000, "--workers", 2)
    done = hpc_ae(*words, TMPDIR=str(place))
    assert done.returncode == 0, done.stderr
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("signal_number", [0, 9])
def test_dead_worker_is_an_error(signal_number: int) -> None:
    """A worker that exits or is killed is a WorkError that says so, not a wait for ever."""
    with pytest.raises(WorkError, match="a worker process died"), open_mapper(2) as mapper:
        assert mapper is not None
        list(mapper.map(_die, [signal_number] * 8))


def _die(signal_number: int) -> None:
    if signal_number:
        os.kill(os.getpid(), signal_number)
    os._exit(3)


def _raise(task: int) -> None:
    raise DamageError("a shard is damaged", where=Path("shard-00001.h5"), got=task)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_error_of_a_task_arrives_whole(num_workers: int) -> None:
    """An error of a worker reaches the parent with its kind, its message and its parts."""
    match = r"a shard is damaged[\s\S]*shard-00001.h5"
    with pytest.raises(DamageError, match=match) as caught, open_mapper(num_workers) as mapper:
        assert mapper is not None
        list(mapper.map(_raise, [7, 8]))
    error = caught.value
    assert (error.what, error.where, error.got) == ("a shard is damaged", "shard-00001.h5", "7")
    assert str(error).count("where:") == 1


def test_errors_pass_through_any_executor() -> None:
    """An executor other than the process pool, as mpi4py's is, passes on a task's own error."""

    class Eager:
        """Runs a task as it is submitted."""

        def submit(self, function, task):  # type: ignore[no-untyped-def]
            """A future with the result or the error."""
            from concurrent.futures import Future

            future: Future[object] = Future()
            try:
                future.set_result(function(task))
            except Exception as error:
                future.set_exception(error)
            return future

    assert list(PoolMapper(Eager(), 1).map(operator.neg, [1, 2, 3, 4, 5])) == [-1, -2, -3, -4, -5]
    with pytest.raises(ZeroDivisionError):
        list(PoolMapper(Eager(), 1).map((1).__floordiv__, [1, 0]))


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, 1),
        ({"PMI_SIZE": "3"}, 3),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, 4),
        ({"PMI_SIZE": "many"}, 1),
        ({"SLURM_STEP_NUM_TASKS": "8"}, 1),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "0"}, 8),
        ({"PMI_SIZE": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}, 2),
    ],
    ids=str,
)
def test_launched_size(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: int) -> None:
    """The number of launched tasks is read from what mpiexec, Open MPI and srun set."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched_size() == expected


def marked(mark: str) -> list[int]:
    """Process ids of what was started with this text in its environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_leader_leaves_no_worker(number: signal.Signals, tmp_path: Path) -> None:
    """A command whose leading process is killed takes its pool with it, busy workers too."""
    out, mark = tmp_path / "stars", str(tmp_path)
    words = ["simulate", out, "--stars", 4_000_000, "--shard-rows", 10_000, "--workers", 2]
    process = start(*words, A_MARK=mark)
    try:
        await_sign(lambda: len(list(out.glob("shard-*.h5"))) > 2, process)
        assert len(marked(mark)) >= 4  # the leader, the fork server, two workers
        process.send_signal(number)
        process.communicate(timeout=150)
        assert wait_until(lambda: marked(mark) == [], timeout=20)
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
