"""Noise: the same numbers wherever they are drawn, the same training on any way; uncertainties that are right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from runs import (
    BANDS,
    Wrapped,
    assert_same_training,
    change_catalog,
    encode,
    finalise,
    finish,
    load_share,
    make_catalog,
    make_config,
    metrics_of,
    start_ranks,
    stop_after,
    train_here,
    write_config,
)

from hpc_ae.analysis.denoised import Deviations, noise_pair
from hpc_ae.analysis.denoising import Uncertainty, fit_uncertainty, read_uncertainty
from hpc_ae.catalog.catalog import open_catalog
from hpc_ae.catalog.quality import usable_errors
from hpc_ae.catalog.shard import Arrays
from hpc_ae.config import RunConfig
from hpc_ae.errors import InputError, StaleError, WorkError
from hpc_ae.files import digest_file, read_json
from hpc_ae.jobs.advice import sure_problems_of
from hpc_ae.jobs.plan import disk_gb, memory_gib
from hpc_ae.model.architecture import Architecture
from hpc_ae.model.autoencoder import make_autoencoder
from hpc_ae.model.hiding import Draws
from hpc_ae.model.jacobian import reconstruct
from hpc_ae.model.kernel import load_kernel
from hpc_ae.model.noise import Noise, philox
from hpc_ae.model.step import Stepper, StepSettings
from hpc_ae.photometry import simulate_observed
from hpc_ae.runtime.ranks import Ranks
from hpc_ae.sections import EncodeSection
from hpc_ae.simulate import SimulateSettings, simulate
from hpc_ae.training.batches import chunks
from hpc_ae.training.split import validation_mask
from hpc_ae.verify import verify

NOISY: dict[str, Any] = {"noise": "catalog", "steps": 30, "validation_fraction": 0.3}
MEAN, STD = [19.9, 18.5, 18.0, 17.8, 17.7], [1.4, 1.3, 1.3, 1.25, 1.2]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """PyTorch takes one thread, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def catalog_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 simulated stars in four shards."""
    return make_catalog(tmp_path_factory.mktemp("noise") / "catalog")


@pytest.fixture(scope="module")
def noisy(catalog_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A tiny training with the stars' own noise that was never interrupted; tests only read it."""
    config = make_config(tmp_path_factory.mktemp("noisy"), catalog_dir, **NOISY)
    assert train_here(config) == "done"
    return config


# ---- the numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_is_that_of_its_authors(counter: Any, key: tuple[int, int], words: str) -> None:
    """The known answers of Random123's own tests for philox4x32-10."""
    got = philox(tuple(torch.tensor([one]) for one in counter), key)  # type: ignore[arg-type]
    assert " ".join(f"{int(one):08x}" for one in got) == words


@pytest.mark.parametrize("num_bands", [5, 6])
def test_kernel_draws_the_numbers_of_the_definition(num_bands: int) -> None:
    """C++ and PyTorch agree to 2e-6 for rows above 2^32, large seeds and steps, and any number of bands."""
    try:
        kernel = load_kernel(Architecture(BANDS) if num_bands == 5 else Architecture((*BANDS, "y"), (3,), 1))
    except WorkError as error:
        pytest.skip(str(error))
    row = torch.from_numpy(np.random.default_rng(1).integers(0, 1 << 40, (1, 20_001)))
    for seed, step in ((1, 0), (2**32 - 1, 2**31 + 7)):
        noise = Noise(seed, 0.1, row, step)
        assert_allclose(kernel.normals(noise), noise.normals(num_bands)[0].numpy(), atol=2e-6)


def test_numbers_are_normal_and_independent() -> None:
    """Mean 0, variance 1, kurtosis 3, no correlation between bands, neighbouring rows or steps: within 5 sigma."""
    noise = Noise(3, 0.1, torch.arange(40_000).expand(2, -1), 11)
    values = noise.normals(5).double().numpy()
    num = values[0].size
    assert abs(values.mean()) < 5 / np.sqrt(2 * num) and abs(values.var() - 1) < 5 / np.sqrt(num)
    assert abs((values**4).mean() - 3) < 5 * np.sqrt(96 / num / 2)
    flat = values[0]
    pairs = [(flat[:, one], flat[:, two]) for one in range(5) for two in range(one)]
    pairs += [(flat[1:].ravel(), flat[:-1].ravel()), (values[0].ravel(), values[1].ravel())]
    for one, two in pairs:
        assert abs((one * two).mean()) < 5 / np.sqrt(one.size)


