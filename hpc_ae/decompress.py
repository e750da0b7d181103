"""VERB decompress: a compressed catalog back to a star catalog, by the model that lies in it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from hpc_ae.catalog.manifest import band_statistics, read_manifest, write_manifest
from hpc_ae.catalog.records import CompressedLink, Inputs, ShardRecord, StarManifest, summed
from hpc_ae.catalog.schema import STAR_FORMAT
from hpc_ae.catalog.shard import write_shard
from hpc_ae.errors import HpcAeError, InputError
from hpc_ae.files import check_outside
from hpc_ae.formats.compressed import CompressedCatalog, is_compressed
from hpc_ae.formats.compressed import open_compressed as open_with
from hpc_ae.formats.publish import check_free, staged
from hpc_ae.layout import shard_name
from hpc_ae.model.exact import load_decoder
from hpc_ae.provenance import Provenance
from hpc_ae.runtime.executor import open_mapper
from hpc_ae.runtime.progress import Progress

VERB = "decompress"


def open_compressed(directory: str | Path) -> CompressedCatalog:
    """A compressed catalog, read like the star catalog that it holds: `["magnitude"][:1000]`, `to_table()`, ...

    InputError where there is none, DamageError where its manifest or model does not hold. Blocks are checked as they
    are read.
    """
    if not is_compressed(Path(directory)):
        expected = "a directory made by hpc-ae export --to compressed"
        raise InputError("not a compressed catalog", where=directory, expected=expected)
    return open_with(Path(directory), load_decoder)


def decompress(directory: Path, out: Path, *, overwrite: bool = False, num_workers: int = 1) -> int | None:
    """Write the star catalog that the compressed catalog in `directory` holds to `out`; returns its number of stars.

    InputError where `out` is there, DamageError where a block is not what was written; nothing is left behind then.
    """
    catalog = open_compressed(directory)
    check_outside(out, [directory])
    check_free(out, overwrite=overwrite, is_ours=_is_restored)
    with open_mapper(num_workers) as mapper:
        if mapper is None:
            return None
        with staged(out, overwrite=overwrite, is_ours=_is_restored) as path:
            restore = partial(_restore_shard, catalog, path.absolute())
            records = []
            with Progress("decompress", catalog.num_stars, "stars") as progress:
                for record in mapper.map(restore, range(len(catalog.shards))):
                    records.append(record)
                    progress.update(progress.done + record.num_stars)
            write_manifest(path, _manifest(catalog, records))
    return catalog.num_stars


def _is_restored(path: Path) -> bool:
    """Whether a directory is a star catalog that came out of a compressed one: another is never replaced."""
    try:
        return read_manifest(path, StarManifest).fingerprint.get("verb") == VERB
    except HpcAeError:
        return False


def _restore_shard(catalog: CompressedCatalog, folder: Path, index: int) -> ShardRecord:
    arrays, packed = catalog.read_shard(index, catalog.columns), catalog.shards[index]
    notes = {"compressed_digest": packed.digest}
    return write_shard(folder / shard_name(index), STAR_FORMAT, arrays, catalog.bands, notes).placed_like(packed)


def _manifest(catalog: CompressedCatalog, records: list[ShardRecord]) -> StarManifest:
    """That of the restored star catalog."""
    packed = catalog.manifest
    link = CompressedLink(
        digest=catalog.digest,
        max_error=packed.max_error,
        error=packed.error,
        catalog_digest=packed.inputs.catalog.digest,
    )
    return StarManifest(
        **summed(STAR_FORMAT, records),
        objid=packed.objid,
        order=packed.order,
        bands=packed.bands,
        columns=packed.columns,
        inputs=Inputs(compressed=link),
        fingerprint={"verb": VERB, "compressed": catalog.digest},
        provenance=Provenance.now({}),
        statistics=band_statistics(packed.bands, records),
    )
