"""A model directory as arrays, without PyTorch: its record in JSON, its tensors in safetensors, each of its digest.

No pickle is read. What PyTorch reads and writes is in `files.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from hpc_ae.errors import DamageError, InputError, printable
from hpc_ae.files import digest_bytes, read_json
from hpc_ae.layout import MODEL_NAME, WEIGHTS_NAME
from hpc_ae.model.architecture import Architecture, check_shapes
from hpc_ae.provenance import check_fingerprint

MODEL_FORMAT = "hpc_ae/model"
MODEL_VERSION = 1
_MOST_WIDTH = 1 << 20


@dataclass(frozen=True)
class Weights:
    """The float32 arrays of a model by name: those of `architecture.tensor_shapes()`."""

    architecture: Architecture
    arrays: dict[str, np.ndarray]

    @property
    def parameters(self) -> np.ndarray:
        """All parameters in PyTorch's order, float32 (P,)."""
        names = self.architecture.parameter_shapes()
        return np.concatenate([self.arrays[name].reshape(-1) for name in names])

    @property
    def scaling(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and std (B,) in mag."""
        return self.arrays["scaling.mean"], self.arrays["scaling.std"]


def read_weights(model_dir: Path) -> tuple[Weights, dict[str, Any]]:
    """The weights of a directory and its record; DamageError where the files do not match their digests."""
    record = read_model_record(model_dir)
    path = model_dir / WEIGHTS_NAME
    arrays = load_arrays(read_sealed(path, record.get("weights_digest", "a field weights_digest")), path)
    architecture = recorded_architecture(record, model_dir)
    check_shapes(architecture, {name: values.shape for name, values in arrays.items()}, path)
    return Weights(architecture, {name: np.array(values, np.float32) for name, values in arrays.items()}), record


def read_sealed(path: Path, digest: str) -> bytes:
    """The bytes of a file that has this digest; DamageError otherwise."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DamageError("a file of tensors cannot be read", where=path, got=error.strerror) from error
    if digest_bytes(data) != digest:
        raise DamageError(
            "a file does not have its recorded digest", where=path, got=digest_bytes(data), expected=digest
        )
    return data


def load_arrays(data: bytes, where: Path) -> dict[str, np.ndarray]:
    """The arrays of safetensors; DamageError where the bytes are none, or of a type that numpy has not."""
    try:
        arrays: dict[str, np.ndarray] = load(data)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        what, expected = "a file of tensors cannot be read", "float32 safetensors"
        raise DamageError(what, where=where, got=printable(str(error)[:200]), expected=expected) from error
    return arrays


def read_model_record(model_dir: Path) -> dict[str, Any]:
    """The checked `model.json` of a model directory."""
    path = model_dir / MODEL_NAME
    if not path.is_file():
        raise InputError(
            "there is no model",
            where=model_dir,
            expected="a directory with model.json and model.safetensors",
            fix="train one, or make one of a PyTorch state dict with hpc-ae model import",
        )
    record = read_json(path, sealed=True)
    if record.get("format") != MODEL_FORMAT or record.get("version") != MODEL_VERSION:
        raise InputError(
            "not a model of this format",
            where=path,
            got=record.get("format"),
            expected=f"{MODEL_FORMAT} {MODEL_VERSION}",
        )
    return record


def is_model_of(model_dir: Path, fingerprint: dict[str, Any]) -> bool:
    """Whether the model is there already; StaleError where it was trained from something else."""
    if not (model_dir / MODEL_NAME).exists():
        return False
    check_fingerprint(model_dir, read_model_record(model_dir).get("fingerprint", {}), fingerprint, "train")
    return True


def recorded_architecture(record: dict[str, Any], model_dir: Path) -> Architecture:
    """The architecture that `model.json` says; DamageError where it says none."""
    bands, hidden, latent = record.get("bands"), record.get("hidden"), record.get("latent")
    widths = [*hidden, latent] if isinstance(hidden, list) else [None]
    named = isinstance(bands, list) and bool(bands) and all(isinstance(band, str) for band in bands)
    if not named or not all(type(width) is int and 0 < width <= _MOST_WIDTH for width in widths):
        raise DamageError(
            "a model does not say its shape",
            where=model_dir / MODEL_NAME,
            got=str({"bands": bands, "hidden": hidden, "latent": latent})[:200],
            expected=f'"bands": names, "hidden": widths, "latent": a width, 1 to {_MOST_WIDTH}',
        )
    return Architecture(tuple(record["bands"]), tuple(record["hidden"]), record["latent"])
