"""VERB postprocess: encoding catalog and star catalog to summary.json, anomalies.csv and figures.

Two passes over the shards: the first over the encoding alone (ranges, quantiles, the worst stars), the second over both
catalogs (grids, residuals per band, what is to be said of the worst stars). Shape letters: N stars, B bands, L latent
dimensions.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import hpc_ae
from hpc_ae.analysis.histogram import MAGNITUDE_BINS, RESIDUAL_BINS, LinearBins, column_quantiles
from hpc_ae.analysis.summary import (
    anomalies_csv,
    json_id,
    order_anomalies,
    summarize_bands,
    summarize_error,
    summarize_latent,
    summarize_squared_error,
)
from hpc_ae.analysis.tally import MAX_SHOWN, ErrorTally, GridTally, usable_rows
from hpc_ae.catalog.catalog import Catalog, open_catalog
from hpc_ae.catalog.schema import ENCODING_FORMAT, STAR_FORMAT
from hpc_ae.catalog.shard import Arrays
from hpc_ae.errors import DamageError, InputError, StaleError
from hpc_ae.files import digest_bytes, make_dir, publish_bytes, publish_json, read_json, remove_debris, seal
from hpc_ae.provenance import check_fingerprint
from hpc_ae.runtime.executor import Mapper, open_mapper
from hpc_ae.runtime.progress import Progress

SUMMARY_NAME = "summary.json"
SUMMARY_FORMAT = "hpc_ae/summary"
CURVES = (0.025, 0.16, 0.5, 0.84, 0.975)
_CURVE_STARS = 50
_FIRST_PASS_SHARE = 0.25
_METRICS = ("train_mse_mag2", "validation_mse_mag2", "learning_rate")
History = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class PostprocessSettings:
    """What decides the report, beside the two catalogs."""

    num_anomalies: int = 1000


@dataclass(frozen=True)
class ShardPair:
    """A shard of the encoding and that of the same stars: two catalogs of one shard each, cheap to send to a worker."""

    encoding: Catalog
    stars: Catalog
    first_row: int

    def read(self, encoding_names: list[str], star_names: list[str]) -> tuple[Arrays, Arrays]:
        """Columns of both; DamageError where they are not the same stars."""
        encoded = self.encoding.read_shard(0, ["objid", "quality", *encoding_names])
        stars = self.stars.read_shard(0, ["objid", "quality", *star_names])
        for name in ("objid", "quality"):
            if not np.array_equal(encoded[name], stars[name]):
                row = int(np.argmax(encoded[name] != stars[name]))
                raise DamageError(
                    f"the encoding and the star catalog differ in {name}",
                    where=f"{self.encoding.shard_path(0)}, row {row}",
                    got=encoded[name][row],
                    expected=f"{stars[name][row]}, as in {self.stars.shard_path(0)}",
                    fix="hpc-ae verify tells which of the two is damaged; make that one again",
                )
        return encoded, stars


@dataclass(frozen=True)
class ReportPaths:
    """Where the two catalogs, the report and (for the loss curve) the training's metrics are."""

    encoding_dir: Path
    star_dir: Path
    out_dir: Path
    metrics_path: Path | None = None


