"""metrics.jsonl: one JSON line per measurement, no step twice; TensorBoard beside it where asked for."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import ConfigDict

from hpc_ae.errors import InputError, WorkError
from hpc_ae.files import make_dir, publish_bytes, write_error
from hpc_ae.record import Record


class Measurement(Record):
    """One line: losses since the measurement before and of the held-out stars, if there are any."""

    model_config = ConfigDict(allow_inf_nan=True)
    nulls = frozenset({"validation_mse_mag2"})

    step: int
    epoch: float
    learning_rate: float
    train_mse_mag2: float
    validation_mse_mag2: float | None
    stars_per_second: int


class Metrics:
    """Appends lines to `path`; on a restart the lines after `last_step` are cut off first."""

    def __init__(self, path: Path, last_step: int, tensorboard_dir: Path | None = None) -> None:
        self.path = path
        make_dir(path.parent)
        publish_bytes(path, _lines_until(path, last_step))
        self._file = path.open("ab", buffering=0)  # a full disk is found at the line, not once more at the close
        self._board = None if tensorboard_dir is None else _open_board(tensorboard_dir, last_step)

    def __enter__(self) -> Metrics:
        return self

    def write(self, measured: Measurement) -> None:
        """Append one line."""
        values = measured.to_json()
        line = json.dumps(values).encode() + b"\n"
        try:
            self._file.write(line)
        except OSError as error:
            raise write_error(self.path, len(line), error) from error
        if self._board is not None:
            for name, value in values.items():
                if name != "step" and value is not None:
                    self._board.add_scalar(name, value, measured.step)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


class NoMetrics:
    """What the ranks that do not record use in place of Metrics."""

    def __enter__(self) -> NoMetrics:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def write(self, measured: Measurement) -> None:
        """Record nothing."""


def _lines_until(path: Path, last_step: int) -> bytes:
    if not path.exists():
        return b""
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            if line.endswith(b"\n") and json.loads(line)["step"] <= last_step:
                kept.append(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # a line that a killed writer left half done
    return b"".join(kept)


def _open_board(directory: Path, last_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "TensorBoard is not installed",
            where="train.tensorboard",
            fix="pip install 'hpc_ae[tensorboard]', or set it to false",
        ) from error
    try:
        return SummaryWriter(str(make_dir(directory)), purge_step=last_step + 1)
    except OSError as error:
        raise WorkError("cannot write TensorBoard files", where=directory, got=str(error)) from error
