"""Models out: what another program computes with an exported model is what this package computes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from commands import REPOSITORY, environment, hpc_ae, in_process
from hypothesis import given, settings
from hypothesis import strategies as st

import hpc_ae as package
from hpc_ae import model_export
from hpc_ae.errors import InputError, WorkError
from hpc_ae.layout import WEIGHTS_NAME
from hpc_ae.model.architecture import Architecture
from hpc_ae.model.autoencoder import make_autoencoder
from hpc_ae.model.files import read_model, write_model
from hpc_ae.model.forward_torch import TorchForward
from hpc_ae.model.weights import Origin
from hpc_ae.model_export import METADATA_NAME, OUTPUTS, TOLERANCE_MAG, export_model

BANDS = tuple("ugriz")
MEAN, STD = [19.8, 18.6, 18.1, 17.8, 17.6], [1.9, 1.6, 1.5, 1.4, 1.4]
LOADER = """
import json, sys
import numpy as np, torch
assert "hpc_ae" not in sys.modules
extra = {"hpc_ae.json": ""}
loaded = torch.export.load(sys.argv[1], extra_files=extra).module()
outputs = {}
with torch.no_grad():
    for batch, magnitude in np.load(sys.argv[2]).items():
        found = loaded(torch.from_numpy(magnitude))
        outputs |= {f"{batch} {name}": value.numpy() for name, value in found.items()}
np.savez(sys.argv[3], **outputs)
print(extra["hpc_ae.json"])
assert "hpc_ae" not in sys.modules
"""


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the lecture's shape, with weights of a size that makes its outputs differ between stars."""
    folder = tmp_path_factory.mktemp("model")
    architecture = Architecture(BANDS)
    tensors = dict(make_autoencoder(architecture, MEAN, STD, 1).state_dict())
    write_model(folder, architecture, tensors, Origin())
    return folder


@pytest.fixture(scope="module")
def onnx_path(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as ONNX, made by the command."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    done = hpc_ae("model", "export", model_dir, path, "--to", "onnx")
    assert done.returncode == 0 and "onnxruntime" in done.stderr and done.stdout == "", done.stderr
    return path


@pytest.fixture(scope="module")
def session(onnx_path: Path) -> onnxruntime.InferenceSession:
    """An onnxruntime session of the exported model."""
    return onnxruntime.InferenceSession(onnx_path, providers=["CPUExecutionProvider"])


def make_magnitude(num_stars: int, seed: int) -> np.ndarray:
    """Random stars, every fifth with a NaN in one band."""
    rng = np.random.default_rng(seed)
    magnitude = rng.normal(MEAN, 3 * np.array(STD), (num_stars, 5)).astype(np.float32)
    magnitude[::5, seed % 5] = np.nan
    return magnitude


def check_outputs(model_dir: Path, magnitude: np.ndarray, outputs: dict[str, np.ndarray]) -> None:
    """Outputs are ours within the stated tolerance, NaN where a band is NaN, of the promised shapes and type."""
    ours = TorchForward(read_model(model_dir)[0], torch.device("cpu"))(magnitude)
    assert list(outputs) == list(OUTPUTS)
    assert [value.shape for value in outputs.values()] == [(len(magnitude), 2), (len(magnitude), 5), (len(magnitude),)]
    bad = np.isnan(magnitude).any(axis=1)
    for name, value in outputs.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(np.isnan(value.reshape(len(magnitude), -1)).all(axis=1) if len(bad) else bad, bad)
        assert not np.isnan(value[~bad]).any()
        np.testing.assert_allclose(value[~bad], getattr(ours, name)[~bad], rtol=TOLERANCE_MAG, atol=TOLERANCE_MAG)


@pytest.mark.parametrize("num_stars", [0, 1, 2, 7, 1000])
def test_onnx_computes_what_we_compute(num_stars: int, session: onnxruntime.InferenceSession, model_dir: Path) -> None:
    """With onnxruntime, for batches of any size, scaling inside: magnitudes in, mag out."""
    magnitude = make_magnitude(num_stars, num_stars)
    values = session.run(None, {"magnitude": magnitude})
    check_outputs(model_dir, magnitude, dict(zip([one.name for one in session.get_outputs()], values, strict=True)))


@settings(max_examples=10, deadline=None)
@given(num_stars=st.integers(0, 300), seed=st.integers(0, 1 << 30))
def test_onnx_any_batch(num_stars: int, seed: int, session: onnxruntime.InferenceSession, model_dir: Path) -> None:
    """Any number of stars, any magnitudes."""
    magnitude = make_magnitude(num_stars, seed)
    check_outputs(
        model_dir, magnitude, dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"magnitude": magnitude}), strict=True))
    )


def test_onnx_says_what_it_is(onnx_path: Path, model_dir: Path, session: onnxruntime.InferenceSession) -> None:
    """Bands, the model's digest, units and version are in the file; a batch may have any size; no path of a machine."""
    found = session.get_modelmeta().custom_metadata_map
    assert found["hpc_ae.bands"] == "u,g,r,i,z" and found["hpc_ae.unit"] == "mag" and found["hpc_ae.version"] == "1"
    assert found["hpc_ae.model_digest"] == read_model(model_dir)[1].digest
    assert found["hpc_ae.package"] == f"hpc_ae {package.__version__}"
    (given_input,) = session.get_inputs()
    assert given_input.name == "magnitude" and given_input.shape[1] == 5 and isinstance(given_input.shape[0], str)
    onnx.checker.check_model(onnx.load(onnx_path), full_check=True)
    assert str(REPOSITORY).encode() not in onnx_path.read_bytes()
    assert onnx_path.stat().st_mode & 0o777 == 0o600


