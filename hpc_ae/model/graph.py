"""A whole training step on a GPU as one CUDA graph: a model this small is bound by launching its 150 kernels.

Static shapes, one stream. The first steps are taken as they are, so that compilation and the allocator settle, and
count like any other; then the step is captured once, which executes nothing, and replayed.
Shape letters: N rows held, n rows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_WARM_UP_STEPS = 5
Drawn = tuple[Tensor | None, ...]  # what chance does in a step: noise, hidden bands


class StepGraph:
    """Calls `step(rows, index, drawn)`, which must do the same work on the same memory each time, by replaying it."""

    def __init__(self, step: Callable[[Tensor, Tensor, Drawn | None], None]) -> None:
        self._step = step
        self._steps_taken = 0
        self._stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._index: Tensor | None = None
        self._drawn: Drawn | None = None
        self._captured_rows = 0  # address of the rows that the graph reads

    def __call__(self, rows: Tensor, index: Tensor, drawn: Drawn | None = None) -> None:
        """One step on rows[index]: (N, B), (n,), with noise and hidden bands (n, B), each always or never.

        Rows in another place (streamed) are captured again.
        """
        if self._graph is not None and self._index is not None and self._captured_rows == rows.data_ptr():
            self._index.copy_(index)
            for target, values in zip(self._drawn or (), drawn or (), strict=True):
                if target is not None and values is not None:
                    target.copy_(values)
            self._graph.replay()
            return
        if self._steps_taken < _WARM_UP_STEPS:
            self._warm_up(rows, index, drawn)
            self._steps_taken += 1
            return
        self._capture(rows, index, drawn)
        self(rows, index, drawn)

    def _warm_up(self, rows: Tensor, index: Tensor, drawn: Drawn | None) -> None:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._step(rows, index, drawn)
        torch.cuda.current_stream().wait_stream(self._stream)

    def _capture(self, rows: Tensor, index: Tensor, drawn: Drawn | None) -> None:
        self._index = index.clone()
        self._drawn = None if drawn is None else tuple(None if one is None else one.clone() for one in drawn)
        self._captured_rows = rows.data_ptr()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=self._stream):
            self._step(rows, self._index, self._drawn)
