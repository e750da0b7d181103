"""VERB compress: an encoding catalog and its stars to a compressed catalog of bounded error.

Every block is decoded again and compared with the catalog before anything is published: ids, positions, flags and
everything else bit for bit, magnitudes within the error asked for, star by star.
Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from hpc_ae.analysis.compression import CoderSample, MagnitudeCoder, make_coder
from hpc_ae.analysis.grids import LatentGrid
from hpc_ae.catalog.catalog import Catalog, open_catalog, open_stars
from hpc_ae.catalog.link import linked_place
from hpc_ae.catalog.manifest import write_manifest
from hpc_ae.catalog.records import ErrorByBand, Link, StarManifest, catalog_digest
from hpc_ae.catalog.schema import COMPRESSED_FORMAT, ENCODING_FORMAT
from hpc_ae.errors import DamageError, InputError, StaleError, WorkError
from hpc_ae.files import check_outside, digest_file, json_bytes, publish_bytes, read_regular
from hpc_ae.formats.compressed import MODEL_DIR, MUST_HAVE, BlockCodec, check_max_error, is_compressed, open_compressed
from hpc_ae.formats.compressed_records import BLOCK_ROWS, COMPRESSED_VERSION, CompressedInputs, CompressedManifest
from hpc_ae.formats.compressed_write import CompressJob, WrittenShard, write_compressed_shard
from hpc_ae.formats.publish import check_free, staged
from hpc_ae.formats.streams import pack_block
from hpc_ae.layout import MODEL_NAME, WEIGHTS_NAME
from hpc_ae.model.architecture import MOST_WEIGHT_BYTES
from hpc_ae.model.exact import ExactDecoder, load_decoder
from hpc_ae.model.weights import read_model_record
from hpc_ae.provenance import Provenance
from hpc_ae.runtime.executor import Mapper, open_mapper
from hpc_ae.runtime.progress import Progress

MODEL_NAMES = (MODEL_NAME, WEIGHTS_NAME)
SAMPLE_STARS = BLOCK_ROWS
_TRIAL_BITS = (0, 2, 3, 4, 5)
_LOSSY_BITS = 12  # with no residuals the latents are all there is


@dataclass(frozen=True)
class CompressSettings:
    """What decides a compressed catalog: maximum error per band in mag (0: without loss; None: the model alone, no
    bound), bits of a latent (None: as few as give the smallest file), columns (None: all).
    """

    max_error: tuple[float, ...] | None
    latent_bits: int | None = None
    columns: tuple[str, ...] | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Compressed:
    """What was made: bits of a latent, bytes of everything, of each column and of the model, and what was measured on
    decoding every good star: largest and root mean square error per band in mag.
    """

    num_stars: int
    latent_bits: int
    num_bytes: int
    column_bytes: dict[str, int]
    model_bytes: int
    most: dict[str, float]
    rms: dict[str, float]

    def bits_per_star(self, column: str) -> float:
        """Bits per star of a column."""
        return 8.0 * self.column_bytes[column] / max(1, self.num_stars)


def parse_max_error(text: str, bands: Sequence[str]) -> tuple[float, ...] | None:
    """`0.01` for all bands, `u=0.05,g=0.01,...` for each, `none` for no residuals; InputError otherwise."""
    if text.strip().lower() == "none":
        return None
    try:
        if "=" not in text:
            found = dict.fromkeys(bands, float(text))
        else:
            pairs = [part.split("=") for part in text.split(",")]
            found = {name.strip(): float(value) for name, value in pairs}
            found = found if len(found) == len(pairs) else {}  # a band twice
    except ValueError:
        found = {}
    if set(found) != set(bands) or not all(np.isfinite(list(found.values()))):
        expected = f"a number of mag, {','.join(f'{band}=0.01' for band in bands)}, or none"
        raise InputError("not a valid maximum error", where="--max-error", got=text, expected=expected)
    max_error = tuple(found[band] for band in bands)
    check_max_error(max_error, len(bands))
    return max_error


def _check_complete(stars: Catalog, encoding: Catalog, directory: Path) -> None:
    """InputError where stars may lack bands: their states and limits have no place in a compressed catalog."""
    if "band_state" in stars.columns or "num_bands" in encoding.columns:
        raise InputError(
            "a catalog whose stars may lack bands cannot be compressed",
            where=directory,
            got="band_state in the star catalog" if "band_state" in stars.columns else "num_bands in the encoding",
            expected="stars of SDSS's default, and model.missing: refuse",
            fix="hpc-ae export ENCODING OUT.parquet --join writes all that is known of each star",
        )


def compress(
    directory: Path,
    out: Path,
    settings: CompressSettings,
    *,
    stars: Path | None = None,
    model: Path | None = None,
    num_workers: int = 1,
) -> Compressed | None:
    """Write the stars of the encoding catalog in `directory` to the compressed catalog `out`, complete or not at all.

    InputError where an input is not there or wrong, StaleError where model or stars are others than those of the
    encoding, WorkError where a star does not come back within its error. None in MPI ranks that serve.
    """
    encoding = open_catalog(directory)
    if encoding.format != ENCODING_FORMAT:
        what = "only an encoding catalog can be compressed"
        raise InputError(what, where=directory, got=encoding.format, fix="hpc-ae encode makes one of a star catalog")
    star_catalog = open_stars(encoding, stars)
    _check_complete(star_catalog, encoding, directory)
    columns = _choose_columns(star_catalog, settings)
    if settings.max_error is not None:
        check_max_error(settings.max_error, len(star_catalog.bands))
    check_outside(out, [directory, star_catalog.directory])
    check_free(out, overwrite=settings.overwrite, is_ours=is_compressed)
    model_dir = _find_model(encoding, model)
    decode = load_decoder(model_dir, _model_link(encoding).digest)
    with open_mapper(num_workers) as mapper:
        if mapper is None:
            return None
        coder = _fit_coder(encoding, star_catalog, decode, settings)
        codec = BlockCodec(coder, decode, len(star_catalog.bands), columns)
        with staged(out, overwrite=settings.overwrite, is_ours=is_compressed) as path:
            manifest = _write(mapper, CompressJob(encoding, star_catalog, codec, path.absolute()), model_dir)
            num_bytes = sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
    return _account(manifest, num_bytes)


def _choose_columns(stars: Catalog, settings: CompressSettings) -> tuple[str, ...]:
    """The columns to keep; InputError where one is unknown or one that a star catalog needs is left out."""
    if settings.columns is None:
        return tuple(stars.columns)
    chosen = [name for name in stars.columns if name in settings.columns]
    if set(settings.columns) - set(chosen) or not set(MUST_HAVE) <= set(chosen):
        expected = f"{', '.join(MUST_HAVE)}, and as many as you like of {', '.join(stars.columns)}"
        raise InputError(
            "not the columns of a star catalog", where="--columns", got=settings.columns, expected=expected
        )
    return tuple(chosen)


def _model_link(encoding: Catalog) -> Link:
    """The model that encoded, as the manifest says; DamageError where it does not."""
    if (link := encoding.manifest.inputs.model) is None or link.path is None:
        raise DamageError("the manifest of the encoding does not name its model", where=encoding.directory)
    return link


def _find_model(encoding: Catalog, model: Path | None) -> Path:
    """The directory of the model that encoded; StaleError where another one is there."""
    recorded = _model_link(encoding)
    model_dir = model if model is not None else linked_place(encoding.directory, str(recorded.path))
    if not (model_dir / MODEL_NAMES[0]).is_file():
        what = "the model of the encoding is missing"
        raise InputError(what, where=model_dir, expected=recorded.digest, fix="give its path with --model DIR")
    record = read_model_record(model_dir)
    if record.digest != recorded.digest:
        what = "this is not the model that encoded"
        raise StaleError(what, where=model_dir, got=record.digest, expected=recorded.digest)
    return model_dir


def _fit_coder(encoding: Catalog, stars: Catalog, decode: ExactDecoder, settings: CompressSettings) -> MagnitudeCoder:
    """The coder of a catalog, from a sample of its good stars, which are taken from all its shards."""
    magnitude, latent = _sample(encoding, stars)
    block_rows = min(BLOCK_ROWS, max((shard.num_stars for shard in stars.shards), default=1))

    def coder_of(bits: int) -> tuple[MagnitudeCoder, CoderSample]:
        grid = LatentGrid.of(latent, bits)
        integers = grid.to_integers(latent)
        predicted = decode(grid.to_latents(integers)) if settings.max_error is not None else magnitude
        sample = CoderSample(magnitude, integers, predicted)
        return make_coder(settings.max_error, grid, sample), sample

    def cost(bits: int) -> float:
        """Bytes of the whole catalog's magnitudes, had all its blocks the sample's stars."""
        coder, sample = coder_of(bits)
        table = 0 if coder.predictor is None else len(json_bytes(coder.predictor.record().to_json()))
        return table + len(stars) * _coded_bytes(coder, sample, block_rows) / max(1, len(magnitude))

    bits = settings.latent_bits
    if bits is None:
        bits = _LOSSY_BITS if settings.max_error is None else min(_TRIAL_BITS, key=cost)
    return coder_of(bits)[0]


def _coded_bytes(coder: MagnitudeCoder, sample: CoderSample, block_rows: int) -> int:
    """Bytes of a sample's magnitudes in blocks, at the level at which they are written."""
    total = 0
    for start in range(0, len(sample.magnitude), block_rows):
        rows = slice(start, start + block_rows)
        streams = coder.encode(sample.magnitude[rows], sample.latent[rows], sample.predicted[rows])
        total += len(pack_block(streams, {})[0])
    return total


