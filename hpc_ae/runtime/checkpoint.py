"""Checkpoints: a directory per step, complete or not there. Start and restart both ask for the newest one."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from hpc_ae.errors import DamageError, HpcAeError
from hpc_ae.files import TEMP_MARK, make_dir, publish_json, read_json, seal, sync_dir, write_error
from hpc_ae.layout import CHECKPOINT_PATTERN, STATE_NAME, checkpoint_name, list_checkpoints, tensors_name
from hpc_ae.model.files import read_tensors, write_tensors

_TENSORS = re.compile(r"[a-z_]+")  # files of the checkpoint's own directory


def save_checkpoint(
    checkpoints_dir: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], keep: int
) -> Path:
    """Publish `checkpoints_dir/step-.../` with one safetensors file per entry of `tensors`, and drop old ones."""
    make_dir(checkpoints_dir)
    final_dir = checkpoints_dir / checkpoint_name(step)
    temp_dir = checkpoints_dir / f".{final_dir.name}{TEMP_MARK}{os.getpid()}"
    # Debris is of killed writers: there is one writer at a time.
    for debris in checkpoints_dir.glob(f".{CHECKPOINT_PATTERN}{TEMP_MARK}*"):
        shutil.rmtree(debris, ignore_errors=True)
    make_dir(temp_dir)
    try:
        digests = {name: write_tensors(temp_dir / tensors_name(name), group) for name, group in tensors.items()}
        publish_json(temp_dir / STATE_NAME, seal({**state, "step": step, "digests": digests}))
        shutil.rmtree(final_dir, ignore_errors=True)
        temp_dir.rename(final_dir)
        sync_dir(checkpoints_dir)
    except OSError as error:
        num_bytes = sum(tensor.nbytes for group in tensors.values() for tensor in group.values())
        raise write_error(final_dir, num_bytes, error) from error
    finally:
        shutil.rmtree(temp_dir, ignore_errors=True)
    for old in list_checkpoints(checkpoints_dir)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final_dir


def load_newest_checkpoint(checkpoints_dir: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """State and tensors of the newest checkpoint that is whole; None where there is none at all.

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


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """State and tensors of one checkpoint, checked against its digests."""
    state = read_json(path / STATE_NAME, sealed=True)
    digests = state.get("digests")
    if not isinstance(digests, dict) or not all(_TENSORS.fullmatch(name) for name in digests):
        raise DamageError("a checkpoint does not name its files", where=path / STATE_NAME, got=str(digests)[:200])
    return state, {name: read_tensors(path / tensors_name(name), digest) for name, digest in digests.items()}
