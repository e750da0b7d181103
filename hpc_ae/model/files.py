"""Model directories: weights in safetensors, everything else in JSON, each sealed by a digest. No pickle is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hpc_ae.errors import DamageError, InputError
from hpc_ae.files import digest_bytes, make_dir, publish_bytes, publish_json, read_json, seal
from hpc_ae.model.autoencoder import Architecture, Autoencoder

MODEL_FORMAT = "hpc_ae/model"
MODEL_VERSION = 1
WEIGHTS_NAME = "model.safetensors"
MODEL_NAME = "model.json"
_MOST_WIDTH = 1 << 20
_ENCODER_WEIGHT = re.compile(r"encoder\.[0-9]{1,9}\.weight")


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """Publish tensors as safetensors; return the file's digest."""
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    publish_bytes(path, data)
    return digest_bytes(data)


def read_tensors(path: Path, digest: str) -> dict[str, Tensor]:
    """Read safetensors whose bytes have this digest; DamageError otherwise."""
    try:
        data = path.read_bytes()
        if digest_bytes(data) != digest:
            raise DamageError(
                "a file does not have its recorded digest", where=path, got=digest_bytes(data), expected=digest
            )
        return load(data)
    except (OSError, SafetensorError) as error:
        raise DamageError("a file of tensors cannot be read", where=path, got=_printable(str(error)[:200])) from error


def write_model(
    model_dir: Path, architecture: Architecture, tensors: dict[str, Tensor], details: dict[str, Any]
) -> str:
    """Publish a model directory, `model.json` last; return the model's digest."""
    make_dir(model_dir)
    weights_digest = write_tensors(model_dir / WEIGHTS_NAME, tensors)
    record = seal(
        {
            "format": MODEL_FORMAT,
            "version": MODEL_VERSION,
            "bands": list(architecture.bands),
            "hidden": list(architecture.hidden),
            "latent": architecture.latent,
            "weights_digest": weights_digest,
            **details,
        }
    )
    publish_json(model_dir / MODEL_NAME, record)
    return str(record["digest"])


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


def read_model(model_dir: Path) -> tuple[Autoencoder, dict[str, Any]]:
    """The model of a directory and its record; DamageError where the files do not match their digests."""
    record = read_model_record(model_dir)
    tensors = read_tensors(model_dir / WEIGHTS_NAME, record["weights_digest"])
    return load_autoencoder(_recorded_architecture(record, model_dir), tensors, model_dir / WEIGHTS_NAME), record


def _recorded_architecture(record: dict[str, Any], model_dir: Path) -> Architecture:
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


def load_autoencoder(architecture: Architecture, tensors: dict[str, Tensor], where: object) -> Autoencoder:
    """A model with these tensors; InputError names what is missing, unknown or of the wrong shape."""
    num_bands = len(architecture.bands)
    with torch.device("meta"):  # no memory is taken for a shape that only a record claims
        expected = Autoencoder(architecture, [0.0] * num_bands, [1.0] * num_bands).state_dict()
    wrong = sorted(expected.keys() ^ tensors.keys())
    wrong += [name for name in expected.keys() & tensors.keys() if expected[name].shape != tensors[name].shape]
    if wrong:
        shape = [num_bands, *architecture.hidden, architecture.latent]
        raise InputError(
            "the tensors do not fit the architecture",
            where=where,
            got=_printable(", ".join(wrong[:4])),
            expected=f"{shape} and its mirror",
        )
    model = Autoencoder(architecture, [0.0] * num_bands, [1.0] * num_bands)
    model.load_state_dict(tensors)
    return model


def infer_architecture(tensors: dict[str, Tensor], bands: tuple[str, ...], where: object) -> Architecture:
    """The architecture of a plain state dict with the names encoder.N.weight, decoder.N.weight."""
    linear = [name for name, tensor in tensors.items() if _ENCODER_WEIGHT.fullmatch(name) and tensor.ndim == 2]
    linear.sort(key=lambda name: int(name.split(".")[1]))
    if not linear or tensors[linear[0]].shape[1] != len(bands):
        raise InputError(
            "no encoder for these bands in the state dict",
            where=where,
            got=sorted(tensors)[:4],
            expected=f"encoder.0.weight of shape (H, {len(bands)}), encoder.0.bias, encoder.2.weight, ...",
        )
    widths = [int(tensors[name].shape[0]) for name in linear]
    return Architecture(bands, tuple(widths[:-1]), widths[-1])


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


def _printable(text: str) -> str:
    """Text of a file or library without control characters, which a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