def _sample(encoding: Catalog, stars: Catalog) -> tuple[np.ndarray, np.ndarray]:
    """Magnitudes (n, B) and finite latents (n, L) of about SAMPLE_STARS good stars, in an order of no meaning."""
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    num = -(-SAMPLE_STARS // max(1, len(stars.shards)))
    for index, shard in enumerate(stars.shards):
        start = max(0, (shard.num_stars - num) // 2)
        rows = slice(start, start + num)
        arrays = stars.read_shard(index, ["magnitude", "quality"], rows)
        latent = encoding.read_shard(index, ["latent"], rows)["latent"]
        good = (arrays["quality"] == 0) & np.isfinite(latent).all(axis=1)
        parts.append((arrays["magnitude"][good], latent[good]))
    if not parts:
        return np.empty((0, len(stars.bands)), np.float32), np.empty((0, encoding.manifest.num_latent), np.float32)
    magnitude, latent = (np.concatenate(column) for column in zip(*parts, strict=True))
    shuffled = np.random.default_rng(0).permutation(len(latent))
    return magnitude[shuffled], latent[shuffled]


def _write(mapper: Mapper, job: CompressJob, model_dir: Path) -> CompressedManifest:
    """Write shards, model and manifest into the job's folder; returns the manifest."""
    written = []
    with Progress("compress", job.stars.num_stars, "stars") as progress:
        for one in mapper.map(partial(write_compressed_shard, job), range(len(job.stars.shards))):
            written.append(one)
            progress.update(progress.done + one.record.num_stars)
    for one in written:
        if digest_file(job.folder / one.record.file) != one.record.digest:
            where = job.folder / one.record.file
            raise WorkError(
                "the data read back differ from what was written", where=where, fix="try another file system"
            )
    (job.folder / MODEL_DIR).mkdir(mode=0o700)
    for name in MODEL_NAMES:
        publish_bytes(job.folder / MODEL_DIR / name, read_regular(model_dir / name, MOST_WEIGHT_BYTES))
    manifest = write_manifest(job.folder, _manifest(job, written))
    open_compressed(job.folder, load_decoder)
    return manifest


def _manifest(job: CompressJob, written: list[WrittenShard]) -> CompressedManifest:
    stars, coder = job.stars, job.codec.coder
    records = tuple(one.record for one in written)
    zeros = np.zeros(len(stars.bands))
    most = np.max([zeros, *(one.most for one in written)], axis=0)
    rms = np.sqrt(np.sum([zeros, *(one.squares for one in written)], axis=0) / max(1, stars.num_good))
    return CompressedManifest(
        format=COMPRESSED_FORMAT,
        version=COMPRESSED_VERSION,
        num_stars=stars.num_stars,
        num_good=stars.num_good,
        bands=tuple(stars.bands),
        columns=job.codec.columns,
        objid=stars.manifest_as(StarManifest).objid,
        order=stars.manifest.order,
        catalog_digest=catalog_digest(records),
        max_error=None if coder.grid is None else coder.grid.max_error,
        latent_bits=coder.latent_grid.bits,
        latent_low=coder.latent_grid.low,
        latent_high=coder.latent_grid.high,
        predictor=None if coder.predictor is None else coder.predictor.record(),
        error=ErrorByBand(
            max=dict(zip(stars.bands, most.tolist(), strict=True)),
            rms=dict(zip(stars.bands, rms.tolist(), strict=True)),
        ),
        column_bytes={name: sum(one.column_bytes[name] for one in written) for name in job.codec.columns},
        model_bytes=sum((job.folder / MODEL_DIR / name).stat().st_size for name in MODEL_NAMES),
        inputs=CompressedInputs(
            catalog=Link(digest=stars.digest),
            encoding=Link(digest=job.encoding.digest),
            model=Link(path=MODEL_DIR, digest=_model_link(job.encoding).digest),
        ),
        provenance=Provenance.now({}),
        shards=records,
    )


def _account(manifest: CompressedManifest, num_bytes: int) -> Compressed:
    return Compressed(
        manifest.num_stars,
        manifest.latent_bits,
        num_bytes,
        manifest.column_bytes,
        manifest.model_bytes,
        manifest.error.max,
        manifest.error.rms,
    )
