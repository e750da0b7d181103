"""A network that sees which bands are measured: the kernel against PyTorch, the draws, training, and what it is for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.testing import assert_allclose
from runs import (
    Wrapped,
    assert_same_training,
    encode,
    finalise,
    finish,
    make_config,
    metrics_of,
    start_ranks,
    stop_after,
    train_here,
    write_config,
)
from scipy.stats import spearmanr
from test_kernel import MEAN, STD, kernel_of, network_of, threads  # noqa: F401

from hpc_ae.analysis.anomaly import fit_score_model
from hpc_ae.analysis.denoising import Uncertainty
from hpc_ae.analysis.denoising_gaps import PatternUncertainty, read_patterns
from hpc_ae.analysis.score_mixture import fit_mixture
from hpc_ae.catalog.catalog import open_catalog
from hpc_ae.catalog.quality import usable_errors
from hpc_ae.catalog.states import State
from hpc_ae.compress import CompressSettings, compress
from hpc_ae.config import RunConfig
from hpc_ae.errors import InputError
from hpc_ae.export import ExportSettings, export
from hpc_ae.files import digest_file, read_json
from hpc_ae.ingest import IngestSettings, ingest
from hpc_ae.model.architecture import Architecture
from hpc_ae.model.autoencoder import Autoencoder, make_autoencoder, squared_error_of_measured
from hpc_ae.model.files import weights_of
from hpc_ae.model.forward import FusedForward
from hpc_ae.model.forward_torch import TorchForward
from hpc_ae.model.hiding import Draws, Hiding
from hpc_ae.model.kernel import Batches, Optimizer
from hpc_ae.model.noise import Noise
from hpc_ae.model.step import Stepper, StepSettings
from hpc_ae.model.weights import read_weights
from hpc_ae.model_export import export_model
from hpc_ae.photometry import simulate_observed, simulate_stars
from hpc_ae.postprocess import PostprocessSettings, ReportPaths, postprocess
from hpc_ae.reading import Reading
from hpc_ae.runtime.ranks import Ranks
from hpc_ae.training.usable import RowKind, UsableStars
from hpc_ae.verify import verify

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


@pytest.mark.parametrize("noisy", [False, True])
def test_every_way_to_compute_hides_the_same(noisy: bool) -> None:
    """10 steps by the kernel alone, by the kernel within a wrapper, and by PyTorch end at the same weights."""
    rows = torch.from_numpy(stars_of(5))
    index = torch.from_numpy(np.random.default_rng(3).integers(0, len(rows), (10, 64)))
    numbers = index + 5_000_000_000
    draws = Draws(Noise(7, 0.1, numbers, 3) if noisy else None, Hiding(7, 0.7, 3, numbers, 3))
    results = []
    for compute, wrap in (("auto", lambda inner: inner), ("auto", Wrapped), ("torch", lambda inner: inner)):
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


# ---- from a catalog to its encoding --------------------------------------------------------------------------------

NUM = 2_000
MASK = {"model": {"missing": "mask"}, "hide_bands": 0.6}


def raw_file(path: Path) -> Path:
    """Simulated stars of which two in five lack a band, one in ten three, some all."""
    stars = simulate_observed(0, NUM, 5)
    magnitude, error = stars["magnitude"].copy(), stars["magnitude_error"].copy()
    random = np.random.default_rng(8)
    order = random.random(magnitude.shape).argsort(axis=1)
    num = random.choice([0, 1, 3, 5], NUM, p=[0.48, 0.4, 0.1, 0.02])
    gone = order < num[:, None]
    magnitude[gone] = np.where(random.random(gone.sum()) < 0.5, 99.0, -99.0)
    error[gone] = np.where(magnitude[gone] > 0, 22.5, 0.0)
    names = {band: magnitude[:, place] for place, band in enumerate(BANDS)}
    names |= {f"err_{band}": error[:, place] for place, band in enumerate(BANDS)}
    pq.write_table(pa.table({"objid": np.arange(NUM) + 10**12, **names}), path)
    return path


@pytest.fixture(scope="module")
def catalogs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same stars with the states of their bands, and without, as SDSS's catalogs are."""
    folder = tmp_path_factory.mktemp("catalogs")
    raw = raw_file(folder / "stars.parquet")
    for name, survey in (("states", "sdss"), ("plain", None)):
        ingest([raw], folder / name, IngestSettings(shard_rows=600, reading=Reading(survey=survey)))
    return {name: folder / name for name in ("states", "plain")}