# ---- training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sigma", "echo"), [(0.1, False), (None, False), (None, True)])
def test_every_way_to_compute_sees_the_same_noise(sigma: float | None, echo: bool) -> None:
    """10 steps by the kernel alone, by the kernel within a wrapper, and by PyTorch end at the same weights."""
    stars = simulate_observed(0, 2_000, 5)
    width = 10 if sigma is None else 5
    rows = torch.from_numpy(np.concatenate([stars["magnitude"], usable_errors(stars["magnitude_error"])], 1)[:, :width])
    rows = rows.contiguous()
    index = torch.from_numpy(np.random.default_rng(3).integers(0, 2_000, (10, 64)))
    noise = Noise(7, sigma, index + 5_000_000_000, 3, echo)
    results = []
    for compute, wrap in (("auto", lambda inner: inner), ("auto", Wrapped), ("torch", lambda inner: inner)):
        model = make_autoencoder(Architecture(BANDS), MEAN, STD, seed=7)
        stepper = Stepper(model, wrap, StepSettings("adamw", 0.1, (0.9, 0.95), 1.0, compute))
        stepper.steps(rows, index, [1e-4] * 10, 1 / 64, Draws(noise))
        results.append((stepper.take_loss(), stepper.weights()))
    for loss, weights in results[1:]:
        assert_allclose(loss, results[0][0], rtol=1e-5)
        for name, tensor in results[0][1].items():
            assert_allclose(weights[name].numpy(), tensor.numpy(), atol=2e-4, err_msg=name)


def test_loss_is_of_the_catalogs_magnitudes() -> None:
    """The loss of one step is the squared distance of f(x + noise) from x, and with an echo from x - noise."""
    magnitude = simulate_observed(0, 64, 5)["magnitude"]
    row = torch.arange(64)[None]
    drawn = Noise(1, 0.3, row, 0).draw(torch.from_numpy(magnitude), row)[0]
    for echo, target in ((False, 0.0), (True, -1.0)):
        model = make_autoencoder(Architecture(BANDS), MEAN, STD, seed=7)
        seen = torch.from_numpy(magnitude) + drawn
        with torch.no_grad():
            wanted = (seen - model(seen) - torch.from_numpy(magnitude) - target * drawn).square().mean()
        stepper = Stepper(model, lambda objective: objective, StepSettings())
        stepper.steps(torch.from_numpy(magnitude), row, [0.0], 1 / 64, Draws(Noise(1, 0.3, row, 0, echo)))
        assert_allclose(stepper.take_loss(), float(wanted), rtol=1e-5)


def test_resume_with_noise_is_bitwise(noisy: RunConfig, catalog_dir: Path, tmp_path: Path) -> None:
    """Stopped in the middle and started again: the noise of the steps that are left is as in the whole run."""
    config = make_config(tmp_path, catalog_dir, **NOISY)
    assert train_here(config, stop_after(2)) == "interrupted"
    assert train_here(config) == "done"
    assert_same_training(config, noisy)


def test_streaming_with_noise_is_bitwise(noisy: RunConfig, catalog_dir: Path, tmp_path: Path) -> None:
    """Rows that are read from disk, with their errors, are given the same noise as resident ones."""
    config = make_config(tmp_path, catalog_dir, **NOISY, memory_limit="1G")
    assert train_here(config) == "done"
    weights = [digest_file(run.run_path / "model" / "model.safetensors") for run in (config, noisy)]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_real_ranks_draw_the_same_noise(noisy: RunConfig, catalog_dir: Path, tmp_path: Path) -> None:
    """Two processes over Gloo have the losses of one, and a table of uncertainties of the same stars."""
    config = make_config(tmp_path, catalog_dir, **NOISY)
    command = ["-m", "hpc_ae", "train", str(write_config(config))]
    for status, output in finish(start_ranks(command, 2, tmp_path / "meeting")):
        assert status == 0, output
    for key in ("train_mse_mag2", "validation_mse_mag2"):
        expected = [line[key] for line in metrics_of(noisy)]
        assert_allclose([line[key] for line in metrics_of(config)], expected, rtol=1e-4)
    records = [read_json(run.run_path / "model" / "model.json")["uncertainty"] for run in (config, noisy)]
    assert_allclose(records[0]["misfit"], records[1]["misfit"], rtol=0.02)


