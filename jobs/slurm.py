"""Batch scripts: what a stage asks Slurm for, and the submitit executor that hands it in.

A script is the same whatever it waits for: `sbatch` gets the dependency on its command line, so that `--dry-run` shows
byte for byte what is submitted.
"""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path
from typing import Any

import submitit

from hpc_ae.cluster import ClusterSection, limit_seconds
from hpc_ae.config import RunConfig
from hpc_ae.errors import HpcAeError, InputError
from hpc_ae.interpreter import python_words
from hpc_ae.jobs.resources import num_tasks, num_workers
from hpc_ae.jobs.run import Stage
from hpc_ae.jobs.slurm_clients import ask_slurm, scancel
from hpc_ae.jobs.start import start_words

_MOST_SIGNAL_SECONDS = 90
_LOOKS, _LOOK_SECONDS = 6, 2.0  # for a job that sbatch may have handed in: the controller was busy just now
_ACCEPTED = re.compile(r"^(?:Submitted batch job )?([0-9]+)(?:;\S*)?(?: on cluster \S+)?$", re.MULTILINE)
_DOUBT = re.compile(r"timed? ?out|contact|respon|connect|communicat", re.IGNORECASE)
# Keys of `cluster` that submitit takes under sbatch's own name.
_NAMES = ("partition", "account", "qos", "constraint", "mem", "time", "mail_type", "mail_user")


class ChainExecutor(submitit.SlurmExecutor):
    """submitit's executor with the dependency on sbatch's command line, and arrays that keep to it.

    This leans on private names of submitit, as there are no public ones; tests/test_submission.py fails where a version
    of it has lost one.

    - `_make_submission_command` is replaced: submitit writes a dependency into the script, which would then depend on
      what came before, and `--dry-run` could not show it. The name of the script tells a job from all others.
    - `_get_job_id_from_submission_command` is replaced: submitit wants sbatch's words, which sites change.
    - `_submitit_command_str` is replaced: submitit writes a pickle for each job, which the job would load hours later,
      whoever could have replaced it. What a job is to do stands in its script (jobs/start.py).
    - `_submit_command` is called: it writes the script and hands it in. For an array submitit would make a plain
      executor of its own, without the dependency.
    - `_make_submission_file_text` is called by `--dry-run`: the text that submitit would submit.
    - `LocalJob._process` (launcher.py) is the process that starts the ranks on this machine; submitit's own `cancel`
      prints a traceback of it, and leaves what the ranks have started.
    """

    depends_on: str | None = None
    words = ""
    _script_name = ""

    @property
    def _submitit_command_str(self) -> str:
        return self.words

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        self._script_name = submission_file_path.name
        return ["sbatch", *sbatch_options(self.depends_on), str(submission_file_path)]

    @staticmethod
    def _get_job_id_from_submission_command(string: str | bytes) -> str:
        text = string if isinstance(string, str) else string.decode(errors="replace")
        found: list[str] = _ACCEPTED.findall(text)
        if not found:
            raise submitit.core.utils.FailedSubmissionError(f"sbatch gave no job number, but: {text[:200]!r}")
        return found[-1]

    def start(self) -> Any:
        """Submit one job, or one array; where that does not come to its end, nothing of it stays in the queue."""
        try:
            return self._submit_command(self._submitit_command_str)
        except BaseException as error:
            if self._script_name and (note := take_back(self._script_name, str(error))):
                error.add_note(note)
            raise


class ScriptWriter(ChainExecutor):
    """Writes batch scripts, submits nothing."""

    @classmethod
    def affinity(cls) -> int:
        """Always there, unlike an executor that submits."""
        return 1


def sbatch_options(depends_on: str | None) -> list[str]:
    """sbatch's options on its command line: for a job that starts when another has ended well, and never where that has
    not.
    """
    after = [] if depends_on is None else [f"--dependency=afterok:{depends_on}", "--kill-on-invalid-dep=yes"]
    return ["--parsable", *after]


def take_back(script_name: str, said: str) -> str:
    """Cancel the job of a batch script that sbatch may have handed in although it did not say so (a time-out); what was
    found, in words, or nothing. Where sbatch's words are a plain refusal, Slurm is asked once.
    """
    is_sure, answered = "error" in said and not _DOUBT.search(said), False
    for look in range(1 if is_sure else _LOOKS):
        if look:
            time.sleep(_LOOK_SECONDS)
        answer = ask_slurm("squeue", "--me", "--noheader", "--format", "%A|%o")
        if answer is None or answer.returncode:
            continue
        answered = True
        rows = [line.split("|", 1) for line in answer.stdout.splitlines() if "|" in line]
        if found := sorted({number for number, command in rows if Path(command).name == script_name}):
            failed = [words for number in found if (words := scancel(number))]
            return f"it was queued all the same, as job {' '.join(found)}, and is " + (
                f"still there: {failed[0]}" if failed else "taken back"
            )
    return "" if answered else "squeue does not answer: look with squeue --me whether it is queued all the same"


