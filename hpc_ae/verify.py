"""VERB verify: check a catalog of any kind, a model or a whole run completely, and name every damaged thing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hpc_ae.catalog.check import (
    check_names,
    check_shard,
    check_view,
    guess_format,
    inspect_manifest,
    shard_checks,
)
from hpc_ae.catalog.link import Place, copy_faults, link_faults, linked_place, star_dir_of
from hpc_ae.catalog.manifest import read_manifest
from hpc_ae.catalog.records import EncodingManifest, Link, ScoreManifest, StarManifest
from hpc_ae.catalog.schema import ENCODING_FORMAT, SCORE_FORMAT, STAR_FORMAT
from hpc_ae.catalog.sky_check import check_ranges
from hpc_ae.config import load_config
from hpc_ae.errors import DamageError, HpcAeError, InputError
from hpc_ae.files import TEMP_MARK, digest_file, inspect_json, read_regular
from hpc_ae.formats.compressed import MODEL_DIR, is_compressed, open_compressed
from hpc_ae.formats.compressed_check import CompressedCheck, check_compressed_shard, inspect_compressed
from hpc_ae.layout import (
    COMPARE_NAME,
    CONFIG_NAME,
    MANIFEST_NAME,
    MODEL_NAME,
    SUMMARY_NAME,
    VIEW_NAME,
    RunLayout,
    list_checkpoints,
)
from hpc_ae.model.check import check_checkpoint, check_model
from hpc_ae.model.exact import load_decoder
from hpc_ae.provenance import differences
from hpc_ae.record import Record
from hpc_ae.runtime.executor import Mapper, open_mapper
from hpc_ae.runtime.progress import Progress
from hpc_ae.training.settings import TrainSettings

STAR_CATALOG, ENCODING_CATALOG, MODEL, RUN = "star catalog", "encoding catalog", "model", "run"
COMPRESSED_CATALOG = "compressed catalog"
SCORE_CATALOG = "score catalog"
_KINDS = {STAR_FORMAT: STAR_CATALOG, ENCODING_FORMAT: ENCODING_CATALOG, SCORE_FORMAT: SCORE_CATALOG}
_RECORDS = {"report": "summary", SCORE_CATALOG: "manifest"}


class Finding(Record):
    """One thing that is not as it was recorded: where (file, dataset, row), what, got, expected."""

    where: str
    what: str
    got: str
    expected: str


class VerificationRecord(Record):
    """A verification as `--json` shows it."""

    directory: str
    what: str
    num_stars: int
    num_shards: int
    findings: tuple[Finding, ...]
    ok: bool


@dataclass
class Verification:
    """What was checked and what was found; for a run, `num_stars` is its star catalog's, `num_shards` that of both."""

    directory: Path
    what: str
    num_stars: int = 0
    num_shards: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.findings

    def add(self, errors: Iterable[HpcAeError]) -> None:
        """Take errors as findings, each once."""
        for error in errors:
            finding = Finding(where=error.where, what=error.what, got=error.got, expected=error.expected)
            if finding not in self.findings:
                self.findings.append(finding)

    def record(self) -> VerificationRecord:
        """The verification for `--json`."""
        return VerificationRecord(
            directory=str(self.directory),
            what=self.what,
            num_stars=self.num_stars,
            num_shards=self.num_shards,
            findings=tuple(self.findings),
            ok=self.ok,
        )


@dataclass(frozen=True)
class _Wanted:
    """What the config of a run asks for: whether there is to be a star catalog, where it is, which model encodes, and
    how its own is trained.
    """

    stars: bool
    star_dir: Path
    model_dir: Path
    training: TrainSettings


def verify(directory: Path, *, stars: Path | None = None, num_workers: int = 1) -> Verification:
    """Check everything in `directory`; `stars` is the star catalog of an encoding where it has moved.

    InputError (2) where nothing recognisable exists; whatever is wrong inside is a finding. Under MPI the ranks that
    serve return without findings.
    """
    result = Verification(directory, _recognise(directory))
    with open_mapper(num_workers) as mapper:
        if mapper is None:
            return result
        if result.what == RUN:
            _verify_run(result, stars, mapper)
        elif result.what == MODEL:
            result.add(check_model(directory))
        elif result.what == COMPRESSED_CATALOG:
            _verify_compressed(result, mapper)
        else:
            result.num_stars = _verify_catalog(result, directory, stars, mapper)
    return result


