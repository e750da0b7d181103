"""Training: the loss falls, any interruption leaves no trace in the result, any world size sees the same batches."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import await_sign
from numpy.testing import assert_allclose, assert_array_equal
from runs import (
    BANDS,
    CPU,
    assert_same_training,
    change_catalog,
    checkpoint_digests,
    finish,
    make_catalog,
    make_config,
    metrics_of,
    start_ranks,
    stop_after,
    train,
    train_here,
    write_config,
)
from safetensors.torch import load_file

from hpc_ae.catalog.catalog import open_catalog
from hpc_ae.catalog.shard import Arrays
from hpc_ae.config import RunConfig
from hpc_ae.errors import InputError, StaleError, WorkError
from hpc_ae.files import digest_file, read_json
from hpc_ae.model.files import read_model
from hpc_ae.model.weights import Trained
from hpc_ae.runtime.distributed import Group
from hpc_ae.runtime.ranks import Ranks
from hpc_ae.simulate import SimulateSettings, simulate
from hpc_ae.training.split import validation_mask

STEPS = 60
# train_mse_mag2 of each measurement of the tiny run, and validation_mse_mag2 of the last. A change of these numbers is
# a change of what training does; CHANGELOG says why.
GOLDEN_TRAIN = [3.69937449, 1.02450705, 0.58713574, 0.34910622, 0.21506146, 0.1699845]
GOLDEN_VALIDATION = 0.10397635


@pytest.fixture(scope="module")
def catalog_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 simulated stars in four shards."""
    return make_catalog(tmp_path_factory.mktemp("train") / "catalog")


