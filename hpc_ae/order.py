"""VERB order: a star catalog to another of the same stars in sky order, of any size, in bounded memory."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from hpc_ae.catalog.catalog import Catalog
from hpc_ae.catalog.link import relative_path
from hpc_ae.catalog.manifest import band_statistics, prepare_catalog, read_manifest, unfinished_cleared, write_manifest
from hpc_ae.catalog.records import Inputs, Link, SortedManifest, StarManifest, stars_by_bands, summed
from hpc_ae.catalog.schema import MAX_SHARD_ROWS, SKY_ORDER, STAR_FORMAT
from hpc_ae.catalog.skysort import SkySort, Source, sort_shards
from hpc_ae.errors import InputError
from hpc_ae.files import temp_mark
from hpc_ae.provenance import Fingerprint, Provenance
from hpc_ae.runtime.executor import Mapper, open_mapper
from hpc_ae.runtime.progress import Progress


@dataclass(frozen=True)
class _Plan:
    """What is sorted, into what."""

    stars: Catalog
    out_dir: Path
    shard_rows: int

    def fingerprint(self) -> Fingerprint:
        """What the manifest records to recognise the same catalog."""
        return {"verb": "order", "catalog": self.stars.digest, "order": SKY_ORDER, "shard_rows": self.shard_rows}


def order(star_dir: Path, out_dir: Path, shard_rows: int, num_workers: int = 1) -> None:
    """Write the stars of a catalog in sky order to `out_dir`, or nothing where the same is there already.

    The same bytes for any number of workers. InputError where there is no star catalog or `out_dir` is the catalog
    itself, StaleError where another catalog is there, DamageError where a shard is not what its manifest says,
    WorkError where the disk is full; nothing is left behind then.
    """
    stars = Catalog(star_dir, read_manifest(star_dir, StarManifest))
    if out_dir.exists() and out_dir.samefile(star_dir):
        raise InputError("a catalog cannot be sorted in place", where=star_dir, fix="name another directory with --out")
    if not 1 <= shard_rows <= MAX_SHARD_ROWS:
        raise InputError("wrong shard rows", got=shard_rows, expected=f"1 to {MAX_SHARD_ROWS}")
    plan = _Plan(stars, out_dir, shard_rows)
    new = not out_dir.exists()
    with open_mapper(num_workers) as mapper:
        if mapper is None:
            return
        if prepare_catalog(out_dir, plan.fingerprint(), "order"):
            print(f"order: {out_dir} already exists, made from the same stars", file=sys.stderr)
            return
        with unfinished_cleared(out_dir, new):
            _write(mapper, plan)


def _write(mapper: Mapper, plan: _Plan) -> None:
    stars = plan.stars
    sort = SkySort(plan.out_dir, temp_mark(), tuple(stars.columns), tuple(stars.bands), plan.shard_rows)
    sources = [Source(stars.shard_path(index), shard.num_stars) for index, shard in enumerate(stars.shards)]
    with Progress("order", stars.num_stars, "stars") as progress:
        records = sort_shards(sort, sources, mapper.map, tell=progress.update, in_place=False)
    kept = stars.manifest_as(StarManifest)
    manifest = SortedManifest(
        **summed(STAR_FORMAT, records),
        objid=kept.objid,
        bands=kept.bands,
        survey=kept.survey,
        stars_by_bands=stars_by_bands(records),
        columns=kept.columns,
        num_rows=kept.num_rows,
        num_dropped=kept.num_dropped,
        order=SKY_ORDER,
        inputs=Inputs(catalog=Link(path=relative_path(stars.directory, plan.out_dir), digest=stars.digest)),
        fingerprint=plan.fingerprint(),
        provenance=Provenance.now(plan.fingerprint()),
        statistics=band_statistics(kept.bands, records),
    )
    write_manifest(plan.out_dir, manifest)
