"""How many processes, workers and threads a stage gets: the config's numbers, and what is right where it is silent."""

from __future__ import annotations

import os
from typing import Literal

from hpc_ae.config import RunConfig

Kind = Literal["mapped", "ranks", "single"]  # see jobs.stages.Stage
_MOST_RANKS = 8  # where nobody asked for more


def ranks_per_node(config: RunConfig, stage: str) -> int:
    """Processes of a stage on each node.

    Where the config leaves it open, training on CPUs takes one: at batch 512 two ranks of one thread made 0.3 of the
    stars/s of one, as an all-reduce costs more than a batch (benchmarks/README.md).
    """
    cluster = config.cluster.of_stage(stage)
    if chosen := cluster.ranks_per_node or cluster.gpus_per_node:
        return chosen
    if cluster.kind == "slurm" or stage == "train":
        return 1
    return min(_MOST_RANKS, len(os.sched_getaffinity(0)))


def threads_per_rank(config: RunConfig, stage: str) -> int:
    """Threads of a rank: its cores. The one rank that trains on this machine where nothing is said takes them all, but
    not with PyTorch's operators, which small batches over several threads slow down.
    """
    cluster = config.cluster.of_stage(stage)
    chosen = cluster.ranks_per_node or cluster.gpus_per_node or cluster.kind == "slurm"
    if stage != "train" or chosen or config.train.compute in ("torch", "compile"):
        return cluster.cpus_per_task
    return max(cluster.cpus_per_task, min(_MOST_RANKS, len(os.sched_getaffinity(0))))


def num_workers(config: RunConfig, stage: str) -> int:
    """Worker processes of a stage on one machine."""
    return ranks_per_node(config, stage) * config.cluster.of_stage(stage).cpus_per_task


def num_tasks(config: RunConfig, stage: str, kind: Kind) -> tuple[int, int]:
    """(nodes, tasks on each node) of a job of a stage."""
    ranks = ranks_per_node(config, stage)
    if config.cluster.kind == "local":
        return 1, ranks if kind == "ranks" else 1
    return (1, 1) if kind == "single" else (config.cluster.of_stage(stage).nodes, ranks)


def num_processes(config: RunConfig, stage: str, kind: Kind) -> int:
    """Processes that share a stage's work, over all of its jobs."""
    nodes, tasks = num_tasks(config, stage, kind)
    if kind == "ranks":
        return config.cluster.array_of(stage)[0] * nodes * tasks
    return nodes * tasks if nodes * tasks > 1 else num_workers(config, stage)