@pytest.fixture(scope="module")
def whole(catalog_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A tiny run that was never interrupted; tests only read it."""
    config = make_config(tmp_path_factory.mktemp("whole"), catalog_dir)
    assert train_here(config) == "done"
    return config


def test_loss_falls(whole: RunConfig) -> None:
    """Training and validation errors fall to less than half, and the metrics have what the contract says."""
    lines = metrics_of(whole)
    assert [line["step"] for line in lines] == list(range(10, STEPS + 1, 10))
    for key in ("train_mse_mag2", "validation_mse_mag2"):
        assert lines[-1][key] < 0.5 * lines[0][key]


def test_model_is_the_best_one(whole: RunConfig) -> None:
    """The model has the weights of a step whose validation error ties (5 %) with the smallest, and says which."""
    errors = {line["step"]: line["validation_mse_mag2"] for line in metrics_of(whole)}
    model, record = read_model(whole.run_path / "model")
    assert isinstance(record.training, Trained)
    best_mse = errors[record.training.best_step]
    assert record.training.validation_mse_mag2 == best_mse <= 1.05 * min(errors.values())
    catalog = open_catalog(whole.catalog_path)
    assert record.training.catalog_digest == catalog.digest and record.training.steps == STEPS
    stars = catalog.read(["objid", "quality", "magnitude"])
    held_out = (stars["quality"] == 0) & validation_mask(stars["objid"], whole.train.validation_fraction)
    with torch.no_grad():
        error = model(torch.from_numpy(stars["magnitude"][held_out])).double().square().mean()
    assert_allclose(float(error), best_mse, rtol=1e-5)


@pytest.mark.parametrize("compute", ["auto", "torch"])
def test_golden_loss(whole: RunConfig, catalog_dir: Path, tmp_path: Path, compute: str) -> None:
    """The committed losses come out to 1e-4, by every way to compute."""
    config = whole
    if compute != "auto":
        config = make_config(tmp_path, catalog_dir, compute=compute)
        train_here(config)
    lines = metrics_of(config)
    assert_allclose([line["train_mse_mag2"] for line in lines], GOLDEN_TRAIN, rtol=1e-4)
    assert_allclose(lines[-1]["validation_mse_mag2"], GOLDEN_VALIDATION, rtol=1e-4)


@pytest.mark.parametrize("num_asks", [1, 3, 5])
def test_resume_is_bitwise(whole: RunConfig, catalog_dir: Path, tmp_path: Path, num_asks: int) -> None:
    """Stopped in the middle and started again: everything is as in the run that was not stopped."""
    config = make_config(tmp_path, catalog_dir)
    assert train_here(config, stop_after(num_asks)) == "interrupted"
    assert not (config.run_path / "model").exists()
    assert train_here(config) == "done"
    assert_same_training(config, whole)


def test_many_stops(whole: RunConfig, catalog_dir: Path, tmp_path: Path) -> None:
    """Stopped at every chance, the training still gets on, and to the same end."""
    config = make_config(tmp_path, catalog_dir)
    outcomes = []
    while not outcomes or outcomes[-1] == "interrupted":
        outcomes.append(train_here(config, lambda: True))
        assert len(outcomes) <= STEPS
    assert_same_training(config, whole)


def test_second_call_does_nothing(whole: RunConfig) -> None:
    """A finished training is not touched by the same command."""
    before = {path: path.stat().st_mtime_ns for path in whole.run_path.rglob("*")}
    assert train_here(whole) == "done"
    assert before == {path: path.stat().st_mtime_ns for path in whole.run_path.rglob("*")}


def test_last_checkpoint_but_no_model(whole: RunConfig, catalog_dir: Path, tmp_path: Path) -> None:
    """Killed after the last checkpoint and before the model was written: the model is made without another step."""
    config = make_config(tmp_path, catalog_dir)
    train_here(config)
    (config.run_path / "model" / "model.json").unlink()
    assert train_here(config) == "done"
    assert_same_training(config, whole)


def test_damaged_newest_checkpoint(whole: RunConfig, catalog_dir: Path, tmp_path: Path) -> None:
    """A damaged newest checkpoint costs the steps since the one before, nothing else."""
    config = make_config(tmp_path, catalog_dir)
    train_here(config, stop_after(4))
    newest = max((config.run_path / "checkpoints").iterdir())
    data = bytearray((newest / "optimizer.safetensors").read_bytes())
    data[-5] ^= 4
    (newest / "optimizer.safetensors").write_bytes(data)
    assert train_here(config) == "done"
    assert_same_training(config, whole)


def reached(config: RunConfig, step: int) -> bool:
    """Whether a checkpoint of this step or a later one is there."""
    names = [path.name for path in config.run_path.glob("checkpoints/step-*")]
    return max(names, default="") >= f"step-{step:09d}"


def batches_of(record_dir: Path, world_size: int) -> list[np.ndarray]:
    """The rows of every global batch (number, magnitudes), sorted by number."""
    parts = [np.load(record_dir / f"rank-{rank}.npy") for rank in range(world_size)]
    assert len({len(part) for part in parts}) == 1
    return [batch[np.argsort(batch[:, 0], kind="stable")] for batch in np.concatenate(parts, axis=1)]


@pytest.fixture(scope="module")
def worlds(
    catalog_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, tuple[RunConfig, list[np.ndarray]]]:
    """The tiny run by 1, 2 and 3 real processes that meet over Gloo, and the batches that they saw."""
    results = {}
    for world_size in (1, 2, 3):
        directory = tmp_path_factory.mktemp(f"world-{world_size}")
        config = make_config(directory / "run", catalog_dir)
        command = ["tests/runs.py", str(write_config(config)), str(directory / "record")]
        for status, output in finish(start_ranks(command, world_size, directory / "meeting")):
            assert status == 0, output
        results[world_size] = (config, batches_of(directory / "record", world_size))
    return results


@pytest.mark.parametrize("world_size", [2, 3])
def test_same_batches_for_any_world_size(
    worlds: dict[int, tuple[RunConfig, list[np.ndarray]]], world_size: int
) -> None:
    """Every global batch has the same stars, with the same magnitudes, however many ranks share it."""
    expected, got = worlds[1][1], worlds[world_size][1]
    assert len(expected) == len(got) == STEPS and expected[0].shape == (64, 1 + len(BANDS))
    for one, other in zip(expected, got, strict=True):
        assert_array_equal(one, other)


def test_every_batch_has_other_good_stars(
    worlds: dict[int, tuple[RunConfig, list[np.ndarray]]], catalog_dir: Path
) -> None:
    """In one epoch no star comes twice; the stars are the good ones that are not held out, in catalog order."""
    config, batches = worlds[1]
    stars = open_catalog(catalog_dir).read(["objid", "quality", "magnitude"])
    used = (stars["quality"] == 0) & ~validation_mask(stars["objid"], config.train.validation_fraction)
    rows = np.concatenate(batches[: used.sum() // 64 - 1])
    assert len(np.unique(rows[:, 0])) == len(rows)
    assert_array_equal(stars["magnitude"][used][rows[:, 0].astype(int)], rows[:, 1:].astype(np.float32))


@pytest.mark.parametrize("world_size", [2, 3])
def test_same_losses_for_any_world_size(worlds: dict[int, tuple[RunConfig, list[np.ndarray]]], world_size: int) -> None:
    """The losses of 60 steps are equal to 1e-4, unequal shares included: only the order of sums differs; by how much
    rounding then grows depends on the processor (1.8e-5 seen).
    """
    expected, got = metrics_of(worlds[1][0]), metrics_of(worlds[world_size][0])
    for key in ("step", "learning_rate", "train_mse_mag2", "validation_mse_mag2"):
        assert_allclose([line[key] for line in got], [line[key] for line in expected], rtol=1e-4)


def test_a_rank_alone_does_not_import_the_compiler(worlds: dict[int, tuple[RunConfig, list[np.ndarray]]]) -> None:
    """With the fused kernel it does not pay for PyTorch's compiler, which takes as long to import as all the rest."""
    record_dir = worlds[1][0].run_path.parent / "record"
    assert [path.name for path in record_dir.iterdir()] == ["rank-0.npy"]


def test_one_real_rank_is_the_process_alone(
    worlds: dict[int, tuple[RunConfig, list[np.ndarray]]], whole: RunConfig
) -> None:
    """A process of world size 1 gives the bits of a call in this process."""
    assert_same_training(worlds[1][0], whole)


def test_resume_of_two_ranks(
    worlds: dict[int, tuple[RunConfig, list[np.ndarray]]], catalog_dir: Path, tmp_path: Path
) -> None:
    """A run of one rank that was stopped, resumed by two, has the losses of a run of one or two throughout."""
    config = make_config(tmp_path, catalog_dir)
    assert train_here(config, stop_after(3)) == "interrupted"
    command = ["-m", "hpc_ae", "train", str(write_config(config))]
    for status, output in finish(start_ranks(command, 2, tmp_path / "meeting")):
        assert status == 0, output
    for key in ("train_mse_mag2", "validation_mse_mag2"):
        expected = [line[key] for line in metrics_of(worlds[2][0])]
        assert_allclose([line[key] for line in metrics_of(config)], expected, rtol=1e-4)


@pytest.mark.slow  # that a job is requeued, and a run cancelled, are tests of the ordinary suite
def test_stop_of_one_rank_stops_all(catalog_dir: Path, tmp_path: Path) -> None:
    """SIGTERM to one of two ranks: both end at the same step with a checkpoint; the resumed run is bitwise equal."""
    settings = {"steps": 300, "checkpoint_steps": 20, "validations": 5}
    configs = [make_config(tmp_path / name, catalog_dir, **settings) for name in ("whole", "stopped")]
    commands = [["-m", "hpc_ae", "train", str(write_config(config))] for config in configs]
    assert {status for status, _ in finish(start_ranks(commands[0], 2, tmp_path / "meeting-0"))} == {0}
    ranks = start_ranks(commands[1], 2, tmp_path / "meeting-1")
    await_sign(partial(reached, configs[1], 60), ranks[1], interval=0.001)
    ranks[1].send_signal(signal.SIGTERM)
    assert {status for status, _ in finish(ranks)} <= {0, 1, 130, 143}
    assert not (configs[1].run_path / "model" / "model.json").exists()
    assert {status for status, _ in finish(start_ranks(commands[1], 2, tmp_path / "meeting-2"))} == {0}
    assert_same_training(configs[1], configs[0])


def _spoil_bad(value: float) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays["magnitude"][arrays["quality"] != 0] = value

    return change


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e30, 0.0])
def test_flagged_stars_are_never_used(whole: RunConfig, catalog_dir: Path, tmp_path: Path, value: float) -> None:
    """Whatever stands in the flagged rows, the model comes out with the same bits."""
    changed = change_catalog(catalog_dir, tmp_path / "catalog", _spoil_bad(value))
    assert open_catalog(changed).num_good < open_catalog(changed).num_stars
    config = make_config(tmp_path / "run", changed)
    train_here(config)
    assert metrics_of(config) == metrics_of(whole)
    names = ("model.safetensors", "optimizer.safetensors", "best.safetensors")
    digests = [checkpoint_digests(run, STEPS) for run in (config, whole)]
    assert [digests[0][name] for name in names] == [digests[1][name] for name in names]


