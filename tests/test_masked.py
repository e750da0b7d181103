"""A network that sees which bands are measured: the kernel against PyTorch, the draws, training, and what it is for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from test_kernel import MEAN, STD, kernel_of, network_of, threads  # noqa: F401
from torch import nn

from hpc_ae.model.architecture import Architecture
from hpc_ae.model.autoencoder import Autoencoder, make_autoencoder, squared_error_of_measured
from hpc_ae.model.files import weights_of
from hpc_ae.model.forward import FusedForward
from hpc_ae.model.forward_torch import TorchForward
from hpc_ae.model.hiding import Draws, Hiding
from hpc_ae.model.kernel import Batches, Optimizer
from hpc_ae.model.noise import Noise
from hpc_ae.model.step import Stepper, StepSettings
from hpc_ae.photometry import simulate_stars

BANDS = tuple("ugriz")
ARCHITECTURES = [
    Architecture(BANDS, masked=True),
    Architecture(BANDS, (17,), 3, masked=True),
    Architecture((*BANDS, "y", "J", "H", "Ks"), (8, 33), 1, masked=True),
]


def stars_of(num_bands: int, num_stars: int = 3_000, seed: int = 5) -> np.ndarray:
    """Magnitudes float32 (N, B), a third of the stars without one band or several, some with none at all."""
    magnitude = simulate_stars(0, num_stars, seed)["magnitude"].astype(np.float32)
    magnitude = np.tile(magnitude, (1, 2))[:, :num_bands].copy()
    random = np.random.default_rng(seed)
    gone = (random.random(magnitude.shape) < 0.3) & (random.random((num_stars, 1)) < 0.4)
    magnitude[gone] = np.nan
    magnitude[::500] = np.nan
    return magnitude


def model_of(architecture: Architecture, seed: int = 7) -> Autoencoder:
    """A fresh network."""
    mean, std = np.tile(MEAN, 2)[: len(architecture.bands)], np.tile(STD, 2)[: len(architecture.bands)]
    return make_autoencoder(architecture, mean.tolist(), std.tolist(), seed)


def test_shapes() -> None:
    """The encoder's first layer takes a number and a mark of each band; the decoder gives a number of each."""
    shapes = Architecture(BANDS, (40,), 2, masked=True).tensor_shapes()
    assert shapes["encoder.0.weight"] == (40, 10) and shapes["decoder.3.weight"] == (5, 40)
    assert shapes["scaling.mean"] == (5,)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_forward_is_that_of_torch(architecture: Architecture) -> None:
    """Latents, all bands' magnitudes, error and chi2 over the measured ones, by the kernel and by PyTorch."""
    magnitude = stars_of(len(architecture.bands))
    errors = np.full_like(magnitude, 0.05)
    weights = weights_of(model_of(architecture))
    ours = FusedForward(weights, kernel_of(architecture))(magnitude, errors)
    theirs = TorchForward(model_of(architecture), torch.device("cpu"))(magnitude, errors)
    some = np.isfinite(magnitude).any(axis=1)
    for name, values in vars(ours).items():
        expected = getattr(theirs, name)
        assert np.isfinite(values[some]).all(), name
        assert_allclose(values[some], expected[some], rtol=2e-5, atol=2e-5, err_msg=name)
    residual = magnitude - ours.reconstruction
    assert_allclose(ours.reconstruction_error[some], np.sqrt(np.nanmean(residual[some] ** 2, axis=1)), atol=2e-5)
    assert_allclose(ours.chi2[some], np.nansum((residual[some] / 0.05) ** 2, axis=1), rtol=1e-3, atol=1e-3)


def test_a_missing_band_is_not_seen() -> None:
    """What a catalog has in the place of a missing band changes no bit; one more band does."""
    magnitude = stars_of(5)
    forward = FusedForward(weights_of(model_of(ARCHITECTURES[0])), kernel_of(ARCHITECTURES[0]))
    complete = np.isfinite(magnitude).all(axis=1)
    whole, fewer = magnitude[complete], magnitude[complete].copy()
    fewer[:, 0] = np.nan
    assert (forward(whole).latent != forward(fewer).latent).any(axis=1).all()
    again = fewer.copy()
    again[::2, 0] = -np.nan
    assert np.array_equal(forward(again).latent, forward(fewer).latent)


# ---- hidden bands --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_hidden_bands_are_the_same_bits(architecture: Architecture) -> None:
    """The kernel hides what PyTorch hides, of any rows and steps; nothing that is not measured, and never too much."""
    magnitude = stars_of(len(architecture.bands))
    row = torch.from_numpy(np.random.default_rng(1).integers(0, 1 << 40, (2, len(magnitude))))
    measured = torch.from_numpy(np.isfinite(magnitude))
    for share in (0.0, 0.3, 1.0):
        hiding = Hiding(9, share, 3, row, 1 << 33)
        drawn = hiding.draw(measured.expand(2, -1, -1)).numpy()
        for step in range(2):
            ours = kernel_of(architecture).hidden(hiding.of_step(step), magnitude)
            assert np.array_equal(ours, drawn[step])
        num, left = drawn.sum(axis=2), (measured.numpy() & ~drawn).sum(axis=2)
        assert not (drawn & ~measured.numpy()).any()
        assert (left[num > 0] >= 3).all()
        can = measured.sum(dim=1).numpy() > 3
        assert abs((num[:, can] > 0).mean() - share) < 0.03


