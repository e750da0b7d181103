"""VERB encode: model + star catalog to an encoding catalog, shard by shard, without collectives.

A shard's final name appears only when it is complete. `finalise` writes the view and the manifest after all ranks
have ended. Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpc_ae.analysis.denoising_gaps import PatternUncertainty, read_patterns
from hpc_ae.catalog.catalog import Catalog, open_catalog
from hpc_ae.catalog.link import relative_path, row_mismatches
from hpc_ae.catalog.manifest import is_whole, read_manifest, write_manifest
from hpc_ae.catalog.quality import usable_errors
from hpc_ae.catalog.records import EncodingManifest, Inputs, Link, ShardRecord, summed
from hpc_ae.catalog.schema import ENCODING_FORMAT
from hpc_ae.catalog.shard import Arrays, describe_shard, read_notes, write_shard
from hpc_ae.catalog.states import count_measured, seen_magnitudes
from hpc_ae.catalog.view import write_view
from hpc_ae.errors import DamageError, InputError, WorkError
from hpc_ae.files import make_dir, publish_json, remove_debris
from hpc_ae.layout import MANIFEST_NAME, MODEL_NAME, SHARD_PATTERN, shard_record_name
from hpc_ae.model.encoding import Encoding
from hpc_ae.model.forward import make_forward
from hpc_ae.model.weights import ModelRecord, read_model_record, read_weights
from hpc_ae.provenance import Fingerprint, Provenance, check_fingerprint
from hpc_ae.record import read_record
from hpc_ae.runtime import heartbeat
from hpc_ae.runtime.prefetch import prefetched
from hpc_ae.runtime.progress import Progress
from hpc_ae.runtime.ranks import Ranks

_OLDER_NOTES = {"uncertainty": "false"}  # what shards were that do not say
_STAR_COLUMNS = ("objid", "quality", "caution", "magnitude")


@dataclass(frozen=True)
class EncodePaths:
    """Where the stars and the model are, and where the encoding goes."""

    catalog_dir: Path
    model_dir: Path
    encoding_dir: Path


@dataclass(frozen=True)
class EncodeSettings:
    """What is written beside the latents, and how it is computed: compute `auto`, `fused` or `torch`."""

    reconstruction: bool = True
    uncertainty: bool = False
    compute: str = "auto"


@dataclass(frozen=True)
class EncodeJob:
    """What is encoded, with what, into what."""

    stars: Catalog
    model: ModelRecord
    paths: EncodePaths
    settings: EncodeSettings

    @property
    def out_dir(self) -> Path:
        """The encoding catalog."""
        return self.paths.encoding_dir

    def fingerprint(self) -> Fingerprint:
        """What the manifest records of the making of the whole."""
        encode = {"reconstruction": self.settings.reconstruction}
        encode |= {"uncertainty": True} if self.settings.uncertainty else {}  # absent as before there was any
        return {"catalog": self.stars.digest, "model": self.model.digest, "encode": encode}

    def shard_notes(self, index: int) -> dict[str, str]:
        """What a shard records of its own making."""
        return {
            "model_digest": self.model.digest,
            "star_shard_digest": self.stars.shards[index].digest,
            "reconstruction": str(self.settings.reconstruction).lower(),
            "uncertainty": str(self.settings.uncertainty).lower(),
        }

    def path(self, index: int) -> Path:
        """Path of encoding shard `index`: same number as its star shard."""
        return self.out_dir / self.stars.shards[index].file

    def record_path(self, index: int) -> Path:
        """Path of the small record that finalise gathers into the manifest."""
        return self.out_dir / shard_record_name(self.path(index).name)

    def columns(self) -> list[str]:
        """Names of the columns of the encoding catalog, in the order of the format."""
        names = ["objid", "quality", "caution", "latent", "reconstruction_error"]
        names += ["reconstruction"] if self.settings.reconstruction else []
        names += ["reconstruction_uncertainty"] if self.settings.uncertainty else []
        names += ["chi2"] if "magnitude_error" in self.stars.columns else []
        return names + (["num_bands"] if self.model.masked else [])

    def seen(self, arrays: Arrays) -> np.ndarray:
        """What the network is shown of the magnitudes (N, B): NaN stands for a band that is not measured."""
        if not self.model.masked:
            return arrays["magnitude"]
        return seen_magnitudes(arrays["magnitude"], "band_state" in self.stars.columns)


def make_job(paths: EncodePaths, settings: EncodeSettings) -> EncodeJob:
    """The encode job of these files; InputError where model and catalog do not have the same bands."""
    stars, model = open_catalog(paths.catalog_dir), read_model_record(paths.model_dir)
    if list(model.bands) != stars.bands:
        what = "model and catalog have different bands"
        raise InputError(what, where=paths.model_dir, got=list(model.bands), expected=stars.bands)
    if settings.uncertainty:
        uncertainty_of(model, paths.model_dir)
    return EncodeJob(stars, model, paths, settings)


def uncertainty_of(model: ModelRecord, where: Path) -> PatternUncertainty:
    """The tables of uncertainties in a model's record; InputError where it has none."""
    table = read_patterns(model.uncertainty, model.uncertainty_missing, model.bands)
    if table is None:
        raise InputError(
            "the model does not say how uncertain its reconstructions are",
            where=f"{where}, encode.uncertainty",
            got=f"no table of uncertainties in {MODEL_NAME}",
            expected="a model trained on a catalog with magnitude errors, with held-out stars",
            fix="train it on a catalog with magnitude_error, or set encode.uncertainty=false",
        )
    return table


