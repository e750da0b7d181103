"""Any text in a config's values: a batch script has only our lines and our commands, or the config is refused."""

from __future__ import annotations

import os
import re
import shlex
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpc_ae.cluster import SBATCH_OPTIONS
from hpc_ae.config import RunConfig, check_config
from hpc_ae.errors import InputError
from hpc_ae.jobs.slurm import batch_script
from hpc_ae.jobs.stages import STAGES

EXAMPLES = 2000 if os.environ.get("HPC_AE_LONG") else 300  # of each value; with HPC_AE_LONG=1 as many as promised

BREAKS = ("\n", "\r", "\x0b", "\x0c", "\x85", "\u2028", "\0", " ")
NASTY = (*BREAKS, "`id`", "$(id)", ";id", "&id", "&& id", "|id", "'", '"', "\\", "#SBATCH", "a", "1", ":", "-")
TEXT = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(NASTY), max_size=8).map("".join))
WORDS = ("partition", "account", "qos", "constraint", "reservation", "mem", "time", "mail_type", "mail_user")
OTHERS = ("mpi", "network_interface")
ALLOWED = re.compile(
    r"#!/bin/bash|# Parameters|# setup|# command|# teardown||#SBATCH --[a-z-]+(=.*)?|export [A-Za-z_][A-Za-z0-9_]*=.*|"
    r"module load \S+|srun .*"
)
AFTERMATH = re.compile(r"status=\$\?; \[ \$status -eq 0 \] \|\| exec (.*) \$status")


def config_of(cluster: dict[str, Any], run_dir: str = "runs/x") -> RunConfig | None:
    """The config, None where it is refused."""
    try:
        return check_config({"run_dir": run_dir, "cluster": {"kind": "slurm", **cluster}}, "test")
    except InputError:
        return None


PLAIN = check_config({"run_dir": "runs/x", "cluster": {"kind": "slurm"}}, "test")


def check_script(config: RunConfig | None, value: str) -> None:
    """Every line is one of ours, read as the same words by a shell; the value is nowhere outside of its quotes."""
    if config is None:
        return
    for name in ("train", "encode"):
        script = batch_script(STAGES[name], config, 1)
        lines = script.split("\n")
        assert script.splitlines() == lines[:-1]  # no line break that only some programs see
        assert len(lines) <= len(batch_script(STAGES[name], PLAIN, 1).split("\n")) + 4
        *lines, last, _ = lines
        assert (words := AFTERMATH.fullmatch(last)) and bare_specials(words[1]) == "", last
        for line in lines:
            assert ALLOWED.fullmatch(line), line
            if not line.startswith("#SBATCH"):
                assert bare_specials(line) == "", line


def bare_specials(line: str) -> str:
    """Characters of a line by which a shell would do more than run one command, outside of quotes."""
    found, quote = "", ""
    for letter in line:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "`$;&|<>()\\\n":
            found += letter
    return found


@pytest.mark.parametrize("key", [*WORDS, *OTHERS])
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=TEXT)
def test_words(key: str, value: str) -> None:
    """Any text for each plain value."""
    check_script(config_of({key: value}), value)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=st.one_of(TEXT, st.sampled_from(["A", "PATH"])), value=TEXT)
def test_environment(name: str, value: str) -> None:
    """Names and values of variables: a value arrives as it is written."""
    config = config_of({"environment": {name: value}})
    check_script(config, value)
    if config is not None:
        script = batch_script(STAGES["train"], config, 1)
        [line] = [line for line in script.split("\n") if line.startswith(f"export {name}=")][-1:]
        assert shlex.split(line) == ["export", f"{name}={value}"]


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=st.one_of(TEXT, st.sampled_from(SBATCH_OPTIONS)), value=TEXT, module=TEXT)
def test_options_and_modules(name: str, value: str, module: str) -> None:
    """Names and values of further sbatch options, names of modules."""
    check_script(config_of({"sbatch": {name: value}}), value)
    check_script(config_of({"modules": [module]}), module)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=TEXT)
def test_run_directories(value: str) -> None:
    """Paths: what is not refused is quoted, and arrives whole in the directive that names the log."""
    config = config_of({}, f"runs/{value}")
    check_script(config, value)
    if config is not None:
        script = batch_script(STAGES["train"], config, 1)
        [line] = [line for line in script.split("\n") if line.startswith("#SBATCH --output=")]
        assert shlex.split(line, comments=False)[1] == f"--output={config.run_path / 'jobs' / 'logs'}/%j_0_log.out"


def test_the_check_can_fail() -> None:
    """A value that is neither refused nor quoted is found: the user's own `setup` is the one way to add a line."""
    config = config_of({"setup": ["id; id"]})
    with pytest.raises(AssertionError):
        check_script(config, "id")
