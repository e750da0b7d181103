"""The loop: steps from the position to the end; it validates, records, saves and stops at step boundaries only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hpc_ae.errors import WorkError
from hpc_ae.model.hiding import Draws, Hiding
from hpc_ae.model.noise import Noise
from hpc_ae.model.schedule import learning_rate
from hpc_ae.model.step import Stepper
from hpc_ae.runtime import heartbeat
from hpc_ae.runtime.metrics import Measurement, Metrics, NoMetrics
from hpc_ae.runtime.prefetch import prefetched
from hpc_ae.runtime.progress import Progress
from hpc_ae.sections import TrainSection
from hpc_ae.training.batches import Chunk, chunks
from hpc_ae.training.data import TrainingData
from hpc_ae.training.job import TrainJob
from hpc_ae.training.position import Position, save

_AGREE_STEPS = 100  # ranks agree on stops and checkpoints at multiples of this
_DIVERGED_MSE = 1.0e6  # mag^2; magnitudes lie within 0-30


@dataclass(frozen=True)
class Boundaries:
    """The steps at which all ranks meet: to agree on a stop, to validate, to save."""

    num_steps: int
    validation_steps: int
    checkpoint_steps: int

    def next_after(self, step: int) -> int:
        """The first boundary after a step."""
        intervals = (_AGREE_STEPS, self.checkpoint_steps, self.validation_steps)
        return min(self.num_steps, *((step // interval + 1) * interval for interval in intervals))

    def is_validation(self, step: int) -> bool:
        """Whether the held-out error is measured after this many steps."""
        return step % self.validation_steps == 0 or step == self.num_steps

    def is_checkpoint(self, step: int) -> bool:
        """Whether a checkpoint is made after this many steps, however long ago the last one was."""
        return step % self.checkpoint_steps == 0 or step == self.num_steps


def boundaries_of(train: TrainSection, steps_per_epoch: int) -> Boundaries:
    """Those of a training with epochs of so many steps."""
    num_steps = train.steps or train.epochs * steps_per_epoch
    return Boundaries(num_steps, max(1, num_steps // train.validations), train.checkpoint_steps)


class Loop:
    """One rank's steps: `position` and the stepper's tensors move, all else stays as it is given."""

    def __init__(self, job: TrainJob, data: TrainingData, stepper: Stepper, position: Position) -> None:
        self.job, self.data, self.stepper, self.position = job, data, stepper, position
        self.train, self.group = job.settings.train, job.group
        self.boundaries = boundaries_of(self.train, data.plan.steps_per_epoch)
        self.reads = "" if isinstance(data.rows, Tensor) else f", reading {job.catalog.directory}"

    def run(self, stop_requested: Callable[[], bool]) -> bool:
        """Take the steps that are left; False where a stop was asked for before the last one."""
        layout, is_lead = self.job.layout, self.group.is_lead
        progress_path = layout.progress_path("train") if is_lead else None
        board = layout.tensorboard_dir if self.train.tensorboard else None
        total = self.boundaries.num_steps * self.train.batch_size
        with Progress("train", total, "stars", path=progress_path, quiet=not is_lead) as progress:
            progress.start_at(self.position.step * self.train.batch_size)
            with Metrics(layout.metrics_path, self.position.step, board) if is_lead else NoMetrics() as metrics:
                self._take_steps(stop_requested, progress, metrics)
        return self.position.step == self.boundaries.num_steps

    def _take_steps(self, stop_requested: Callable[[], bool], progress: Progress, metrics: Metrics | NoMetrics) -> None:
        position, train, num_steps = self.position, self.train, self.boundaries.num_steps
        saved_at, saved_step = time.monotonic(), position.step
        factor = self.group.ranks.world_size / train.batch_size
        for chunk in self._chunks():
            steps = range(position.step, position.step + len(chunk.index))
            rates = [learning_rate(train.schedule, train.learning_rate, step, num_steps) for step in steps]
            self.stepper.steps(chunk.rows, chunk.index, rates, factor, self._draws(chunk))
            position.step += len(steps)
            position.loss_steps += len(steps)
            heartbeat.beat(f"step {position.step}{self.reads}")
            if position.step < self.boundaries.next_after(position.step - 1):
                continue
            due = time.monotonic() - saved_at > train.checkpoint_seconds
            stop, due = self._agree(stop_requested(), due)
            if self.boundaries.is_validation(position.step):
                metrics.write(self._measure(rates[-1], progress.rate))
            progress.update(position.step * train.batch_size, f"best held-out error {position.best_text}")
            if stop or due or self.boundaries.is_checkpoint(position.step):
                save(self.job, self.stepper, position)
                saved_at, saved_step = time.monotonic(), position.step
            if stop and saved_step == position.step:
                return

    def _chunks(self) -> Iterator[Chunk]:
        """The steps that are left, up to the next boundary at a time or fewer."""
        numbered = self.train.noise != "none" or self.hides
        for chunk in prefetched(chunks(self.data, self.position.step, self.boundaries.num_steps, numbered)):
            done = 0
            while done < len(chunk.index):
                until = done + self.boundaries.next_after(self.position.step) - self.position.step
                yield chunk.steps(done, until)
                done = until

    @property
    def hides(self) -> bool:
        """Whether bands are hidden from the network."""
        return self.job.settings.model.masked and self.train.hide_bands > 0

    def _draws(self, chunk: Chunk) -> Draws | None:
        """What chance does to the stars of these steps."""
        if chunk.numbers is None:
            return None
        seed, step, noise, hiding = self.job.settings.seed, self.position.step, None, None
        if self.train.noise != "none":
            sigma = self.train.noise if isinstance(self.train.noise, float) else None
            noise = Noise(seed, sigma, chunk.numbers, step, echo=self.train.noise == "pairs")
        if self.hides:
            hiding = Hiding(seed, self.train.hide_bands, self.job.settings.model.min_bands, chunk.numbers, step)
        return Draws(noise, hiding)

    def _agree(self, stop: bool, due: bool) -> tuple[bool, bool]:
        """One small all-reduce: the loss over all ranks, and whether any of them wants to stop or to save."""
        sums = self.group.sum(np.array([self.stepper.take_loss(), stop, due and self.group.is_lead], np.float64))
        position = self.position
        position.loss_sum += float(sums[0]) / self.group.ranks.world_size
        if not position.loss_sum < _DIVERGED_MSE * position.loss_steps:
            raise WorkError(
                "the training diverged",
                where=f"step {position.step}",
                got=f"a mean loss of {position.loss_sum / position.loss_steps:.4g} mag^2",
                fix="lower train.learning_rate, and discard this training with --redo train",
            )
        return bool(sums[1]), bool(sums[2])

    def _measure(self, rate: float, stars_per_second: float) -> Measurement:
        """The losses since the measurement before, and the error on the held-out stars of all ranks."""
        train_mse, held_out_mse = self.position.take_loss(), None
        if self.data.num_held_out:
            total = self.group.sum(np.array([self.stepper.evaluate(self.data.measured)]))[0]
            held_out_mse = float(total) / self.data.num_held_out
            self.position.judge(held_out_mse, self.stepper)
        return Measurement(
            step=self.position.step,
            epoch=self.position.step / self.data.plan.steps_per_epoch,
            learning_rate=rate,
            train_mse_mag2=train_mse,
            validation_mse_mag2=held_out_mse,
            stars_per_second=round(stars_per_second),
        )