def _recognise(directory: Path) -> str:
    if RunLayout(directory).config_path.is_file():
        return RUN
    if is_compressed(directory):
        return COMPRESSED_CATALOG
    if (directory / MANIFEST_NAME).is_file():
        return _catalog_kind(directory)
    if (directory / MODEL_NAME).is_file():
        return MODEL
    if directory.is_dir() and any(directory.glob("shard-*")):
        return _catalog_kind(directory)
    raise InputError(
        "nothing here that can be verified",
        where=directory,
        got="a directory without them" if directory.is_dir() else "no directory",
        expected=f"a directory with {MANIFEST_NAME}, {MODEL_NAME}, {CONFIG_NAME} or shards",
    )


def _catalog_kind(directory: Path) -> str:
    """Of stars, an encoding or scores: by the view, else by what the manifest says, damaged or not, else by shards."""
    manifest = directory / MANIFEST_NAME
    if (directory / VIEW_NAME).exists():
        return ENCODING_CATALOG
    if not manifest.is_file():
        return _KINDS.get(guess_format(directory) or STAR_FORMAT, STAR_CATALOG)
    text = read_regular(manifest)
    return next((kind for name, kind in _KINDS.items() if name != STAR_FORMAT and name.encode() in text), STAR_CATALOG)


def _verify_catalog(result: Verification, directory: Path, stars: Path | None, mapper: Mapper) -> int:
    """Check one catalog and return its number of stars, 0 where its manifest cannot be used."""
    manifest, errors = inspect_manifest(directory)
    result.add(errors)
    result.add(check_names(directory, None if manifest is None else manifest.shards))
    if manifest is None:
        return 0
    result.add(check_ranges(directory, manifest))
    catalog, star_catalog = Place(directory, manifest), None
    if isinstance(manifest, EncodingManifest):
        result.add(check_view(directory, manifest))
    if isinstance(manifest, ScoreManifest):
        result.add(_check_files(directory / MANIFEST_NAME, manifest.files, "score catalog"))
    if not isinstance(manifest, StarManifest):
        run_dir = result.directory if result.what == RUN else None
        result.add(_check_source(catalog, run_dir))
        star_catalog, errors = _inspect_stars(catalog, stars)
        result.add(errors)
    result.num_shards += len(manifest.shards)
    with Progress(f"verify {directory.name}", manifest.num_stars, "stars") as progress:
        checks = shard_checks(catalog, star_catalog)
        for check, errors in zip(checks, mapper.map(check_shard, checks), strict=True):
            result.add(errors)
            progress.update(progress.done + check.record.num_stars)
    return manifest.num_stars


def _verify_compressed(result: Verification, mapper: Mapper) -> None:
    """Check a compressed catalog: manifest, model, every file, every block decoded to the magnitudes recorded."""
    directory = result.directory
    result.add([*inspect_compressed(directory), *check_model(directory / MODEL_DIR)])
    try:
        catalog = open_compressed(directory, load_decoder)
    except HpcAeError as error:
        result.add([error])
        return
    result.num_stars, result.num_shards = catalog.num_stars, len(catalog.shards)
    checks = [CompressedCheck(catalog, index) for index in range(len(catalog.shards))]
    with Progress(f"verify {directory.name}", catalog.num_stars, "stars") as progress:
        for check, errors in zip(checks, mapper.map(check_compressed_shard, checks), strict=True):
            result.add(errors)
            progress.update(progress.done + catalog.shards[check.index].num_stars)


