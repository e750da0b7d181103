"""The latents of two runs on the same stars: compare.json and compare.csv beside the report.

Stars are matched by row where both encodings are of the same shards of stars, and then all of them are compared; else
by objid, of a sample. Shape letters: N stars.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import ConfigDict, Field

from hpc_ae.analysis.alignment import Alignment, JointMoments, align, neighbour_overlap
from hpc_ae.analysis.histogram import ERROR_BINS, quantiles
from hpc_ae.analysis.statistics import worst
from hpc_ae.analysis.summary import CsvColumns, json_number, table_csv
from hpc_ae.catalog.catalog import Catalog
from hpc_ae.catalog.identity import NO_ID
from hpc_ae.catalog.manifest import read_manifest
from hpc_ae.catalog.records import EncodingManifest
from hpc_ae.errors import DamageError, InputError
from hpc_ae.files import digest_bytes, publish_bytes, publish_json, seal
from hpc_ae.layout import COMPARE_NAME, COMPARE_TABLE_NAME
from hpc_ae.provenance import Fingerprint
from hpc_ae.record import Record
from hpc_ae.runtime.executor import Mapper
from hpc_ae.survey.pairs import Survey
from hpc_ae.survey.sample import read_sample
from hpc_ae.survey.strangest import describe_rows

NUM_MOVED = 1000
_NUM_NEIGHBOURS = 10
_NEIGHBOUR_STARS = 20_000
_ID_STARS = 200_000
_QUANTILES = (0.5, 0.9, 0.99, 0.999)


class Comparison(Record):
    """What compare.json holds. `rotation` turns the other latents into ours; `displacement_*` are quantiles."""

    model_config = ConfigDict(populate_by_name=True)
    nulls: ClassVar[frozenset[str]] = frozenset(
        {"neighbour_overlap", "neighbour_overlap_by_chance", "displacement_50"}
        | {"displacement_90", "displacement_99", "displacement_999"}
    )
    format_version: ClassVar[int | None] = 1

    format: str = "hpc_ae/comparison"
    version: int = 1
    matched_by: str  # row or objid
    num_matched: int
    procrustes_disparity: float
    linear_r_squared: float
    scale: float
    rotation: list[list[float]]
    neighbour_overlap: float | None
    neighbour_overlap_by_chance: float | None
    num_neighbours: int = _NUM_NEIGHBOURS
    num_stars_of_overlap: int
    displacement_unit: str = "root mean square distance of the stars from their centre in the latent space"
    displacement_50: float | None = Field(validation_alias="displacement_0.5")
    displacement_90: float | None = Field(validation_alias="displacement_0.9")
    displacement_99: float | None = Field(validation_alias="displacement_0.99")
    displacement_999: float | None = Field(validation_alias="displacement_0.999")
    files: dict[str, str]
    fingerprint: Fingerprint

    def to_json(self) -> dict[str, Any]:
        """What the file holds."""
        fields = type(self).model_fields
        return {str(fields[name].validation_alias or name): value for name, value in super().to_json().items()}


@dataclass(frozen=True)
class LatentPair:
    """Latents of the same stars, in whole arrays: rows of the catalog (N,), other (N, A), latent (N, L), all finite."""

    rows: np.ndarray
    other: np.ndarray
    latent: np.ndarray

    @classmethod
    def none(cls, num_other: int, num_latent: int) -> LatentPair:
        """Those of no stars."""
        return cls(np.empty(0, np.int64), np.empty((0, num_other)), np.empty((0, num_latent)))

    def finite(self) -> LatentPair:
        """The stars that have all latents."""
        keep = np.isfinite(self.other).all(axis=1) & np.isfinite(self.latent).all(axis=1)
        return LatentPair(self.rows[keep], self.other[keep], self.latent[keep])


Reader = Callable[[], LatentPair]


def comparison_fingerprint(survey: Survey, other_dir: Path) -> Fingerprint:
    """What decides a comparison."""
    return {"encoding": survey.encoding.digest, "other": _open_other(other_dir).digest}


def compare_surveys(mapper: Mapper, survey: Survey, other_dir: Path, out_dir: Path) -> None:
    """Compare with the encoding in `other_dir`; InputError where it has none of the survey's stars."""
    other = _open_other(other_dir)
    by_row = _same_rows(survey.encoding, other)
    readers = _by_row(survey, other) if by_row else _by_id(mapper, survey, other)
    total = _Sums.of(LatentPair.none(other.manifest.num_latent, survey.num_latent), 1)
    for sums in mapper.map(partial(_add_up, len(readers)), readers):
        total.add(sums)
    if not total.moments.num:
        raise InputError(
            "the two encodings have no star in common",
            where=other.directory,
            expected=f"stars of {survey.stars.directory}, with the same objid",
        )
    alignment = align(total.moments, total.other.shape[1])
    counts, found = np.zeros(ERROR_BINS.num, np.int64), (np.empty(0, np.float32), np.empty(0, np.int64))
    for more, farthest in mapper.map(partial(_measure, alignment), readers):
        counts += more
        values, rows = (np.concatenate([found[index], farthest[index]]) for index in (0, 1))
        found = worst(values, rows, NUM_MOVED)
    table = _table(mapper, survey, found)
    publish_bytes(out_dir / COMPARE_TABLE_NAME, table)
    levels = [json_number(value) for value in quantiles(counts, ERROR_BINS.edges(), _QUANTILES)]
    comparison = Comparison(
        matched_by="row" if by_row else "objid",
        num_matched=total.moments.num,
        procrustes_disparity=alignment.disparity,
        linear_r_squared=alignment.linear,
        scale=alignment.scale,
        rotation=alignment.rotation.tolist(),
        neighbour_overlap=json_number(neighbour_overlap(total.other, total.latent, _NUM_NEIGHBOURS)),
        neighbour_overlap_by_chance=json_number(_NUM_NEIGHBOURS / max(1, len(total.latent) - 1)),
        num_stars_of_overlap=len(total.latent),
        displacement_50=levels[0],
        displacement_90=levels[1],
        displacement_99=levels[2],
        displacement_999=levels[3],
        files={COMPARE_TABLE_NAME: digest_bytes(table)},
        fingerprint={"encoding": survey.encoding.digest, "other": other.digest},
    )
    publish_json(out_dir / COMPARE_NAME, seal(comparison.to_json()))


