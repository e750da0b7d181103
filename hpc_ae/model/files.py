"""Model directories as PyTorch reads and writes them: safetensors and JSON, each of its digest. No pickle is read."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hpc_ae.errors import DamageError, HpcAeError, InputError, printable
from hpc_ae.files import digest_bytes, make_dir, publish_bytes, publish_json, seal
from hpc_ae.layout import MODEL_NAME, WEIGHTS_NAME
from hpc_ae.model.architecture import Architecture, check_shapes
from hpc_ae.model.autoencoder import Autoencoder
from hpc_ae.model.weights import (
    MASKED_INPUT,
    PLAIN_INPUT,
    ModelRecord,
    Origin,
    Weights,
    read_model_record,
    read_sealed,
    read_weights,
)

_ENCODER_WEIGHT = re.compile(r"encoder\.[0-9]{1,9}\.weight")


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """Publish tensors as safetensors; return the file's digest."""
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    publish_bytes(path, data)
    return digest_bytes(data)


def read_tensors(path: Path, digest: str) -> dict[str, Tensor]:
    """Read safetensors whose bytes have this digest; DamageError otherwise."""
    try:
        return load(read_sealed(path, digest))
    except SafetensorError as error:
        raise DamageError("a file of tensors cannot be read", where=path, got=printable(str(error)[:200])) from error


def write_model(model_dir: Path, architecture: Architecture, tensors: dict[str, Tensor], origin: Origin) -> str:
    """Publish a model directory, `model.json` last; return the model's digest.

    Where the same model was there and has lost its weights alone, it keeps its record, and with it its digest.
    """
    make_dir(model_dir)
    weights_digest = write_tensors(model_dir / WEIGHTS_NAME, tensors)
    record = ModelRecord(
        bands=architecture.bands,
        hidden=list(architecture.hidden),
        latent=architecture.latent,
        input=MASKED_INPUT if architecture.masked else PLAIN_INPUT,
        weights_digest=weights_digest,
        **dict(origin),
        digest="",
    )
    if (kept := _same_record(model_dir, record)) is not None:
        return kept.digest
    sealed = seal(record.to_json())
    publish_json(model_dir / MODEL_NAME, sealed)
    return str(sealed["digest"])


def _same_record(model_dir: Path, record: ModelRecord) -> ModelRecord | None:
    """The record that is there, where it says the same but for when and by which command the model was made."""
    with contextlib.suppress(HpcAeError):
        there = read_model_record(model_dir)
        if there.replaced(provenance=record.provenance, digest="") == record:
            return there
    return None


def read_model(model_dir: Path) -> tuple[Autoencoder, ModelRecord]:
    """The model of a directory and its record; DamageError where the files do not match their digests."""
    weights, record = read_weights(model_dir)
    return as_autoencoder(weights), record


def as_autoencoder(weights: Weights) -> Autoencoder:
    """The network with these weights."""
    tensors = {name: torch.from_numpy(values) for name, values in weights.arrays.items()}
    return load_autoencoder(weights.architecture, tensors, "weights")


def weights_of(model: Autoencoder) -> Weights:
    """The weights of a network, copied to arrays."""
    tensors = model.state_dict().items()
    return Weights(model.architecture, {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors})


def load_autoencoder(architecture: Architecture, tensors: dict[str, Tensor], where: object) -> Autoencoder:
    """A model with these tensors; InputError names what is missing, unknown or of the wrong shape."""
    check_shapes(architecture, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, where)
    num_bands = len(architecture.bands)
    model = Autoencoder(architecture, [0.0] * num_bands, [1.0] * num_bands)
    model.load_state_dict(tensors)
    return model


def infer_architecture(tensors: dict[str, Tensor], bands: tuple[str, ...], where: object) -> Architecture:
    """The architecture of a plain state dict with the names encoder.N.weight, decoder.N.weight."""
    linear = [name for name, tensor in tensors.items() if _ENCODER_WEIGHT.fullmatch(name) and tensor.ndim == 2]
    linear.sort(key=lambda name: int(name.split(".")[1]))
    num_bands = len(bands)
    width = tensors[linear[0]].shape[1] if linear else 0
    if width not in (num_bands, 2 * num_bands):
        raise InputError(
            "no encoder for these bands in the state dict",
            where=where,
            got=sorted(tensors)[:4],
            expected=f"encoder.0.weight of shape (H, {num_bands}), masked (H, {2 * num_bands}), encoder.0.bias, ...",
        )
    widths = [int(tensors[name].shape[0]) for name in linear]
    return Architecture(bands, tuple(widths[:-1]), widths[-1], masked=width == 2 * num_bands)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """A plain PyTorch state dict, read with weights_only=True: a file that would run code is refused."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"cannot read the state dict: {error.strerror or type(error).__name__}", where=path) from error
    except Exception:  # torch raises many kinds, whose texts are long, coloured, and tell how to run the file's code
        raise InputError(
            "not a plain PyTorch state dict",
            where=path,
            got="a file that holds code or objects other than tensors, or is no state dict, or is damaged",
            expected="torch.save(model.state_dict(), path)",
            fix="save the state dict alone; files that contain code are not read",
        ) from None
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise InputError(
            "not a plain PyTorch state dict", where=path, got=type(loaded).__name__, expected="name: tensor"
        )
    return {str(name): tensor.to(torch.float32) for name, tensor in loaded.items()}
