"""The stages of a run: what each does, when it is done, what `--redo` discards; and which of them a config takes.

A stage is run by name, in a process that may be one of several; nothing here knows who launched it.
"""

from __future__ import annotations

import contextlib
import glob
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hpc_ae.config import RunConfig
from hpc_ae.errors import DamageError, HpcAeError, InputError, WorkError
from hpc_ae.files import make_dir, publish_json
from hpc_ae.jobs.resources import num_workers, threads_per_rank
from hpc_ae.jobs.run import Run, Stage, StopRequested, WorkDone
from hpc_ae.jobs.settings import encoding_of, training_of
from hpc_ae.layout import MANIFEST_NAME, MODEL_NAME, SHARD_PATTERN, SUMMARY_NAME, list_checkpoints, step_of
from hpc_ae.provenance import check_fingerprint
from hpc_ae.reading import in_config_words
from hpc_ae.record import Record, read_record

if TYPE_CHECKING:
    from hpc_ae.ingest import IngestSettings
    from hpc_ae.postprocess import PostprocessSettings, ReportPaths
    from hpc_ae.runtime.ranks import Ranks
    from hpc_ae.simulate import SimulateSettings


class Verified(Record):
    """Which manifest of the encoding finalise has verified, by its digest."""

    manifest: str


def _simulation(config: RunConfig) -> SimulateSettings:
    from hpc_ae.simulate import SimulateSettings

    source = config.catalog.source
    if source is None or source.simulate is None:
        raise InputError("the config does not say how many stars to simulate", where="catalog.source.simulate.stars")
    stars = source.simulate
    return SimulateSettings(stars.stars, config.seed, stars.bad_rows, config.catalog.shard_rows, stars.observed)


def _run_simulate(run: Run, _: StopRequested) -> str:
    from hpc_ae.simulate import simulate

    workers, progress_path = num_workers(run.config, "simulate"), run.layout.progress_path("simulate")
    simulate(run.config.catalog_path, _simulation(run.config), workers, progress_path)
    return "done"


def _is_simulated(run: Run) -> bool:
    config = run.config
    if not _has_manifest(config.catalog_path):
        return False
    from hpc_ae.catalog.manifest import is_whole, read_manifest
    from hpc_ae.catalog.records import StarManifest

    manifest = read_manifest(config.catalog_path, StarManifest)
    check_fingerprint(config.catalog_path, manifest.fingerprint, _simulation(config).fingerprint(), "simulate")
    return is_whole(config.catalog_path, manifest)


def _ingestion(config: RunConfig) -> tuple[list[Path], IngestSettings]:
    from hpc_ae.ingest import IngestSettings

    source = config.catalog.source
    if source is None or not source.raw:
        raise InputError("the config names no raw files", where="catalog.source.raw")
    catalog = config.catalog
    settings = IngestSettings(dict(source.columns), catalog.shard_rows, catalog.bad, source.reading, catalog.order)
    return expand_paths(source.raw), settings


def _run_ingest(run: Run, _: StopRequested) -> str:
    from hpc_ae.ingest import ingest

    raw_paths, settings = _ingestion(run.config)
    workers, progress_path = num_workers(run.config, "ingest"), run.layout.progress_path("ingest")
    with _in_config_words():
        ingest(raw_paths, run.config.catalog_path, settings, workers, progress_path)
    return "done"


@contextlib.contextmanager
def _in_config_words() -> Iterator[None]:
    """Errors that name options of the command line name the config's keys for them instead."""
    try:
        yield
    except HpcAeError as error:
        parts = (error.where, error.got, error.expected, error.fix)
        where, got, expected, fix = map(in_config_words, parts)
        raise type(error)(in_config_words(error.what), where=where, got=got, expected=expected, fix=fix) from error


def _is_ingested(run: Run) -> bool:
    config = run.config
    if not _has_manifest(config.catalog_path):
        return False
    from hpc_ae.catalog.manifest import is_whole, read_manifest
    from hpc_ae.catalog.records import StarManifest
    from hpc_ae.ingest import looks_ingested

    try:
        raw_paths, settings = _ingestion(config)
    except InputError as error:  # the catalog is there: raw files that are gone since are no reason to stop
        print(f"ingest: {error.what}; using the existing catalog", file=sys.stderr)
        return True
    there = is_whole(config.catalog_path, read_manifest(config.catalog_path, StarManifest))
    return there and looks_ingested(raw_paths, config.catalog_path, settings)


