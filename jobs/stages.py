"""The stages of a run: what each does, how it is launched, when it is done, what `--redo` discards.

A stage is run by name, in a process that may be one of several; nothing here knows who launched it.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hpc_ae.config import RunConfig
from hpc_ae.errors import InputError, WorkError
from hpc_ae.files import make_dir, publish_json, read_json
from hpc_ae.jobs.resources import Kind, num_workers, threads_per_rank
from hpc_ae.jobs.settings import encoding_of
from hpc_ae.provenance import check_fingerprint

if TYPE_CHECKING:
    from hpc_ae.runtime.ranks import Ranks

Outcome = Literal["done", "interrupted"]
StopRequested = Callable[[], bool]


@dataclass(frozen=True)
class Stage:
    """One stage. `kind`: tasks "mapped" over a pool or MPI, "ranks" that know their place, or a "single" process."""

    name: str
    kind: Kind
    run: Callable[[RunConfig, StopRequested], str]
    is_done: Callable[[RunConfig], bool]
    outputs: Callable[[RunConfig], list[Path]]
    # (done, of how many, what) of the work that outlasts a kill: shards, or the steps of the newest checkpoint.
    done_so_far: Callable[[RunConfig], tuple[int, int, str]] = lambda _: (0, 0, "")
    # The ranks of so many that still have something to do; None: the stage cannot be cut into parts.
    ranks_left: Callable[[RunConfig, int], list[int]] | None = None
    # Whether --redo leaves an output, as making it again would give the same.
    keeps: Callable[[RunConfig, Path], bool] = lambda *_: False


def progress_path(config: RunConfig, stage: str) -> Path:
    """Where a stage says how far it is."""
    return config.run_path / "jobs" / "progress" / f"{stage}.json"


def _simulation(config: RunConfig) -> Any:
    from hpc_ae.simulate import SimulateSettings

    source = config.catalog.source
    if source is None or source.simulate is None:
        raise InputError("the config does not say how many stars to simulate", where="catalog.source.simulate.stars")
    stars = source.simulate
    return SimulateSettings(stars.stars, config.seed, stars.bad_rows, config.catalog.shard_rows, stars.observed)


def _run_simulate(config: RunConfig, _: StopRequested) -> str:
    from hpc_ae.simulate import simulate

    simulate(
        config.catalog_path, _simulation(config), num_workers(config, "simulate"), progress_path(config, "simulate")
    )
    return "done"


def _is_simulated(config: RunConfig) -> bool:
    if not _has_manifest(config.catalog_path):
        return False
    from hpc_ae.catalog.manifest import read_manifest

    recorded = read_manifest(config.catalog_path).get("fingerprint", {})
    check_fingerprint(config.catalog_path, recorded, _simulation(config).fingerprint(), "simulate")
    return True


def _ingestion(config: RunConfig) -> tuple[list[Path], Any]:
    from hpc_ae.ingest import IngestSettings

    source = config.catalog.source
    if source is None or not source.raw:
        raise InputError("the config names no raw files", where="catalog.source.raw")
    catalog = config.catalog
    settings = IngestSettings(dict(source.columns), catalog.shard_rows, catalog.bad, source.reading, catalog.order)
    return expand_paths(source.raw), settings


def _run_ingest(config: RunConfig, _: StopRequested) -> str:
    from hpc_ae.ingest import ingest

    raw_paths, settings = _ingestion(config)
    ingest(raw_paths, config.catalog_path, settings, num_workers(config, "ingest"), progress_path(config, "ingest"))
    return "done"


def _is_ingested(config: RunConfig) -> bool:
    if not _has_manifest(config.catalog_path):
        return False
    from hpc_ae.ingest import looks_ingested

    try:
        raw_paths, settings = _ingestion(config)
    except InputError as error:  # the catalog is there: raw files that are gone since are no reason to stop
        print(f"ingest: {error.what}; the catalog that is there is used", file=sys.stderr)
        return True
    return looks_ingested(raw_paths, config.catalog_path, settings)


def expand_paths(patterns: list[str]) -> list[Path]:
    """The files that paths and * patterns name, each pattern's in sorted order."""
    paths: list[Path] = []
    for pattern in patterns:
        magic = glob.has_magic(pattern) and not Path(pattern).exists()
        found = sorted(glob.glob(pattern, recursive=True)) if magic else [pattern]  # noqa: PTH207
        if not found:
            raise InputError("no file matches", where=pattern, fix="check the path; the shell's quotes keep * as it is")
        paths += [Path(name) for name in found]
    return paths


