"""Is a config right for what it is to do: what will fail (problems), and what a user may want to change (warnings)."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable

from hpc_ae.cluster import limit_seconds
from hpc_ae.config import RunConfig
from hpc_ae.errors import HpcAeError
from hpc_ae.jobs.finding import mpi_version
from hpc_ae.jobs.plan import StagePlan, count_shards, count_stars, disk_gb, memory_gib
from hpc_ae.jobs.resources import num_processes, num_tasks
from hpc_ae.jobs.run import Run, Stage
from hpc_ae.layout import MANIFEST_NAME, MODEL_NAME, RunLayout

_UNITS = {"": 2**20, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}  # sbatch --mem counts in megabytes


def sure_problems_of(config: RunConfig, *, keeps_catalog: bool = True) -> list[str]:
    """What will stop the run whatever the stars are, each with the way out.

    `keeps_catalog`: a catalog that is there is the run's; not so where it will be made again.
    """
    found, train = [], config.train
    if train.batch_size % train.partitions:
        nearest = -(-train.batch_size // train.partitions) * train.partitions
        sizes = f"train.batch_size {train.batch_size} is not a multiple of train.partitions {train.partitions}"
        found.append(f"{sizes}: use {nearest}")
    ranks = num_processes(config, "train", "ranks")
    if ranks > train.partitions:
        found.append(f"{ranks} ranks of train, but train.partitions is {train.partitions}: set it to {ranks} or more")
    if config.encode.model and not (config.model_path / MODEL_NAME).exists():
        found.append(f"encode.model {config.model_path} is not a model directory: it has no {MODEL_NAME}")
    return found + (_error_problems(config) if keeps_catalog else []) + _source_problems(config, keeps=keeps_catalog)


def _error_problems(config: RunConfig) -> list[str]:
    """What needs magnitude errors in training, where the catalog, which is there, does not have them."""
    if config.encode.model or not (config.catalog_path / MANIFEST_NAME).exists():
        return []
    from hpc_ae.catalog.manifest import read_manifest
    from hpc_ae.catalog.records import StarManifest

    with contextlib.suppress(HpcAeError):  # a damaged manifest is found by what reads the catalog
        if "magnitude_error" in read_manifest(config.catalog_path, StarManifest).columns:
            return []
        missing, found = f"needs magnitude_error, which {config.catalog_path} does not have", []
        if config.train.needs_errors:
            found.append(f"train.noise {config.train.noise} {missing}: set a number in mag, or none")
        if config.encode.uncertainty:
            found.append(
                f"encode.uncertainty {missing}: set it to false, or name a model (encode.model) that has such a table"
            )
        return found
    return []


def _source_problems(config: RunConfig, *, keeps: bool) -> list[str]:
    """Where there are no stars, or what is wrong with how raw files are to be read."""
    source, is_there = config.catalog.source, (config.catalog_path / MANIFEST_NAME).exists()
    if source is None and config.catalog.path and not is_there:
        inner = RunLayout(config.catalog_path).catalog_dir
        hint = f"; the stars of that run are in {inner}" if inner.is_dir() else ""
        return [f"catalog.path {config.catalog_path} is not a catalog: it has no {MANIFEST_NAME}{hint}"]
    if source is None or not source.raw:
        return []
    from hpc_ae.jobs.stages import expand_paths
    from hpc_ae.readers.conversion import check_reading
    from hpc_ae.readers.mapping import check_mapping

    found = []
    try:
        gone = [] if is_there and keeps else [path for path in expand_paths(source.raw) if not path.exists()]
        found += [f"catalog.source.raw: there is no file {path}" for path in gone[:1]]
    except HpcAeError as error:
        found.append(f"catalog.source.raw: {error.what}: {error.where}")
    try:
        check_mapping(source.columns, source.reading)
        check_reading(source.reading)
    except HpcAeError as error:
        found.append(f"catalog.source: {error.what}: got {error.got}, expected {error.expected}")
    return found


def problems_of(config: RunConfig) -> list[str]:
    """What will stop the run; raw files are counted by their size."""
    found, train = sure_problems_of(config), config.train
    try:
        num_stars = count_stars(config)
    except HpcAeError:
        return found
    good = num_stars * (1 - train.validation_fraction)
    if not config.encode.model and good < train.batch_size:
        found.append(f"{num_stars:,} stars are fewer than one train.batch_size {train.batch_size}")
    return found


def warnings_of(run: Run, plans: list[StagePlan] | None = None) -> list[str]:
    """What a user may want to change before queueing; with `plans` also what their times tell."""
    config = run.config
    found = _array_warnings(config) + _disk_warnings(run)
    for stage in run.stages:
        found += _stage_warnings(config, stage)
    found += mpi_warnings(config, run.stages)
    if config.cluster.kind == "slurm":
        for plan in plans or []:
            limit = config.cluster.of_stage(plan.stage).time
            if plan.seconds > limit_seconds(limit):
                found.append(f"{plan.stage} is expected to take {plan.seconds:.0f} s, longer than its time {limit}")
    return found


def _stage_warnings(config: RunConfig, stage: Stage) -> list[str]:
    found = []
    cluster, num_stars = config.cluster.of_stage(stage.name), count_stars(config)
    processes = num_processes(config, stage.name, stage.kind)
    num_shards = count_shards(config)
    if stage.name == "encode" and num_shards < processes:
        num = f"{num_shards} shard{'s' * (num_shards != 1)}"
        is_made = config.catalog.source is not None
        mend = "smaller catalog.shard_rows use them all" if is_made else f"more than {num_shards} have nothing to do"
        found.append(f"{num} for {processes} ranks of encode: {mend}")
    if config.cluster.kind == "local":
        return found
    limit = limit_seconds(cluster.time)
    if stage.name == "train" and limit < config.train.checkpoint_seconds:
        interval = f"train.checkpoint_seconds {config.train.checkpoint_seconds:g}"
        found.append(f"train's time {cluster.time} is shorter than {interval}: a job that dies would lose all")
    asked = memory_bytes(cluster.mem)
    nodes, tasks = num_tasks(config, stage.name, stage.kind)
    on_a_node = tasks if stage.kind == "ranks" or nodes * tasks > 1 else processes  # one task alone works with a pool
    needed = memory_gib(config, stage.name, num_stars, processes) * on_a_node
    if asked is not None and needed * 2**30 > asked:
        found.append(f"{stage.name} may need {needed:.1f} GiB a node, more than its mem {cluster.mem}")
    gpus = cluster.gpus_per_node
    if stage.kind == "ranks" and gpus and tasks != gpus:
        found.append(f"{stage.name}: {tasks} ranks share {gpus} GPUs of a node: one each is usual")
    return found


def mpi_warnings(config: RunConfig, stages: Iterable[Stage]) -> list[str]:
    """Where stages of several tasks need MPI, none can be loaded here, and no module or line of setup brings one."""
    cluster = config.cluster
    if cluster.kind == "local" or cluster.modules or cluster.setup:
        return []
    wanted = [one.name for one in stages if one.kind == "mapped" and sum(num_tasks(config, one.name, one.kind)) > 2]
    if not wanted or mpi_version():
        return []
    return [f"{', '.join(wanted)} of several tasks need MPI, and no library can be loaded: see cluster.modules"]


def _array_warnings(config: RunConfig) -> list[str]:
    own = config.cluster.stages.encode
    if own is not None and own.array_throttle and own.array is None:
        return ["cluster.stages.encode.array_throttle does nothing without array"]
    return []


def _disk_warnings(run: Run) -> list[str]:
    """Where the file system of the run directory has less room than the stages write."""
    needed = sum(disk_gb(run.config, stage.name, count_stars(run.config)) for stage in run.stages)
    folder = run.layout.run_dir
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    found = [f"the run writes {needed:.0f} GB, {folder} has {free:.0f} GB free"] if needed > free else []
    if not os.access(folder, os.W_OK):
        found.append(f"{folder}, in which run_dir lies, cannot be written")
    return found


def memory_bytes(text: str | None) -> float | None:
    """Bytes of sbatch's --mem; None where nothing is asked for, or all of a node (0)."""
    if not text:
        return None
    number, unit = (text, "") if text[-1].isdigit() else (text[:-1], text[-1].upper())
    if not number.isdigit() or unit not in _UNITS or number == "0":
        return None
    return float(number) * _UNITS[unit]


def advice(run: Run, plans: list[StagePlan] | None = None) -> tuple[list[str], list[str]]:
    """(problems, warnings); the one warning, where the stars are not there yet, is that."""
    problems = problems_of(run.config)
    try:
        return problems, warnings_of(run, plans)
    except HpcAeError as error:
        return problems, ["; ".join(line.strip() for line in str(error).splitlines())]