def test_noise_decides_the_model(noisy: RunConfig, catalog_dir: Path, tmp_path: Path) -> None:
    """Another noise is another training, never a continued one; without noise the fingerprint is as it always was."""
    with pytest.raises(StaleError, match=r"train\.noise: catalog -> pairs"):
        train_here(make_config(noisy.run_path, catalog_dir, **{**NOISY, "noise": "pairs"}))
    config = make_config(tmp_path, catalog_dir, steps=5)
    train_here(config)
    assert "noise" not in read_json(config.run_path / "model" / "model.json")["fingerprint"]["train"]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_row_numbers_do_not_depend_on_ranks(world_size: int, catalog_dir: Path) -> None:
    """The ranks' rows have the numbers of the catalog's training rows, resident and streamed, with their errors."""
    catalog = open_catalog(catalog_dir)
    stars = catalog.read(["objid", "quality", "magnitude", "magnitude_error"])
    used = (stars["quality"] == 0) & ~validation_mask(stars["objid"], 0.05)
    every = np.concatenate([stars["magnitude"], np.minimum(stars["magnitude_error"], 1)], axis=1)[used]
    assert every.shape[1] == 10 and (every[:, 5:] > 0).all()
    settings = {"partitions": 8, "batch_size": 64, "noise": "catalog"}
    for rank in range(world_size):
        for limit in (None, "1M"):
            data = load_share(catalog_dir, rank, world_size, **settings, memory_limit=limit)
            for chunk in chunks(data, 3, data.plan.steps_per_epoch, numbered=True):
                assert chunk.numbers is not None
                assert_array_equal(chunk.rows[chunk.index].numpy(), every[chunk.numbers.numpy()])


def test_unusable_errors_make_no_noise() -> None:
    """Missing, infinite, zero and negative errors are 0, those above 1 mag count as 1 mag."""
    errors = np.array([[np.nan, np.inf, -np.inf, 0.0, -9999.0, 0.02, 7.0]], np.float32)
    assert_array_equal(usable_errors(errors), np.array([[0, 0, 0, 0, 0, 0.02, 1]], np.float32))


