"""Training throughput against the bare compiled loop, the lecture's loop, JAX's scan and Lightning, on the same stars.

python benchmarks/train.py [--batches 512 4096 16384]    about 4 minutes; JAX and Lightning are measured where installed
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from common import hpc_ae, report, stopwatch

from hpc_ae import open_catalog
from hpc_ae.model.architecture import Architecture
from hpc_ae.model.autoencoder import make_autoencoder, squared_error

ARCHITECTURE = Architecture(("u", "g", "r", "i", "z"))
SCALING = ([20.9, 19.0, 18.0, 17.6, 17.3], [2.3, 1.9, 1.6, 1.6, 1.6])
NUM_STARS = 200_000


def rate_of(step: Callable[[int], Any], batch: int, seconds_wanted: float = 5.0) -> float:
    """Stars/s of `step(k)` after 20 steps of warm-up."""
    for k in range(20):
        step(k)
    with stopwatch() as seconds:
        k = 0
        while seconds() < seconds_wanted:
            for _ in range(10):
                step(k)
                k += 1
        return k * batch / seconds()


def bare_loop(rows: torch.Tensor, batch: int, threads: int, *, compiled: bool) -> float:
    """Batches of one tensor, Adam: compiled with a fused Adam, or as the lecture does."""
    torch.set_num_threads(threads)
    model = make_autoencoder(ARCHITECTURE, *SCALING, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, fused=compiled)

    def loss_of(values: torch.Tensor) -> torch.Tensor:
        return squared_error(model(values)).mean()

    function = torch.compile(loss_of) if compiled else loss_of
    batches = rows.split(batch)[:-1]
    generator = np.random.default_rng(1)

    def step(k: int) -> None:
        values = batches[k % len(batches)] if compiled else rows[generator.integers(0, len(rows), batch)]
        optimizer.zero_grad()
        loss = function(values)
        loss.backward()
        optimizer.step()
        if not compiled:
            loss.item()

    return rate_of(step, batch)


def jax_scan(rows: np.ndarray, batch: int) -> float | None:
    """A jitted scan over 50 steps with Adam written out; None where JAX is not installed."""
    try:
        import jax
        import jax.numpy as jnp
    except ImportError:
        return None
    model = make_autoencoder(ARCHITECTURE, *SCALING, 1)
    weights = {name: jnp.asarray(tensor.detach().numpy()) for name, tensor in model.named_parameters()}
    mean, std = (jnp.asarray(values, jnp.float32) for values in SCALING)

    def half(values: Any, part: str) -> Any:
        for index in range(0, 12, 3):
            values = values @ weights_of[f"{part}.{index}.weight"].T + weights_of[f"{part}.{index}.bias"]
            values = jax.nn.silu(values)
            centred = values - values.mean(-1, keepdims=True)
            values = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)
            values = values * weights_of[f"{part}.{index + 2}.weight"] + weights_of[f"{part}.{index + 2}.bias"]
        return values @ weights_of[f"{part}.12.weight"].T + weights_of[f"{part}.12.bias"]

    weights_of: Any = {}

    def loss(parameters: Any, values: Any) -> Any:
        nonlocal weights_of
        weights_of = parameters
        scaled = (values - mean) / std
        return jnp.square((scaled - half(half(scaled, "encoder"), "decoder")) * std).mean()

    def update(state: Any, values: Any) -> Any:
        parameters, first, second, count = state
        gradient = jax.grad(loss)(parameters, values)
        count = count + 1
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)
        rate = 2e-3 * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        parameters = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), parameters, first, second)
        return (parameters, first, second, count), None

    steps = 50
    run = jax.jit(lambda state, values: jax.lax.scan(update, state, values)[0])
    zeros = jax.tree.map(jnp.zeros_like, weights)
    state = (weights, zeros, zeros, jnp.zeros((), jnp.float32))
    values = jnp.asarray(rows[: steps * batch].reshape(steps, batch, 5)) if steps * batch <= len(rows) else None
    if values is None:
        values = jnp.asarray(np.resize(rows, (steps, batch, 5)))
    state = jax.block_until_ready(run(state, values))
    repeats = max(1, 3_000_000 // (steps * batch))
    with stopwatch() as seconds:
        for _ in range(repeats):
            state = run(state, values)
        jax.block_until_ready(state)
        return repeats * steps * batch / seconds()


def lightning(rows: torch.Tensor, batch: int) -> float | None:
    """A Lightning Trainer on a TensorDataset; None where Lightning is not installed."""
    try:
        import lightning as pl
    except ImportError:
        return None
    torch.set_num_threads(2)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = make_autoencoder(ARCHITECTURE, *SCALING, 1)

        def training_step(self, values: Any, index: int) -> Any:
            return squared_error(self.model(values[0])).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=2e-3)

    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(rows), batch_size=batch, shuffle=True, drop_last=True
    )
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", **quiet)
    with stopwatch() as seconds:
        trainer.fit(Module(), loader)
        return trainer.global_step * batch / seconds()


def ours(folder: Path, batch: int, cluster: dict[str, int], num_steps: int) -> float:
    """`hpc-ae train`: stars/s of its steps, validation and checkpoints included, start-up not."""
    run_dir = folder / "run"
    shutil.rmtree(run_dir, ignore_errors=True)
    config = {
        "run_dir": str(run_dir),
        "catalog": {"path": str(folder / "stars")},
        "train": {"steps": num_steps, "batch_size": batch},
        "cluster": cluster,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    hpc_ae("train", str(folder / "run.yaml"))
    progress = json.loads((run_dir / "jobs" / "progress" / "train.json").read_text())
    return float(num_steps * batch / progress["seconds"])


def main() -> None:
    """References and ours at each batch size, in one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[512, 4_096, 16_384])
    folder = Path(tempfile.mkdtemp(prefix="hpc_ae-train-"))
    arguments = parser.parse_args()
    hpc_ae("simulate", str(folder / "stars"), "--stars", str(NUM_STARS))
    rows = open_catalog(folder / "stars").read(["magnitude"])["magnitude"]
    tensor = torch.from_numpy(rows)
    for batch in arguments.batches:
        compiled = max(bare_loop(tensor, batch, threads, compiled=True) for threads in (1, 2))
        lecture = bare_loop(tensor, batch, 1, compiled=False)
        scan, trainer = jax_scan(rows, batch), lightning(tensor, batch)
        report(f"references, batch {batch}", compiled=compiled, lecture=lecture, jax_scan=scan, lightning=trainer)
        ways: dict[str, dict[str, int]] = {
            "defaults (1 rank, all cores)": {},
            "1 rank of 1 thread": {"ranks_per_node": 1},
            "2 ranks of 1 thread": {"ranks_per_node": 2},
        }
        for name, cluster in ways.items():
            rate = ours(folder, batch, cluster, max(200, 16_000_000 // batch))
            report(
                f"hpc-ae train, batch {batch}, {name}",
                stars_per_second=rate,
                steps_per_second=rate / batch,
                to_compiled_loop=rate / compiled,
                to_lecture_loop=rate / lecture,
                to_jax_scan=rate / scan if scan else "not installed",
                to_lightning=rate / trainer if trainer else "not installed",
            )
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