def expand_paths(patterns: list[str]) -> list[Path]:
    """The files that paths and * patterns name, each pattern's in sorted order."""
    paths: list[Path] = []
    for pattern in patterns:
        magic = glob.has_magic(pattern) and not Path(pattern).exists()
        found = sorted(glob.glob(pattern, recursive=True)) if magic else [pattern]  # noqa: PTH207
        if not found:
            raise InputError("no file matches", where=pattern, fix="check the path; quote patterns with * in a shell")
        paths += [Path(name) for name in found]
    return paths


def _has_manifest(directory: Path) -> bool:
    return (directory / MANIFEST_NAME).exists()


def _run_train(run: Run, stop_requested: StopRequested) -> str:
    from hpc_ae.runtime.distributed import pick_device, process_group
    from hpc_ae.runtime.ranks import MEETING_VARIABLE, ranks_from_environment
    from hpc_ae.train import train

    _limit_threads(run.config, "train")
    ranks = ranks_from_environment()
    device = pick_device(ranks)
    meeting = os.environ.get(MEETING_VARIABLE)
    with process_group(ranks, device, Path(meeting) if meeting else None) as group:
        return train(run.config.catalog_path, run.layout, training_of(run.config), group, stop_requested)


def _limit_threads(config: RunConfig, stage: str) -> None:
    """One PyTorch thread per core of this rank: more would fight with the other ranks."""
    import torch

    torch.set_num_threads(threads_per_rank(config, stage))


def _is_trained(run: Run) -> bool:
    config, model_dir = run.config, run.layout.model_dir
    if not (model_dir / MODEL_NAME).exists() or not _has_manifest(config.catalog_path):
        return False
    from hpc_ae.catalog.catalog import open_catalog
    from hpc_ae.model.weights import is_model_of

    fingerprint = training_of(config).fingerprint(open_catalog(config.catalog_path).digest)
    return is_model_of(model_dir, fingerprint)


def _trained_so_far(run: Run) -> WorkDone:
    """By the names alone: the training itself passes over a damaged checkpoint."""
    steps = [step_of(path) for path in list_checkpoints(run.layout.checkpoints_dir)]
    return WorkDone(max(steps, default=0), run.config.train.steps or 0, "step")


def _run_encode(run: Run, stop_requested: StopRequested) -> str:
    from hpc_ae.encode import encode
    from hpc_ae.runtime.ranks import ranks_from_environment

    ranks = ranks_from_environment()
    leads = ranks.local_rank == 0 and os.environ.get("GROUP_RANK", "0") == "0"  # the first rank of each job
    path = run.layout.progress_path("encode") if leads else None
    return encode(*encoding_of(run.config), ranks, _device_name(run.config, ranks), stop_requested, path)


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
    from hpc_ae.catalog.records import StarManifest

    shards = read_manifest(config.catalog_path, StarManifest).shards
    return [(config.encoding_path / shard.file).exists() for shard in shards]


def _encoded_so_far(run: Run) -> WorkDone:
    done = _shards_done(run.config)
    return WorkDone(sum(done), len(done), "shard")


def _ranks_with_shards_left(run: Run, world_size: int) -> list[int]:
    done = _shards_done(run.config)
    if not done:
        return list(range(world_size))
    return sorted({index % world_size for index, is_there in enumerate(done) if not is_there})


def _is_encoded(run: Run) -> bool:
    config = run.config
    if not (_has_manifest(config.encoding_path) and _has_manifest(config.catalog_path)):
        return False
    if not (config.model_path / MODEL_NAME).exists():
        return False
    from hpc_ae.encode import is_encoded, make_job

    return is_encoded(make_job(*encoding_of(config)))


def _run_finalise(run: Run, _: StopRequested) -> str:
    from hpc_ae.encode import finalise
    from hpc_ae.verify import verify

    config = run.config
    finalise(*encoding_of(config), config.shared)
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
    make_dir(run.layout.jobs_dir)
    publish_json(run.layout.verified_path, _verified(run).to_json())
    return "done"


def _verified(run: Run) -> Verified:
    """What is to be on record of the encoding that is there."""
    from hpc_ae.catalog.manifest import read_manifest
    from hpc_ae.catalog.records import EncodingManifest

    return Verified(manifest=read_manifest(run.layout.encoding_dir, EncodingManifest).digest)


