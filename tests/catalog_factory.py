"""Small star catalogs, models and encoding catalogs for tests; the encodings are made with numpy, no network runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from hpc_ae.catalog.catalog import open_catalog
from hpc_ae.catalog.manifest import band_statistics, write_manifest
from hpc_ae.catalog.records import EncodingManifest, Inputs, Link, ShardRecord, StarManifest, summed
from hpc_ae.catalog.schema import ENCODING_FORMAT, STAR_FORMAT
from hpc_ae.catalog.shard import Arrays, write_shard
from hpc_ae.catalog.view import write_view
from hpc_ae.files import canonical_json, digest_bytes, make_dir, publish_bytes, publish_json, read_json, seal
from hpc_ae.model.architecture import Architecture
from hpc_ae.simulate import SimulateSettings, simulate

BANDS = ["u", "g", "r", "i", "z"]
NUM_STARS, SHARD_ROWS = 250, 100


def make_stars(directory: Path, num_stars: int = NUM_STARS, shard_rows: int = SHARD_ROWS) -> Path:
    """A simulated star catalog of which a tenth of the rows is bad."""
    simulate(directory, SimulateSettings(num_stars, seed=3, bad_fraction=0.1, shard_rows=shard_rows))
    return directory


def make_model(directory: Path) -> Path:
    """A model directory with a few weights, sealed as train seals it."""
    make_dir(directory)
    generator = np.random.default_rng(5)
    shapes = Architecture(tuple(BANDS), (4,), 2).tensor_shapes()
    data = save({name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()})
    publish_bytes(directory / "model.safetensors", data)
    record = {"format": "hpc_ae/model", "version": 1, "bands": BANDS, "hidden": [4], "latent": 2}
    publish_json(directory / "model.json", seal({**record, "weights_digest": digest_bytes(data)}))
    return directory


def make_encoding(directory: Path, star_dir: Path, model_dir: Path, *, uncertainty: bool = False) -> Path:
    """An encoding catalog of `star_dir`, its manifest and its view; with `uncertainty` that of reconstructions too."""
    make_dir(directory)
    stars = open_catalog(star_dir)
    shards = []
    for index, record in enumerate(stars.shards):
        arrays = encode_rows(stars.read_shard(index, ["objid", "quality", "caution", "magnitude"]))
        if uncertainty:
            arrays["reconstruction_uncertainty"] = np.abs(arrays["reconstruction"]) * np.float32(0.001)
        shards.append(write_shard(directory / record.file, ENCODING_FORMAT, arrays, BANDS, {}))
    columns = list(arrays)
    digest = read_json(model_dir / "model.json")["digest"]
    manifest = EncodingManifest(
        **summed(ENCODING_FORMAT, shards),
        bands=tuple(BANDS),
        columns=tuple(columns),
        latent=2,
        inputs=Inputs(
            catalog=Link(path=f"../{star_dir.name}", digest=stars.digest),
            model=Link(path=f"../{model_dir.name}", digest=digest),
        ),
        view=write_view(directory, shards, columns, {"B": 5, "L": 2}),
    )
    write_manifest(directory, manifest)
    return directory


def encode_rows(stars: Arrays) -> Arrays:
    """What encode writes for some stars, with made-up numbers: NaN where quality is not 0."""
    good = stars["quality"] == 0
    generator = np.random.default_rng(int(stars["objid"][0] % 2**31))
    latent = generator.normal(size=(len(good), 2)).astype(np.float32)
    reconstruction = stars["magnitude"] + np.float32(0.01)
    outputs = {
        "latent": latent,
        "reconstruction_error": np.full(len(good), 0.01, np.float32),
        "reconstruction": reconstruction,
        "chi2": np.abs(latent[:, 0]),
    }
    for values in outputs.values():
        values[~good] = np.nan
    return {"objid": stars["objid"], "quality": stars["quality"], "caution": stars["caution"], **outputs}


def star_manifest(shards: Sequence[ShardRecord], bands: Sequence[str], columns: Iterable[str]) -> StarManifest:
    """The manifest of a star catalog of some shards that were just written."""
    statistics = band_statistics(bands, shards)
    return StarManifest(
        **summed(STAR_FORMAT, shards), bands=tuple(bands), columns=tuple(columns), statistics=statistics
    )


def rewrite_shard(directory: Path, index: int, arrays: Arrays) -> None:
    """Replace a shard by other rows and seal the manifest again, as a writer with a bug would."""
    manifest = read_json(directory / "manifest.json")
    catalog_format = manifest["format"]
    name = manifest["shards"][index]["file"]
    record = write_shard(directory / name, catalog_format, arrays, manifest["bands"], {})
    manifest["shards"][index] = record.to_json()
    kept = {key: value for key, value in manifest.items() if key not in ("shards", "digest", "statistics")}
    if catalog_format == STAR_FORMAT:
        kept["statistics"] = manifest["statistics"]
    shards = manifest["shards"]
    kept |= {"catalog_digest": digest_bytes(canonical_json([shard["digest"] for shard in shards]))}
    kept |= {"num_good": sum(shard["num_good"] for shard in shards)}
    publish_json(directory / "manifest.json", seal({**kept, "shards": shards}))
