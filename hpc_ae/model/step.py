"""One optimizer step: loss, gradient, update. Everything that a checkpoint must hold of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hpc_ae.errors import DamageError
from hpc_ae.model.autoencoder import Autoencoder
from hpc_ae.model.objective import FusedObjective, make_objective

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class StepSettings:
    """How to step: optimizer `adam` or `adamw`, compute `auto`, `fused`, `compile` or `torch`."""

    optimizer: str = "adamw"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = None
    compute: str = "auto"
    precision: str = "float32"


class Stepper:
    """Trains `model` with Adam or AdamW (fused).

    `wrap` makes the objective distributed; the loss of a rank is the sum over its rows x world_size / batch_size, so
    that the average that DistributedDataParallel takes is the mean over the global batch for unequal shares too.
    """

    def __init__(self, model: Autoencoder, wrap: Callable[[nn.Module], nn.Module], settings: StepSettings) -> None:
        self.device = next(model.parameters()).device
        self.scaling = {f"scaling.{name}": buffer.clone() for name, buffer in model.scaling.named_buffers()}
        compile_it = settings.compute == "compile" or (settings.compute == "auto" and self.device.type == "cuda")
        self.objective = make_objective(model, "torch" if compile_it else settings.compute, settings.precision)
        self.wrapped: Any = wrap(self.objective)
        if compile_it:
            self._compile(len(model.architecture.bands))
        kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        decay = settings.weight_decay if settings.optimizer == "adamw" else 0.0
        self.parameters = list(self.objective.parameters())
        self.clip_norm = settings.clip_norm
        self.optimizer = kinds[settings.optimizer](
            self.parameters, lr=0.0, betas=settings.betas, weight_decay=decay, fused=True
        )
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)

    def _compile(self, num_bands: int) -> None:
        """Compile forward and backward; where that cannot be done say so once and go on without."""
        plain: Any = self.wrapped
        try:
            self.wrapped = torch.compile(plain)
            index = torch.zeros(2, dtype=torch.int64, device=self.device)
            self.wrapped(torch.zeros((2, num_bands), device=self.device), index).backward()
        except Exception as error:
            self.wrapped = plain
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            print(f"train: torch.compile is not used: {reason[:200]}", file=sys.stderr, flush=True)
        self.objective.zero_grad(set_to_none=True)

    def step(self, rows: Tensor, index: Tensor, learning_rate: float, factor: float) -> None:
        """One update from rows[index] of magnitudes (N, B); `factor` is world_size / batch_size."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        if isinstance(self.wrapped, FusedObjective):  # this rank is alone: no autograd hooks to wait for
            self.loss_sum += self.wrapped.fill_gradient(rows, index, factor)
        else:
            self._backward(rows, index, factor)
        if self.clip_norm is not None:
            clip_gradient(self.parameters, self.clip_norm)
        self.optimizer.step()

    def _backward(self, rows: Tensor, index: Tensor, factor: float) -> None:
        self.optimizer.zero_grad(set_to_none=False)
        loss = self.wrapped(rows, index) * factor
        loss.backward()
        self.loss_sum += loss.detach()

    def take_loss(self) -> float:
        """The sum of this rank's losses since the last call."""
        value = float(self.loss_sum)
        self.loss_sum.zero_()
        return value

    def evaluate(self, magnitude: Tensor) -> float:
        """Sum over stars (N, B) of the squared error in mag^2, in full precision."""
        return self.objective.evaluate(magnitude)

    def weights(self) -> dict[str, Tensor]:
        """A copy of the model's tensors, scaling included."""
        named = self.objective.unpack([parameter.detach() for parameter in self.parameters])
        return {name: tensor.clone() for name, tensor in (named | self.scaling).items()}

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """The optimizer's moments by `exp_avg.<parameter>`; empty before the first step."""
        states = [self.optimizer.state[parameter] for parameter in self.parameters]
        if not all(states):
            return {}
        moments = {moment: self.objective.unpack([state[moment] for state in states]) for moment in _MOMENTS}
        return {f"{moment}.{name}": tensor for moment, named in moments.items() for name, tensor in named.items()}

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor], moments: dict[str, Tensor], num_steps: int) -> None:
        """Go back to the state of a checkpoint taken after `num_steps` steps."""
        try:
            for parameter, values in zip(self.parameters, self.objective.pack(weights), strict=True):
                parameter.copy_(values)
            entries = self._optimizer_entries(moments, num_steps) if moments else {}
        except (KeyError, RuntimeError) as error:
            raise DamageError("a checkpoint does not fit the model", got=str(error)) from error
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": entries, "param_groups": groups})

    def _optimizer_entries(self, moments: dict[str, Tensor], num_steps: int) -> dict[int, dict[str, Any]]:
        entries: dict[int, dict[str, Any]] = {index: {} for index in range(len(self.parameters))}
        for moment in _MOMENTS:
            named = {
                name.removeprefix(f"{moment}."): value
                for name, value in moments.items()
                if name.startswith(f"{moment}.")
            }
            for index, values in enumerate(self.objective.pack(named)):
                entries[index][moment] = values
        for entry in entries.values():
            entry["step"] = torch.tensor(float(num_steps))
        return entries


def clip_gradient(parameters: list[nn.Parameter], largest: float) -> None:
    """Scale the gradient down to a norm of `largest`: a single strange star may else throw the moments off."""
    if len(parameters) > 1 or parameters[0].grad is None:
        torch.nn.utils.clip_grad_norm_(parameters, largest)
    else:  # the same arithmetic in 4 calls instead of 20
        gradient = parameters[0].grad
        gradient.mul_(torch.clamp(largest / (torch.linalg.vector_norm(gradient) + 1e-6), max=1.0))
