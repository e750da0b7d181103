"""One process among several: which one am I, and is there a GPU? Without PyTorch, whose import takes seconds."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from hpc_ae.errors import InputError

# What torchrun tells the processes that it starts; Slurm's and MPI's launchers have names of their own.
_PLACE = frozenset(
    {
        "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK",
        "ROLE_NAME", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    }
)  # fmt: skip
MEETING_VARIABLE = "HPC_AE_MEETING_DIR"
# torchrun, and those that do what it does
_TORCHRUN = re.compile(
    rb"(^|/)(torchrun|accelerate|deepspeed)$|^torch\.distributed\.(run|launch)$|/torch/distributed/(run|launch)\.py$"
)
_GPU_NODES = ("nvidia[0-9]*", "nvidiactl", "kfd", "dxg")  # of NVIDIA's driver, AMD's and the one under WSL


@dataclass(frozen=True)
class Ranks:
    """This process's place: `rank` of `world_size`, `local_rank` of `local_world_size` on its node."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


def ranks_from_environment() -> Ranks:
    """Ranks by RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE; one process alone where they are not set."""
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return Ranks()
    try:
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
        local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    except (KeyError, ValueError) as error:
        raise InputError(
            "RANK and WORLD_SIZE are not both numbers",
            where="environment",
            got=repr(error),
            expected="what torchrun sets",
        ) from error
    if not 0 <= rank < world_size:
        raise InputError("RANK is outside WORLD_SIZE", where="environment", got=f"{rank} of {world_size}")
    return Ranks(rank, world_size, local_rank, local_world_size)


def forget_ranks() -> list[str]:
    """Take out of the environment all by which a launcher tells a process its place and where the others meet; the
    names that were there.
    """
    found = sorted(name for name in os.environ if name in _PLACE or name.startswith("TORCHELASTIC_"))
    for name in found:
        del os.environ[name]
    return found


def forget_stale_ranks() -> list[str]:
    """The same where no torchrun has started this process, and nobody says where ranks that are started by hand meet:
    then they are what a shell was left with. Their names.
    """
    return [] if MEETING_VARIABLE in os.environ or _is_under_torchrun() else forget_ranks()


def _is_under_torchrun() -> bool:
    """Whether one of the processes that this one descends from is torchrun."""
    pid = os.getppid()
    while pid > 1:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return False
        if any(_TORCHRUN.search(word) for word in words[:8]):
            return True
    return False


def may_have_gpu() -> bool:
    """Whether a driver's device is here, so that PyTorch is worth asking; without one it finds none."""
    return any(any(Path("/dev").glob(pattern)) for pattern in _GPU_NODES)