def test_each_band_is_hidden_as_often() -> None:
    """Of complete stars one band or two are hidden, each number and each band as often: within 5 sigma."""
    row = torch.arange(200_000)[None]
    hidden = Hiding(3, 1.0, 3, row, 7).draw(torch.ones((1, 200_000, 5), dtype=torch.bool))[0].numpy()
    num = hidden.sum(axis=1)
    assert set(num.tolist()) == {1, 2}
    assert abs((num == 1).mean() - 0.5) < 5 * 0.5 / np.sqrt(len(num))
    share = hidden[num == 1].mean(axis=0)
    assert np.abs(share - 0.2).max() < 5 * 0.4 / np.sqrt((num == 1).sum())


# ---- training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("num_rows", [1, 63, 257, 1000])
def test_gradient_is_that_of_autograd(architecture: Architecture, num_rows: int) -> None:
    """Loss and gradient over the measured bands, with bands hidden, are those of float64 autograd."""
    magnitude = stars_of(len(architecture.bands))
    kernel, model = kernel_of(architecture), model_of(architecture)
    index = np.random.default_rng(num_rows).integers(0, len(magnitude), num_rows)
    hiding = Hiding(4, 0.6, 2, torch.from_numpy(index)[None], 11)
    gradient = np.empty(kernel.num_parameters, np.float32)
    loss = kernel.gradient(network_of(model), (magnitude, index), gradient, 1, Draws(hiding=hiding))
    rows = torch.from_numpy(magnitude[index])
    hidden = hiding.draw(~rows.isnan()[None])[0]
    exact_loss, exact = autograd(model.double(), rows.double(), hidden)
    _, single = autograd(model.float(), rows, hidden)
    allowed = 3 * np.abs(single - exact).max() + 1e-6 * np.abs(exact).max()
    assert np.abs(gradient - exact).max() <= allowed
    assert_allclose(loss, exact_loss, rtol=1e-5)


def autograd(model: Autoencoder, rows: torch.Tensor, hidden: torch.Tensor) -> tuple[float, np.ndarray]:
    """Loss and flat gradient by PyTorch's operators, in the precision of the rows."""
    model.zero_grad()
    loss = squared_error_of_measured(rows - model.predict(rows.masked_fill(hidden, torch.nan))).sum()
    loss.backward()
    parts = [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in model.parameters()]
    return float(loss.detach()), torch.cat([part.reshape(-1) for part in parts]).double().numpy()


class _Wrapped(nn.Module):
    """What DistributedDataParallel is to a Stepper: not the objective itself."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Any) -> Any:
        """The objective's loss."""
        return self.inner(*inputs)


@pytest.mark.parametrize("noisy", [False, True])
def test_every_way_to_compute_hides_the_same(noisy: bool) -> None:
    """10 steps by the kernel alone, by the kernel within a wrapper, and by PyTorch end at the same weights."""
    rows = torch.from_numpy(stars_of(5))
    index = torch.from_numpy(np.random.default_rng(3).integers(0, len(rows), (10, 64)))
    numbers = index + 5_000_000_000
    draws = Draws(Noise(7, 0.1, numbers, 3) if noisy else None, Hiding(7, 0.7, 3, numbers, 3))
    results = []
    for compute, wrap in (("auto", lambda inner: inner), ("auto", _Wrapped), ("torch", lambda inner: inner)):
        stepper = Stepper(model_of(ARCHITECTURES[0]), wrap, StepSettings("adamw", 0.1, (0.9, 0.95), 1.0, compute))
        stepper.steps(rows, index, [1e-4] * 10, 1 / 64, draws)
        error = stepper.evaluate(rows[~rows.isnan().all(dim=1)])
        results.append((stepper.take_loss(), stepper.weights(), error))
    for loss, weights, error in results[1:]:
        assert_allclose(loss, results[0][0], rtol=1e-5)
        assert_allclose(error, results[0][2], rtol=1e-4)
        for name, tensor in results[0][1].items():
            assert_allclose(weights[name].numpy(), tensor.numpy(), atol=2e-4, err_msg=name)


def test_bits_do_not_depend_on_threads() -> None:
    """The weights after 20 steps are the same for 1, 2, 3 and 11 threads."""
    magnitude, kernel = stars_of(5), kernel_of(ARCHITECTURES[0])
    index = np.random.default_rng(2).integers(0, len(magnitude), (20, 512))
    draws = Draws(hiding=Hiding(7, 0.5, 3, torch.from_numpy(index), 0))
    outcomes = set()
    for num_threads in (1, 2, 3, 11):
        network, moments = network_of(model_of(ARCHITECTURES[0])), np.zeros((2, kernel.num_parameters), "f4")
        optimizer = Optimizer((0.9, 0.95, 1e-8, 1e-4, 1.0), (moments[0], moments[1]), 0)
        batches = Batches(magnitude, index, [1e-3] * 20, 1 / 512, draws)
        loss = kernel.train(network, batches, optimizer, num_threads)
        outcomes.add((network.arrays[0].tobytes(), moments.tobytes(), loss))
    assert len(outcomes) == 1