def postprocess(
    paths: ReportPaths, settings: PostprocessSettings, num_workers: int = 1, progress_path: Path | None = None
) -> None:
    """Write summary.json, anomalies.csv and the figures to `out_dir`, or nothing where the same are there already.

    The same bytes for any number of workers; memory does not grow with the number of stars. InputError where a catalog
    is missing or of the wrong kind, StaleError where the encoding is of another star catalog or `out_dir` holds another
    report, DamageError where a shard is not what its manifest says or the two catalogs differ in a star.
    """
    encoding, stars = _open(paths.encoding_dir, ENCODING_FORMAT), _open(paths.star_dir, STAR_FORMAT)
    out_dir = paths.out_dir
    pairs = _pair_shards(encoding, stars)
    fingerprint = _fingerprint(settings, encoding, stars)
    if _is_done(out_dir, fingerprint):
        return
    with open_mapper(num_workers) as mapper:
        if mapper is None:
            return
        remove_debris(make_dir(out_dir))
        with Progress("postprocess", encoding.num_stars, "stars", path=progress_path) as progress:
            errors = _first_pass(mapper, pairs, settings.num_anomalies, progress)
            grids, anomalies = _second_pass(mapper, pairs, errors, progress)
        history = _read_history(paths.metrics_path)
        files = {"anomalies.csv": anomalies_csv(anomalies, stars.bands, encoding.columns)}
        files |= _draw(encoding, errors, grids, history)
        for name, data in files.items():
            publish_bytes(out_dir / name, data)
        summary = {
            "format": SUMMARY_FORMAT,
            "version": 1,
            "package": f"hpc_ae {hpc_ae.__version__}",
            **_summarize(encoding, errors, grids, anomalies),
            "notes": _notes(encoding, errors, history),
            "files": {name: digest_bytes(data) for name, data in files.items()},
            "inputs": {name: entry.get("digest") for name, entry in encoding.manifest["inputs"].items()}
            | {"encoding": encoding.digest},
            "fingerprint": fingerprint,
        }
        publish_json(out_dir / SUMMARY_NAME, seal(summary))


def is_postprocessed(paths: ReportPaths, settings: PostprocessSettings) -> bool:
    """Whether the report of these catalogs is there already; StaleError where another one is."""
    if not (paths.out_dir / SUMMARY_NAME).exists():
        return False
    encoding, stars = _open(paths.encoding_dir, ENCODING_FORMAT), _open(paths.star_dir, STAR_FORMAT)
    return _is_done(paths.out_dir, _fingerprint(settings, encoding, stars))


def _fingerprint(settings: PostprocessSettings, encoding: Catalog, stars: Catalog) -> dict[str, Any]:
    return {"settings": asdict(settings), "encoding": encoding.digest, "catalog": stars.digest}


def _open(directory: Path, catalog_format: str) -> Catalog:
    catalog = open_catalog(directory)
    if catalog.format != catalog_format:
        raise InputError("the wrong kind of catalog", where=directory, got=catalog.format, expected=catalog_format)
    return catalog


def _pair_shards(encoding: Catalog, stars: Catalog) -> list[ShardPair]:
    """Shard by shard, after checking that the encoding was made from this star catalog."""
    try:
        recorded = encoding.manifest["inputs"]["catalog"]["digest"]
    except (KeyError, TypeError):
        raise DamageError("the manifest of the encoding does not name its catalog", where=encoding.directory) from None
    if recorded != stars.digest:
        raise StaleError(
            "the encoding was made from another star catalog",
            where=encoding.directory,
            got=recorded,
            expected=f"{stars.digest}, that of {stars.directory}",
            fix="name the star catalog that was encoded, or encode this one again (--redo encode)",
        )
    sizes = [[shard["num_stars"] for shard in catalog.shards] for catalog in (encoding, stars)]
    if sizes[0] != sizes[1] or encoding.bands != stars.bands:
        raise DamageError(
            "the encoding and the star catalog differ in their shards or bands",
            where=encoding.directory,
            got=f"{encoding.num_stars} stars in {len(sizes[0])} shards, bands {encoding.bands}",
            expected=f"{stars.num_stars} stars in {len(sizes[1])} shards, bands {stars.bands}",
            fix="encode the catalog again (--redo encode)",
        )
    return [
        ShardPair(_one_shard(encoding, index), _one_shard(stars, index), int(encoding.offsets[index]))
        for index in range(len(encoding.shards))
    ]


def _one_shard(catalog: Catalog, index: int) -> Catalog:
    shard = catalog.shards[index]
    kept = {key: catalog.manifest[key] for key in ("format", "bands", "columns", "catalog_digest")}
    counts = {key: shard[key] for key in ("num_stars", "num_good")}
    return Catalog(catalog.directory, {**kept, **counts, "latent": _num_latent(catalog), "shards": [shard]})


