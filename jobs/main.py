"""`hpc-ae` behind its door: runs a command and turns its errors into one message and an exit status."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from hpc_ae.errors import HpcAeError, InputError, WorkError
from hpc_ae.runtime.streams import OutputError, forget_output, guard_streams, open_standard_streams

_WRONG_PATH = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
)


def main() -> None:
    """Run the command line that was typed, and end this process."""
    os.umask(0o077)  # logs and the pickled payload too: a run directory is its owner's alone
    open_standard_streams()
    guard_streams()
    status = run_command(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OutputError as error:
        status = _without_output(error)
    sys.exit(status)


def run_command(arguments: list[str]) -> int:
    """Run one command line; 0 done, 1 the work failed, 2 wrong input, 130 interrupted."""
    import typer

    from hpc_ae.jobs.cli import app

    # The base of typer's usage errors: click's own class, or the one that newer typers carry with them.
    usage_error: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    debug = "--debug" in arguments
    try:
        _check_working_directory()
        status: Any = app([word for word in arguments if word != "--debug"], prog_name="hpc-ae", standalone_mode=False)
        if status == 130:  # newer typers turn an interrupt into this status
            _say("interrupted")
        return status if isinstance(status, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted")
        return 130
    except typer.Exit as error:
        return int(error.exit_code)
    except usage_error as error:
        error.show()
        return int(error.exit_code)
    except OutputError as error:
        return _without_output(error)
    except HpcAeError as error:
        _say(traceback.format_exc() if debug else str(error))
        return error.exit_status
    except OSError as error:
        if debug:
            _say(traceback.format_exc())
            return 1
        refused = _system_error(error)
        _say(str(refused))
        return refused.exit_status
    except Exception as error:
        _say(
            traceback.format_exc()
            if debug
            else f"unexpected {type(error).__name__}: {error}\n  to do:    --debug shows where"
        )
        return 1


def _system_error(error: OSError) -> HpcAeError:
    """What the system refuses, of a path that the command needs: a closed directory, a read-only file system, ..."""
    what = f"the system refuses: {error.strerror or error}"
    if error.errno in _WRONG_PATH:
        fix = "check that the path is right, and that you may read, enter or write it; --debug shows what was tried"
        return InputError(what, where=error.filename or "", fix=fix)
    return WorkError(what, where=error.filename or "", fix="--debug shows what was tried")


def _check_working_directory() -> None:
    """InputError where the directory that a command is typed in has been removed: no process starts in it."""
    try:
        Path.cwd()
    except FileNotFoundError:
        fix = "cd to a directory that exists, and type the command again"
        raise InputError("the working directory has been removed", where=os.environ.get("PWD", ""), fix=fix) from None


def _without_output(error: OutputError) -> int:
    """The status of a command whose output could not be written; `| head` has seen enough: that is no error."""
    forget_output()
    if error.reader_gone:
        return 0
    _say(str(error))
    return error.exit_status


def _say(text: str) -> None:
    print(f"hpc-ae: {text}", file=sys.stderr, flush=True)