def slurm_executor(stage: Stage, config: RunConfig, num_parts: int, kind: type[ChainExecutor] = ChainExecutor) -> Any:
    """An executor with everything that a stage asks for; InputError where Slurm is not on this machine."""
    try:
        executor = kind(folder=config.layout.logs_dir)
    except RuntimeError as error:  # no srun
        raise InputError(
            "Slurm is not on this machine",
            where="cluster.kind",
            got="no srun on PATH",
            fix="cluster.kind=local, or a login node",
        ) from error
    executor.words = shlex.join(start_words(stage.name, config))
    executor.update_parameters(**slurm_parameters(stage, config))
    if num_parts > 1:
        executor.update_parameters(array_parallelism=config.cluster.array_of(stage.name)[1])
        executor.parameters["map_count"] = num_parts  # submitit's own name for the size of an array
    return executor


def slurm_parameters(stage: Stage, config: RunConfig) -> dict[str, Any]:
    """sbatch's and srun's options for a stage."""
    cluster = config.cluster.of_stage(stage.name)
    nodes, tasks = num_tasks(config, stage.name, stage.kind)
    chosen = {name: getattr(cluster, name) for name in _NAMES if getattr(cluster, name) is not None}
    if cluster.gpus_per_node and stage.kind == "ranks":
        chosen["gpus_per_node"] = cluster.gpus_per_node
    cores = num_workers(config, stage.name) if stage.kind == "single" else cluster.cpus_per_task
    mpi = [f"--mpi={cluster.mpi}"] if stage.kind == "mapped" and nodes * tasks > 1 else []
    more = {"requeue": True, **{name.replace("_", "-"): value for name, value in cluster.sbatch.items()}}
    if cluster.reservation:
        more["reservation"] = cluster.reservation
    return {
        **chosen,
        "job_name": f"hpc-ae-{stage.name}",
        "nodes": nodes,
        "ntasks_per_node": tasks,
        "cpus_per_task": cores,
        "signal_delay_s": signal_seconds(cluster.time),
        "setup": script_lines(cluster) or None,
        "teardown": [aftermath_line(config, stage.name), ""],
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={cores}", *mpi],
        "wckey": None,  # submitit's own, which a site that checks them would refuse
        "additional_parameters": more,
    }


def signal_seconds(limit: str) -> int:
    """How long before its time limit a job is told to save and requeue: 90 s, of a short limit a fifth."""
    return int(min(_MOST_SIGNAL_SECONDS, limit_seconds(limit) / 5))


def script_lines(cluster: ClusterSection) -> list[str]:
    """The shell lines of a batch script before srun: modules, variables, then the user's own."""
    lines = [f"module load {shlex.quote(name)}" for name in cluster.modules]
    lines += [f"export OMP_NUM_THREADS={cluster.cpus_per_task}"]
    if cluster.network_interface:
        interface = shlex.quote(cluster.network_interface)
        lines += [f"export {name}_SOCKET_IFNAME={interface}" for name in ("GLOO", "NCCL")]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in cluster.environment.items()]
    return [*lines, *cluster.setup]


def aftermath_line(config: RunConfig, stage: str) -> str:
    """The last line of a batch script: where srun has failed, look why (jobs/aftermath.py)."""
    words = shlex.join(python_words("hpc_ae.jobs.aftermath", str(config.run_path), stage))
    return f"status=$?; [ $status -eq 0 ] || exec {words} $status"


def batch_script(stage: Stage, config: RunConfig, num_parts: int) -> str:
    """The batch script that Slurm would get; Slurm need not be on this machine."""
    executor = slurm_executor(stage, config, num_parts, ScriptWriter)
    return str(executor._make_submission_file_text(executor._submitit_command_str, "dry-run"))


def submission_error(stage: str, error: Exception) -> HpcAeError:
    """What sbatch said of a job that it did not take."""
    lines = [line for line in str(error).splitlines() if "error" in line.lower()] or str(error).splitlines()[-3:]
    said = "; ".join([" ".join(dict.fromkeys(lines))[:500], *getattr(error, "__notes__", [])])
    fix = "correct what sbatch complains about in the section cluster, or set cluster.KEY=VALUE on the command line"
    return InputError(f"the {stage} job was not accepted", where="sbatch", got=said, fix=fix)