def _num_latent(catalog: Catalog) -> int:
    return int(catalog.manifest.get("latent", 0))


def _is_done(out_dir: Path, fingerprint: dict[str, Any]) -> bool:
    """True where this report is complete already; StaleError where another one is there."""
    path = out_dir / SUMMARY_NAME
    if not path.exists():
        return False
    recorded = read_json(path, sealed=True)
    check_fingerprint(out_dir, recorded.get("fingerprint", {}), fingerprint, "postprocess")
    return all((out_dir / name).is_file() for name in recorded.get("files", {}))


def _first_pass(mapper: Mapper, pairs: list[ShardPair], num_worst: int, progress: Progress) -> ErrorTally:
    total = ErrorTally.none(_num_latent(pairs[0].encoding) if pairs else 1)
    done = 0
    for pair, tally in zip(pairs, mapper.map(partial(_tally_errors, num_worst), pairs), strict=True):
        total.add(tally, num_worst)
        done += pair.encoding.num_stars
        progress.update(int(_FIRST_PASS_SHARE * done), "errors and latents")
    return total


def _tally_errors(num_worst: int, pair: ShardPair) -> ErrorTally:
    arrays = pair.encoding.read_shard(0, ["quality", "reconstruction_error", "latent"])
    return ErrorTally.of(arrays["quality"], arrays["reconstruction_error"], arrays["latent"], pair.first_row, num_worst)


def _second_pass(
    mapper: Mapper, pairs: list[ShardPair], errors: ErrorTally, progress: Progress
) -> tuple[GridTally, Arrays]:
    windows = errors.windows()
    total = GridTally.none(len(pairs[0].stars.bands) if pairs else 1, len(windows))
    parts = []
    done = 0
    tasks = list(_with_rows(pairs, errors.worst_rows))
    for pair, (tally, part) in zip(pairs, mapper.map(partial(_tally_grids, windows), tasks), strict=True):
        total.add(tally)
        parts += [part] if part else []
        done += pair.encoding.num_stars
        share = _FIRST_PASS_SHARE * progress.total + (1 - _FIRST_PASS_SHARE) * done
        progress.update(min(progress.total, round(share)), "maps and residuals")
    return total, order_anomalies(parts)


def _with_rows(pairs: list[ShardPair], rows: np.ndarray) -> Iterator[tuple[ShardPair, np.ndarray]]:
    """Each pair with those of the catalog rows (n,) that lie in it, ascending, counted from its first row."""
    ascending = np.sort(rows)
    for pair in pairs:
        low, high = np.searchsorted(ascending, [pair.first_row, pair.first_row + pair.encoding.num_stars])
        yield pair, ascending[low:high] - pair.first_row


def _tally_grids(windows: list[LinearBins], task: tuple[ShardPair, np.ndarray]) -> tuple[GridTally, Arrays]:
    pair, rows = task
    names = ["reconstruction_error", "latent"]
    has_model = "reconstruction" in pair.encoding.columns
    encoded, stars = pair.read([*names, *(["reconstruction"] if has_model else [])], ["magnitude"])
    usable = usable_rows(encoded["quality"], encoded["reconstruction_error"], encoded["latent"])
    columns = [encoded["latent"], stars["magnitude"], encoded["reconstruction" if has_model else names[0]]]
    if not usable.all():
        columns = [values[usable] for values in columns]
    latent, magnitude, model = columns
    tally = GridTally.of(latent, magnitude, model, windows)
    return tally, _describe_rows(pair, rows, {**encoded, "magnitude": stars["magnitude"]}) if len(rows) else {}


def _describe_rows(pair: ShardPair, rows: np.ndarray, arrays: Arrays) -> Arrays:
    """What anomalies.csv says of rows (n,), ascending; only their part of the other columns is read."""
    names = ("objid", "reconstruction_error", "magnitude", "reconstruction")
    found = {name: arrays[name][rows] for name in names if name in arrays}
    span = slice(int(rows[0]), int(rows[-1]) + 1)
    more = pair.stars.read_shard(0, ["ra", "dec"], span)
    if "chi2" in pair.encoding.columns:
        more |= pair.encoding.read_shard(0, ["chi2"], span)
    found |= {name: values[rows - rows[0]] for name, values in more.items()}
    return {**found, "row": rows + pair.first_row}


