"""Checkpoints: a directory per step, complete or not there. Start and restart both ask for the newest one."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field, fields
from pathlib import Path

from pydantic import Field
from torch import Tensor

from hpc_ae.errors import DamageError, HpcAeError
from hpc_ae.files import TEMP_MARK, make_dir, publish_json, seal, sync_dir, write_error
from hpc_ae.layout import CHECKPOINT_PATTERN, STATE_NAME, checkpoint_name, list_checkpoints, tensors_name
from hpc_ae.model.files import read_tensors, write_tensors
from hpc_ae.provenance import Fingerprint
from hpc_ae.record import Record, read_record

Named = dict[str, Tensor]


class CheckpointState(Record):
    """state.json. Errors are mean squares in mag^2, None where they were not measured yet."""

    nulls = frozenset({"best_mse", "lowest_mse"})

    loss_sum: float
    loss_steps: int
    best_step: int
    best_mse: float | None
    lowest_mse: float | None
    fingerprint: Fingerprint
    step: int
    digests: dict[str, str] = Field({})  # of the files of tensors, by name


@dataclass(frozen=True)
class Checkpoint:
    """All that a training needs to go on: numbers, and tensors by name, a file for each group that has any."""

    state: CheckpointState
    model: Named
    optimizer: Named = field(default_factory=dict)
    best: Named = field(default_factory=dict)

    def groups(self) -> dict[str, Named]:
        """The groups of tensors that are not empty, by the names of their files."""
        return {name: group for name in _GROUPS if (group := getattr(self, name))}


_GROUPS = [one.name for one in fields(Checkpoint) if one.name != "state"]


def save_checkpoint(checkpoints_dir: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Publish `checkpoints_dir/step-.../` with one safetensors file for each group of tensors, and drop old ones."""
    make_dir(checkpoints_dir)
    final_dir = checkpoints_dir / checkpoint_name(checkpoint.state.step)
    temp_dir = checkpoints_dir / f".{final_dir.name}{TEMP_MARK}{os.getpid()}"
    # Debris is of killed writers: there is one writer at a time.
    for debris in checkpoints_dir.glob(f".{CHECKPOINT_PATTERN}{TEMP_MARK}*"):
        shutil.rmtree(debris, ignore_errors=True)
    make_dir(temp_dir)
    groups = checkpoint.groups()
    try:
        digests = {name: write_tensors(temp_dir / tensors_name(name), group) for name, group in groups.items()}
        state = checkpoint.state.model_copy(update={"digests": digests})
        publish_json(temp_dir / STATE_NAME, seal(state.to_json()))
        shutil.rmtree(final_dir, ignore_errors=True)
        temp_dir.rename(final_dir)
        sync_dir(checkpoints_dir)
    except OSError as error:
        num_bytes = sum(tensor.nbytes for group in groups.values() for tensor in group.values())
        raise write_error(final_dir, num_bytes, error) from error
    finally:
        shutil.rmtree(temp_dir, ignore_errors=True)
    for old in list_checkpoints(checkpoints_dir)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final_dir


def load_newest_checkpoint(checkpoints_dir: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None where there is none at all.

    A damaged one is passed over for the one before it; DamageError where all are damaged.
    """
    damage: HpcAeError | None = None
    for path in reversed(list_checkpoints(checkpoints_dir)):
        try:
            return load_checkpoint(path)
        except HpcAeError as error:
            damage = damage or error
    if damage is not None:
        raise damage
    return None


def load_checkpoint(path: Path) -> Checkpoint:
    """One checkpoint, checked against its digests."""
    state = read_record(path / STATE_NAME, CheckpointState, sealed=True)
    names = state.digests.keys()
    if "model" not in names or not names <= set(_GROUPS):
        raise DamageError(
            "a checkpoint does not name its files",
            where=path / STATE_NAME,
            got=str(sorted(names))[:200],
            expected="model, and others of " + ", ".join(_GROUPS),
        )
    return Checkpoint(
        state, **{name: read_tensors(path / tensors_name(name), digest) for name, digest in state.digests.items()}
    )