def test_held_out_stars_are_never_trained_on(catalog_dir: Path, tmp_path: Path) -> None:
    """Held-out stars may be anything: the trained weights keep their bits, and only the validation error changes."""

    def spoil(arrays: Arrays) -> None:
        arrays["magnitude"][validation_mask(arrays["objid"], 0.05)] = 3.0

    dirs = [catalog_dir, change_catalog(catalog_dir, tmp_path / "catalog", spoil)]
    scaling = {"scaling": {"divide": 20.0}}
    configs = [make_config(tmp_path / str(index), path, model=scaling) for index, path in enumerate(dirs)]
    for config in configs:
        train_here(config)
    digests = [checkpoint_digests(config, STEPS) for config in configs]
    assert digests[0]["model.safetensors"] == digests[1]["model.safetensors"]
    errors = [metrics_of(config)[-1]["validation_mse_mag2"] for config in configs]
    assert errors[1] > 2 * errors[0]


def test_seed_recipe(catalog_dir: Path, tmp_path: Path) -> None:
    """The lecture's recipe trains: magnitudes / 20, Adam, constant rate, draws with replacement."""
    recipe = {"learning_rate": 2e-3, "optimizer": "adam", "schedule": "constant", "sampling": "replacement"}
    model = {"scaling": {"divide": 20.0}}
    config = make_config(tmp_path, catalog_dir, steps=300, model=model, **recipe)
    assert train_here(config) == "done"
    lines = metrics_of(config)
    assert {line["learning_rate"] for line in lines} == {2e-3}
    assert lines[-1]["validation_mse_mag2"] < 0.5 * lines[0]["validation_mse_mag2"]
    tensors = load_file(config.run_path / "model" / "model.safetensors")
    assert_array_equal(tensors["scaling.mean"], np.zeros(5, np.float32))
    assert_array_equal(tensors["scaling.std"], np.full(5, 20, np.float32))


