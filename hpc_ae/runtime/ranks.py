"""One process among several: which one am I, and is there a GPU? Without PyTorch, whose import takes seconds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hpc_ae.errors import InputError

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


def may_have_gpu() -> bool:
    """Whether a driver's device is here, so that PyTorch is worth asking; without one it finds none."""
    return any(any(Path("/dev").glob(pattern)) for pattern in _GPU_NODES)
