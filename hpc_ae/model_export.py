"""VERB model export: a model directory to one file for other programs, ONNX or torch.export, scaling included.

One graph: magnitude float32 (N, B) in mag goes in; latent (N, L), reconstruction (N, B) in mag and
reconstruction_error (N,) in mag come out, N being any number of stars. Of a model that sees which bands are measured
NaN stands for one that is not: the mask is made within the graph. What is published has been read back and
compared with this package's own forward pass. Shape letters: N stars, B bands, L latent dimensions.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

import hpc_ae
from hpc_ae.errors import InputError, WorkError
from hpc_ae.files import make_dir, publish_bytes
from hpc_ae.model.autoencoder import Autoencoder, squared_error
from hpc_ae.model.files import read_model
from hpc_ae.model.forward_torch import TorchForward
from hpc_ae.model.weights import ModelRecord

TOLERANCE_MAG = 1e-4  # of outputs in mag; of latents relative to 1 or their size: float32 sums in another order
OUTPUTS = ("latent", "reconstruction", "reconstruction_error")
METADATA_NAME = "hpc_ae.json"  # in a torch.export file; in ONNX each entry is a property of the model
_MOST_STARS = 1 << 40
_OPSET = 18
_BATCHES = (0, 1, 7, 1000)
_SPREAD = 3.0  # standard deviations of the magnitudes that an export is tried with
_NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch-export": ()}

Outputs = tuple[np.ndarray, ...]
Runner = Callable[[np.ndarray], Outputs]


@dataclass(frozen=True)
class Exported:
    """What was published, and how far its outputs are from our own: worst_mag over num_stars."""

    num_bytes: int
    worst_mag: float
    num_stars: int
    checked_with: str


class ExportModule(nn.Module):
    """The forward pass with named outputs; the reconstruction is a function of the latent alone."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.masked = model.architecture.masked
        self.scaling, self.encoder, self.decoder = model.scaling, model.encoder, model.decoder

    def forward(self, magnitude: Tensor) -> dict[str, Tensor]:
        """Outputs by name, of magnitudes (N, B) in mag. A row with a NaN has NaN in all of them; of a masked model only
        the error of a row without any magnitude is NaN.
        """
        scaled = self.scaling(magnitude)
        measured = (~torch.isnan(scaled)).to(scaled.dtype)
        seen = torch.where(torch.isnan(scaled), torch.zeros_like(scaled), scaled)
        latent = self.encoder(torch.cat([seen, measured], dim=1) if self.masked else scaled)
        decoded = self.decoder(latent)
        if self.masked:
            residual = (seen - decoded) * measured * self.scaling.std
            error = (residual.square().sum(dim=1) / measured.sum(dim=1)).sqrt()
        else:
            error = squared_error((scaled - decoded) * self.scaling.std).sqrt()
        return dict(zip(OUTPUTS, (latent, self.scaling.inverse(decoded), error), strict=True))


def export_model(model_dir: Path, out: Path, to: Literal["onnx", "torch-export"]) -> Exported:
    """Write `out` and say how it was checked.

    InputError where there is no model, `out` is there already, or a package is not installed; WorkError where what was
    written does not compute what the model computes (nothing is published then), or the disk is full.
    """
    _check_packages(to)
    if out.exists() or out.is_symlink():
        raise InputError("the file already exists", where=out, fix="choose another OUT, or remove it first")
    model, record = read_model(model_dir)
    metadata = _metadata(record)
    module = ExportModule(model).eval()
    with _quiet_torch(), torch.no_grad():
        data = _to_onnx(module, metadata) if to == "onnx" else _to_torch_export(module, metadata)
        runner, checked_with = _onnx_runner(data) if to == "onnx" else _torch_runner(data)
        worst, num_stars = _compare(runner, model, out)
    make_dir(out.parent)
    publish_bytes(out, data)
    return Exported(len(data), worst, num_stars, checked_with)


def _check_packages(to: str) -> None:
    missing = [name for name in _NEEDED[to] if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"a package that --to {to} needs is not installed",
            where="this Python",
            got=f"no {', '.join(missing)}",
            fix="python -m pip install 'hpc_ae[onnx]', or: python -m pip install " + " ".join(missing),
        )


