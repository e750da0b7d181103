"""What the report says of compression and noise removal, from stars of the survey drawn by chance.

Both need the model that encoded them; where it is gone there is no table. Shape letters: N stars, B bands.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from hpc_ae.analysis.compression_table import TableInput, compression_table
from hpc_ae.analysis.denoising import Uncertainty, read_uncertainty
from hpc_ae.catalog.link import linked_place
from hpc_ae.catalog.shard import Arrays
from hpc_ae.errors import HpcAeError
from hpc_ae.formats.streams import zstd_codec
from hpc_ae.model.exact import load_decoder
from hpc_ae.model.weights import ModelRecord, read_model_record
from hpc_ae.report.data import Cell, Table
from hpc_ae.survey.pairs import Survey

_MAX_ERRORS = (0.001, 0.01, 0.05)
_LATENT_BITS, _LOSSY_BITS = (3,), (8,)
_MAGNITUDES = (0.0, 14.0, 16.0, 18.0, 19.0, 20.0, 21.0, 30.0)
_FEWEST = 50  # stars of a row
_ONE_SIGMA = 0.6827
_COMPRESS = (
    "hpc-ae export RUN_DIR/encoding OUT --to compressed --max-error 0.01 writes such a catalog, and checks every star."
)
_DENOISE = (
    "Of stars drawn by chance, in mag: the median error of the catalog; what 68 % of the residuals do not exceed; the "
    "median uncertainty of the reconstruction as a magnitude, learned from held-out stars, and of the best combination "
    "with the catalog's magnitude. A reconstruction more uncertain than the catalog is not a denoised magnitude."
)


@dataclass(frozen=True)
class ModelTables:
    """What needs the model; None where it cannot be made. `record` is the model's own, where it is there."""

    record: ModelRecord | None = None
    compression: Table | None = None
    denoising: Table | None = None


def model_tables(survey: Survey, drawn: Arrays) -> ModelTables:
    """The tables of stars drawn by chance."""
    link = survey.encoding.manifest.inputs.model
    if link is None:
        return ModelTables()
    model_dir = linked_place(survey.encoding.directory, link.path or "")
    try:
        decode, record = load_decoder(model_dir, link.digest), read_model_record(model_dir)
    except (HpcAeError, OSError, KeyError, ValueError):
        return ModelTables()
    num_bytes = sum(path.stat().st_size for path in model_dir.glob("model.*"))
    given = {name: drawn[name] for name in ("magnitude", "latent") if name in drawn}
    table = None
    if len(given.get("latent", ())) >= _FEWEST:
        bands, num = survey.stars.bands, survey.encoding.num_stars
        rows = TableInput(given["magnitude"], given["latent"], decode, bands, num_bytes, (num,))
        table = _compression(rows)
    return ModelTables(record, table, _denoising(survey, drawn, record))


def _compression(given: TableInput) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for one in compression_table(given, [zstd_codec()], _MAX_ERRORS, _LATENT_BITS, _LOSSY_BITS):
        bound = "none" if one.max_error is None else one.max_error
        bits = one.bits_per_star, one.bits_with_model[given.surveys[0]]
        rms = ", ".join(f"{value:.2g}" for value in one.rms_mag.values())
        rows.append((bound, one.method, *bits, max(one.max_mag.values()), rms))
    bands = ", ".join(given.bands)
    return Table(
        ("bound [mag]", "method", "bits per star", "with the model", "largest error [mag]", f"RMS in {bands} [mag]"),
        tuple(rows),
        f"{len(given.magnitude):,} stars drawn by chance; the model counts for all stars of the survey. {_COMPRESS}",
    )


def _denoising(survey: Survey, drawn: Arrays, record: ModelRecord) -> Table | None:
    """Errors of catalog, reconstruction and both combined, by band and magnitude, as held-out stars have them."""
    found = read_uncertainty(record.uncertainty, len(survey.stars.bands))
    if found is None or not {"magnitude_error", "reconstruction"} <= drawn.keys():
        return None
    rows: list[tuple[Cell, ...]] = []
    middle = drawn["magnitude"][:, survey.reference_band]
    for low, high in itertools.pairwise(_MAGNITUDES):
        inside = (middle >= low) & (middle < high)
        if inside.sum() >= _FEWEST:
            some = {name: values[inside] for name, values in drawn.items()}
            rows += [(f"{low:g}-{high:g}", int(inside.sum()), *row) for row in _errors(survey.stars.bands, some, found)]
    if not rows:
        return None
    band = survey.stars.bands[survey.reference_band]
    return Table(
        (band, "stars", "band", "catalog", "|magnitude − reconstruction|", "reconstruction", "combined"),
        tuple(rows),
        _DENOISE,
    )


def _errors(bands: list[str], stars: Arrays, found: Uncertainty) -> list[tuple[Cell, ...]]:
    magnitude, error, model = stars["magnitude"], stars["magnitude_error"], stars["reconstruction"]
    known = np.where(np.isfinite(error) & (error > 0), error, 0.0).astype(np.float32)
    uncertainty, combined = found.of(model, known), found.combine(magnitude, known, model)[1]
    size = np.quantile(np.abs(magnitude - model), _ONE_SIGMA, axis=0)
    own = np.nanmedian(np.where(known > 0, known, np.nan), axis=0) if (known > 0).any(axis=0).all() else None
    columns = [
        own if own is not None else size * np.nan,
        size,
        np.median(uncertainty, axis=0),
        np.median(combined, axis=0),
    ]
    return [(band, *(float(values[index]) for values in columns)) for index, band in enumerate(bands)]