def test_decoder_alone(onnx_path: Path, model_dir: Path, tmp_path: Path) -> None:
    """The part from latent to reconstruction can be cut out, as the page says: it is our decoder with its scaling."""
    onnx.utils.extract_model(onnx_path, tmp_path / "decoder.onnx", ["latent"], ["reconstruction"])
    latent = np.random.default_rng(1).normal(size=(40, 2)).astype(np.float32)
    decoder = onnxruntime.InferenceSession(tmp_path / "decoder.onnx", providers=["CPUExecutionProvider"])
    model = read_model(model_dir)[0]
    with torch.no_grad():
        ours = model.scaling.inverse(model.decoder(torch.from_numpy(latent))).numpy()
    np.testing.assert_allclose(decoder.run(None, {"latent": latent})[0], ours, atol=TOLERANCE_MAG, rtol=0)


def test_torch_export_in_a_fresh_process(model_dir: Path, tmp_path: Path) -> None:
    """torch alone, in a process that knows nothing of this package, loads it and computes what we compute."""
    path = tmp_path / "model.pt2"
    status = hpc_ae("model", "export", model_dir, path, "--to", "torch-export")
    assert status.returncode == 0 and "torch" in status.stderr, status.stderr
    batches = {str(num_stars): make_magnitude(num_stars, num_stars + 3) for num_stars in (0, 1, 7, 1000)}
    np.savez(tmp_path / "in.npz", **batches)
    words = [sys.executable, "-c", LOADER, path, tmp_path / "in.npz", tmp_path / "out.npz"]
    done = subprocess.run(
        list(map(str, words)), cwd=tmp_path, env=environment(PYTHONPATH=""), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as outputs:
        for batch, magnitude in batches.items():
            check_outputs(model_dir, magnitude, {name: outputs[f"{batch} {name}"] for name in OUTPUTS})
    said = json.loads(done.stdout)
    assert said["bands"] == "u,g,r,i,z" and said["model_digest"] == read_model(model_dir)[1].digest
    with zipfile.ZipFile(path) as file:
        assert not any(str(REPOSITORY).encode() in file.read(name) for name in file.namelist())
        assert any(name.endswith(METADATA_NAME) for name in file.namelist())


def test_other_shapes(tmp_path: Path) -> None:
    """Three bands, one hidden layer, four latents: the shapes are the model's own."""
    architecture = Architecture(("a", "b", "c"), (8,), 4)
    write_model(
        tmp_path / "m",
        architecture,
        dict(make_autoencoder(architecture, [1.0] * 3, [20.0] * 3, 2).state_dict()),
        Origin(),
    )
    result = export_model(tmp_path / "m", tmp_path / "m.onnx", "onnx")
    assert result.worst_mag <= TOLERANCE_MAG and result.num_bytes == (tmp_path / "m.onnx").stat().st_size
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"magnitude": np.full((6, 3), 19, np.float32)})
    assert [one.shape for one in outputs] == [(6, 4), (6, 3), (6,)]


@pytest.mark.parametrize("to", ["onnx", "torch-export"])
def test_a_wrong_export_is_not_published(
    to: Any, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the exported graph computes something else, by a tenth of a percent, nothing is written."""

    class Wrong(model_export.ExportModule):
        def forward(self, magnitude: torch.Tensor) -> dict[str, torch.Tensor]:
            outputs = super().forward(magnitude)
            return {**outputs, "reconstruction": outputs["reconstruction"] * 1.001}

    monkeypatch.setattr(model_export, "ExportModule", Wrong)
    with pytest.raises(WorkError, match="does not compute what the model computes"):
        export_model(model_dir, tmp_path / "out", to)
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_one_message(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No model, a file that is there, a format that is not, a damaged model: a status and nothing written."""
    (tmp_path / "there").write_text("mine")
    shutil.copytree(model_dir, tmp_path / "damaged")
    weights = bytearray((model_dir / WEIGHTS_NAME).read_bytes())
    weights[-1] ^= 1
    (tmp_path / "damaged" / WEIGHTS_NAME).write_bytes(weights)
    for words, status in (
        ([tmp_path / "damaged", tmp_path / "x", "--to", "torch-export"], 1),
        ([tmp_path / "none", tmp_path / "x", "--to", "onnx"], 2),
        ([model_dir, tmp_path / "there", "--to", "onnx"], 2),
        ([model_dir, tmp_path / "x", "--to", "tflite"], 2),
        ([model_dir, tmp_path / "x"], 2),
    ):
        found, said = in_process(capsys, "model", "export", *words)
        assert found == status and "Traceback" not in said, said
    assert (tmp_path / "there").read_text() == "mine" and not (tmp_path / "x").exists()
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"pip install 'hpc_ae\[onnx\]', or: python -m pip install onnxscript"):
        export_model(model_dir, tmp_path / "x", "onnx")


def test_torch_onnx_is_imported_only_when_needed() -> None:
    """The verb's module costs no exporter: neither onnx nor onnxruntime comes with it."""
    code = (
        "import sys, hpc_ae.model_export; print([n for n in ('onnx', 'onnxruntime', 'onnxscript') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=240)
    assert done.stdout == "[]\n", done.stderr
