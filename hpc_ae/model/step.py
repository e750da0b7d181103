"""Optimizer steps: loss, gradient, update. Everything that a checkpoint must hold of them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hpc_ae.errors import DamageError
from hpc_ae.model.autoencoder import Autoencoder
from hpc_ae.model.graph import StepGraph
from hpc_ae.model.hiding import Draws
from hpc_ae.model.kernel import Batches, Optimizer
from hpc_ae.model.objective import FusedObjective, make_objective

_MOMENTS = ("exp_avg", "exp_avg_sq")
_EPSILON = 1.0e-8  # torch.optim.AdamW's default


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
    """Trains `model` with Adam or AdamW: PyTorch's, or the fused kernel's on the same state.

    `wrap` makes the objective distributed; the loss of a rank is the sum over its rows x world_size / batch_size, so
    that the average that DistributedDataParallel takes is the mean over the global batch for unequal shares too.
    """

    def __init__(self, model: Autoencoder, wrap: Callable[[nn.Module], nn.Module], settings: StepSettings) -> None:
        self.device = next(model.parameters()).device
        self.scaling = {f"scaling.{name}": buffer.clone() for name, buffer in model.scaling.named_buffers()}
        compile_it = settings.compute == "compile" or (settings.compute == "auto" and self.device.type == "cuda")
        self.objective = make_objective(model, "torch" if compile_it else settings.compute, settings.precision)
        self.wrapped: Any = wrap(self.objective)
        alone = self.wrapped is self.objective
        if compile_it:
            self._compile(len(model.architecture.bands))
        self.settings = settings
        self.parameters = list(self.objective.parameters())
        # PyTorch's optimizers import its compiler, two seconds of a CPU: the kernel, which updates by itself, has none
        self.optimizer = None if isinstance(self.objective, FusedObjective) else self._make_optimizer()
        self._kernel_state: dict[str, Tensor] = {}  # what an optimizer would keep of the kernel's flat parameter
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self._factor, self._rate = 1.0, 0.0
        self._take: Callable[[Tensor, Tensor, Any], None] = self._one_step
        if self.device.type == "cuda" and alone:  # DistributedDataParallel's hooks are not captured
            self._take = StepGraph(self._one_step)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        """Adam or AdamW, fused; on a GPU its step count and learning rate are tensors, as a CUDA graph needs them."""
        on_gpu, settings = self.device.type == "cuda", self.settings
        kind: Any = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
        rate = torch.zeros((), device=self.device) if on_gpu else 0.0
        more = {"lr": rate, "betas": settings.betas, "weight_decay": self._decay}
        optimizer: torch.optim.Optimizer = kind(self.parameters, **more, fused=True, capturable=on_gpu)
        return optimizer

    @property
    def _decay(self) -> float:
        return self.settings.weight_decay if self.settings.optimizer == "adamw" else 0.0

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

    def steps(self, rows: Tensor, index: Tensor, rates: list[float], factor: float, draws: Draws | None = None) -> None:
        """S updates from rows[index[s]] of magnitudes (N, B), index (S, n); `factor` is world_size / batch_size.

        With noise of each star's own errors these follow its magnitudes: rows (N, 2 B).
        """
        if isinstance(self.wrapped, FusedObjective):  # this rank is alone: no autograd hooks to wait for
            self._fused_steps(self.wrapped, Batches(rows.numpy(), index.numpy(), rates, factor, draws))
            return
        self._factor = factor
        drawn = [None] * len(index) if draws is None else self.objective.drawn(draws, rows, index)
        for one, rate, its_draws in zip(index, rates, drawn, strict=True):
            self._set_rate(rate)
            self._take(rows, one, its_draws)

    def _fused_steps(self, objective: FusedObjective, batches: Batches) -> None:
        self.loss_sum += objective.take_steps(batches, self._fused_optimizer(objective))
        self._kernel_state["step"] += len(batches.rates)

    def _fused_optimizer(self, objective: FusedObjective) -> Optimizer:
        """What the kernel's update needs."""
        state = self._kernel_state
        if not state:
            state["step"] = torch.zeros(())
            state.update({moment: torch.zeros_like(objective.flat) for moment in _MOMENTS})
        clip = math.inf if self.settings.clip_norm is None else self.settings.clip_norm
        moments = (state["exp_avg"].numpy(), state["exp_avg_sq"].numpy())
        return Optimizer((*self.settings.betas, _EPSILON, self._decay, clip), moments, int(state["step"]))

    def _set_rate(self, rate: float) -> None:
        self._rate = rate
        for group in self.optimizer.param_groups if self.optimizer is not None else ():
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _one_step(self, rows: Tensor, index: Tensor, drawn: Any = None) -> None:
        """Forward, backward, clip, update, without a synchronisation: it may be captured."""
        (self.optimizer or self.objective).zero_grad(set_to_none=False)
        inputs = (rows, index) if drawn is None else (rows, index, drawn)
        loss = self.wrapped(*inputs) * self._factor
        loss.backward()
        self.loss_sum += loss.detach()
        if isinstance(self.objective, FusedObjective):
            self.objective.update(self._rate, self._fused_optimizer(self.objective))
            self._kernel_state["step"] += 1
            return
        if self.settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        if self.optimizer is not None:
            self.optimizer.step()

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
        kept = self.optimizer.state if self.optimizer is not None else {self.parameters[0]: self._kernel_state}
        states = [kept[parameter] for parameter in self.parameters]
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
        if self.optimizer is None:
            self._kernel_state = entries.get(0, {})
            return
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
                entries[index][moment] = values.to(self.parameters[index].dtype)
        for entry in entries.values():
            entry["step"] = torch.tensor(float(num_steps))
        return entries
