"""VERB simulate: a star catalog of simulated SDSS photometry, of any size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from hpc_ae.catalog.manifest import band_statistics, prepare_catalog, write_manifest
from hpc_ae.catalog.quality import flag_magnitudes
from hpc_ae.catalog.records import ShardRecord, StarManifest, summed
from hpc_ae.catalog.schema import STAR_FORMAT
from hpc_ae.catalog.shard import write_shard
from hpc_ae.errors import InputError
from hpc_ae.layout import shard_name
from hpc_ae.photometry import BANDS, simulate_observed, simulate_stars
from hpc_ae.provenance import Fingerprint, Provenance
from hpc_ae.runtime.executor import open_mapper
from hpc_ae.runtime.progress import Progress

COLUMNS = ("objid", "ra", "dec", "magnitude", "magnitude_error", "quality", "caution")


@dataclass(frozen=True)
class SimulateSettings:
    """What decides the simulated catalog: the same settings give the same bytes, for any number of workers."""

    num_stars: int
    seed: int = 1
    bad_fraction: float = 0.0
    shard_rows: int = 500_000
    observed: bool = False
    """Whether the stars have a known truth, as `hpc_ae.photometry.simulate_observed` returns it for the same rows."""

    def fingerprint(self) -> Fingerprint:
        """What the manifest records to recognise the same catalog."""
        return {
            "verb": "simulate",
            "num_stars": self.num_stars,
            "seed": self.seed,
            "bad_fraction": self.bad_fraction,
            "shard_rows": self.shard_rows,
            **({"observed": True} if self.observed else {}),
        }


def simulate(
    out_dir: Path, settings: SimulateSettings, num_workers: int = 1, progress_path: Path | None = None
) -> None:
    """Write a simulated star catalog to `out_dir`, or nothing where the same is there already.

    StaleError where another catalog is there, InputError where stars of known truth are to be bad.
    """
    if settings.observed and settings.bad_fraction:
        raise InputError(
            "stars whose truth is known have no bad rows",
            where="--observed, catalog.source.simulate.observed",
            got=f"bad rows {settings.bad_fraction}",
            fix="choose one of the two",
        )
    starts = range(0, settings.num_stars, settings.shard_rows)
    with open_mapper(num_workers) as mapper:
        if mapper is None or prepare_catalog(out_dir, settings.fingerprint(), "simulate"):
            return
        shards = []
        with Progress("simulate", settings.num_stars, "stars", path=progress_path) as progress:
            for record in mapper.map(partial(_simulate_shard, out_dir, settings), starts):
                shards.append(record)
                progress.update(progress.done + record.num_stars)
        manifest = StarManifest(
            **summed(STAR_FORMAT, shards),
            objid="simulated",
            bands=BANDS,
            columns=COLUMNS,
            fingerprint=settings.fingerprint(),
            provenance=Provenance.now(settings.fingerprint()),
            statistics=band_statistics(BANDS, shards),
        )
        write_manifest(out_dir, manifest)


def _simulate_shard(out_dir: Path, settings: SimulateSettings, start: int) -> ShardRecord:
    num_stars = min(settings.shard_rows, settings.num_stars - start)
    if settings.observed:
        arrays = simulate_observed(start, num_stars, settings.seed)
        del arrays["truth"]
    else:
        arrays = simulate_stars(start, num_stars, settings.seed, settings.bad_fraction)
    arrays["quality"] = flag_magnitudes(arrays["magnitude"])
    arrays["caution"] = np.zeros(num_stars, np.uint16)
    name = shard_name(start // settings.shard_rows)
    return write_shard(out_dir / name, STAR_FORMAT, arrays, BANDS, {"seed": str(settings.seed)})
