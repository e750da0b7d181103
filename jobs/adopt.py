"""Stages started by another launcher: torchrun, `srun` inside an allocation, mpiexec. Each process finds its place.

The processes of one launch share a token, by which they meet and say how they are, as those of our own jobs do.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from hpc_ae.errors import InputError
from hpc_ae.jobs.launched import Launched, prepare_run, record_launch
from hpc_ae.jobs.marker import started_at
from hpc_ae.jobs.run import Run, Stage
from hpc_ae.jobs.watchdog import start_watchdog
from hpc_ae.jobs.worker import Reporter, StopFlag, export_ranks, take_one_gpu
from hpc_ae.runtime.executor import launched_size
from hpc_ae.runtime.ranks import MEETING_VARIABLE


@dataclass(frozen=True)
class Place:
    """This process among those that a launcher started together."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    node: int
    token: str


def run_adopted(run: Run, stage: Stage) -> str | None:
    """Run a stage as the process that another launcher made of this one; None where there is no such launcher.

    "done" or "interrupted"; an error ends the process with the status of the contract.
    """
    place = find_place()
    if place is None or (stage.kind == "single" and place.world_size > 1):
        return None
    if stage.kind == "mapped" and launched_size() != place.world_size:
        return None  # torchrun's processes do not know MPI
    files = run.layout.launch(stage.name, place.token)
    if place.rank == 0:
        prepare_run(run.config)
        record_launch(Launched(stage.name, place.token, run.layout, files, place.world_size))
    if stage.kind == "ranks":
        export_ranks(place.rank, place.world_size, place.local_rank, place.local_world_size, place.node)
        take_one_gpu(place.local_rank)
        os.environ.setdefault(MEETING_VARIABLE, str(files.adopted_meeting_dir))
    reporter, stop = Reporter(files.marker_path(place.rank), 0), StopFlag()
    if stage.kind == "ranks":
        start_watchdog(reporter.path, place.rank, run.config.cluster.stall_seconds)
    return reporter.run(lambda: stage.run(run, stop), stop)


def find_place() -> Place | None:
    """This process's place by what torchrun, Open MPI, MPICH or srun has set; None where it stands alone."""
    for find in (_torchrun, _open_mpi, _hydra, _slurm_step):
        if (place := find()) is not None:
            return place
    return None


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    if not text.isdigit():
        raise InputError(f"{name} is not a number", where="environment", got=text or "nothing", expected="0, 1, 2, ...")
    return int(text)


def _torchrun() -> Place | None:
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return None
    from hpc_ae.runtime.ranks import ranks_from_environment

    ranks = ranks_from_environment()
    names = ("TORCHELASTIC_RUN_ID", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
    token = "-".join(["torchrun", *(_word(os.environ.get(name, "0")) for name in names)])
    local = (ranks.local_rank, ranks.local_world_size)
    return Place(ranks.rank, ranks.world_size, *local, _number("GROUP_RANK", 0), token)


def _open_mpi() -> Place | None:
    if "OMPI_COMM_WORLD_RANK" not in os.environ:
        return None
    names = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
    rank, size, local_rank, local_size = (_number(f"OMPI_COMM_WORLD_{name}") for name in names)
    token = f"mpi-{_word(os.environ.get('PMIX_NAMESPACE') or _parent())}"
    return Place(rank, size, local_rank, local_size, _number("OMPI_COMM_WORLD_NODE_RANK", 0), token)


def _hydra() -> Place | None:
    """MPICH's mpiexec; before Slurm's step, which over several nodes is that of mpiexec's own proxies."""
    if "MPI_LOCALRANKID" not in os.environ:
        return None
    rank, size = _number("PMI_RANK"), _number("PMI_SIZE")
    local_rank, local_size = _number("MPI_LOCALRANKID"), _number("MPI_LOCALNRANKS")
    if local_size == size:
        return Place(rank, size, local_rank, local_size, 0, f"mpi-{_parent()}")
    if "SLURM_STEP_ID" not in os.environ:
        raise InputError(
            "mpiexec over several nodes without Slurm gives the processes no name to meet by",
            where="environment",
            fix="use torchrun, or srun in an allocation",
        )
    return Place(rank, size, local_rank, local_size, _number("SLURM_NODEID", 0), f"mpi-{_step()}")


def _slurm_step() -> Place | None:
    """A task of a multi-task step. A batch script's own variables say nothing of a step with more than one task."""
    if "SLURM_PROCID" not in os.environ or _number("SLURM_STEP_NUM_TASKS", 1) <= 1:
        return None
    size, nodes = _number("SLURM_STEP_NUM_TASKS"), _number("SLURM_STEP_NUM_NODES", 1)
    rank, local_rank = _number("SLURM_PROCID"), _number("SLURM_LOCALID", 0)
    return Place(rank, size, local_rank, -(-size // nodes), _number("SLURM_NODEID", 0), f"srun-{_step()}")


def _step() -> str:
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    return "-".join(_word(os.environ.get(name, "0")) for name in names)


def _parent() -> str:
    """The process that started all ranks of a node: its number and the time of its start."""
    pid = os.getppid()
    return f"{pid}-{started_at(pid)}"


def _word(text: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in text)[:64]