@pytest.fixture(scope="module")
def whole(catalogs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A tiny masked training that was never interrupted, and its encoding; tests only read it."""
    config = make_config(tmp_path_factory.mktemp("masked"), catalogs["states"], **MASK)
    assert train_here(config) == "done" and encode(config, Ranks()) == "done"
    finalise(config)
    return config


def weights_digest(config: RunConfig) -> str:
    """The digest of the model's weights."""
    return digest_file(config.run_path / "model" / "model.safetensors")


def test_states_of_sdss(catalogs: dict[str, Path]) -> None:
    """The states are there where the survey was said; without a word the catalog is as it always was."""
    states, plain = open_catalog(catalogs["states"]), open_catalog(catalogs["plain"])
    assert set(states.columns) - set(plain.columns) == {"band_state", "magnitude_limit"}
    assert "survey" not in read_json(catalogs["plain"] / "manifest.json")
    assert np.array_equal(states["quality"][:], plain["quality"][:])
    measured = states["band_state"][:] == State.MEASURED
    assert np.array_equal(states["magnitude"][:][measured], plain["magnitude"][:][measured])
    assert set(np.unique(plain["magnitude"][:][~measured])) == {-99.0, 99.0}


def test_which_stars_are_trained_on(catalogs: dict[str, Path]) -> None:
    """Every star with enough bands, whether the catalog says the states or not; its shards' counts are those found."""
    for name, path in catalogs.items():
        catalog = open_catalog(path)
        for least in (1, 3, 5):
            kind = RowKind(least_bands=least, has_states=name == "states")
            counted = UsableStars.of(catalog, kind).counts
            found = [int(kind.usable(arrays).sum()) for arrays in catalog.iter_shards(["magnitude", "quality"])]
            assert counted == found
    assert sum(counted) == catalog.num_good


def test_encoding_of_every_star_with_enough_bands(whole: RunConfig, catalogs: dict[str, Path]) -> None:
    """With three bands or more: a latent, and all bands; the error is that of the measured ones; verify agrees."""
    stars, encoding = open_catalog(catalogs["states"]), open_catalog(whole.encoding_path)
    num = (stars["band_state"][:] == State.MEASURED).sum(axis=1)
    assert np.array_equal(encoding["num_bands"][:], num) and encoding.manifest.min_bands == 3
    for name in ("latent", "reconstruction", "reconstruction_error", "chi2"):
        finite = np.isfinite(encoding[name][:])
        assert np.array_equal(finite.all(axis=1) if finite.ndim > 1 else finite, num >= 3), name
    residual = stars["magnitude"][:] - encoding["reconstruction"][:]
    error = np.sqrt(np.nanmean(residual[num >= 3] ** 2, axis=1))
    assert_allclose(encoding["reconstruction_error"][:][num >= 3], error, atol=1e-5)
    chi2 = np.nansum((residual / stars["magnitude_error"][:])[num >= 3] ** 2, axis=1)
    assert_allclose(encoding["chi2"][:][num >= 3], chi2, rtol=1e-4)
    record = read_json(whole.run_path / "model" / "model.json")
    assert (record["input"], record["min_bands"]) == ("magnitude+mask", 3)
    assert not verify(whole.encoding_path).findings


def test_catalog_without_states_gives_the_same(whole: RunConfig, catalogs: dict[str, Path], tmp_path: Path) -> None:
    """-99 and 99 of a catalog of SDSS are not measured either: same training, same latents."""
    model = {"missing": "mask", "scaling": {"divide": 20.0}}
    config = make_config(tmp_path / "plain", catalogs["plain"], hide_bands=0.6, model=model)
    other = make_config(tmp_path / "states", catalogs["states"], hide_bands=0.6, model=model)
    for one in (config, other):
        assert train_here(one) == "done" and encode(one, Ranks()) == "done"
        finalise(one)
    assert weights_digest(config) == weights_digest(other)
    latents = [open_catalog(one.encoding_path)["latent"][:] for one in (config, other)]
    assert np.array_equal(*latents, equal_nan=True)
    assert not verify(config.encoding_path).findings


def test_resume_is_bitwise(whole: RunConfig, catalogs: dict[str, Path], tmp_path: Path) -> None:
    """Stopped in the middle and started again: what is hidden in the steps that are left is as in the whole run."""
    config = make_config(tmp_path, catalogs["states"], **MASK)
    assert train_here(config, stop_after(2)) == "interrupted"
    assert train_here(config) == "done"
    assert_same_training(config, whole)


def test_streaming_is_bitwise(whole: RunConfig, catalogs: dict[str, Path], tmp_path: Path) -> None:
    """Rows that are read from disk have the same bands hidden as resident ones."""
    config = make_config(tmp_path, catalogs["states"], **MASK, memory_limit="1G")
    assert train_here(config) == "done"
    assert weights_digest(config) == weights_digest(whole)


def test_what_is_hidden_decides_the_model(whole: RunConfig, catalogs: dict[str, Path], tmp_path: Path) -> None:
    """Hiding changes the model; where nothing may be missing its keys are no part of what decides it."""
    config = make_config(tmp_path, catalogs["states"], model={"missing": "mask"}, hide_bands=0.0)
    assert train_here(config) == "done" and weights_digest(config) != weights_digest(whole)
    plain = make_config(tmp_path / "plain", catalogs["states"], steps=5)
    assert train_here(plain) == "done"
    fingerprint = read_json(plain.run_path / "model" / "model.json")["fingerprint"]
    assert "missing" not in fingerprint["model"] and "hide_bands" not in fingerprint["train"]


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_encoding_is_the_same_for_any_ranks(whole: RunConfig, num_ranks: int, tmp_path: Path) -> None:
    """Latents of all stars by one rank or several: the same bytes."""
    config = make_config(tmp_path, whole.catalog_path, **MASK, encode={"model": str(whole.run_path / "model")})
    for rank in range(num_ranks):
        assert encode(config, Ranks(rank, num_ranks, rank, num_ranks)) == "done"
    finalise(config)
    shards = [sorted(one.encoding_path.glob("shard-*.h5")) for one in (config, whole)]
    assert [path.read_bytes() for path in shards[0]] == [path.read_bytes() for path in shards[1]]


@pytest.mark.slow
def test_real_ranks_hide_the_same(whole: RunConfig, catalogs: dict[str, Path], tmp_path: Path) -> None:
    """Two processes over Gloo have the losses of one."""
    config = make_config(tmp_path, catalogs["states"], **MASK)
    for status, output in finish(
        start_ranks(["-m", "hpc_ae", "train", str(write_config(config))], 2, tmp_path / "meet")
    ):
        assert status == 0, output
    for key in ("train_mse_mag2", "validation_mse_mag2"):
        expected = [line[key] for line in metrics_of(whole)]
        assert_allclose([line[key] for line in metrics_of(config)], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"missing": "mask", "min_bands": 6}, "more bands asked for than there are"),
        ({"missing": "refuse"}, "no star of the catalog has all bands"),
        ({"missing": "mask", "min_bands": 4}, "no star of the catalog has 4 measured bands"),
    ],
)
def test_no_star_has_enough(model: dict[str, Any], words: str, tmp_path: Path) -> None:
    """A catalog of which no star has the bands that are asked for is one clear error."""
    rows = "".join(f"{one},15,16,17,,\n" for one in range(200))
    (tmp_path / "stars.csv").write_text("objid,u,g,r,i,z\n" + rows)
    ingest([tmp_path / "stars.csv"], tmp_path / "stars", IngestSettings(reading=Reading(survey="sdss")))
    with pytest.raises(InputError, match=words):
        train_here(make_config(tmp_path / "run", tmp_path / "stars", model=model))


