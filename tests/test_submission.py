"""What is asked of submitit beyond its public interface: a version that has it no longer fails here, and loudly."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from configparser import ConfigParser
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import submitit
from commands import REPOSITORY, hpc_ae, write_config
from packaging.specifiers import SpecifierSet
from slurm_cluster import wait_until

from hpc_ae.files import digest_file
from hpc_ae.jobs.launched import Launched
from hpc_ae.jobs.launcher import cancel
from hpc_ae.jobs.slurm import ChainExecutor
from hpc_ae.layout import RunLayout

STAGES = ("simulate", "train", "encode", "finalise", "postprocess")
SLURM = {"kind": "slurm", "nodes": 2, "stages": {"encode": {"array": 3}}}
# Answers as Slurm's, and keeps what it was given: a number for every submission.
SBATCH = """#!/bin/bash
number=$(( $(ls "$KEPT" | grep -c words) + 41 ))
printf '%s\\n' "$@" > "$KEPT/$number.words"
cp "${@: -1}" "$KEPT/$number.sh"
env > "$KEPT/$number.env"
echo "$number"
"""


@pytest.fixture
def slurm_without_nodes(tmp_path: Path) -> dict[str, str]:
    """Variables with which Slurm's commands take everything and start nothing."""
    folder, kept = tmp_path / "bin", tmp_path / "kept"
    folder.mkdir()
    kept.mkdir()
    for name, script in {"sbatch": SBATCH, "srun": "#!/bin/sh\n", "squeue": "#!/bin/sh\n"}.items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    return {"PATH": os.pathsep.join([str(folder), os.environ["PATH"]]), "KEPT": str(kept)}


def parameters(function: Callable[..., Any]) -> list[str]:
    """The names of what a function takes."""
    return list(inspect.signature(function).parameters)


def test_the_version_is_one_of_those_that_are_asked_for() -> None:
    """What the tests run with lies in the range that the package asks for."""
    setup = ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    [wanted] = re.findall(r"^submitit (.+)$", setup["options"]["install_requires"], re.MULTILINE)
    assert SpecifierSet(wanted).contains(version("submitit"))


def test_private_names_are_there() -> None:
    """The methods that are replaced or called have the parameters that they are given."""
    executor = submitit.SlurmExecutor
    assert parameters(executor._make_submission_command) == ["self", "submission_file_path"]
    assert parameters(executor._submit_command) == ["self", "command"]
    assert parameters(executor._make_submission_file_text) == ["self", "command", "uid"]
    assert isinstance(inspect.getattr_static(executor, "_submitit_command_str"), property)
    assert {"setup", "teardown", "srun_args", "wckey", "array_parallelism"} <= executor._valid_parameters()
    assert "python" in parameters(executor) and "python" in parameters(submitit.LocalExecutor)
    assert parameters(executor._get_job_id_from_submission_command) == ["string"]
    replaced = {"_submitit_command_str", "_make_submission_command", "_get_job_id_from_submission_command"}
    assert replaced <= vars(ChainExecutor).keys()
    assert parameters(submitit.LocalExecutor._submit_command) == ["self", "command"]
    assert isinstance(inspect.getattr_static(submitit.LocalExecutor, "_submitit_command_str"), property)


def test_a_chain_is_submitted_as_shown(slurm_without_nodes: dict[str, str], tmp_path: Path) -> None:
    """sbatch gets each dependency on its command line, an array's too, the very scripts that `--dry-run` shows, and
    what each job is to do, by words in its script: there is no pickle. The user's PYTHONPATH reaches the scripts as it
    is.
    """
    config = write_config(tmp_path, cluster=SLURM)
    variables = {**slurm_without_nodes, "PYTHONPATH": f"{REPOSITORY}:/nowhere"}
    shown = hpc_ae("run", config, "--dry-run", **variables)
    done = hpc_ae("run", config, "--no-wait", "--parsable", **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["41", "42", "43", "44", "45"]
    scripts = re.split(rf"^# (?:{'|'.join(STAGES)})\b.*\n# sbatch .*\n", shown.stdout, flags=re.MULTILINE)[1:]
    kept = tmp_path / "kept"
    for number, script in enumerate(scripts, 41):
        assert (kept / f"{number}.sh").read_text() == script
        waits = [f"--dependency=afterok:{number - 1}", "--kill-on-invalid-dep=yes"] if number > 41 else []
        assert (kept / f"{number}.words").read_text().splitlines()[:-1] == ["--parsable", *waits]
        [path] = (tmp_path / "run" / "jobs" / "state").glob(f"{STAGES[number - 41]}-*/config.yaml")
        words = ["hpc_ae.jobs.start", STAGES[number - 41], digest_file(path), "3" if number == 43 else "1"]
        assert " ".join([*words, str(tmp_path / "run")]) in script
        found = (kept / f"{number}.env").read_text().splitlines()
        assert f"PYTHONPATH={variables['PYTHONPATH']}" in found
        assert not [line for line in found if line.startswith(("PYTHONSAFEPATH=", "HPC_AE_PYTHONPATH="))]
    assert "#SBATCH --array=0-2%3" in scripts[2]
    logs = tmp_path / "run" / "jobs" / "logs"
    assert {path.suffix for path in logs.iterdir()} == {".sh"}


@pytest.mark.parametrize(
    "said",
    [
        "41",
        "41;cluster",
        "Submitted batch job 41",
        "Submitted batch job 41 on cluster c1",
        "Welcome to 7 nodes\n41\n",
        b"41\n",
        "sbatch: lua: job 9 of yesterday\nSubmitted batch job 41",
    ],
)
def test_job_numbers(said: str | bytes) -> None:
    """The number of a job in all that sbatch, and what a site adds to it, prints."""
    assert ChainExecutor._get_job_id_from_submission_command(said) == "41"


def test_no_job_number() -> None:
    """Words without a number on a line of its own are none."""
    with pytest.raises(submitit.core.utils.FailedSubmissionError, match="no job number"):
        ChainExecutor._get_job_id_from_submission_command("accepted, job 9 before it")


def test_a_local_job_has_its_process(tmp_path: Path) -> None:
    """`cancel` finds the process that starts a local job's ranks, and ends it with them."""
    executor = submitit.LocalExecutor(folder=tmp_path)
    executor.update_parameters(timeout_min=5)
    job = executor.submit(os.execvp, "sleep", ["sleep", "300"])
    process = job._process
    words = Path(f"/proc/{process.pid}/cmdline")  # empty for a moment while a process becomes another program
    assert wait_until(lambda: "submitit.local._local" in words.read_text(), timeout=10)
    layout = RunLayout(tmp_path)
    cancel(Launched("train", job.job_id, layout, layout.launch("train", "token"), 1, job=job))
    assert process.returncode is not None
