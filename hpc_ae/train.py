"""VERB train: a star catalog to checkpoints and a model, on one rank or many. Start and restart are one path.

Shape letters: S steps, N stars, B bands.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpc_ae.analysis.denoising import fit_uncertainty
from hpc_ae.catalog.catalog import Catalog, open_catalog
from hpc_ae.catalog.partition import BatchPlan, check_batches, epoch_batches, owned_partitions, row_shifts
from hpc_ae.catalog.records import StarManifest
from hpc_ae.catalog.training import (
    StreamedRows,
    check_errors,
    count_training_rows,
    load_training_rows,
    load_validation_rows,
    row_width,
)
from hpc_ae.config import RunConfig
from hpc_ae.errors import InputError, WorkError
from hpc_ae.files import remove_debris
from hpc_ae.model.architecture import Architecture
from hpc_ae.model.autoencoder import make_autoencoder
from hpc_ae.model.files import load_autoencoder, write_model
from hpc_ae.model.jacobian import reconstruct
from hpc_ae.model.noise import Noise
from hpc_ae.model.scaling import standard_scaling
from hpc_ae.model.schedule import learning_rate
from hpc_ae.model.step import Stepper, StepSettings
from hpc_ae.model.weights import Origin, Trained, is_model_of
from hpc_ae.provenance import Provenance, check_fingerprint
from hpc_ae.runtime import heartbeat
from hpc_ae.runtime.checkpoint import Checkpoint, CheckpointState, load_newest_checkpoint, save_checkpoint
from hpc_ae.runtime.distributed import Group
from hpc_ae.runtime.metrics import Measurement, Metrics, NoMetrics
from hpc_ae.runtime.prefetch import prefetched
from hpc_ae.runtime.progress import Progress
from hpc_ae.sections import Divide, Standardize

_AGREE_STEPS = 100  # ranks agree on stops and checkpoints at multiples of this
_CHUNK_ROWS = 1 << 20
_OVERHEAD_BYTES = 1 << 30  # of a rank beside its rows
_UNCERTAINTY_STARS = 100_000
_DIVERGED_MSE = 1.0e6  # mag^2; magnitudes lie within 0-30
_TIE = 1.05  # errors this close to the lowest are its equal, as strange stars dominate the mean: the later model wins


@dataclass
class Position:
    """How far the training is: all that a checkpoint holds besides tensors."""

    step: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    best_step: int = -1
    best_mse: float = math.inf
    lowest_mse: float = math.inf
    best: dict[str, Tensor] = field(default_factory=dict)


def train(config: RunConfig, group: Group, stop_requested: Callable[[], bool] = lambda: False) -> str:
    """Train to the end, or until asked to stop. Returns "done" or "interrupted" (a checkpoint is saved).

    InputError where batch size, partitions and number of stars do not go together.
    """
    catalog = open_catalog(config.catalog_path)
    if is_model_of(config.run_path / "model", config.training_fingerprint(catalog.digest)):
        return "done"
    if config.train.needs_errors:
        check_errors(catalog)
    return Training(config, group, catalog).run(stop_requested)


class Training:
    """One rank's training: what it holds and how it goes on."""

    def __init__(self, config: RunConfig, group: Group, catalog: Catalog) -> None:
        self.config, self.group, self.catalog = config, group, catalog
        self.checkpoints_dir = config.run_path / "checkpoints"
        self.plan = self._make_plan()
        self.partitions = owned_partitions(group.ranks.rank, group.ranks.world_size, config.train.partitions)
        self.rows = self._load_rows()
        self.held_out = self._load_held_out()
        self.num_held_out = int(self.group.sum(np.array([len(self.held_out)]))[0])
        self.num_steps = config.train.steps or config.train.epochs * self.plan.steps_per_epoch
        self.architecture = Architecture(tuple(catalog.bands), tuple(config.model.hidden), config.model.latent)
        self.stepper = self._make_stepper()
        self.position = self._restore()

    def _make_plan(self) -> BatchPlan:
        ranks, fraction = self.group.ranks, self.config.train.validation_fraction
        mine = range(ranks.rank, len(self.catalog.shards), ranks.world_size)
        self.counts = self.group.sum(count_training_rows(self.catalog, mine, fraction))
        train = self.config.train
        replacement = train.sampling == "replacement"
        plan = BatchPlan(int(self.counts.sum()), train.partitions, train.batch_size, self.config.seed, replacement)
        check_batches(plan, ranks.world_size)
        return plan

    def _load_rows(self) -> Tensor | StreamedRows:
        """Resident on the device, or streamed where they do not fit."""
        train = self.config.train
        arguments = (
            *(self.catalog, self.counts, self.plan, self.partitions, train.validation_fraction),
            train.needs_errors,
        )
        row_bytes = 4 * row_width(self.catalog, train.needs_errors)
        num_bytes = sum(self.plan.size(partition) for partition in self.partitions) * row_bytes
        if num_bytes + _OVERHEAD_BYTES > train.memory_limit_bytes:
            return StreamedRows(*arguments)
        return torch.from_numpy(load_training_rows(*arguments)).to(self.group.device)

    def _load_held_out(self) -> Tensor:
        """Magnitudes (N, B) of this rank's held-out stars; with errors, where there are any, they stay in memory."""
        ranks, train = self.group.ranks, self.config.train
        fraction = min(train.validation_fraction, train.validation_stars / max(1, self.catalog.num_good))
        mine = range(ranks.rank, len(self.catalog.shards), ranks.world_size)
        errors, num_bands = "magnitude_error" in self.catalog.columns, len(self.catalog.bands)
        self.held_out_rows = load_validation_rows(self.catalog, mine, fraction, errors)
        return torch.from_numpy(np.ascontiguousarray(self.held_out_rows[:, :num_bands])).to(self.group.device)

    def _make_stepper(self) -> Stepper:
        train, device = self.config.train, self.group.device
        mean, std = make_scaling(self.config, self.catalog)
        model = make_autoencoder(self.architecture, mean, std, self.config.seed).to(device)
        names = ("optimizer", "weight_decay", "betas", "clip_norm", "compute", "precision")
        settings = StepSettings(**{name: getattr(train, name) for name in names})
        return Stepper(model, self.group.wrap, settings)

    def _restore(self) -> Position:
        """Start and restart: from the newest checkpoint, or from the beginning where there is none."""
        found = load_newest_checkpoint(self.checkpoints_dir)
        if found is None:
            return Position()
        state = found.state
        wanted = self.config.training_fingerprint(self.catalog.digest)
        check_fingerprint(self.checkpoints_dir, state.fingerprint, wanted, "train")
        self.stepper.load(found.model, found.optimizer, state.step)
        best_mse, lowest_mse = (math.inf if mse is None else mse for mse in (state.best_mse, state.lowest_mse))
        best = {name: tensor.to(self.group.device) for name, tensor in found.best.items()}
        return Position(state.step, state.loss_sum, state.loss_steps, state.best_step, best_mse, lowest_mse, best)

    def run(self, stop_requested: Callable[[], bool]) -> str:
        """Take the steps that are left; validate, record, checkpoint and stop at step boundaries only."""
        batch_size = self.config.train.batch_size
        progress_path = self.config.run_path / "jobs" / "progress" / "train.json" if self.group.is_lead else None
        board = self.config.run_path / "tensorboard" if self.config.train.tensorboard else None
        with Progress(
            "train", self.num_steps * batch_size, "stars", path=progress_path, quiet=not self.group.is_lead
        ) as progress:
            progress.start_at(self.position.step * batch_size)
            with (
                Metrics(self.config.run_path / "metrics.jsonl", self.position.step, board)
                if self.group.is_lead
                else NoMetrics() as metrics
            ):
                self._loop(stop_requested, progress, metrics)
        if self.position.step < self.num_steps:
            return "interrupted"
        self._publish()
        return "done"

    def _loop(self, stop_requested: Callable[[], bool], progress: Progress, metrics: Any) -> None:
        position, train = self.position, self.config.train
        saved_at, saved_step = time.monotonic(), position.step
        factor = self.group.ranks.world_size / train.batch_size
        for rows, index, noise in self._batches():
            steps = range(position.step, position.step + len(index))
            rates = [learning_rate(train.schedule, train.learning_rate, step, self.num_steps) for step in steps]
            self.stepper.steps(rows, index, rates, factor, noise)
            position.step += len(index)
            position.loss_steps += len(index)
            heartbeat.beat(f"step {position.step}{self._reads}")
            if position.step < self._next_boundary(position.step - 1):
                continue
            due = time.monotonic() - saved_at > train.checkpoint_seconds
            stop, due = self._agree(stop_requested(), due)
            if self._is_validation(position.step):
                self._validate(metrics, rates[-1], progress.rate)
            progress.update(position.step * train.batch_size, f"best held-out error {self._best_text()}")
            if stop or due or position.step % train.checkpoint_steps == 0 or position.step == self.num_steps:
                self._save()
                saved_at, saved_step = time.monotonic(), position.step
            if stop and saved_step == position.step:
                return

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Noise | None]]:
        """Magnitudes (N, B), this rank's rows (S, n) of them in the S steps up to the next boundary or fewer, noise."""
        for rows, indices, numbers in prefetched(self._chunks()):
            done = 0
            while done < len(indices):
                first = self.position.step
                steps = slice(done, done + min(len(indices) - done, self._next_boundary(first) - first))
                yield rows, indices[steps], None if numbers is None else self._noise(numbers[steps], first)
                done = steps.stop

    def _noise(self, numbers: Tensor, first_step: int) -> Noise:
        noise = self.config.train.noise
        sigma = noise if isinstance(noise, float) else None
        return Noise(self.config.seed, sigma, numbers, first_step, echo=noise == "pairs")

    def _chunks(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Magnitudes (N, B), row indices (S, n) of some steps at a time, and with noise their numbers (S, n)."""
        plan, left = self.plan, self.num_steps - self.position.step
        chunk_steps = max(1, _CHUNK_ROWS // (plan.slice_rows * len(self.partitions)))
        first_epoch, first_step = divmod(self.position.step, plan.steps_per_epoch)
        for epoch in itertools.count(first_epoch):
            for rows, indices, numbers in self._epoch(epoch, chunk_steps, first_step):
                yield rows, indices[:left], numbers
                left -= len(indices)
                if left <= 0:
                    return
            first_step = 0

    def _epoch(self, epoch: int, chunk_steps: int, first_step: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        device, noisy = self.group.device, self.config.train.noise != "none"
        shifts = row_shifts(self.plan, self.partitions)
        order = epoch_batches(self.plan, epoch, self.partitions, chunk_steps, first_step)
        if isinstance(self.rows, Tensor):
            for rows in order:
                numbers = torch.from_numpy(rows + shifts).to(device) if noisy else None
                yield self.rows, torch.from_numpy(rows).to(device), numbers
            return
        for values in self.rows.chunks(epoch, chunk_steps, first_step):
            num_steps, share, width = values.shape
            numbers = torch.from_numpy(next(order) + shifts).to(device) if noisy else None
            index = torch.arange(num_steps * share, device=device).reshape(num_steps, share)
            yield torch.from_numpy(values.reshape(-1, width)).to(device), index, numbers

    @property
    def _reads(self) -> str:
        return "" if isinstance(self.rows, Tensor) else f", reading {self.catalog.directory}"

    @property
    def _validation_steps(self) -> int:
        return max(1, self.num_steps // self.config.train.validations)

    def _is_validation(self, step: int) -> bool:
        return step % self._validation_steps == 0 or step == self.num_steps

    def _next_boundary(self, step: int) -> int:
        """The first step after `step` at which ranks agree, validate or save."""
        intervals = (_AGREE_STEPS, self.config.train.checkpoint_steps, self._validation_steps)
        return min(self.num_steps, *((step // interval + 1) * interval for interval in intervals))

    def _agree(self, stop: bool, due: bool) -> tuple[bool, bool]:
        """One small all-reduce: the loss over all ranks, and whether any of them wants to stop or to save."""
        sums = self.group.sum(np.array([self.stepper.take_loss(), stop, due and self.group.is_lead], np.float64))
        self.position.loss_sum += float(sums[0]) / self.group.ranks.world_size
        if not self.position.loss_sum < _DIVERGED_MSE * self.position.loss_steps:
            raise WorkError(
                "the training diverged",
                where=f"step {self.position.step}",
                got=f"a mean loss of {self.position.loss_sum / self.position.loss_steps:.4g} mag^2",
                fix="lower train.learning_rate, and discard this training with --redo train",
            )
        return bool(sums[1]), bool(sums[2])

    def _validate(self, metrics: Any, rate: float, stars_per_second: float) -> None:
        position = self.position
        train_mse, held_out_mse = position.loss_sum / max(1, position.loss_steps), None
        position.loss_sum, position.loss_steps = 0.0, 0
        if self.num_held_out:
            total = self.group.sum(np.array([self.stepper.evaluate(self.held_out)]))[0]
            held_out_mse = float(total) / self.num_held_out
            position.lowest_mse = min(position.lowest_mse, held_out_mse)
            if held_out_mse <= position.lowest_mse * _TIE:
                position.best_mse, position.best_step = held_out_mse, position.step
                position.best = self.stepper.weights()
        metrics.write(
            Measurement(
                step=position.step,
                epoch=position.step / self.plan.steps_per_epoch,
                learning_rate=rate,
                train_mse_mag2=train_mse,
                validation_mse_mag2=held_out_mse,
                stars_per_second=round(stars_per_second),
            )
        )

    def _best_text(self) -> str:
        return f"{self.position.best_mse:.4g} mag^2" if math.isfinite(self.position.best_mse) else "not measured yet"

    def _save(self) -> None:
        """Rank 0 writes; all ranks hold the same weights. The others wait, so that a stop loses nothing."""
        if self.group.is_lead:
            position = self.position
            heartbeat.beat(f"step {position.step}, writing a checkpoint to {self.checkpoints_dir}")
            state = CheckpointState(
                loss_sum=position.loss_sum,
                loss_steps=position.loss_steps,
                best_step=position.best_step,
                best_mse=_finite(position.best_mse),
                lowest_mse=_finite(position.lowest_mse),
                fingerprint=self.config.training_fingerprint(self.catalog.digest),
                step=position.step,
            )
            found = Checkpoint(state, self.stepper.weights(), self.stepper.optimizer_tensors(), position.best)
            save_checkpoint(self.checkpoints_dir, found, self.config.train.keep_checkpoints)
        self.group.barrier()

    def _measure_uncertainty(self, tensors: dict[str, Tensor]) -> dict[str, list[Any]] | None:
        """How uncertain the reconstructions are, of the held-out stars of all ranks; None where that is not known."""
        num_bands = len(self.catalog.bands)
        gathered = self.group.gather_rows(self.held_out_rows[:: 1 + self.num_held_out // _UNCERTAINTY_STARS])
        if not self.group.is_lead or gathered.shape[1] == num_bands:
            return None
        gathered = gathered[np.lexsort(gathered.T)]  # whichever rank held them
        magnitude, errors = gathered[:, :num_bands], gathered[:, num_bands:]
        model = load_autoencoder(self.architecture, {name: one.cpu() for name, one in tensors.items()}, "model")
        table = fit_uncertainty(magnitude, errors, *reconstruct(model, magnitude))
        return None if table is None else table.record()

    def _publish(self) -> None:
        tensors = self.position.best or self.stepper.weights()
        uncertainty = self._measure_uncertainty(tensors)
        if self.group.is_lead:
            position, model_dir = self.position, self.config.run_path / "model"
            training = Trained(
                catalog_digest=self.catalog.digest,
                steps=position.step,
                best_step=position.best_step if position.best else position.step,
                validation_mse_mag2=position.best_mse if position.best else None,
                num_training_stars=self.plan.num_rows,
                num_validation_stars=self.num_held_out,
                world_size=self.group.ranks.world_size,
                compute=self.stepper.objective.name,
                torch=torch.__version__,
            )
            origin = Origin(
                training=training,
                fingerprint=self.config.training_fingerprint(self.catalog.digest),
                provenance=Provenance.now(self.config.model_dump(mode="json")),
                uncertainty=uncertainty,
            )
            remove_debris(model_dir)
            write_model(model_dir, self.architecture, tensors, origin)
        self.group.barrier()


def make_scaling(config: RunConfig, catalog: Catalog) -> tuple[list[float], list[float]]:
    """Mean and std per band in mag, as config and catalog say."""
    scaling = config.model.scaling
    if isinstance(scaling, Divide):
        return [0.0] * len(catalog.bands), [scaling.divide] * len(catalog.bands)
    if isinstance(scaling, Standardize):
        for key, values in (("mean", scaling.mean), ("std", scaling.std)):
            if len(values) != len(catalog.bands):
                raise InputError(
                    f"{len(values)} {key}s, {len(catalog.bands)} bands",
                    where=f"model.scaling.{key}",
                    got=values,
                    expected=f"a number for each of {', '.join(catalog.bands)}",
                )
        return scaling.mean, scaling.std
    statistics = catalog.manifest_as(StarManifest).statistics
    known = {band: found.to_json() for band, found in statistics.items()}
    return standard_scaling(known, catalog.bands, catalog.directory)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