# ---- what comes after ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(whole: RunConfig) -> Path:
    """The report's directory of the masked run."""
    paths = ReportPaths(whole.encoding_path, whole.catalog_path, whole.run_path / "report")
    postprocess(paths, PostprocessSettings(50))
    return whole.run_path


def test_every_star_with_a_latent_is_scored(scored: Path) -> None:
    """Score and probability of each; summary, anomalies and page count them; verify agrees, and finds a changed one."""
    encoding, scores = open_catalog(scored / "encoding"), open_catalog(scored / "scores")
    has_latent = encoding["num_bands"][:] >= 3
    for name in ("anomaly_score", "tail_probability"):
        assert np.array_equal(np.isfinite(scores[name][:]), has_latent)
    summary = read_json(scored / "report" / "summary.json")
    assert summary["num_with_latent"] == has_latent.sum() and summary["num_good"] == encoding.manifest.num_good
    assert sum(one["num_stars"] for one in summary["clusters"]) <= has_latent.sum()
    assert summary["bands"]["u"]["rms_mag"] > 0
    page = (scored / "report" / "index.html").read_text()
    assert "mean number of measured bands" in page and "nan" not in (scored / "report" / "anomalies.csv").read_text()
    assert not verify(scored / "scores").findings


def test_score_does_not_jump(scored: Path) -> None:
    """Of stars that lack one band the scores are as spread as of stars with all, and as rare."""
    num = open_catalog(scored / "encoding")["num_bands"][:]
    scores = open_catalog(scored / "scores")
    score, rare = scores["anomaly_score"][:], scores["tail_probability"][:]
    whole, fewer = num == 5, num == 4
    spread = np.subtract(*np.quantile(score[whole], [0.84, 0.16]))
    assert abs(np.median(score[fewer]) - np.median(score[whole])) < 0.3 * spread
    assert 0.7 < np.subtract(*np.quantile(score[fewer], [0.84, 0.16])) / spread < 1.4
    assert (rare[fewer] < 0.1).mean() < 0.2


