"""How this package starts Python, and where its processes look for modules.

No process of a run looks into the directory that a command is typed in. The directories of PYTHONPATH come last, after
all that is installed: a user's own numpy.py or submitit.py there takes the place of nothing, while a library that a
site offers through PYTHONPATH alone is still found. The copy of this package that starts a process is the one that
runs in it, wherever that lies.

This file is a script as well: it puts a process's path in order before it hands over to a module. It is named by its
path, so a batch script needs nothing of the environment to find it.
"""

import os  # nothing that Python has not loaded by itself: the path is not right yet
import sys

_SCRIPT = os.path.abspath(__file__)
_HOME = os.path.dirname(os.path.dirname(_SCRIPT))
_PATH, _SAFE_PATH = "PYTHONPATH", "PYTHONSAFEPATH"
_KEPT_PATH = "HPC_AE_PYTHONPATH"  # the user's PYTHONPATH, while a child is given another
_OURS = "hpc_ae"  # any text in PYTHONSAFEPATH does; this one says that we have set it


def python_words(*module: str) -> list[str]:
    """The words that start this Python: on a module with its arguments, or up to the place where `-m MODULE` goes."""
    return [sys.executable, "-P", "-u", _SCRIPT, *(["-m", *module] if module else [])]


def same_path() -> dict[str, str]:
    """Variables for a Python that is started in other words, by submitit or by `-c`: it looks where this one does."""
    looked_into = [os.path.abspath(folder) for folder in sys.path]
    return {
        _PATH: os.pathsep.join(dict.fromkeys(looked_into)),
        _SAFE_PATH: _OURS,
        _KEPT_PATH: os.environ.get(_PATH, ""),
    }


def forget_safe_path() -> None:
    """Take what `settle_path` has set out of the environment: other programs than ours start from it."""
    if os.environ.get(_SAFE_PATH) == _OURS:
        del os.environ[_SAFE_PATH]


def settle_path() -> None:
    """Put this process's path in order, and what it starts on the same course; to be called before any other import."""
    listed = os.environ.pop(_KEPT_PATH, os.environ.get(_PATH, ""))
    parts = listed.split(os.pathsep) if listed else []
    moved = {os.path.abspath(part) for part in parts}  # an empty part means the working directory
    given = [os.path.abspath(part) for part in parts if part]
    found = sys.path if sys.flags.safe_path else sys.path[1:]  # else the working or the script's directory comes first
    sys.path[:] = dict.fromkeys([*(folder for folder in found if folder not in moved), *given])
    place = next((number for number, folder in enumerate(sys.path) if _has_package(folder)), len(sys.path))
    if sys.path[place : place + 1] != [_HOME]:
        sys.path[:] = [*sys.path[:place], _HOME, *(folder for folder in sys.path[place:] if folder != _HOME)]
    os.environ.pop(_PATH, None)
    if given:
        os.environ[_PATH] = os.pathsep.join(given)
    os.environ.setdefault(_SAFE_PATH, _OURS)


def _has_package(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, "hpc_ae", "__init__.py"))


def main() -> None:
    """`interpreter.py -m MODULE ARGUMENTS`: run a module as `python -m` does, with the path in order."""
    settle_path()
    import runpy

    module, *arguments = sys.argv[sys.argv.index("-m") + 1 :]
    sys.argv = [_SCRIPT, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
