"""Outputs that --redo sets aside: they can be had back until the stage has made new ones that are whole."""

from __future__ import annotations

import glob
import itertools
import os
import re
import shutil
from pathlib import Path

from hpc_ae.errors import HpcAeError
from hpc_ae.jobs.run import Run, Stage

_MARK = ".before-redo"
_NUMBERED = re.compile(r"(shard|step|part)-\d+.*|\..*")


def set_aside(path: Path) -> Path:
    """Give an output another name, beside it, and return that: a new one where there are some already."""
    names = (path.name + _MARK + (f"-{number}" if number > 1 else "") for number in itertools.count(1))
    return path.rename(next(aside for name in names if not os.path.lexists(aside := path.with_name(name))))


def find_aside(run: Run, stage: Stage) -> list[Path]:
    """What is set aside of a stage's outputs."""
    return [aside for path in stage.outputs(run) for aside in _asides_of(path)]


def _asides_of(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{glob.escape(path.name + _MARK)}*"))


def remove_replaced(run: Run) -> list[Path]:
    """Remove what is set aside of the stages that are done again; what was removed."""
    removed: list[Path] = []
    for stage in run.stages:
        found = find_aside(run, stage)
        if found and _is_done(run, stage):
            ours = [path for path in found if not strangers(path)]
            for path in ours:
                _remove(path)
            removed += ours
    return removed


def strangers(aside: Path) -> list[str]:
    """Files in what is set aside that are none of a stage's making: the new output has none of that name, and they are
    not called as shards and checkpoints are, of which there may be fewer now. They are the user's.
    """
    new = aside.with_name(aside.name.partition(_MARK)[0])
    if not aside.is_dir() or aside.is_symlink():
        return []
    return sorted(
        path.name for path in aside.iterdir() if not (new / path.name).exists() and not _NUMBERED.fullmatch(path.name)
    )


def _is_done(run: Run, stage: Stage) -> bool:
    try:
        return stage.is_done(run)
    except HpcAeError:  # of another config, or damaged: then the old one may be wanted
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
