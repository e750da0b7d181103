"""An output file or directory, published complete or not at all: temporary name, sync, rename."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from hpc_ae.errors import InputError
from hpc_ae.files import TEMP_MARK, make_dir, sync_dir, write_error


@contextlib.contextmanager
def staged(out: Path, *, overwrite: bool, is_ours: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `out` that becomes `out` when the block ends well, and is removed otherwise.

    With `is_ours` the output is a directory, made here; one that is there is replaced only where `is_ours` says that
    it is such an output. InputError where `out` is there and not to be overwritten, WorkError where it cannot be
    written.
    """
    check_free(out, overwrite=overwrite, is_ours=is_ours)
    make_dir(out.parent)
    _remove_debris(out)
    temp_path = out.with_name(f".{out.name}{TEMP_MARK}{socket.gethostname()}-{os.getpid()}")
    try:
        if is_ours is not None:
            temp_path.mkdir(mode=0o700)
        yield temp_path
        _sync_tree(temp_path)
        check_free(out, overwrite=overwrite, is_ours=is_ours)
        _rename(temp_path, out)
        sync_dir(out.parent)
    except OSError as error:
        raise write_error(out, 0, error) from error
    finally:
        _remove(temp_path)


def check_free(out: Path, *, overwrite: bool, is_ours: Callable[[Path], bool] | None = None) -> None:
    """InputError where the output is there, or cannot be replaced by what will be written."""
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise InputError("the output already exists", where=out, expected="a new name", fix="--overwrite replaces it")
    if is_ours is None and (out.is_symlink() or not out.is_file()):
        raise InputError(
            "the output exists and is not a file", where=out, expected="a file to overwrite, or a new name"
        )
    if is_ours is not None and (out.is_symlink() or not out.is_dir() or not is_ours(out)):
        raise InputError(
            "the output exists and is not an earlier export",
            where=out,
            expected="a directory that an export to the same format made, or a new name",
            fix="choose another name, or remove it yourself",
        )


def _rename(temp_path: Path, out: Path) -> None:
    """Give the output its name; a directory cannot be renamed over another: the old one steps aside for a moment."""
    if not out.is_dir():
        temp_path.replace(out)
        return
    aside = temp_path.with_name(f"{temp_path.name}-old")
    out.rename(aside)
    try:
        temp_path.rename(out)
    except OSError:
        aside.rename(out)
        raise
    shutil.rmtree(aside)


def _sync_tree(path: Path) -> None:
    """Bring a file, or a directory with all that is in it, onto the disk."""
    for folder, _, names in os.walk(path):
        for name in names:
            _sync_file(Path(folder) / name)
        sync_dir(Path(folder))
    if path.is_file():
        _sync_file(path)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_debris(out: Path) -> None:
    """Remove what killed writers of the same output on this machine left; that of a living one stays."""
    pattern = re.compile(re.escape(f".{out.name}{TEMP_MARK}{socket.gethostname()}-") + r"(\d+)(-old)?")
    for path in out.parent.glob(f".*{TEMP_MARK}*"):
        found = pattern.fullmatch(path.name)
        if found and not Path("/proc", found[1]).exists():
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
