"""The learning rate at a step: pure arithmetic, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

WARM_UP = 0.3
START_DIVISOR = 25.0
END_DIVISOR = 1.0e4


def learning_rate(schedule: str, peak: float, step: int, num_steps: int) -> float:
    """Learning rate of step `step` (from 0) of `num_steps`.

    `constant`, or `one_cycle`: cosine from peak / 25 up to peak over the first 30 %, then down to peak / 250,000
    (Smith & Topin 2018, with the constants of torch.optim.lr_scheduler.OneCycleLR).
    """
    if schedule == "constant":
        return peak
    top = max(1.0, WARM_UP * num_steps - 1)
    if step <= top:
        return _cosine(peak / START_DIVISOR, peak, step / top)
    return _cosine(peak, peak / START_DIVISOR / END_DIVISOR, (step - top) / max(1.0, num_steps - 1 - top))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