def _is_verified(run: Run) -> bool:
    if not _is_encoded(run) or not run.layout.verified_path.exists():
        return False
    with contextlib.suppress(DamageError):  # then it is verified once more
        return read_record(run.layout.verified_path, Verified) == _verified(run)
    return False


def _report_of(run: Run) -> tuple[ReportPaths, PostprocessSettings]:
    from hpc_ae.postprocess import PostprocessSettings, ReportPaths

    config, layout, other = run.config, run.layout, run.config.postprocess.compare
    paths = ReportPaths(
        config.encoding_path,
        config.catalog_path,
        layout.report_dir,
        layout.metrics_path,
        layout.scores_dir,
        Path(other) if other else None,
        layout.progress_dir,
    )
    return paths, PostprocessSettings(config.postprocess.anomalies)


def _run_postprocess(run: Run, _: StopRequested) -> str:
    from hpc_ae.postprocess import postprocess

    _check_model_of_encoding(run.config)
    workers, progress_path = num_workers(run.config, "postprocess"), run.layout.progress_path("postprocess")
    postprocess(*_report_of(run), workers, progress_path)
    return "done"


def _check_model_of_encoding(config: RunConfig) -> None:
    """StaleError where the encoding is of another model than the one that is there."""
    from hpc_ae.catalog.manifest import read_manifest
    from hpc_ae.catalog.records import EncodingManifest
    from hpc_ae.model.weights import read_model_record

    if (config.model_path / MODEL_NAME).exists() and _has_manifest(config.encoding_path):
        recorded = read_manifest(config.encoding_path, EncodingManifest).inputs.digests().get("model")
        there = read_model_record(config.model_path).digest
        check_fingerprint(config.encoding_path, {"model": recorded}, {"model": there}, "encode")


def _is_postprocessed(run: Run) -> bool:
    if not (_has_manifest(run.layout.encoding_dir) and _has_manifest(run.config.catalog_path)):
        return False
    if not (run.layout.report_dir / SUMMARY_NAME).exists():
        return False
    from hpc_ae.postprocess import is_postprocessed

    return is_postprocessed(*_report_of(run))


def _scored_so_far(run: Run) -> WorkDone:
    """By the names alone: postprocess itself looks whether they are of this encoding."""
    num = len(list(run.layout.scores_dir.glob(SHARD_PATTERN)))
    return WorkDone(num, max(num, len(list(run.layout.encoding_dir.glob(SHARD_PATTERN)))), "shard")


def _keeps_scores(run: Run, path: Path) -> bool:
    """Scores of the encoding that is there are what --redo would make again: nothing but the encoding decides them."""
    if path != run.layout.scores_dir:
        return False
    from hpc_ae.postprocess import are_scores_of

    return are_scores_of(path, run.config.encoding_path, run.config.catalog_path)


def _catalog_output(run: Run) -> list[Path]:
    return [run.config.catalog_path]


def _train_outputs(run: Run) -> list[Path]:
    layout = run.layout
    return [layout.checkpoints_dir, layout.model_dir, layout.metrics_path, layout.tensorboard_dir]


SIMULATE = Stage("simulate", "mapped", _run_simulate, _is_simulated, _catalog_output)
INGEST = Stage("ingest", "mapped", _run_ingest, _is_ingested, _catalog_output)
TRAIN = Stage("train", "ranks", _run_train, _is_trained, _train_outputs, _trained_so_far)
ENCODE = Stage(
    "encode",
    "ranks",
    _run_encode,
    _is_encoded,
    lambda run: [run.layout.encoding_dir],
    _encoded_so_far,
    _ranks_with_shards_left,
)
FINALISE = Stage("finalise", "single", _run_finalise, _is_verified, lambda _: [])
POSTPROCESS = Stage(
    "postprocess",
    "mapped",
    _run_postprocess,
    _is_postprocessed,
    lambda run: [run.layout.report_dir, run.layout.scores_dir],
    _scored_so_far,
    keeps=_keeps_scores,
)
STAGES = {stage.name: stage for stage in (SIMULATE, INGEST, TRAIN, ENCODE, FINALISE, POSTPROCESS)}


def make_run(config: RunConfig) -> Run:
    """The run of a config. Its stages: a catalog where the config says how to make one, a model unless one is given."""
    source = config.catalog.source
    making = [] if source is None else [SIMULATE] if source.simulate else [INGEST]
    training = [] if config.encode.model else [TRAIN]
    return Run(config, config.layout, (*making, *training, ENCODE, FINALISE, POSTPROCESS))