def _inspect_stars(catalog: Place, stars: Path | None) -> tuple[Place | None, list[HpcAeError]]:
    """The star catalog of an encoding or of scores (None where unusable), and what is wrong with it or the link."""
    try:
        star_dir = star_dir_of(catalog, stars)
    except HpcAeError as error:
        return None, [error]
    if not (star_dir / MANIFEST_NAME).is_file():
        what = "the star catalog of the encoding is missing; give its path with --stars"
        return None, [DamageError(what, where=star_dir, expected="a star catalog")]
    manifest, errors = inspect_manifest(star_dir)
    if manifest is None:
        return None, errors
    found = Place(star_dir, manifest)
    return found, [*errors, *link_faults(catalog, found), *copy_faults(catalog, found)]


@dataclass(frozen=True)
class _Source:
    """The model or the encoding that an output was made from: what its maker did, its record, the digest in that."""

    what: str
    did: str
    link: Link | None
    name: str
    field_name: str


def _check_source(catalog: Place, run_dir: Path | None) -> list[HpcAeError]:
    """Whether the model or encoding is the one that a catalog was made from; one that is not there is wrong only where
    it belongs to the run.
    """
    inputs = catalog.manifest.inputs
    source = (
        _Source("model", "encoded", inputs.model, MODEL_NAME, "digest")
        if isinstance(catalog.manifest, EncodingManifest)
        else _Source("encoding", "was scored", inputs.encoding, MANIFEST_NAME, "catalog_digest")
    )
    if source.link is None or source.link.path is None:
        what = f"the manifest does not name the {source.what} that {source.did}"
        return [DamageError(what, where=catalog.path)]
    path, digest = linked_place(catalog.directory, source.link.path) / source.name, source.link.digest
    if not path.is_file():
        inside = run_dir is not None and path.resolve().is_relative_to(run_dir.resolve())
        text = f"the {source.what} that {source.did} is missing"
        return [DamageError(text, where=path, expected=digest)] if inside else []
    record, errors = inspect_json(path)
    if record is not None and record.get(source.field_name) != digest:
        text = f"this is not the {source.what} that {source.did}"
        errors.append(DamageError(text, where=path, got=record.get(source.field_name), expected=digest))
    return errors


def _verify_run(result: Verification, stars: Path | None, mapper: Mapper) -> None:
    """Check every part that is there; a part that the config implies and that is not there is a finding too."""
    files = RunLayout(result.directory)
    wanted = _read_config(result, files)
    star_dir = stars or (wanted.star_dir if wanted else files.catalog_dir)
    if wanted:
        result.add(_check_config(wanted, files))
    if _has_catalog(star_dir):
        result.num_stars = _verify_catalog(result, star_dir, stars, mapper)
    elif wanted and (stars or wanted.stars):
        result.add([_absent("star catalog", star_dir)])
    if _has_catalog(files.encoding_dir):
        _verify_catalog(result, files.encoding_dir, stars, mapper)
    elif wanted:
        result.add([_absent("encoding", files.encoding_dir)])
    _verify_scores(result, files, stars, mapper)
    _verify_models(result, files.model_dir, wanted)
    for checkpoint in list_checkpoints(files.checkpoints_dir):
        result.add(check_checkpoint(checkpoint))
    summary_path = files.report_dir / SUMMARY_NAME
    if summary_path.is_file():
        result.add(_check_report(files.report_dir))
    elif wanted:
        result.add([_absent("report", summary_path)])


def _verify_scores(result: Verification, files: RunLayout, stars: Path | None, mapper: Mapper) -> None:
    """The scores that postprocess wrote; a report of the package's first version has none."""
    path = files.report_dir / SUMMARY_NAME
    if _has_catalog(files.scores_dir):
        _verify_catalog(result, files.scores_dir, stars, mapper)
    elif path.is_file():
        summary, _ = inspect_json(path)
        if "scores" in ((summary or {}).get("inputs") or {}):
            result.add([_absent("score catalog", files.scores_dir)])


def _check_config(wanted: _Wanted, files: RunLayout) -> list[HpcAeError]:
    """Whether the config is the one that trained the run's own model."""
    if wanted.model_dir != files.model_dir or not files.model_record_path.is_file():
        return []
    record, _ = inspect_json(files.model_record_path)
    made_from = (record or {}).get("fingerprint")
    if not isinstance(made_from, dict) or not made_from:  # a model that somebody put there
        return []
    says = wanted.training.fingerprint(str(made_from.get("catalog")))
    changed = differences(made_from, says)
    what = "the config is not the one that trained this model"
    return [DamageError(what, where=files.config_path, got="; ".join(changed[:5]))] if changed else []


