"""Map tasks over the processes that there are: a process pool on one machine, MPI under mpiexec or srun.

Results come in task order, so that what is made of them does not depend on the number of workers.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.util
import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from hpc_ae.errors import HpcAeError, InputError, WorkError

Task = TypeVar("Task")
Result = TypeVar("Result")
# What mpiexec (Hydra), Open MPI and srun's MPI plugins tell each task of the size of its world.
_MPI_SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")

_MOST_TEMP_BYTES = 70  # and 32 more of the names that multiprocessing makes
_SHORT_TEMP_DIRS = ("/tmp", "/dev/shm", "/var/tmp")  # a new directory of this user's alone in one of them


class Mapper(Protocol):
    """Runs a function over tasks; results in task order."""

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Yield function(task) for each task, in order, as they are ready."""
        ...


class SerialMapper:
    """Everything in this process."""

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Yield function(task) for each task."""
        return map(function, tasks)


class PoolMapper:
    """A pool of processes on this machine, or the workers of an MPI job."""

    def __init__(self, executor: Any, num_workers: int) -> None:
        self.executor = executor
        self.window = 2 * num_workers + 1

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Yield results in task order with a bounded number of tasks in flight."""
        waiting: list[concurrent.futures.Future[Result]] = []
        remaining: Iterable[Task] = iter(tasks)
        try:
            for task in remaining:
                waiting.append(self.executor.submit(function, task))
                if len(waiting) >= self.window:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        except concurrent.futures.BrokenExecutor as error:
            raise WorkError(
                "a worker process died",
                got="killed, perhaps because memory ran out",
                fix="run the command again with fewer workers",
            ) from error
        finally:
            for future in waiting:
                future.cancel()
            concurrent.futures.wait(waiting)  # so that no task writes after an error has been reported


def launched_size() -> int:
    """Number of tasks that mpiexec or srun launched beside this one (itself counted); 1 without them."""
    sizes = [int(os.environ[name]) for name in _MPI_SIZE_VARIABLES if os.environ.get(name, "").isdigit()]
    if "SLURM_PROCID" in os.environ and os.environ.get("SLURM_STEP_NUM_TASKS", "").isdigit():
        sizes.append(int(os.environ["SLURM_STEP_NUM_TASKS"]))
    return max(sizes, default=1)


@contextlib.contextmanager
def open_mapper(num_workers: int) -> Iterator[Mapper | None]:
    """Yield a Mapper in the process that leads, None in the MPI ranks that serve it.

    Under mpiexec or srun with several tasks the MPI ranks are the workers and `num_workers` is not used.
    """
    if launched_size() > 1:
        with _mpi_mapper(launched_size()) as mapper:
            yield mapper
    elif num_workers <= 1:
        yield SerialMapper()
    else:
        _choose_socket_dir()
        context = multiprocessing.get_context("forkserver")
        with concurrent.futures.ProcessPoolExecutor(num_workers, context, _end_with_parent) as executor:
            yield PoolMapper(executor, num_workers)


def _choose_socket_dir() -> None:
    """Have the pool's sockets in a directory of a short path: a socket's has 107 bytes at most, and the TMPDIR of a
    site or a user may have more.
    """
    if len(os.fsencode(tempfile.gettempdir())) <= _MOST_TEMP_BYTES:
        return
    before = tempfile.tempdir
    try:
        for parent in _SHORT_TEMP_DIRS:
            tempfile.tempdir = parent
            with contextlib.suppress(OSError):
                multiprocessing.util.get_temp_dir()  # made once in a process, and removed at its end
                return
    finally:
        tempfile.tempdir = before


def _end_with_parent() -> None:
    """In a worker: end when the process that leads has gone. Killed, it would leave its workers waiting for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


@contextlib.contextmanager
def _mpi_mapper(launched: int) -> Iterator[Mapper | None]:
    try:
        from mpi4py import MPI
        from mpi4py.futures import MPICommExecutor
    except (ImportError, RuntimeError) as error:
        raise InputError(
            "no MPI library can be loaded, by which the tasks of several nodes share this work",
            got=" ".join(str(error).split())[:200],
            fix="load the site's MPI (cluster.modules); or have this stage on one node with one task: "
            "cluster.stages.STAGE.nodes=1 and ranks_per_node=1",
        ) from error
    if launched != MPI.COMM_WORLD.size:
        raise InputError(
            "the MPI library does not see the tasks that were launched",
            got=f"a communicator of {MPI.COMM_WORLD.size}",
            expected=f"{launched} tasks",
            fix="set cluster.mpi (srun --mpi=...) to the value for your MPI library: pmi2 for MPICH, pmix for Open MPI",
        )
    leads = False
    try:
        with MPICommExecutor(MPI.COMM_WORLD, root=0) as executor:
            leads = executor is not None
            yield PoolMapper(executor, MPI.COMM_WORLD.size - 1) if leads else None
    except BaseException as error:
        if leads and isinstance(error, Exception):
            raise  # the executor has let the other ranks go: the leading one says what is wrong, and with which status
        _abort(MPI.COMM_WORLD, error)


def _abort(communicator: Any, error: BaseException) -> None:
    """End all ranks: a rank that leaves with an exception would let the others wait for ever."""
    if isinstance(error, HpcAeError):
        print(f"hpc-ae: {error}", file=sys.stderr, flush=True)
    else:
        traceback.print_exception(error)
    communicator.Abort(error.exit_status if isinstance(error, HpcAeError) else 1)
