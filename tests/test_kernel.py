"""The fused kernel against PyTorch: gradients, many steps of AdamW, the same bits for any number of threads."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from runs import BANDS

from hpc_ae.errors import WorkError
from hpc_ae.model.architecture import Architecture
from hpc_ae.model.autoencoder import Autoencoder, make_autoencoder, squared_error
from hpc_ae.model.kernel import Batches, Kernel, Network, Optimizer, load_kernel
from hpc_ae.model.step import Stepper, StepSettings
from hpc_ae.photometry import simulate_stars

MEAN, STD = [19.9, 18.5, 18.0, 17.8, 17.7], [1.4, 1.3, 1.3, 1.25, 1.2]
IS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
ARCHITECTURES = [Architecture(BANDS), Architecture(BANDS, (17,), 3), Architecture(BANDS, (8, 33), 1)]


@pytest.fixture(scope="module")
def magnitude() -> np.ndarray:
    """Magnitudes of 3,000 simulated stars."""
    return np.ascontiguousarray(simulate_stars(0, 3_000, 5)["magnitude"], np.float32)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """PyTorch's number of threads is as it was afterwards."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def kernel_of(architecture: Architecture) -> Kernel:
    """The kernel, or a skip where there is no compiler."""
    try:
        return load_kernel(architecture)
    except WorkError as error:
        pytest.skip(str(error))


def network_of(model: Autoencoder) -> Network:
    """A model's flat parameters and scaling."""
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in model.parameters()]).numpy()
    return Network(flat, (model.scaling.mean.numpy(), model.scaling.std.numpy()))


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("num_rows", [1, 63, 64, 257, 1000])
def test_gradient_is_that_of_autograd(architecture: Architecture, num_rows: int, magnitude: np.ndarray) -> None:
    """Loss and gradient are no further from float64 autograd than 3 times PyTorch's own float32 ones are."""
    kernel, model = kernel_of(architecture), make_autoencoder(architecture, MEAN, STD, seed=7)
    index = np.random.default_rng(num_rows).integers(0, len(magnitude), num_rows)
    gradient = np.empty(kernel.num_parameters, np.float32)
    loss = kernel.gradient(network_of(model), (magnitude, index), gradient)
    exact_loss, exact = autograd(model.double(), magnitude[index].astype(np.float64))
    _, single = autograd(model.float(), magnitude[index])
    allowed = 3 * np.abs(single - exact).max() + 1e-6 * np.abs(exact).max()
    assert np.abs(gradient - exact).max() <= allowed
    assert_allclose(loss, exact_loss, rtol=1e-5)


def autograd(model: Autoencoder, rows: np.ndarray) -> tuple[float, np.ndarray]:
    """Loss and flat gradient by PyTorch's operators, in the precision of the rows."""
    model.zero_grad()
    loss = squared_error(model(torch.from_numpy(rows))).sum()
    loss.backward()
    parts = [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in model.parameters()]
    return float(loss.detach()), torch.cat([part.reshape(-1) for part in parts]).double().numpy()


@pytest.mark.parametrize("num_rows", [64, 512, 1500])
def test_bits_do_not_depend_on_threads(num_rows: int, magnitude: np.ndarray) -> None:
    """The gradient, and the weights after 30 steps, are the same for 1, 2, 3 and 11 threads."""
    kernel = kernel_of(ARCHITECTURES[0])
    outcomes = set()
    for num_threads in (1, 2, 3, 11):
        network = network_of(make_autoencoder(ARCHITECTURES[0], MEAN, STD, seed=7))
        index = np.random.default_rng(2).integers(0, len(magnitude), (30, num_rows))
        gradient, moments = np.empty(kernel.num_parameters, np.float32), np.zeros((2, kernel.num_parameters), "f4")
        kernel.gradient(network, (magnitude, index[0]), gradient, num_threads)
        optimizer = Optimizer((0.9, 0.95, 1e-8, 1e-4, 1.0), (moments[0], moments[1]), 0)
        loss = kernel.train(network, Batches(magnitude, index, [1e-3] * 30, 1 / num_rows), optimizer, num_threads)
        outcomes.add((gradient.tobytes(), network.arrays[0].tobytes(), moments.tobytes(), loss))
    assert len(outcomes) == 1