def test_hidden_band_keeps_the_rank() -> None:
    """The score of simulated stars with one band hidden follows the one with all: rank correlations above 0.7."""
    magnitude = simulate_observed(0, 20_000, 3)["magnitude"]
    model = fit_score_model({"magnitude": magnitude, "reconstruction": magnitude + np.float32(0.01)})
    rows = magnitude[:4_000]
    quality = np.zeros(len(rows), np.uint16)
    score = model.score({"magnitude": rows, "quality": quality})["anomaly_score"]
    for band in range(5):
        hidden = rows.copy()
        hidden[:, band] = np.nan
        other = model.score({"magnitude": hidden, "filled": rows})["anomaly_score"]
        assert spearmanr(score, other)[0] > 0.7, BANDS[band]
    again = model.score({"magnitude": rows, "filled": rows})["anomaly_score"]
    assert np.array_equal(again, score)


def test_marginals_are_exact() -> None:
    """The surprisal of some bands is minus the logarithm of the integral of the density over the others."""
    generator = np.random.default_rng(1)
    mixture = fit_mixture(generator.normal(size=(3, 2_000)) * [[1.0], [2.0], [0.5]], 4, 1e-3)
    point = np.array([0.3, -0.2, 0.1])
    grid = np.linspace(-12, 12, 4_001)
    columns = np.stack([np.full_like(grid, point[0]), grid, np.full_like(grid, point[2])])
    integral = np.exp(mixture.log_density(columns).astype(np.float64)).sum() * (grid[1] - grid[0])
    found = mixture.marginal([0, 2]).log_density(point[[0, 2], None])[0]
    assert_allclose(found, np.log(integral), atol=1e-3)


@pytest.mark.parametrize("to", ["fits", "parquet", "votable", "hdf5-table"])
def test_exports_with_gaps(scored: Path, to: str, catalogs: dict[str, Path], tmp_path: Path) -> None:
    """States, limits and numbers of bands in each format of `export`, which reads every row back."""
    for path in (catalogs["states"], scored / "encoding", scored / "scores"):
        done = export(path, tmp_path / path.name, ExportSettings(to))
        assert done.num_rows == NUM


def test_postprocess_needs_what_is_predicted(whole: RunConfig, tmp_path: Path) -> None:
    """Without reconstructions the stars that lack bands cannot be judged: one clear error."""
    encode_keys = {"model": str(whole.run_path / "model"), "reconstruction": False}
    config = make_config(tmp_path, whole.catalog_path, **MASK, encode=encode_keys)
    assert encode(config, Ranks()) == "done"
    finalise(config)
    with pytest.raises(InputError, match=r"encode\.reconstruction"):
        postprocess(ReportPaths(config.encoding_path, config.catalog_path, tmp_path / "report"), PostprocessSettings(5))


# ---- how uncertain -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uncertain(catalogs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A masked training of some effort, with its encoding and uncertainties."""
    folder = tmp_path_factory.mktemp("uncertain")
    stars = simulate_observed(0, 20_000, 9)
    names = {band: stars["magnitude"][:, place] for place, band in enumerate(BANDS)}
    names |= {f"err_{band}": stars["magnitude_error"][:, place] for place, band in enumerate(BANDS)}
    pq.write_table(pa.table({"objid": np.arange(20_000), **names}), folder / "stars.parquet")
    ingest([folder / "stars.parquet"], folder / "stars", IngestSettings(reading=Reading(survey="sdss")))
    model = {"missing": "mask"}
    config = make_config(folder / "run", folder / "stars", steps=3_000, model=model, validation_fraction=0.2)
    assert train_here(config) == "done"
    return config