def test_no_validation_stars(catalog_dir: Path, tmp_path: Path) -> None:
    """Without held-out stars all good stars are trained on, and the model is the last one."""
    config = make_config(tmp_path, catalog_dir, validation_fraction=0.0)
    assert train_here(config) == "done"
    training = read_json(config.run_path / "model" / "model.json")["training"]
    assert training["num_training_stars"] == open_catalog(catalog_dir).num_good
    assert (training["validation_mse_mag2"], training["best_step"]) == (None, STEPS)


def test_epochs(catalog_dir: Path, tmp_path: Path) -> None:
    """`epochs` are passes over the training stars, the remainder of less than a batch left out."""
    config = make_config(tmp_path, catalog_dir, steps=None, epochs=2, validations=2)
    train_here(config)
    training = read_json(config.run_path / "model" / "model.json")["training"]
    assert training["steps"] == 2 * (training["num_training_stars"] // 8 // 8)
    assert [line["epoch"] for line in metrics_of(config)] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 100}, r"train\.batch_size[\s\S]*100 over 8 partitions[\s\S]*96 or 104"),
        ({"batch_size": 4}, r"train\.batch_size[\s\S]*4 over 8 partitions[\s\S]*8, the smallest valid size"),
        ({"batch_size": 8_000}, r"fewer training stars than one batch[\s\S]*at least 8000[\s\S]*smaller"),
        ({"batch_size": 4_096, "partitions": 4_096}, r"fewer training stars than one batch"),
    ],
)
def test_batches_that_do_not_fit(catalog_dir: Path, tmp_path: Path, settings: dict[str, int], message: str) -> None:
    """A batch size that partitions or stars do not allow is an InputError with the way out; nothing is written."""
    with pytest.raises(InputError, match=message):
        train_here(make_config(tmp_path / "run", catalog_dir, **settings))
    assert not (tmp_path / "run").exists()