def is_encoded(job: EncodeJob) -> bool:
    """Whether the encoding catalog is complete, and whole; StaleError where it was made from something else."""
    if not (job.out_dir / MANIFEST_NAME).exists():
        return False
    manifest = read_manifest(job.out_dir, EncodingManifest)
    shards = f"{job.path(0)} and {len(job.stars.shards) - 1} more"
    check_fingerprint(Path(shards), manifest.fingerprint, job.fingerprint(), "encode")
    return is_whole(job.out_dir, manifest)


def encode(
    paths: EncodePaths,
    settings: EncodeSettings,
    ranks: Ranks,
    device: str = "cpu",
    stop_requested: Callable[[], bool] = lambda: False,
    progress_path: Path | None = None,
) -> str:
    """Encode this rank's shards that are not done yet. Returns "done" or "interrupted" (between two shards).

    `device` by PyTorch's name. `progress_path`: where a rank that leads its job says how far all ranks are; the others
    are quiet.
    StaleError names the first shard that another model or catalog made.
    """
    job = make_job(paths, settings)
    if is_encoded(job):
        return "done"
    (make_dir(job.out_dir) / MANIFEST_NAME).unlink(missing_ok=True)  # of an encoding that has lost a shard
    done = [_is_done(job, index) for index in range(len(job.stars.shards))]  # all: never beside another model's shards
    todo = [index for index in range(ranks.rank, len(done), ranks.world_size) if not done[index]]
    with Progress("encode", job.stars.num_stars, "stars", path=progress_path, quiet=progress_path is None) as progress:
        progress.start_at(_num_recorded(job))
        finished = _encode_shards(job, todo, device, progress, stop_requested)
    return "done" if finished else "interrupted"


def _is_done(job: EncodeJob, index: int) -> bool:
    path = job.path(index)
    if not path.exists():
        return False
    notes = read_notes(path, ENCODING_FORMAT)
    wanted = job.shard_notes(index)
    recorded = {key: notes.get(key, _OLDER_NOTES.get(key)) for key in wanted}
    check_fingerprint(path, recorded, wanted, "encode")
    return True


def _num_recorded(job: EncodeJob) -> int:
    """Stars in the shards that all ranks have finished so far."""
    names = {path.name for path in job.out_dir.glob(shard_record_name(SHARD_PATTERN))}
    shards = enumerate(job.stars.shards)
    return sum(shard.num_stars for index, shard in shards if job.record_path(index).name in names)


def _encode_shards(
    job: EncodeJob, todo: list[int], device: str, progress: Progress, stop_requested: Callable[[], bool]
) -> bool:
    """Read ahead, compute, write behind; False where a stop was asked for."""
    weights, model = read_weights(job.paths.model_dir)
    forward = make_forward(weights, device, job.settings.compute)
    table = uncertainty_of(model, job.paths.model_dir) if job.settings.uncertainty else None
    source = prefetched(_read_shards(job, todo))
    with concurrent.futures.ThreadPoolExecutor(1, "writer") as writer:
        writing: concurrent.futures.Future[None] | None = None
        for index in todo:
            heartbeat.beat(f"reading {job.stars.directory / job.path(index).name}")
            arrays = next(source)
            heartbeat.beat(f"computing {job.path(index)}")
            arrays["magnitude"] = job.seen(arrays)
            encoding = forward(arrays["magnitude"], arrays.get("magnitude_error"), job.settings.reconstruction)
            outputs = make_outputs(arrays, encoding, job.model, table)
            if writing is not None:
                heartbeat.beat(f"writing the shard before {job.path(index)}")
                writing.result()
                progress.update(_num_recorded(job), job.path(index).name)
            writing = writer.submit(_write_shard, job, index, outputs, forward.name)
            if stop_requested():
                break
        heartbeat.beat(f"writing {job.out_dir}")
        if writing is not None:
            writing.result()
        progress.update(_num_recorded(job))
    return not stop_requested() or all(job.path(index).exists() for index in todo)


def _read_shards(job: EncodeJob, todo: list[int]) -> Iterator[Arrays]:
    names = [*_STAR_COLUMNS, *(["magnitude_error"] if "magnitude_error" in job.stars.columns else [])]
    for index in todo:
        yield job.stars.read_shard(index, names)


