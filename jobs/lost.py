"""What was lost of a run since it was finished: files that a purge of scratch removed, or that somebody changed.

A file that is missing is made again by its stage, which does not count as done without it. Refused here, by name and
before anything is started, is what cannot be made again, and a file that is there with another content: it may be the
user's.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from hpc_ae.catalog.manifest import files_of, read_manifest
from hpc_ae.catalog.records import EncodingManifest, Hdf5Manifest, ScoreManifest, StarManifest
from hpc_ae.errors import DamageError, InputError
from hpc_ae.files import Written, check_unchanged, missing_files, read_json
from hpc_ae.jobs.launcher import say
from hpc_ae.jobs.run import Run, Stage
from hpc_ae.jobs.stages import ENCODE, INGEST, POSTPROCESS, SIMULATE, TRAIN, expand_paths
from hpc_ae.layout import (
    COMPARE_NAME,
    COMPARE_TABLE_NAME,
    MANIFEST_NAME,
    MODEL_NAME,
    STATE_NAME,
    SUMMARY_NAME,
    WEIGHTS_NAME,
    list_checkpoints,
    tensors_name,
)
from hpc_ae.model.weights import read_model_record


def check_untouched(run: Run, stages: Collection[Stage]) -> None:
    """DamageError where an output of these stages, or an input of the run, is not what its record says, or is missing
    and cannot be made again.
    """
    config, layout = run.config, run.layout
    making = next((stage for stage in run.stages if stage in (SIMULATE, INGEST)), None)
    if making is None or making in stages:
        _check_catalog(config.catalog_path, StarManifest, making)
        if making is None or (making is INGEST and not _has_raw_files(run)):
            _refuse_missing(_catalog_files(config.catalog_path, StarManifest), "a shard of the star catalog")
    if config.encode.model:
        _check_model(config.model_path, None)
        _refuse_missing(_model_files(config.model_path), "the weights of the model")
    elif TRAIN in stages:
        _check_model(layout.model_dir, TRAIN)
        _say_lost_checkpoints(layout.checkpoints_dir)
    if ENCODE in stages:
        _check_catalog(layout.encoding_dir, EncodingManifest, ENCODE)
    if POSTPROCESS in stages:
        _check_catalog(layout.scores_dir, ScoreManifest, POSTPROCESS)
        _check_report(layout.report_dir)


def _catalog_files(directory: Path, kind: type[Hdf5Manifest]) -> list[Written]:
    if not (directory / MANIFEST_NAME).exists():
        return []
    return files_of(directory, read_manifest(directory, kind))


def _model_files(model_dir: Path) -> list[Written]:
    if not (model_dir / MODEL_NAME).exists():
        return []
    return [Written(model_dir / WEIGHTS_NAME, read_model_record(model_dir).weights_digest)]


def _way_out(stage: Stage | None) -> str:
    if stage is None:
        return "restore it from a copy; hpc-ae verify names everything that is damaged"
    return f"restore it from a copy, or make it again: hpc-ae run CONFIG --redo {stage.name}"


def _check_catalog(directory: Path, kind: type[Hdf5Manifest], stage: Stage | None) -> None:
    if files := _catalog_files(directory, kind):
        check_unchanged(files, directory / MANIFEST_NAME, _way_out(stage))


def _check_model(model_dir: Path, stage: Stage | None) -> None:
    if files := _model_files(model_dir):
        check_unchanged(files, model_dir / MODEL_NAME, _way_out(stage))


def _check_report(report_dir: Path) -> None:
    """The page, the tables and the figures, by the digests that the summary has of them."""
    path = report_dir / SUMMARY_NAME
    if not path.exists():
        return
    recorded = read_json(path, sealed=True).get("files")
    names = recorded if isinstance(recorded, dict) else {}
    kept = names.keys() - {COMPARE_NAME, COMPARE_TABLE_NAME}  # another comparison may have been asked for since
    files = [Written(report_dir / name, str(names[name])) for name in sorted(kept)]
    check_unchanged(files, path, _way_out(POSTPROCESS))


def _refuse_missing(files: list[Written], what: str) -> None:
    if lost := missing_files(files):
        raise DamageError(
            f"{what} is missing, and cannot be made again here",
            where=lost[0],
            got=f"{len(lost)} of {len(files)} files missing",
            fix="restore it from a copy",
        )


def _has_raw_files(run: Run) -> bool:
    """Whether all raw files are there, to make the star catalog of once more."""
    from hpc_ae.readers.tree import expand_dirs

    source = run.config.catalog.source
    try:
        return all(path.exists() for path in expand_dirs(expand_paths((source and source.raw) or [])))
    except (InputError, OSError):
        return False


def _say_lost_checkpoints(checkpoints_dir: Path) -> None:
    """Name the files that checkpoints have lost: a finished model does without them."""
    for checkpoint in list_checkpoints(checkpoints_dir):
        path = checkpoint / STATE_NAME
        digests = read_json(path).get("digests") if path.is_file() else None
        names = [tensors_name(name) for name in digests] if isinstance(digests, dict) else []
        for name in (STATE_NAME, *names):
            if not (checkpoint / name).is_file():
                say(f"note: {checkpoint / name} is missing: that checkpoint is of no use")