def _has_manifest(directory: Path) -> bool:
    return (directory / "manifest.json").exists()


def _run_train(config: RunConfig, stop_requested: StopRequested) -> str:
    from hpc_ae.runtime.distributed import pick_device, process_group
    from hpc_ae.runtime.ranks import ranks_from_environment
    from hpc_ae.train import train

    _limit_threads(config, "train")
    ranks = ranks_from_environment()
    device = pick_device(ranks)
    meeting = os.environ.get("HPC_AE_MEETING_DIR")
    with process_group(ranks, device, Path(meeting) if meeting else None) as group:
        return train(config, group, stop_requested)


def _limit_threads(config: RunConfig, stage: str) -> None:
    """One PyTorch thread per core of this rank: more would fight with the other ranks."""
    import torch

    torch.set_num_threads(threads_per_rank(config, stage))


def _is_trained(config: RunConfig) -> bool:
    if not (config.run_path / "model" / "model.json").exists() or not _has_manifest(config.catalog_path):
        return False
    from hpc_ae.catalog.catalog import open_catalog
    from hpc_ae.model.weights import is_model_of

    fingerprint = config.training_fingerprint(open_catalog(config.catalog_path).digest)
    return is_model_of(config.run_path / "model", fingerprint)


def _trained_so_far(config: RunConfig) -> tuple[int, int, str]:
    """By the names alone: the training itself passes over a damaged checkpoint."""
    steps = [int(path.name[5:]) for path in (config.run_path / "checkpoints").glob("step-*") if path.name[5:].isdigit()]
    return max(steps, default=0), config.train.steps or 0, "step"


def _run_encode(config: RunConfig, stop_requested: StopRequested) -> str:
    from hpc_ae.encode import encode
    from hpc_ae.runtime.ranks import ranks_from_environment

    ranks = ranks_from_environment()
    leads = ranks.local_rank == 0 and os.environ.get("GROUP_RANK", "0") == "0"  # the first rank of each job
    path = progress_path(config, "encode") if leads else None
    return encode(*encoding_of(config), ranks, _device_name(config, ranks), stop_requested, path)


def _device_name(config: RunConfig, ranks: Ranks) -> str:
    """This rank's device, by PyTorch's name; without a GPU's driver PyTorch is not imported to be asked."""
    from hpc_ae.runtime.ranks import may_have_gpu

    if not may_have_gpu():
        return "cpu"
    from hpc_ae.runtime.distributed import pick_device

    _limit_threads(config, "encode")
    return str(pick_device(ranks))


def _shards_done(config: RunConfig) -> list[bool]:
    """Of each shard of the star catalog whether its encoding is there; empty where there is no catalog yet."""
    if not _has_manifest(config.catalog_path):
        return []
    from hpc_ae.catalog.manifest import read_manifest

    return [(config.encoding_path / shard["file"]).exists() for shard in read_manifest(config.catalog_path)["shards"]]


def _encoded_so_far(config: RunConfig) -> tuple[int, int, str]:
    done = _shards_done(config)
    return sum(done), len(done), "shard"


def _ranks_with_shards_left(config: RunConfig, world_size: int) -> list[int]:
    done = _shards_done(config)
    if not done:
        return list(range(world_size))
    return sorted({index % world_size for index, is_there in enumerate(done) if not is_there})


def _is_encoded(config: RunConfig) -> bool:
    if not _has_manifest(config.encoding_path) or not (config.model_path / "model.json").exists():
        return False
    from hpc_ae.encode import is_encoded, make_job

    return is_encoded(make_job(*encoding_of(config)))


def _run_finalise(config: RunConfig, _: StopRequested) -> str:
    from hpc_ae.encode import finalise
    from hpc_ae.verify import verify

    finalise(*encoding_of(config), config.model_dump(mode="json"))
    check = verify(config.encoding_path, stars=config.catalog_path, num_workers=num_workers(config, "finalise"))
    if not check.ok:
        found = check.findings[0]
        raise WorkError(
            f"the encoding catalog does not verify: {found.what}",
            where=found.where,
            got=found.got,
            expected=found.expected,
            fix="hpc-ae verify shows every finding; --redo encode makes the catalog again",
        )
    digest = read_json(config.encoding_path / "manifest.json")["digest"]
    publish_json(make_dir(verified_path(config).parent) / verified_path(config).name, {"manifest": digest})
    return "done"