def _read_config(result: Verification, files: RunLayout) -> _Wanted | None:
    """What the config asks for; None, and a finding, where it cannot be read: nobody knows then what is missing."""
    try:
        config = load_config(files.config_path)
    except HpcAeError as error:
        result.add([error])
        return None
    star_dir = Path(config.catalog.path) if config.catalog.path else files.catalog_dir
    model_dir = Path(config.encode.model) if config.encode.model else files.model_dir
    if not (config.run_path.exists() and config.run_path.samefile(files.run_dir)):
        with contextlib.suppress(HpcAeError):  # what is wrong with it is a finding of its own
            links = read_manifest(files.encoding_dir, EncodingManifest).inputs
            star_dir = _moved(star_dir, files.encoding_dir, links.catalog, MANIFEST_NAME)
            model_dir = _moved(model_dir, files.encoding_dir, links.model, MODEL_NAME)
    training = TrainSettings(config.seed, config.model, config.train, config.shared)
    return _Wanted(bool(config.catalog.path or config.catalog.source), star_dir, model_dir, training)


def _moved(named: Path, encoding_dir: Path, link: Link | None, name: str) -> Path:
    """The place that the config of a run that has moved names or, where nothing is there, what moved together with the
    encoding.
    """
    if (named / name).exists() or link is None or link.path is None:
        return named
    place = linked_place(encoding_dir, link.path)
    return place if (place / name).exists() else named


def _has_catalog(directory: Path) -> bool:
    return directory.is_dir() and ((directory / MANIFEST_NAME).is_file() or any(directory.glob("shard-*")))


def _absent(part: str, where: Path) -> DamageError:
    return DamageError(
        f"unfinished: there is no {part}", where=where, expected=f"all parts that {CONFIG_NAME} asks for"
    )


def _verify_models(result: Verification, own: Path, wanted: _Wanted | None) -> None:
    """The model that the run trained, and the one that encoded where the config names another."""
    used = wanted.model_dir if wanted else own
    if own.is_dir() and own != used:
        result.add(check_model(own))
    if wanted and not (used / MODEL_NAME).is_file():
        result.add([_absent("model", used)])
    elif used.is_dir():
        result.add(check_model(used))


def _check_report(directory: Path) -> list[HpcAeError]:
    """Everything that is wrong with a report: the seals of its records, the files whose digests they have, debris."""
    errors: list[HpcAeError] = []
    for path in (directory / name for name in (SUMMARY_NAME, COMPARE_NAME)):
        if path.name == SUMMARY_NAME or path.exists():
            record, found = inspect_json(path)
            errors += [*found, *_check_files(path, {} if record is None else record.get("files"), "report")]
    debris = sorted(directory.glob(f".*{TEMP_MARK}*"))
    return [*errors, *(DamageError("a temporary file left by a killed process", where=name) for name in debris)]


def _check_files(path: Path, files: object, whole: str) -> list[HpcAeError]:
    """Whether the files beside the record at `path` are those whose digests it has; `whole` says of what they are."""
    directory = path.parent
    if not isinstance(files, dict) or any(Path(name).name != name for name in files):
        return [DamageError(f"the {_RECORDS[whole]} does not list the files of the {whole}", where=path, got=files)]
    errors: list[HpcAeError] = []
    for name, recorded in files.items():
        try:
            digest = digest_file(directory / name, follow=False)
        except (OSError, ValueError, DamageError) as error:
            what = f"a file of the {whole} is missing or cannot be read"
            errors.append(DamageError(what, where=directory / name, got=getattr(error, "got", "") or str(error)))
            continue
        if digest != recorded:
            what = f"a file of the {whole} has changed since it was written"
            errors.append(DamageError(what, where=directory / name, got=digest, expected=recorded))
    return errors