def test_hidden_values_lie_within_their_uncertainty(uncertain: RunConfig) -> None:
    """68 % of new stars' hidden magnitudes differ by less than is stated, noise of the catalog added: to 15 %."""
    stars = simulate_observed(0, 6_000, 77)
    magnitude, error = stars["magnitude"], usable_errors(stars["magnitude_error"])
    weights, record = read_weights(uncertain.run_path / "model")
    tables = read_patterns(record.uncertainty, record.uncertainty_missing, record.bands)
    assert tables is not None and len(tables.tables) >= 5
    forward = FusedForward(weights, kernel_of(weights.architecture))
    usual = tables.of(forward(magnitude).reconstruction, error, np.isnan(magnitude))
    for place, band in enumerate(BANDS):
        seen, known = magnitude.copy(), error.copy()
        seen[:, place], known[:, place] = np.nan, 0
        rebuilt = forward(seen).reconstruction
        found = tables.of(rebuilt, known, np.isnan(seen))
        away = np.abs(rebuilt - magnitude)[:, place] / np.hypot(found[:, place], error[:, place])
        assert 0.85 < np.quantile(away, 0.6827) < 1.15, band
        assert np.median(found[:, place]) > np.median(usual[:, place]), "a band that is predicted is less certain"


def test_pattern_that_was_not_fitted_takes_a_wider_one() -> None:
    """Of the patterns that lack all bands of a star and more the least one; where there is none that lacks most."""
    edges, gain = (np.zeros(0, np.float32), np.zeros((1, 0), np.float32)), np.zeros((1, 4, 4), np.float32)
    table = Uncertainty(*edges, gain, np.full((1, 4), 0.5, np.float32), np.zeros((1, 4), np.float32))
    tables = tuple(replace(table, misfit=np.full((1, 4), size, np.float32)) for size in (1.0, 2.0, 3.0))
    missing = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]], bool)
    found = PatternUncertainty(table, missing, tables)
    lacking = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], bool)
    stated = found.of(np.ones((5, 4), np.float32), None, lacking)[:, 0]
    assert stated.tolist() == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_encoding_states_the_uncertainty_of_its_pattern(uncertain: RunConfig, tmp_path: Path) -> None:
    """encode.uncertainty: every star with a latent has one of every band, wider where the band is missing."""
    rows = open_catalog(uncertain.catalog_path)["magnitude"][:500]
    gaps = rows.copy()
    gaps[::2, 2] = np.nan
    names = {band: gaps[:, place] for place, band in enumerate(BANDS)}
    names |= {f"err_{band}": np.full(500, 0.02) for band in BANDS}
    pq.write_table(pa.table({"objid": np.arange(500), **names}), tmp_path / "stars.parquet")
    ingest([tmp_path / "stars.parquet"], tmp_path / "stars", IngestSettings(reading=Reading(survey="sdss")))
    keys = {"model": str(uncertain.run_path / "model"), "uncertainty": True}
    config = make_config(tmp_path / "run", tmp_path / "stars", model={"missing": "mask"}, encode=keys)
    assert encode(config, Ranks()) == "done"
    finalise(config)
    stated = open_catalog(config.encoding_path)["reconstruction_uncertainty"][:]
    assert np.isfinite(stated).all() and np.median(stated[::2, 2]) > 1.2 * np.median(stated[1::2, 2])
    assert not verify(config.encoding_path).findings


def test_compression_refuses_stars_that_lack_bands(whole: RunConfig, tmp_path: Path) -> None:
    """A compressed catalog has no place for states: one clear error, and nothing is written."""
    with pytest.raises(InputError, match="may lack bands"):
        compress(whole.encoding_path, tmp_path / "out", CompressSettings(0.01))
    assert not (tmp_path / "out").exists()


def test_onnx_of_a_masked_model(whole: RunConfig, tmp_path: Path) -> None:
    """The exported graph makes the mask itself: NaN stands for a band that is not measured."""
    onnxruntime = pytest.importorskip("onnxruntime")
    export_model(whole.run_path / "model", tmp_path / "model.onnx", "onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    magnitude = stars_of(5)
    magnitude = magnitude[np.isfinite(magnitude).sum(axis=1) >= 3]
    latent, rebuilt, error = session.run(None, {"magnitude": magnitude})
    ours = FusedForward(read_weights(whole.run_path / "model")[0], kernel_of(ARCHITECTURES[0]))(magnitude)
    assert_allclose(latent, ours.latent, atol=1e-4)
    assert_allclose(rebuilt, ours.reconstruction, atol=1e-4)
    assert_allclose(error, ours.reconstruction_error, atol=1e-4)