def verified_path(config: RunConfig) -> Path:
    """Where finalise says which manifest of the encoding it has verified."""
    return config.run_path / "jobs" / "verified.json"


def _is_verified(config: RunConfig) -> bool:
    if not _is_encoded(config) or not verified_path(config).exists():
        return False
    manifest = read_json(config.encoding_path / "manifest.json")
    return bool(read_json(verified_path(config)).get("manifest") == manifest["digest"])


def _report_of(config: RunConfig) -> tuple[Any, Any]:
    from hpc_ae.postprocess import PostprocessSettings, ReportPaths

    run_dir, other = config.run_path, config.postprocess.compare
    paths = ReportPaths(
        config.encoding_path,
        config.catalog_path,
        run_dir / "report",
        run_dir / "metrics.jsonl",
        run_dir / "scores",
        Path(other) if other else None,
        progress_path(config, "postprocess").parent,
    )
    return paths, PostprocessSettings(config.postprocess.anomalies)


def _run_postprocess(config: RunConfig, _: StopRequested) -> str:
    from hpc_ae.postprocess import postprocess

    _check_model_of_encoding(config)
    postprocess(*_report_of(config), num_workers(config, "postprocess"), progress_path(config, "postprocess"))
    return "done"


def _check_model_of_encoding(config: RunConfig) -> None:
    """StaleError where the encoding is of another model than the one that is there."""
    path, manifest = config.model_path / "model.json", config.encoding_path / "manifest.json"
    if path.exists() and manifest.exists():
        recorded = {"model": read_json(manifest)["inputs"]["model"]["digest"]}
        check_fingerprint(config.encoding_path, recorded, {"model": read_json(path)["digest"]}, "encode")


def _is_postprocessed(config: RunConfig) -> bool:
    if not (config.run_path / "report" / "summary.json").exists() or not _has_manifest(config.encoding_path):
        return False
    from hpc_ae.postprocess import is_postprocessed

    return is_postprocessed(*_report_of(config))


def _scored_so_far(config: RunConfig) -> tuple[int, int, str]:
    """By the names alone: postprocess itself looks whether they are of this encoding."""
    num = len(list((config.run_path / "scores").glob("shard-*.h5")))
    return num, max(num, len(list(config.encoding_path.glob("shard-*.h5")))), "shard"


def _keeps_scores(config: RunConfig, path: Path) -> bool:
    """Scores of the encoding that is there are what --redo would make again: nothing but the encoding decides them."""
    if path.name != "scores":
        return False
    from hpc_ae.postprocess import are_scores_of

    return are_scores_of(path, config.encoding_path, config.catalog_path)


def _catalog_dir(config: RunConfig) -> list[Path]:
    return [config.catalog_path]


def _in_run(*names: str) -> Callable[[RunConfig], list[Path]]:
    return lambda config: [config.run_path / name for name in names]


SIMULATE = Stage("simulate", "mapped", _run_simulate, _is_simulated, _catalog_dir)
INGEST = Stage("ingest", "mapped", _run_ingest, _is_ingested, _catalog_dir)
TRAIN = Stage(
    "train",
    "ranks",
    _run_train,
    _is_trained,
    _in_run("checkpoints", "model", "metrics.jsonl", "tensorboard"),
    _trained_so_far,
)
ENCODE = Stage(
    "encode", "ranks", _run_encode, _is_encoded, _in_run("encoding"), _encoded_so_far, _ranks_with_shards_left
)
FINALISE = Stage("finalise", "single", _run_finalise, _is_verified, _in_run())
POSTPROCESS = Stage(
    "postprocess",
    "mapped",
    _run_postprocess,
    _is_postprocessed,
    _in_run("report", "scores"),
    _scored_so_far,
    keeps=_keeps_scores,
)
STAGES = {stage.name: stage for stage in (SIMULATE, INGEST, TRAIN, ENCODE, FINALISE, POSTPROCESS)}


def stages_of(config: RunConfig) -> list[Stage]:
    """The stages of a run in order: a catalog where the config says how to make one, a model unless one is given."""
    source = config.catalog.source
    making = [] if source is None else [SIMULATE] if source.simulate else [INGEST]
    training = [] if config.encode.model else [TRAIN]
    return [*making, *training, ENCODE, FINALISE, POSTPROCESS]
