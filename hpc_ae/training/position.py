"""How far a training is: all that a checkpoint holds, back from one and into one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from hpc_ae.model.step import Stepper
from hpc_ae.provenance import check_fingerprint
from hpc_ae.runtime import heartbeat
from hpc_ae.runtime.checkpoint import Checkpoint, CheckpointState, load_newest_checkpoint, save_checkpoint
from hpc_ae.training.job import TrainJob

_TIE = 1.05  # errors this close to the lowest are its equal, as strange stars dominate the mean: the later model wins


@dataclass
class Position:
    """How far the training is, and the best model so far: all that a checkpoint holds beside the stepper's tensors."""

    step: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    best_step: int = -1
    best_mse: float = math.inf
    lowest_mse: float = math.inf
    best: dict[str, Tensor] = field(default_factory=dict)

    def take_loss(self) -> float:
        """The mean loss of the steps since the last call, in mag^2."""
        mean = self.loss_sum / max(1, self.loss_steps)
        self.loss_sum, self.loss_steps = 0.0, 0
        return mean

    def judge(self, mse: float, stepper: Stepper) -> None:
        """Keep the model of this step where its error on the held-out stars ties with the lowest."""
        self.lowest_mse = min(self.lowest_mse, mse)
        if mse <= self.lowest_mse * _TIE:
            self.best_mse, self.best_step, self.best = mse, self.step, stepper.weights()

    @property
    def best_text(self) -> str:
        """The error of the best model, for a person."""
        return f"{self.best_mse:.4g} mag^2" if math.isfinite(self.best_mse) else "not measured yet"


def restore(job: TrainJob, stepper: Stepper) -> Position:
    """Start and restart: from the newest checkpoint, or from the beginning where there is none."""
    found = load_newest_checkpoint(job.layout.checkpoints_dir)
    if found is None:
        return Position()
    state = found.state
    check_fingerprint(job.layout.checkpoints_dir, state.fingerprint, job.fingerprint, "train")
    stepper.load(found.model, found.optimizer, state.step)
    return Position(
        step=state.step,
        loss_sum=state.loss_sum,
        loss_steps=state.loss_steps,
        best_step=state.best_step,
        best_mse=math.inf if state.best_mse is None else state.best_mse,
        lowest_mse=math.inf if state.lowest_mse is None else state.lowest_mse,
        best={name: tensor.to(job.group.device) for name, tensor in found.best.items()},
    )


def save(job: TrainJob, stepper: Stepper, position: Position) -> None:
    """Rank 0 writes; all ranks hold the same weights. The others wait, so that a stop loses nothing."""
    if job.group.is_lead:
        heartbeat.beat(f"step {position.step}, writing a checkpoint to {job.layout.checkpoints_dir}")
        state = CheckpointState(
            loss_sum=position.loss_sum,
            loss_steps=position.loss_steps,
            best_step=position.best_step,
            best_mse=_finite(position.best_mse),
            lowest_mse=_finite(position.lowest_mse),
            fingerprint=job.fingerprint,
            step=position.step,
        )
        checkpoint = Checkpoint(state, stepper.weights(), stepper.optimizer_tensors(), position.best)
        save_checkpoint(job.layout.checkpoints_dir, checkpoint, job.settings.train.keep_checkpoints)
    job.group.barrier()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
