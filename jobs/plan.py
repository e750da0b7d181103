"""What a run will cost: time, memory and disk of each stage, from a calibration by the verbs themselves."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpc_ae.config import RunConfig, check_config
from hpc_ae.errors import InputError
from hpc_ae.jobs.resources import num_processes, num_tasks, threads_per_rank
from hpc_ae.jobs.run import Run, Stage
from hpc_ae.jobs.settings import encoding_of, training_of
from hpc_ae.jobs.stages import expand_paths
from hpc_ae.layout import MANIFEST_NAME
from hpc_ae.record import Record, read_record
from hpc_ae.runtime.progress import ProgressRecord

_CALIBRATION_STARS = 200_000
_CALIBRATION_STEPS = 400
_START_SECONDS = 5.0  # of a stage: processes, imports, the kernel from its cache
_RAW_BYTES_PER_STAR = 130.0
_SORT_COPIES = 3  # of the stars while they are sorted: as read, in sorted runs, in the new shards
_STAR_BYTES, _ENCODING_BYTES, _RECONSTRUCTION_BYTES, _UNCERTAINTY_BYTES = 72, 28, 20, 20
_ROW_BYTES = 20  # of a training star's magnitudes, and of their errors
_SCORE_BYTES = 22


class StagePlan(Record):
    """What one stage is expected to take."""

    stage: str
    processes: int
    seconds: float
    memory_gib: float
    disk_gb: float
    node_hours: float


class Plan(Record):
    """A plan as `--json` shows it."""

    num_stars: int
    stages: tuple[StagePlan, ...]
    calibration_stars_per_second: dict[str, float]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def calibrate(config: RunConfig) -> dict[str, float]:
    """Stars/s of one process for each verb, measured on a small simulated catalog; about 10 seconds."""
    with tempfile.TemporaryDirectory(prefix="hpc_ae-plan-") as name:
        folder = Path(name)
        train = config.train.model_dump(mode="json") | {
            "steps": _CALIBRATION_STEPS,
            "validations": 1,
            "tensorboard": False,
        }
        values = {
            "run_dir": str(folder / "run"),
            "catalog": {"path": str(folder / "stars")},
            "model": config.model.model_dump(mode="json"),
            "train": train,
            "encode": config.encode.model_dump(include={"reconstruction", "uncertainty"}),
        }
        return _measure(folder, check_config(values, "plan"), threads_per_rank(config, "train"))


def _measure(folder: Path, small: RunConfig, num_threads: int) -> dict[str, float]:
    import torch

    from hpc_ae.encode import encode, finalise
    from hpc_ae.postprocess import PostprocessSettings, ReportPaths, postprocess
    from hpc_ae.runtime.distributed import Group
    from hpc_ae.runtime.ranks import Ranks
    from hpc_ae.simulate import SimulateSettings, simulate
    from hpc_ae.train import train
    from hpc_ae.verify import verify

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(num_threads)  # of training; the other verbs take one each
    encoding, progress = encoding_of(small), small.layout.progress_path
    paths = ReportPaths(small.encoding_path, small.catalog_path, small.layout.report_dir)
    works: dict[str, Callable[[], Any]] = {
        "simulate": lambda: simulate(folder / "stars", SimulateSettings(_CALIBRATION_STARS), 1, progress("simulate")),
        "train": lambda: train(small.catalog_path, small.layout, training_of(small), Group(Ranks(), device)),
        "encode": lambda: encode(*encoding, Ranks(), device.type, progress_path=progress("encode")),
        "finalise": lambda: (finalise(*encoding, {}), verify(small.encoding_path)),
        "postprocess": lambda: postprocess(paths, PostprocessSettings(), 1, progress("postprocess")),
    }
    rates = {}
    for name, work in works.items():
        started = time.perf_counter()
        work()
        rates[name] = _CALIBRATION_STARS / (time.perf_counter() - started)
        if progress(name).exists():  # without start-up and figures
            rates[name] = read_record(progress(name), ProgressRecord).rate
    rates["ingest"] = rates["simulate"] / 2  # parsing text costs about as much again (benchmarks/README.md)
    return rates


def count_stars(config: RunConfig) -> int:
    """Stars of the run: from the catalog, from the config, or estimated from the size of the raw files."""
    from hpc_ae.catalog.manifest import read_manifest
    from hpc_ae.catalog.records import StarManifest
    from hpc_ae.readers.tree import expand_dirs

    if (config.catalog_path / MANIFEST_NAME).exists():
        return read_manifest(config.catalog_path, StarManifest).num_stars
    source = config.catalog.source
    if source is None:
        raise InputError(
            "there is no star catalog, and the config does not say how to make one",
            where=config.catalog_path,
            got=f"no {MANIFEST_NAME} there",
            expected="catalog.path with a catalog, or catalog.source",
        )
    if source.simulate is not None:
        return source.simulate.stars
    paths = expand_dirs(expand_paths(source.raw or []))
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError("there is no such file", where=missing[0])
    return max(1, int(sum(path.stat().st_size for path in paths) / _RAW_BYTES_PER_STAR))


def count_shards(config: RunConfig) -> int:
    """Shards of the run: of the catalog where it is there, else as the config cuts it."""
    from hpc_ae.catalog.manifest import read_manifest
    from hpc_ae.catalog.records import StarManifest

    if (config.catalog_path / MANIFEST_NAME).exists():
        return len(read_manifest(config.catalog_path, StarManifest).shards)
    return -(-count_stars(config) // config.catalog.shard_rows)


def make_plan(run: Run, rates: dict[str, float]) -> list[StagePlan]:
    """What each stage will take; processes are assumed to share the work evenly."""
    config, num_stars = run.config, count_stars(run.config)
    plans = []
    for stage in run.stages:
        processes = num_processes(config, stage.name, stage.kind)
        stars = _trained_stars(config, num_stars) if stage.name == "train" else num_stars
        seconds = _START_SECONDS + stars / (rates[stage.name] * processes)
        plan = StagePlan(
            stage=stage.name,
            processes=processes,
            seconds=seconds,
            memory_gib=memory_gib(config, stage.name, num_stars, processes),
            disk_gb=disk_gb(config, stage.name, num_stars),
            node_hours=seconds * _num_nodes(config, stage) / 3600,
        )
        plans.append(plan)
    return plans


def _num_nodes(config: RunConfig, stage: Stage) -> int:
    """Nodes that are taken at the same time: of an array those of the tasks that may run together."""
    return num_tasks(config, stage.name, stage.kind)[0] * config.cluster.array_of(stage.name)[1]


def _trained_stars(config: RunConfig, num_stars: int) -> float:
    train = config.train
    return train.steps * train.batch_size if train.steps else train.epochs * num_stars * (1 - train.validation_fraction)


def memory_gib(config: RunConfig, stage: str, num_stars: int, processes: int) -> float:
    """Memory of one process of a stage, in GiB."""
    if stage == "train":
        row_bytes = _ROW_BYTES * (2 if config.train.needs_errors else 1)
        return min(1 + row_bytes * num_stars / processes / 2**30, max(1.0, config.train.memory_limit_bytes / 2**30))
    if stage == "postprocess":
        return 0.7 + 500 * config.catalog.shard_rows / 2**30  # the sample is that of the process that leads
    return 0.3 + 500 * config.catalog.shard_rows / 2**30


def disk_gb(config: RunConfig, stage: str, num_stars: int) -> float:
    """What a stage needs of the disk while it runs, in GB; all but the copies of a sort stays."""
    ingest = _STAR_BYTES * (_SORT_COPIES if config.catalog.order == "healpix" else 1)
    encoding = _ENCODING_BYTES + (_RECONSTRUCTION_BYTES if config.encode.reconstruction else 0)
    encoding += _UNCERTAINTY_BYTES if config.encode.uncertainty else 0
    per_star = {"simulate": _STAR_BYTES, "ingest": ingest, "encode": encoding, "postprocess": _SCORE_BYTES}
    return per_star.get(stage, 0) * num_stars / 1e9


def plan_text(config: RunConfig, plans: list[StagePlan]) -> str:
    """The plan as a table."""
    slurm = config.cluster.kind == "slurm"
    lines = [
        f"{count_stars(config):,} stars in {count_shards(config):,} shards",
        f"{'stage':<12}{'processes':>10}{'time':>12}{'asked for' if slurm else '':>12}"
        f"{'GiB each':>10}{'GB disk':>10}{'node-h':>9}",
    ]
    for plan in plans:
        clock = time.strftime("%H:%M:%S", time.gmtime(plan.seconds))
        days = f"{int(plan.seconds // 86400)}-" if plan.seconds >= 86400 else ""
        limit = config.cluster.of_stage(plan.stage).time if slurm else ""
        numbers = f"{plan.memory_gib:>10.1f}{plan.disk_gb:>10.2f}{plan.node_hours:>9.2f}"
        lines.append(f"{plan.stage:<12}{plan.processes:>10}{days + clock:>12}{limit:>12}{numbers}")
    return "\n".join(lines)