def make_outputs(
    stars: Arrays, encoding: Encoding, model: ModelRecord, table: PatternUncertainty | None = None
) -> Arrays:
    """The arrays of an encoding shard; rows of stars that lack too many bands are NaN in every float.

    With a `table` also the uncertainty of the reconstruction.
    """
    outputs = {name: stars[name] for name in ("objid", "quality", "caution")}
    bad = stars["quality"] != 0
    if model.masked:
        outputs["num_bands"] = count_measured(stars["magnitude"]).astype(np.uint8)
        bad = outputs["num_bands"] < model.least_bands
    for name, values in vars(encoding).items():
        if values is not None:
            outputs[name] = values
            values[bad] = np.nan
    if table is not None and encoding.reconstruction is not None:
        errors = usable_errors(stars["magnitude_error"]) if "magnitude_error" in stars else None
        lacking = np.isnan(stars["magnitude"]) & model.masked
        uncertainty = table.of(encoding.reconstruction, errors, lacking)
        uncertainty[bad] = np.nan
        outputs["reconstruction_uncertainty"] = uncertainty
    return outputs


def _write_shard(job: EncodeJob, index: int, outputs: Arrays, compute: str) -> None:
    if len(outputs["objid"]) != job.stars.shards[index].num_stars:
        raise WorkError("stars were lost", where=job.path(index), got=len(outputs["objid"]))
    job.record_path(index).unlink(missing_ok=True)  # never a record beside a shard that it does not describe
    notes = {**job.shard_notes(index), "compute": compute}
    record = write_shard(job.path(index), ENCODING_FORMAT, outputs, job.stars.bands, notes)
    publish_json(job.record_path(index), record.replaced(compute=compute).to_json())


def finalise(paths: EncodePaths, settings: EncodeSettings, config: dict[str, Any]) -> EncodingManifest:
    """Write `encoding.h5` and, last, the manifest; returns it. Call it after all ranks have ended.

    `config` is what the manifest records of the run as its provenance.

    WorkError names the shards that are not there yet; DamageError a shard whose ids are not its star shard's.
    """
    job = make_job(paths, settings)
    if is_encoded(job):
        return read_manifest(job.out_dir, EncodingManifest)
    missing = [job.path(index).name for index in range(len(job.stars.shards)) if not _is_done(job, index)]
    if missing:
        raise WorkError(
            "the encoding is not complete",
            where=job.out_dir,
            got=f"{len(missing)} of {len(job.stars.shards)} shards missing, the first {missing[0]}",
            fix="run the same command again: it encodes what is missing",
        )
    records = [_gather_record(job, index) for index in range(len(job.stars.shards))]
    manifest = write_manifest(job.out_dir, _manifest(job, config, records))
    for index in range(len(records)):
        job.record_path(index).unlink(missing_ok=True)
    remove_debris(job.out_dir)
    return manifest


def _gather_record(job: EncodeJob, index: int) -> ShardRecord:
    """The record of a shard: its writer's, or read off the shard where the writer died before writing it."""
    path = job.record_path(index)
    record = read_record(path, ShardRecord) if path.exists() else describe_shard(job.path(index), ENCODING_FORMAT)
    star_shard = job.stars.shards[index]
    for one in row_mismatches(record, star_shard):
        raise DamageError(
            "the stars of an encoding shard do not match its star shard",
            where=job.path(index),
            got=f"{one.what} {one.got}",
            expected=one.expected,
            fix="remove the shard and run encode again",
        )
    return record.placed_like(star_shard)


def _manifest(job: EncodeJob, config: dict[str, Any], records: list[ShardRecord]) -> EncodingManifest:
    """The manifest of the encoding, whose view is written for it."""
    compute = sorted({str(record.compute) for record in records})
    if len(compute) > 1:
        raise WorkError(
            "the shards were computed in different ways",
            where=job.out_dir,
            got=compute,
            fix="--redo encode on one kind of node",
        )
    star_dir, model_dir = (relative_path(place, job.out_dir) for place in (job.stars.directory, job.paths.model_dir))
    sizes = {"B": len(job.stars.bands), "L": job.model.latent}
    return EncodingManifest(
        **summed(ENCODING_FORMAT, records),
        bands=tuple(job.stars.bands),
        latent=job.model.latent,
        min_bands=job.model.least_bands if job.model.masked else None,
        columns=tuple(job.columns()),
        order=job.stars.manifest.order,
        compute=compute[0] if compute else None,
        inputs=Inputs(
            catalog=Link(path=star_dir, digest=job.stars.digest), model=Link(path=model_dir, digest=job.model.digest)
        ),
        fingerprint=job.fingerprint(),
        provenance=Provenance.now(config),
        view=write_view(job.out_dir, records, job.columns(), sizes),
    )