def test_without_a_good_star(tmp_path: Path) -> None:
    """A catalog of bad stars alone is called that, not one of constant magnitudes."""
    simulate(tmp_path / "stars", SimulateSettings(500, bad_fraction=0.999999))
    with pytest.raises(InputError, match=r"no star of the catalog has all bands[\s\S]*500 stars, none of them usable"):
        train_here(make_config(tmp_path / "run", tmp_path / "stars"))


class _Sums(Group):
    """Rank 0 of several whose others hold nothing."""

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The others have zeros."""
        return values


def test_more_ranks_than_partitions(catalog_dir: Path, tmp_path: Path) -> None:
    """Nine ranks cannot share eight partitions: InputError with the number to set."""
    config = make_config(tmp_path / "run", catalog_dir)
    with pytest.raises(InputError, match=r"more ranks than partitions[\s\S]*train\.partitions to 9"):
        train(config, _Sums(Ranks(0, 9, 0, 9), CPU))


def test_no_catalog(tmp_path: Path) -> None:
    """A catalog that is not there is an InputError."""
    with pytest.raises(InputError, match="not a catalog"):
        train_here(make_config(tmp_path / "run", tmp_path / "catalog"))


def test_catalog_of_equal_stars(catalog_dir: Path, tmp_path: Path) -> None:
    """A band without any spread cannot be standardized: InputError that names the key."""

    def flatten(arrays: Arrays) -> None:
        arrays["magnitude"][:, 2] = 18.0

    changed = change_catalog(catalog_dir, tmp_path / "catalog", flatten)
    with pytest.raises(InputError, match=r"model\.scaling"):
        train_here(make_config(tmp_path / "run", changed))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"learning_rate": 1e-3}, "train.learning_rate"),
        ({"steps": 70}, "train.steps"),
        ({"batch_size": 128}, "train.batch_size"),
        ({"model": {"latent": 3}}, "model.latent"),
        ({"model": {"scaling": {"divide": 20.0}}}, "model.scaling"),
        ({"seed": 2}, "seed"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_changed_config_is_stale(
    catalog_dir: Path, tmp_path: Path, changes: dict[str, Any], key: str, finished: bool
) -> None:
    """A run directory that another config began or finished is not gone on with: StaleError names the key."""
    old = make_config(tmp_path, catalog_dir, steps=10, checkpoint_steps=5)
    train_here(old, (lambda: False) if finished else stop_after(1))
    new = make_config(tmp_path, catalog_dir, **{"steps": 10, "checkpoint_steps": 5, **changes})
    with pytest.raises(StaleError, match=rf"{key}[\s\S]*--redo train"):
        train_here(new)


def test_changed_catalog_is_stale(catalog_dir: Path, tmp_path: Path) -> None:
    """Another catalog under a begun training is a StaleError too."""
    train_here(make_config(tmp_path / "run", catalog_dir, steps=10), stop_after(1))
    other = make_catalog(tmp_path / "catalog", 1_000)
    with pytest.raises(StaleError, match="catalog"):
        train_here(make_config(tmp_path / "run", other, steps=10))


def test_operational_keys_may_change(whole: RunConfig, catalog_dir: Path, tmp_path: Path) -> None:
    """How often checkpoints are made, and how many are kept, may change between start and restart."""
    train_here(make_config(tmp_path, catalog_dir), stop_after(2))
    config = make_config(tmp_path, catalog_dir, checkpoint_steps=7, checkpoint_seconds=0.001, keep_checkpoints=1)
    assert train_here(config) == "done"
    weights = [digest_file(run.run_path / "model" / "model.safetensors") for run in (config, whole)]
    assert weights[0] == weights[1]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"step-{STEPS:09d}"]


def test_keep_checkpoints(whole: RunConfig, catalog_dir: Path, tmp_path: Path) -> None:
    """The newest keep_checkpoints are there at the end."""
    config = make_config(tmp_path, catalog_dir, keep_checkpoints=2)
    train_here(config)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000000040", "step-000000060"]
    assert len(list((whole.run_path / "checkpoints").iterdir())) == 3


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_diverging_training(catalog_dir: Path, tmp_path: Path, optimizer: str) -> None:
    """A learning rate of 1e6 ends in a WorkError that names it; no model and no checkpoint without meaning is left."""
    often = {"steps": 400, "validations": 40, "checkpoint_steps": 1}  # the first step's checkpoint has its meaning
    config = make_config(tmp_path, catalog_dir, learning_rate=1e6, optimizer=optimizer, **often)
    with pytest.raises(WorkError, match=r"diverged[\s\S]*train\.learning_rate") as caught:
        train_here(config)
    assert not (tmp_path / "model").exists()
    kept = list((tmp_path / "checkpoints").glob("*/model.safetensors"))
    assert kept and all(torch.isfinite(tensor).all() for path in kept for tensor in load_file(path).values())
    diverged_at = int(str(caught.value.where).removeprefix("step "))
    assert max(int(path.parent.name.removeprefix("step-")) for path in kept) == diverged_at - 1


def test_tensorboard(catalog_dir: Path, tmp_path: Path) -> None:
    """train.tensorboard writes event files with the metrics' numbers."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = make_config(tmp_path, catalog_dir, tensorboard=True)
    train_here(config)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    written = {event.step: event.value for event in events.Scalars("train_mse_mag2")}
    expected = {line["step"]: line["train_mse_mag2"] for line in metrics_of(config)}
    assert written == pytest.approx(expected, rel=1e-6)


def test_progress_file(whole: RunConfig) -> None:
    """The progress file ends with all stars done."""
    record = read_json(whole.run_path / "jobs" / "progress" / "train.json")
    assert (record["state"], record["done"], record["total"]) == ("done", STEPS * 64, STEPS * 64)


def test_model_record_is_plain_json(whole: RunConfig) -> None:
    """model.json holds the fingerprint of what made it, with the seed."""
    record = json.loads((whole.run_path / "model" / "model.json").read_text())
    assert record["fingerprint"]["seed"] == 1 and record["fingerprint"]["train"]["batch_size"] == 64


def test_world_size_is_not_in_the_fingerprint(whole: RunConfig) -> None:
    """A model made by one rank is taken as done by any number of ranks."""
    assert train(whole, _Sums(Ranks(0, 2, 0, 2), CPU)) == "done"
