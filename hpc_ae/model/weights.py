"""A model directory as arrays, without PyTorch: its record in JSON, its tensors in safetensors, each of its digest.

No pickle is read. What PyTorch reads and writes is in `files.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load

from hpc_ae.errors import DamageError, InputError, printable
from hpc_ae.files import digest_bytes, read_json, read_regular
from hpc_ae.layout import MODEL_NAME, WEIGHTS_NAME
from hpc_ae.model.architecture import MOST_WEIGHT_BYTES, Architecture, check_shapes
from hpc_ae.provenance import Fingerprint, Provenance, check_fingerprint
from hpc_ae.record import Names, Record

MODEL_FORMAT: Literal["hpc_ae/model"] = "hpc_ae/model"
MODEL_VERSION = 1
PLAIN_INPUT: Literal["magnitude"] = "magnitude"
MASKED_INPUT: Literal["magnitude+mask"] = "magnitude+mask"
_Width = Annotated[int, Field(gt=0, le=1 << 20)]


class Trained(Record):
    """How a model was trained here."""

    nulls = frozenset({"validation_mse_mag2"})

    catalog_digest: str
    steps: int
    best_step: int
    validation_mse_mag2: float | None
    num_training_stars: int
    num_validation_stars: int
    linear_mse_mag2: float | None = None  # what as many principal components leave of the held-out stars
    world_size: int
    compute: str
    torch: str


class Imported(Record):
    """The file that a model was imported from."""

    imported: str
    imported_digest: str


class Origin(Record):
    """Where a model comes from: all that its record says beside its shape and its weights."""

    training: Trained | Imported | None = None
    fingerprint: Fingerprint = Field({})
    provenance: Provenance | None = None
    uncertainty: dict[str, list[Any]] | None = None  # the table of analysis/denoising.py
    uncertainty_missing: list[dict[str, Any]] | None = None  # the tables of analysis/denoising_gaps.py
    min_bands: int | None = None


class ModelRecord(Record):
    """model.json."""

    format_version: ClassVar[int] = MODEL_VERSION

    format: Literal["hpc_ae/model"] = MODEL_FORMAT
    version: int = MODEL_VERSION
    bands: Annotated[Names, Field(min_length=1)]
    hidden: list[_Width]
    latent: _Width
    input: Literal["magnitude", "magnitude+mask"] = PLAIN_INPUT
    min_bands: _Width | None = None  # of a masked model: a star with fewer measured bands has no latent
    weights_digest: str
    training: Trained | Imported | None = None
    fingerprint: Fingerprint = Field({})
    provenance: Provenance | None = None
    uncertainty: dict[str, list[Any]] | None = None
    uncertainty_missing: list[dict[str, Any]] | None = None
    digest: str

    @property
    def architecture(self) -> Architecture:
        """The shape of the network."""
        return Architecture(self.bands, tuple(self.hidden), self.latent, self.masked)

    @property
    def masked(self) -> bool:
        """Whether the network sees which bands are measured."""
        return self.input == MASKED_INPUT

    @property
    def least_bands(self) -> int:
        """How many measured bands a star needs."""
        return (self.min_bands or 1) if self.masked else len(self.bands)

    @property
    def held_out_error(self) -> float | None:
        """Root mean square error over held-out stars and bands, mag; None where it is not known."""
        mse = self.training.validation_mse_mag2 if isinstance(self.training, Trained) else None
        return None if mse is None else mse**0.5


def held_out_words(model: ModelRecord) -> str:
    """Whether a model is good: its error on stars that it was not trained on; empty where that is not known."""
    trained, error = model.training, model.held_out_error
    if not isinstance(trained, Trained) or error is None:
        return ""
    text = (
        f"held-out error {error:.4f} mag rms a band, of {trained.num_validation_stars:,} stars that were not trained on"
    )
    if trained.linear_mse_mag2 is not None:
        text += f"; {model.latent} principal components leave {trained.linear_mse_mag2**0.5:.4f} mag"
    return text


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


def read_weights(model_dir: Path) -> tuple[Weights, ModelRecord]:
    """The weights of a directory and its record; DamageError where the files do not match their digests."""
    record = read_model_record(model_dir)
    path = model_dir / WEIGHTS_NAME
    arrays = load_arrays(read_sealed(path, record.weights_digest, record.architecture.most_bytes), path)
    check_shapes(record.architecture, {name: values.shape for name, values in arrays.items()}, path)
    return Weights(record.architecture, {name: np.array(values, np.float32) for name, values in arrays.items()}), record


def read_sealed(path: Path, digest: str, most_bytes: int = MOST_WEIGHT_BYTES) -> bytes:
    """The bytes of a regular file that has this digest; DamageError otherwise."""
    try:
        data = read_regular(path, most_bytes)
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


def read_model_record(model_dir: Path) -> ModelRecord:
    """The checked `model.json` of a model directory."""
    path = model_dir / MODEL_NAME
    if not path.is_file():
        raise InputError(
            "there is no model",
            where=model_dir,
            expected=f"a directory with {MODEL_NAME} and {WEIGHTS_NAME}",
            fix="train one, or make one from a PyTorch state dict with hpc-ae model import",
        )
    values = read_json(path, sealed=True)
    if values.get("format") != MODEL_FORMAT:
        raise InputError("not a model of this format", where=path, got=values.get("format"), expected=MODEL_FORMAT)
    return ModelRecord.parse(values, path)


def is_model_of(model_dir: Path, fingerprint: Fingerprint) -> bool:
    """Whether the model is there already, with its weights; StaleError where it was trained from something else."""
    if not (model_dir / MODEL_NAME).exists():
        return False
    check_fingerprint(model_dir, read_model_record(model_dir).fingerprint, fingerprint, "train")
    return (model_dir / WEIGHTS_NAME).is_file()