def _metadata(record: ModelRecord) -> dict[str, str]:
    """What a file of the model says of itself."""
    return {
        "format": "hpc_ae/exported-model",
        "version": "1",
        "bands": ",".join(record.bands),
        "latent": str(record.latent),
        "unit": "mag",
        "model_digest": record.digest,
        "package": f"hpc_ae {hpc_ae.__version__}",
        "input": "magnitude float32 (N, B)" + (", NaN where a band is not measured" if record.masked else ""),
        "outputs": "latent (N, L), reconstruction (N, B), reconstruction_error (N,)",
    }


@contextmanager
def _quiet_torch() -> Iterator[None]:
    """Keeps the exporters' notes on torch's own inner life off the screen; errors still come out."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _example(module: ExportModule, num_stars: int, seed: int = 0) -> Tensor:
    """Magnitudes (num_stars, B) around the scaling's mean."""
    generator = torch.Generator().manual_seed(seed)
    scaled = torch.randn((num_stars, len(module.scaling.mean)), generator=generator) * _SPREAD
    return module.scaling.inverse(scaled)


def _to_torch_export(module: ExportModule, metadata: dict[str, str]) -> bytes:
    stars = torch.export.Dim("stars", min=0, max=_MOST_STARS)
    program = torch.export.export(module, (_example(module, 7),), dynamic_shapes=({0: stars},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names paths of this machine
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA_NAME: json.dumps(metadata)})
    return buffer.getvalue()


def _torch_runner(data: bytes) -> tuple[Runner, str]:
    loaded = torch.export.load(io.BytesIO(data)).module()

    def run(magnitude: np.ndarray) -> Outputs:
        outputs = loaded(torch.from_numpy(magnitude))
        return tuple(outputs[name].detach().numpy() for name in OUTPUTS)

    return run, f"torch {torch.__version__}"


def _to_onnx(module: ExportModule, metadata: dict[str, str]) -> bytes:
    import torch.onnx

    stars = torch.export.Dim("stars", min=0, max=_MOST_STARS)
    program = torch.onnx.export(
        module,
        (_example(module, 7),),
        input_names=["magnitude"],
        output_names=list(OUTPUTS),
        opset_version=_OPSET,
        dynamo=True,
        dynamic_shapes=({0: stars},),
        verbose=False,
    )
    if program is None:
        raise WorkError("torch.onnx.export made nothing", where=f"torch {torch.__version__}")
    program.model.metadata_props.update({f"hpc_ae.{name}": value for name, value in metadata.items()})
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces, which name paths of this machine
        node.doc_string = None
    return bytes(program.model_proto.SerializeToString())


def _onnx_runner(data: bytes) -> tuple[Runner, str]:
    import onnx
    import onnxruntime

    onnx.checker.check_model(data, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(magnitude: np.ndarray) -> Outputs:
        return tuple(session.run(list(OUTPUTS), {"magnitude": magnitude}))

    return run, f"onnxruntime {onnxruntime.__version__}"


def _compare(runner: Runner, model: Autoencoder, out: Path) -> tuple[float, int]:
    """The largest difference to our own forward pass over batches of several sizes, in mag, and their stars."""
    module, forward, worst = ExportModule(model), TorchForward(model, torch.device("cpu")), 0.0
    for num_stars in _BATCHES:
        magnitude = _example(module, num_stars, seed=num_stars).numpy()
        magnitude[3::10, 1] = np.nan
        ours = forward(magnitude)
        for name, theirs in zip(OUTPUTS, runner(magnitude), strict=True):
            worst = max(worst, _difference(np.asarray(getattr(ours, name)), theirs, name))
    if not worst <= TOLERANCE_MAG:
        raise WorkError(
            "the exported model does not compute what the model computes",
            where=out,
            got=f"a difference of {worst:.2e} mag",
            expected=f"at most {TOLERANCE_MAG:.0e} mag",
            fix="nothing was written; please report it with the versions of torch and onnxruntime",
        )
    return worst, sum(_BATCHES)


def _difference(ours: np.ndarray, theirs: np.ndarray, name: str) -> float:
    """The largest difference; infinite where shapes, types or NaN differ. Latents have no unit: relative above 1."""
    if ours.shape != theirs.shape or theirs.dtype != np.float32 or (np.isnan(ours) != np.isnan(theirs)).any():
        return float("inf")
    scale = np.maximum(1.0, np.abs(ours)) if name == "latent" else np.ones_like(ours)
    return float(np.nanmax(np.abs(ours - theirs) / scale, initial=0.0))
