"""Surveys for tests of postprocess: simulated stars, and encodings of them by principal components."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from hpc_ae.catalog.catalog import open_catalog
from hpc_ae.catalog.manifest import write_manifest
from hpc_ae.catalog.records import EncodingManifest, Inputs, Link, summed
from hpc_ae.catalog.schema import ENCODING_FORMAT
from hpc_ae.catalog.shard import write_shard
from hpc_ae.catalog.view import write_view
from hpc_ae.layout import shard_name
from hpc_ae.simulate import SimulateSettings, simulate

NUM_STARS, SHARD_ROWS = 5000, 1200


def make_stars(directory: Path, bad_fraction: float = 0.03, seed: int = 1) -> Path:
    """A simulated star catalog of several shards."""
    simulate(directory, SimulateSettings(NUM_STARS, seed, bad_fraction, SHARD_ROWS))
    return directory


def make_encoding(directory: Path, star_dir: Path, num_latent: int = 2, optional: bool = True, **change: Any) -> Path:
    """An encoding by principal components, with `change` of {column: function of its values}."""
    stars = open_catalog(star_dir)
    directory.mkdir()
    magnitude, quality = stars["magnitude"][:].astype(float), stars["quality"][:]
    good = quality == 0
    mean = magnitude[good].mean(axis=0) if good.any() else np.zeros(5)
    axes = np.linalg.eigh(np.cov(magnitude[good].T) if good.any() else np.eye(5))[1][:, ::-1][:, :num_latent]
    latent = (magnitude - mean) @ axes
    model = (latent @ axes.T + mean).astype(np.float32)
    error = np.sqrt(((stars["magnitude"][:] - model) ** 2).mean(axis=1))
    chi2 = (((magnitude - model) / stars["magnitude_error"][:]) ** 2).sum(axis=1)
    columns = {"latent": latent, "reconstruction_error": np.round(error, 2)}  # rounded: many ties
    columns |= {"reconstruction": model, "chi2": chi2} if optional else {}
    columns = {name: np.where(good[(...,) + (None,) * (v.ndim - 1)], v, np.nan) for name, v in columns.items()}
    columns |= {name: stars[name][:] for name in ("objid", "quality", "caution")}
    columns |= {name: function(columns[name]) for name, function in change.items()}
    shards = []
    for index, (start, stop) in enumerate(itertools.pairwise(stars.offsets)):
        arrays = {name: values[start:stop] for name, values in columns.items()}
        path = directory / shard_name(index)
        shards.append(write_shard(path, ENCODING_FORMAT, arrays, stars.bands, {}))
    manifest = EncodingManifest(
        **summed(ENCODING_FORMAT, shards),
        bands=tuple(stars.bands),
        columns=tuple(columns),
        latent=num_latent,
        inputs=Inputs(
            catalog=Link(path="../stars", digest=stars.digest), model=Link(path="../model", digest="sha256:abc")
        ),
        view=write_view(directory, shards, list(columns), {"B": 5, "L": num_latent}),
    )
    write_manifest(directory, manifest)
    return directory