@pytest.fixture(scope="module")
def bare_dir(catalog_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalog without magnitude errors."""

    def strip(arrays: Arrays) -> None:
        del arrays["magnitude_error"]

    return change_catalog(catalog_dir, tmp_path_factory.mktemp("bare") / "catalog", strip)


def test_catalog_without_errors(bare_dir: Path, tmp_path: Path) -> None:
    """Noise of errors that are not there: InputError that says what to do, and `check` says it before."""
    config = make_config(tmp_path / "run", bare_dir, noise="catalog")
    with pytest.raises(InputError, match=r"no magnitude errors[\s\S]*train\.noise=0\.05"):
        train_here(config)
    assert not (tmp_path / "run").exists()
    assert any("train.noise catalog needs magnitude_error" in one for one in sure_problems_of(config))
    config = config.model_copy(update={"encode": EncodeSection(uncertainty=True)})
    assert any("encode.uncertainty needs magnitude_error" in one for one in sure_problems_of(config))
    assert not sure_problems_of(config, keeps_catalog=False)
    assert not sure_problems_of(make_config(tmp_path / "run", bare_dir, noise=0.05))


@pytest.mark.parametrize("noise", [0.0, -0.1, 1.5, "some", True])
def test_noise_that_is_none(catalog_dir: Path, tmp_path: Path, noise: object) -> None:
    """Only none, catalog, pairs and 0 to 1 mag are noise."""
    with pytest.raises(InputError, match=r"train\.noise"):
        make_config(tmp_path, catalog_dir, noise=noise)


def test_plan_counts_errors_and_uncertainties(catalog_dir: Path, tmp_path: Path) -> None:
    """Errors that come along double a rank's rows; the uncertainty takes 20 bytes a star on disk."""
    plain, noisy, sure = (
        make_config(tmp_path, catalog_dir, **more)
        for more in ({}, {"noise": "pairs"}, {"encode": {"uncertainty": True}})
    )
    rows = [memory_gib(config, "train", 10**9, 1) - 1 for config in (plain, noisy)]
    assert_allclose(rows[1], 2 * rows[0])
    assert_allclose(disk_gb(sure, "encode", 10**9) - disk_gb(plain, "encode", 10**9), 20)


# ---- stars whose truth is known ------------------------------------------------------------------------------------


def test_observed_stars_have_the_noise_of_their_errors(tmp_path: Path) -> None:
    """(magnitude - truth) / error is standard normal in each band, however the catalog is cut; simulate writes it."""
    stars = simulate_observed(30_000, 40_000, 3)
    pulls = ((stars["magnitude"] - stars["truth"]) / stars["magnitude_error"]).astype(np.float64)
    assert (np.abs(pulls.mean(axis=0)) < 5 / 200).all() and (np.abs(pulls.var(axis=0) - 1) < 5 * 2**0.5 / 200).all()
    part = simulate_observed(35_000, 100, 3)
    assert all(np.array_equal(part[name], stars[name][5_000:5_100]) for name in stars)
    simulate(tmp_path / "stars", SimulateSettings(300, 3, observed=True, shard_rows=200))
    written = open_catalog(tmp_path / "stars").read(["magnitude"])["magnitude"]
    assert_array_equal(written, simulate_observed(0, 300, 3)["magnitude"])
    with pytest.raises(InputError, match="no bad rows"):
        simulate(tmp_path / "bad", SimulateSettings(300, 3, 0.1, observed=True))


# ---- uncertainty ---------------------------------------------------------------------------------------------------


def line_world(num_stars: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Truth, magnitude, errors, reconstruction, derivative of stars near a plane and a model that projects onto it."""
    generator = np.random.default_rng(seed)
    axes = np.linalg.qr(np.array([[1, 1, 1, 1, 1], [2, 1, 0, -0.5, -1]]).T)[0]
    truth = 18 + generator.normal(0, 1, (num_stars, 2)) @ axes.T + generator.normal(0, 0.03, (num_stars, 5))
    errors = np.exp(generator.normal(-3, 0.5, (num_stars, 5)))
    magnitude = truth + errors * generator.normal(0, 1, (num_stars, 5))
    projection = axes @ axes.T
    rebuilt = 18 + (magnitude - 18) @ projection
    derivative = np.broadcast_to(projection, (num_stars, 5, 5))
    return tuple(one.astype(np.float32) for one in (truth, magnitude, errors, rebuilt, derivative))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def table() -> Uncertainty:
    """A table fitted without the truth."""
    found = fit_uncertainty(*line_world(20_000, 1)[1:])
    assert found is not None
    return found


def bright_end(num_stars: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The same world with a model that misses the few brightest stars by more, the brighter they are."""
    truth, magnitude, errors, rebuilt, derivative = line_world(num_stars, seed)
    missed = 0.5 * np.maximum(17.6 - rebuilt[:, 2:3], 0)
    rebuilt = rebuilt + (missed * np.random.default_rng(seed + 9).normal(0, 1, rebuilt.shape)).astype(np.float32)
    return truth, magnitude, errors, rebuilt, derivative


@pytest.mark.parametrize("num_stars", [2_000, 10_000])
def test_uncertainty_of_a_small_catalog_holds_for_its_brightest_stars(num_stars: int) -> None:
    """As many of the brightest stars lie within it as of the others, however few stars it was measured on."""
    table = fit_uncertainty(*bright_end(num_stars, 1)[1:])
    assert table is not None
    truth, _, errors, rebuilt, _ = bright_end(100_000, 2)
    inside = (np.abs(rebuilt - truth) <= table.of(rebuilt, errors)).mean(axis=1)
    order = np.argsort(rebuilt[:, 2])
    for first, last in ((0, 0.02), (0.02, 0.05), (0.05, 0.1), (0.1, 0.2), (0.2, 0.5), (0.5, 1)):
        rows = order[int(first * len(order)) : int(last * len(order))]
        assert 0.6 < inside[rows].mean() < 0.77


def test_table_of_as_many_magnitudes_as_colours_is_read() -> None:
    """As models have it that were trained before magnitudes and colours were cut on their own."""
    table = Uncertainty(
        np.array([18], np.float32),
        np.array([[1], [2]], np.float32),
        np.zeros((4, 3, 3), np.float32),
        np.arange(12, dtype=np.float32).reshape(4, 3),
        np.ones((4, 3), np.float32),
    )
    again = read_uncertainty(table.record(), 3)
    assert again is not None
    stars = np.array([[18, 17, 17.5], [20, 19, 17]], np.float32)  # r = 17, colour 0.5; r = 19, colour 3
    assert_array_equal(again.of(stars, None), [[0, 1, 2], [9, 10, 11]])


def test_pulls_are_of_unit_width(table: Uncertainty) -> None:
    """On other stars 68 % of |reconstruction - truth| lie within the uncertainty, in each band and third."""
    truth, _, errors, rebuilt, _ = line_world(20_000, 2)
    sizes = table.of(rebuilt, errors)
    inside = np.abs(rebuilt - truth) <= sizes
    assert_allclose(inside.mean(axis=0), 0.683, atol=0.02)
    thirds = np.searchsorted(np.quantile(sizes, [1 / 3, 2 / 3]), sizes)
    for third in range(3):
        assert_allclose(inside[thirds == third].mean(), 0.683, atol=0.03)


def test_combination_is_better_than_either(table: Uncertainty) -> None:
    """Magnitude and reconstruction combined are nearer to the truth than each in every band, by what is promised."""
    truth, magnitude, errors, rebuilt, _ = line_world(20_000, 2)
    best, left = table.combine(magnitude, errors, rebuilt)
    rms = [np.sqrt(np.square(one - truth).mean(axis=0)) for one in (magnitude, rebuilt, best)]
    assert (rms[2] < 0.97 * np.minimum(rms[0], rms[1])).all()
    assert_allclose((np.abs(best - truth) <= left).mean(), 0.683, atol=0.02)
    strange = magnitude.copy()
    strange[:, 0] += 3.0
    assert_array_equal(table.combine(strange, errors, rebuilt)[0], strange)


def test_table_survives_json(table: Uncertainty) -> None:
    """A table read from its record says the same to the last bit; what is no table for these bands is None."""
    _, _, errors, rebuilt, _ = line_world(1_000, 3)
    again = read_uncertainty(table.record(), 5)
    assert again is not None and np.array_equal(again.of(rebuilt, errors), table.of(rebuilt, errors))
    assert read_uncertainty(table.record(), 4) is None and read_uncertainty({}, 5) is None
    assert read_uncertainty({**table.record(), "misfit": "x"}, 5) is None


def test_missing_errors_are_taken_as_usual(table: Uncertainty) -> None:
    """A star without an error gets the usual one of its cell; too few stars make no table."""
    _, magnitude, errors, rebuilt, derivative = line_world(1_000, 3)
    usual = table.error[table.cells(rebuilt)]
    assert_array_equal(table.of(rebuilt, None), table.of(rebuilt, usual))
    assert_array_equal(table.of(rebuilt, np.zeros_like(errors)), table.of(rebuilt, usual))
    assert fit_uncertainty(magnitude[:50], errors[:50], rebuilt[:50], derivative[:50]) is None


def test_derivative_is_that_of_the_reconstruction() -> None:
    """The derivative agrees with finite differences, band by band."""
    model = make_autoencoder(Architecture(BANDS, (16, 16), 2), MEAN, STD, seed=7).double()
    magnitude = simulate_observed(0, 20, 5)["magnitude"].astype(np.float64)
    derivative = reconstruct(model.float(), magnitude)[1]
    model.double()
    for band in range(5):
        step = np.zeros(5)
        step[band] = 1e-4
        ends = [torch.from_numpy(magnitude + sign * step) for sign in (1, -1)]
        with torch.no_grad():
            values = [(end - model(end)).numpy() for end in ends]
        assert_allclose(derivative[:, :, band], (values[0] - values[1]) / 2e-4, atol=1e-4)


def test_encode_writes_the_uncertainty(catalog_dir: Path, tmp_path: Path) -> None:
    """The column is there, finite for good stars alone, verified; with and without it are not mixed."""
    settings = {"steps": 30, "validation_fraction": 0.5, "noise": "pairs"}
    config = make_config(tmp_path, catalog_dir, encode={"uncertainty": True}, **settings)
    train_here(config)
    assert encode(config, Ranks()) == "done"
    manifest = finalise(config)
    assert "reconstruction_uncertainty" in manifest.columns
    assert not verify(config.encoding_path).findings
    arrays = open_catalog(config.encoding_path).read(["reconstruction_uncertainty", "quality", "reconstruction"])
    good = arrays["quality"] == 0
    assert (arrays["reconstruction_uncertainty"][good] > 0).all() and np.isnan(
        arrays["reconstruction_uncertainty"][~good]
    ).all()
    table = read_uncertainty(read_json(tmp_path / "model" / "model.json")["uncertainty"], 5)
    errors = usable_errors(open_catalog(catalog_dir).read(["magnitude_error"])["magnitude_error"])
    assert table is not None
    assert_array_equal(
        arrays["reconstruction_uncertainty"][good], table.of(arrays["reconstruction"][good], errors[good])
    )
    with pytest.raises(StaleError, match="uncertainty"):
        encode(make_config(tmp_path, catalog_dir, **settings), Ranks())


def test_model_without_a_table(catalog_dir: Path, bare_dir: Path, tmp_path: Path) -> None:
    """Asked for what the model does not know, or for an uncertainty without its reconstruction: InputError."""
    config = make_config(tmp_path, bare_dir, steps=5, encode={"uncertainty": True})
    train_here(config)
    with pytest.raises(InputError, match=r"does not say how uncertain[\s\S]*encode\.uncertainty=false"):
        encode(config, Ranks())
    with pytest.raises(InputError, match="needs reconstruction: true"):
        make_config(tmp_path, catalog_dir, encode={"uncertainty": True, "reconstruction": False})


# ---- tallies -------------------------------------------------------------------------------------------------------


def test_tallies_add_up() -> None:
    """Parts tallied apart and added are the whole; what they say is what numpy says of the stars of a bin."""
    generator = np.random.default_rng(1)
    values, keys, edges = (
        generator.normal(0.1, 0.2, (5_000, 2)),
        generator.uniform(13, 20, (5_000, 2)),
        np.arange(14, 20),
    )
    values[17, 1] = np.nan
    whole = Deviations.of(values, keys, edges)
    parts = Deviations.of(values[:1_234], keys[:1_234], edges) + Deviations.of(values[1_234:], keys[1_234:], edges)
    for name in ("num", "total", "square", "sizes"):
        assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12)
    chosen = values[(keys[:, 0] >= 15) & (keys[:, 0] < 16), 0]
    assert whole.num[0, 1] == len(chosen)
    assert_allclose(whole.mean[0, 1], chosen.mean())
    assert_allclose(whole.rms[0, 1], np.sqrt(np.square(chosen).mean()))
    assert_allclose(whole.one_sigma[0, 1], np.quantile(np.abs(chosen), 0.6827), rtol=0.04)


def test_pairs_measure_the_error_without_the_truth() -> None:
    """The squared error of a reconstruction that uses noisy magnitudes comes out of pairs as against the truth."""
    truth, magnitude, errors, _, derivative = line_world(60_000, 4)
    normals = np.random.default_rng(5).standard_normal(errors.shape)
    first, second, variance = noise_pair(magnitude, errors, normals)
    rebuilt = 18 + (first - 18) @ derivative[0]
    edges = np.array([0.0, 30.0])
    blind = Deviations.of(rebuilt - second, truth, edges, variance)
    seeing = Deviations.of(rebuilt - truth, truth, edges)
    assert_allclose(blind.rms, seeing.rms, rtol=0.06)
    assert_allclose(blind.mean, seeing.mean, atol=0.005)