@pytest.mark.parametrize("clip_norm", [math.inf, 50.0])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_update_is_that_of_torch(kind: Any, clip_norm: float) -> None:
    """30 updates from the same random gradients end where torch's clipping and optimizer end, moments included."""
    kernel, generator = kernel_of(ARCHITECTURES[0]), torch.Generator().manual_seed(5)
    decay = 0.1 if kind is torch.optim.AdamW else 0.0
    theirs = torch.nn.Parameter(torch.randn(kernel.num_parameters, generator=generator))
    network = Network(theirs.detach().numpy().copy(), (np.zeros(5, "f4"), np.ones(5, "f4")))
    optimizer = kind([theirs], lr=0.0, betas=(0.9, 0.95), weight_decay=decay)
    moments = np.zeros((2, kernel.num_parameters), np.float32)
    for step in range(30):
        theirs.grad = torch.randn(theirs.shape, generator=generator)
        ours = Optimizer((0.9, 0.95, 1e-8, decay, clip_norm), (moments[0], moments[1]), step)
        rate = 1e-3 * (1 + step % 7)
        kernel.update(network, theirs.grad.numpy().copy(), rate, ours)
        torch.nn.utils.clip_grad_norm_([theirs], clip_norm)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    assert_allclose(network.arrays[0], theirs.detach().numpy(), atol=2e-6)
    for moment, name in zip(moments, ("exp_avg", "exp_avg_sq"), strict=True):
        assert_allclose(moment, optimizer.state[theirs][name].numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_steps_are_those_of_torch(optimizer: str, magnitude: np.ndarray) -> None:
    """40 steps with a varying rate, in calls of 1, 16 and 23, end at the weights of PyTorch's own path."""
    kernel_of(ARCHITECTURES[0])
    index = torch.from_numpy(np.random.default_rng(3).integers(0, len(magnitude), (40, 128)))
    rates = [1e-5 * (1 + step % 7) for step in range(40)]
    results = []
    for compute in ("fused", "torch"):
        model = make_autoencoder(ARCHITECTURES[0], MEAN, STD, seed=7)
        stepper = Stepper(model, lambda objective: objective, StepSettings(optimizer, 0.1, (0.9, 0.95), 1.0, compute))
        for part in (slice(0, 1), slice(1, 17), slice(17, 40)):
            stepper.steps(torch.from_numpy(magnitude), index[part], rates[part], 1 / 128)
        results.append((stepper.take_loss(), stepper.weights()))
    assert_allclose(results[0][0], results[1][0], rtol=1e-5)
    for name, tensor in results[1][1].items():
        assert_allclose(results[0][1][name].numpy(), tensor.numpy(), atol=1e-4, err_msg=name)


# ---- the directory that code is loaded from


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory."""
    monkeypatch.setenv("HPC_AE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def build() -> str:
    """Load the kernel of a small network, as a new process would; its name."""
    return load_kernel.__wrapped__(Architecture(("u", "g", "r", "i", "z"), (4,), 2)).name


SLOW = [pytest.param(change, marks=pytest.mark.slow) for change in ("mode", "link")]


@pytest.mark.parametrize("change", ["content", *SLOW, pytest.param("owner", marks=IS_ROOT)])
def test_library_of_another_is_not_loaded(cache: Path, change: str) -> None:
    """What another has put, or could have put, in the place of a library that was built is built again."""
    name = build()
    [path] = cache.glob("fused-*.so")
    wanted = path.read_bytes()
    if change == "content":
        path.write_bytes(wanted[:-200] + b"\0" * 129 + wanted[-71:])
    if change == "mode":
        path.chmod(0o666)
    if change == "owner":
        os.chown(path, 12345, 12345)
    if change == "link":
        path.rename(cache / "other.so")
        path.symlink_to(cache / "other.so")
    before = path.lstat().st_ino
    assert build() == name
    assert path.lstat().st_ino != before and path.read_bytes() == wanted
    entry = path.lstat()
    assert entry.st_uid == os.geteuid() and not entry.st_mode & 0o022
    again = path.lstat().st_ino
    assert build() == name and path.lstat().st_ino == again  # a sound one is loaded as it is


def test_cache_that_others_may_replace(cache: Path) -> None:
    """Where others may rename what is there, no code is built or loaded; below a sticky directory it is."""
    cache.parent.chmod(0o777)
    with pytest.raises(WorkError, match="where others may replace it"):
        build()
    assert not list(cache.glob("*"))
    cache.parent.chmod(0o1777)
    assert build().startswith("fused-")


@IS_ROOT
def test_cache_in_a_directory_of_another(cache: Path) -> None:
    """Nor below one that another owns, who could open it at any time."""
    os.chown(cache.parent, 12345, 12345)
    with pytest.raises(WorkError, match="where others may replace it"):
        build()