def _summarize(encoding: Catalog, errors: ErrorTally, grids: GridTally, anomalies: Arrays) -> dict[str, Any]:
    has_model = "reconstruction" in encoding.columns
    num_listed = len(anomalies["row"]) if anomalies else 0
    pairs = itertools.combinations(range(1, len(errors.latent_keys) + 1), 2)
    windows = [[bins.low, bins.high] for bins in errors.windows()]
    outside = [errors.error.num - int(grid.sum()) for grid in grids.latent_grids]
    return {
        "num_stars": encoding.num_stars,
        "num_good": errors.num_good,
        "num_excluded": encoding.num_stars - errors.num_good,
        "num_not_finite": errors.num_good - errors.error.num,
        "flags": encoding.manifest["flags"],
        "error": summarize_error(errors),
        "squared_error": summarize_squared_error(errors),
        "bands": summarize_bands(encoding.bands, grids, errors.error.num) if has_model else None,
        "latent": summarize_latent(errors),
        "latent_map": {
            "windows": windows,
            "panels": [list(pair) for pair in pairs] or [[1]],
            "num_outside": outside,
        },
        "anomalies": {
            "num": num_listed,
            "worst_objid": json_id(anomalies["objid"][0]) if num_listed else None,
            "least_error_mag": float(anomalies["reconstruction_error"][-1]) if num_listed else None,
        },
    }


def _notes(encoding: Catalog, errors: ErrorTally, history: History) -> list[str]:
    """What a reader would otherwise miss."""
    notes = [] if errors.error.num else ["no usable stars: every number is null"]
    if "reconstruction" not in encoding.columns:
        notes.append("bands is null: the encoding has no reconstruction (encode.reconstruction: false)")
    if not history:
        notes.append("loss_curve.png is left out: no metrics of the training were found")
    if lost := errors.num_good - errors.error.num:
        notes.append(f"{lost} good stars have an error or latent that is not finite; they enter no statistic")
    if len(errors.latent.mean) > MAX_SHOWN:
        notes.append(f"latent_density.png shows the first {MAX_SHOWN} latent dimensions")
    return notes


def _draw(encoding: Catalog, errors: ErrorTally, grids: GridTally, history: History) -> dict[str, bytes]:
    """The figures as PNG bytes by file name."""
    from hpc_ae.report import figures

    edges = RESIDUAL_BINS.edges()
    curves = np.stack([column_quantiles(grid, edges, CURVES, _CURVE_STARS) for grid in grids.magnitude_grids])
    against = figures.MagnitudePanels(
        bands=encoding.bands,
        magnitude_edges=MAGNITUDE_BINS.edges(),
        size_edges=edges,
        counts=grids.magnitude_grids,
        curves=curves,
        label="|residual|" if "reconstruction" in encoding.columns else "reconstruction error",
    )
    drawn = {
        "latent_density.png": figures.draw_latent_density(
            grids.latent_grids, [bins.edges() for bins in errors.windows()]
        ),
        "error_vs_magnitude.png": figures.draw_error_vs_magnitude(against),
    }
    return drawn | ({"loss_curve.png": figures.draw_loss_curve(history)} if history else {})


def _read_history(path: Path | None) -> History:
    """{metric: (steps, values)} of metrics.jsonl; lines cut short, absent and null values are passed over."""
    if path is None or not path.is_file():
        return {}
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in _METRICS}
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            for name in _METRICS if isinstance(record, dict) else ():
                pair = (record.get("step"), record.get(name))
                if all(isinstance(value, int | float) and np.isfinite(value) for value in pair):
                    points[name].append(pair)
    arrays = {name: np.array(values, np.float64).T for name, values in points.items() if values}
    return {name: (steps, values) for name, (steps, values) in arrays.items()}
