"""The training objective behind one interface: by PyTorch's operators, or by the fused kernel on flat parameters.

Both give the sum over stars of the quadratic loss in mag^2 and read and write the same named tensors, so that a
checkpoint does not depend on which of them made it. Shape letters: N rows held, n rows of a batch, B bands, S steps.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hpc_ae.errors import HpcAeError
from hpc_ae.model.autoencoder import Autoencoder, squared_error, squared_error_of_measured
from hpc_ae.model.hiding import Draws
from hpc_ae.model.kernel import Batches, Kernel, Network, Optimizer, load_kernel

_EVALUATION_ROWS = 16_384


class Objective(Protocol):
    """What a Stepper needs of an objective, which is also an nn.Module."""

    name: str

    def unpack(self, tensors: list[Tensor]) -> dict[str, Tensor]:
        """One tensor per module parameter to the model's names."""
        ...

    def pack(self, named: dict[str, Tensor]) -> list[Tensor]:
        """The other way round; KeyError where a name is missing."""
        ...

    def evaluate(self, magnitude: Tensor) -> float:
        """Sum of the squared error in mag^2 over stars (N, B), in full precision."""
        ...

    def drawn(self, draws: Draws, rows: Tensor, index: Tensor) -> Sequence[Any]:
        """For each of the S steps what `forward` takes as what chance does."""
        ...


class TorchObjective(nn.Module):
    """PyTorch's operators, on any device, in the precision asked for."""

    def __init__(self, model: Autoencoder, precision: str = "float32") -> None:
        super().__init__()
        self.model = model
        self.precision = precision
        self.echo = 0.0
        self.num_bands = len(model.architecture.bands)
        self.error_of = squared_error_of_measured if model.architecture.masked else squared_error
        self.name = f"torch-{next(model.parameters()).device.type}-{precision}"
        if precision == "tf32":
            torch.set_float32_matmul_precision("high")

    def forward(self, rows: Tensor, index: Tensor, drawn: tuple[Tensor | None, Tensor | None] = (None, None)) -> Tensor:
        """Loss of rows[index]: (N, B), (n,) to a scalar.

        `drawn` is noise (n, B) in mag, which the network sees and is not to answer, and which bands, bool (n, B), it
        does not see and is to answer.
        """
        noise, hidden = drawn
        stars = rows.index_select(0, index)[:, : self.num_bands]
        seen = stars if noise is None else stars + noise
        if hidden is None:
            with torch.autocast(rows.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                residual = self.model(seen).float()
        else:
            with torch.autocast(rows.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                answer = self.model.predict(seen.masked_fill(hidden, torch.nan))
            residual = seen - answer.float()
        return self.error_of(residual if noise is None else residual - noise * (1.0 + self.echo)).sum()

    def drawn(self, draws: Draws, rows: Tensor, index: Tensor) -> Sequence[Any]:
        """Noise (n, B) in mag and hidden bands (n, B) of each step: all at once, and outside of a captured step."""
        noise, hiding = draws.noise, draws.hiding
        self.echo = 0.0 if noise is None else float(noise.echo)
        noises = [None] * len(index) if noise is None else noise.draw(rows, index)
        hidden = [None] * len(index) if hiding is None else hiding.draw(~rows[:, : self.num_bands][index].isnan())
        return list(zip(noises, hidden, strict=True))

    def unpack(self, tensors: list[Tensor]) -> dict[str, Tensor]:
        """One tensor per parameter to its name."""
        return dict(zip((name for name, _ in self.model.named_parameters()), tensors, strict=True))

    def pack(self, named: dict[str, Tensor]) -> list[Tensor]:
        """Named tensors to one per parameter."""
        return [named[name] for name, _ in self.model.named_parameters()]

    @torch.no_grad()
    def evaluate(self, magnitude: Tensor) -> float:
        """Sum of the squared error in mag^2 over stars (N, B)."""
        parts = [self.error_of(self.model(part)).double().sum() for part in torch.split(magnitude, _EVALUATION_ROWS)]
        return float(torch.stack(parts).sum()) if parts else 0.0


class FusedObjective(nn.Module):
    """The fused kernel on one flat parameter: a step is one call, an all-reduce one bucket. CPU, float32."""

    def __init__(self, model: Autoencoder, kernel: Kernel) -> None:
        super().__init__()
        self.kernel = kernel
        self.name = kernel.name
        self.shapes = {name: tensor.shape for name, tensor in model.named_parameters()}
        self.flat = nn.Parameter(torch.cat([tensor.detach().reshape(-1) for tensor in model.parameters()]))
        self.scaling = (model.scaling.mean.numpy(), model.scaling.std.numpy())
        self.network = Network(self.flat.detach().numpy(), self.scaling)

    def take_steps(self, batches: Batches, optimizer: Optimizer) -> float:
        """Loss, gradient and update of many steps in one call, without autograd: for a rank alone."""
        return self.kernel.train(self.network, batches, optimizer, torch.get_num_threads())

    def update(self, rate: float, optimizer: Optimizer) -> None:
        """One update from the gradient that DistributedDataParallel has averaged."""
        if self.flat.grad is not None:
            self.kernel.update(self.network, self.flat.grad.numpy(), rate, optimizer)

    def forward(self, rows: Tensor, index: Tensor, draws: Draws | None = None) -> Tensor:
        """Loss of rows[index]: (N, B), (n,) to a scalar; its gradient comes with it."""
        loss: Tensor = _FusedLoss.apply(self.flat, self, rows, index, draws)  # type: ignore[no-untyped-call]
        return loss

    def drawn(self, draws: Draws, rows: Tensor, index: Tensor) -> Sequence[Any]:
        """What chance does in each step, which the kernel draws tile by tile."""
        return [draws.of_step(step) for step in range(len(index))]

    def unpack(self, tensors: list[Tensor]) -> dict[str, Tensor]:
        """The flat tensor to views by name."""
        parts = torch.split(tensors[0], [shape.numel() for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def pack(self, named: dict[str, Tensor]) -> list[Tensor]:
        """Named tensors to the flat one."""
        return [torch.cat([named[name].reshape(-1) for name in self.shapes])]

    @torch.no_grad()
    def evaluate(self, magnitude: Tensor) -> float:
        """Sum of the squared error in mag^2 over stars (N, B)."""
        error = self.kernel.encode(self.flat.numpy(), self.scaling, magnitude.numpy(), reconstruction=False)[2]
        return float((error.astype("f8") ** 2).sum())


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, flat: Tensor, objective: FusedObjective, rows: Tensor, index: Tensor, draws: Draws | None
    ) -> Tensor:
        gradient = torch.empty_like(flat)
        arrays, num_threads = (rows.numpy(), index.numpy()), torch.get_num_threads()
        loss = objective.kernel.gradient(objective.network, arrays, gradient.numpy(), num_threads, draws)
        ctx.gradient = gradient
        return torch.tensor(loss, dtype=torch.float64)

    @staticmethod
    def backward(ctx: Any, *factors: Any) -> Any:
        return ctx.gradient.mul_(factors[0]), None, None, None, None


def make_objective(model: Autoencoder, compute: str, precision: str) -> TorchObjective | FusedObjective:
    """`auto`: the fused kernel on CPUs where it can be built, else PyTorch, saying so once."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    if compute == "fused" or (compute == "auto" and on_cpu and precision == "float32"):
        try:
            return FusedObjective(model, load_kernel(model.architecture))
        except HpcAeError as error:
            if compute == "fused":
                raise
            print(f"train: PyTorch's operators are used, which is slower: {error}", file=sys.stderr, flush=True)
    return TorchObjective(model, precision)
