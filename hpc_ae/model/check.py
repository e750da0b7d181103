"""What verify looks at in a model directory or a checkpoint: the record's seal, the weights' digest, every number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from hpc_ae.errors import DamageError, HpcAeError
from hpc_ae.files import TEMP_MARK, digest_file, inspect_json
from hpc_ae.layout import MODEL_NAME, STATE_NAME, WEIGHTS_NAME, tensors_name
from hpc_ae.model.architecture import MOST_WEIGHT_BYTES
from hpc_ae.model.weights import read_weights


def check_model(directory: Path) -> list[HpcAeError]:
    """Everything that is wrong with a model directory: model.json, model.safetensors, debris."""
    record, errors = inspect_json(directory / MODEL_NAME)
    recorded = None if record is None else record.get("weights_digest", "a field weights_digest")
    errors += check_weights(directory / WEIGHTS_NAME, recorded)
    return [*(errors or _refused(directory)), *_debris(directory)]


def _refused(directory: Path) -> list[HpcAeError]:
    """What the reader that encode uses says against files that are as they were written."""
    try:
        read_weights(directory)
    except HpcAeError as error:
        return [error]
    return []


def check_checkpoint(directory: Path) -> list[HpcAeError]:
    """Everything that is wrong with a checkpoint: state.json and NAME.safetensors for each NAME of its `digests`."""
    state, errors = inspect_json(directory / STATE_NAME)
    digests = (state or {}).get("digests", {})
    recorded = digests if isinstance(digests, dict) else {}
    present = {path.stem for path in directory.glob(f"[!.]{tensors_name('*')}")}
    for name in sorted(present | {Path(name).name for name in recorded}):
        errors += check_weights(directory / tensors_name(name), recorded.get(name))
    return errors + _debris(directory)


def check_weights(path: Path, recorded: object = None) -> list[HpcAeError]:
    """Whether a safetensors file has the recorded digest, if any, and only finite numbers; one tensor at a time."""
    errors: list[HpcAeError] = []
    try:
        digest = digest_file(path, follow=False, most_bytes=MOST_WEIGHT_BYTES)
    except FileNotFoundError:
        return [DamageError("the weights are missing", where=path)]
    except HpcAeError as error:
        return [error]
    if recorded is not None and digest != recorded:
        what = "the weights have changed since they were written"
        errors.append(DamageError(what, where=path, got=digest, expected=recorded))
    try:
        with safe_open(path, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                if not np.isfinite(tensors.get_tensor(name)).all():
                    where = f"{path}, tensor {name}"
                    errors.append(DamageError("a weight is not finite", where=where, expected="finite numbers"))
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        errors.append(DamageError("the weights are not a readable safetensors file", where=path, got=str(error)[:200]))
    return errors


def _debris(directory: Path) -> list[HpcAeError]:
    return [
        DamageError("a temporary file left by a killed process", where=path)
        for path in sorted(directory.glob(f".*{TEMP_MARK}*"))
    ]