def _open_other(directory: Path) -> Catalog:
    return Catalog(directory, read_manifest(directory, EncodingManifest))


def _same_rows(encoding: Catalog, other: Catalog) -> bool:
    """Whether both have the same ids in the same shards, so that row i is the same star in both."""
    ours, theirs = ([shard.objid_digest for shard in one.shards] for one in (encoding, other))
    return ours == theirs


def _by_row(survey: Survey, other: Catalog) -> list[Reader]:
    return [partial(_read_rows, survey.encoding, other, index) for index in range(len(other.shards))]


def _read_rows(encoding: Catalog, other: Catalog, index: int) -> LatentPair:
    ours, theirs = (one.read_shard(index, ["objid", "latent"]) for one in (encoding, other))
    if not np.array_equal(ours["objid"], theirs["objid"]):
        raise DamageError(
            "two shards do not have the same ids, although their manifests say so",
            where=other.shard_path(index),
            expected=f"those of {encoding.shard_path(index)}",
            fix="hpc-ae verify tells which of the two is damaged",
        )
    rows = np.arange(len(ours["objid"])) + int(encoding.offsets[index])
    return LatentPair(rows, theirs["latent"], ours["latent"]).finite()


def _by_id(mapper: Mapper, survey: Survey, other: Catalog) -> list[Reader]:
    """One reader, of those stars of a sample that the other encoding has: by their ids, of equal ones the first."""
    sample = read_sample(mapper, survey, _ID_STARS)
    ids, places = np.unique(sample["objid"] if sample else np.empty(0, np.int64), return_index=True)
    keep = ids != NO_ID
    ids, places = ids[keep], places[keep]
    latent = np.full((len(ids), other.manifest.num_latent), np.nan, np.float32)
    for found, values in mapper.map(partial(_find, other, ids), range(len(other.shards))):
        new = np.isnan(latent[found, 0])
        latent[found[new]] = values[new]
    if not len(ids):
        return []
    return [partial(LatentPair(sample["row"][places], latent, sample["latent"][places]).finite)]


def _find(other: Catalog, ids: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Places in ascending `ids` of those that a shard has, and their latents."""
    arrays = other.read_shard(index, ["objid", "latent"])
    place = np.minimum(np.searchsorted(ids, arrays["objid"]), max(0, len(ids) - 1))
    rows = np.flatnonzero(ids[place] == arrays["objid"]) if len(ids) else np.empty(0, np.int64)
    found, first = np.unique(place[rows], return_index=True)
    return found, arrays["latent"][rows[first]]


@dataclass
class _Sums:
    """Moments of all stars, and latents of some for their neighbours."""

    moments: JointMoments
    other: np.ndarray
    latent: np.ndarray

    @classmethod
    def of(cls, pair: LatentPair, num_parts: int) -> _Sums:
        wanted = -(-_NEIGHBOUR_STARS // num_parts)
        places = np.unique(np.linspace(0, len(pair.rows) - 1, wanted).astype(np.int64)) if len(pair.rows) else slice(0)
        return cls(JointMoments.of(pair.other, pair.latent), pair.other[places], pair.latent[places])

    def add(self, more: _Sums) -> None:
        self.moments = self.moments.merge(more.moments)
        self.other = np.concatenate([self.other, more.other])
        self.latent = np.concatenate([self.latent, more.latent])


def _add_up(num_parts: int, read: Reader) -> _Sums:
    return _Sums.of(read(), num_parts)


def _measure(alignment: Alignment, read: Reader) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Counts of the displacements by ERROR_BINS, and the farthest with their rows."""
    pair = read()
    moved = alignment.displacement(pair.other, pair.latent)
    return ERROR_BINS.count(moved), worst(moved, pair.rows, NUM_MOVED)


def _table(mapper: Mapper, survey: Survey, found: tuple[np.ndarray, np.ndarray]) -> bytes:
    """compare.csv: the stars that moved most, farthest first."""
    displacement, rows = found
    stars = describe_rows(mapper, survey, np.sort(rows), None)
    order = np.argsort(rows, kind="stable").argsort(kind="stable")  # from ascending rows back to the farthest first
    columns: CsvColumns = {"rank": range(1, len(rows) + 1)}
    columns |= {name: stars[name][order] for name in ("row", "objid", "ra", "dec")}
    columns |= {band: stars["magnitude"][order, index] for index, band in enumerate(survey.stars.bands)}
    columns["displacement"] = displacement
    columns |= {f"latent_{dim + 1}": values[order] for dim, values in enumerate(stars["latent"].T)}
    return table_csv(columns)
