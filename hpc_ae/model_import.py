"""VERB model import: a plain PyTorch state dict to a model directory."""

from __future__ import annotations

from pathlib import Path

from hpc_ae.errors import InputError
from hpc_ae.files import digest_file
from hpc_ae.layout import MODEL_NAME
from hpc_ae.model.files import infer_architecture, load_autoencoder, read_state_dict, write_model
from hpc_ae.model.scaling import Scaling
from hpc_ae.model.weights import Imported, Origin
from hpc_ae.provenance import Provenance
from hpc_ae.record import different_plain_names


def import_model(
    path: Path,
    out_dir: Path,
    bands: tuple[str, ...],
    *,
    divide: float | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
) -> str:
    """Write `out_dir` and return the model's digest.

    Network input is magnitude / divide, or (magnitude - mean) / std, in mag. InputError where the file is not a plain
    state dict (it is read with weights_only=True), its tensors do not fit, or no scaling is given once.
    """
    if (out_dir / MODEL_NAME).exists():
        raise InputError("a model already exists", where=out_dir, fix="choose another --out, or remove it first")
    if not path.is_file():
        raise InputError("there is no such file", where=path, expected="a state dict saved by torch.save")
    if not different_plain_names(bands):
        expected = "letters, digits, _ . -, each name once"
        raise InputError("these cannot be names of bands", where="--bands", got=",".join(bands), expected=expected)
    scaling = _scaling(len(bands), divide, mean, std)
    tensors = {name: tensor for name, tensor in read_state_dict(path).items() if not name.startswith("scaling.")}
    architecture = infer_architecture(tensors, bands, path)
    tensors |= {f"scaling.{name}": buffer for name, buffer in scaling.named_buffers()}
    load_autoencoder(architecture, tensors, path)
    digest = digest_file(path)
    training = Imported(imported=path.name, imported_digest=digest)
    origin = Origin(training=training, fingerprint={"imported": digest}, provenance=Provenance.now({}))
    return write_model(out_dir, architecture, tensors, origin)


def _scaling(num_bands: int, divide: float | None, mean: list[float] | None, std: list[float] | None) -> Scaling:
    if (divide is not None, mean is not None, std is not None) not in ((True, False, False), (False, True, True)):
        raise InputError(
            "no scaling is given",
            where="command line",
            expected="--divide X, or --mean and --std",
            fix="the lecture's is --divide 20",
        )
    mean, std = ([0.0] * num_bands, [divide] * num_bands) if divide is not None else (mean or [], std or [])
    if len(mean) != num_bands or len(std) != num_bands:
        raise InputError(
            "one mean and one std for each band",
            where="--mean, --std",
            got=f"{len(mean)}, {len(std)}",
            expected=num_bands,
        )
    return Scaling(mean, std)
