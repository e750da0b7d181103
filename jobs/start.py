"""What a job runs: `python -m hpc_ae.jobs.start STAGE DIGEST NUM_PARTS RUN_DIR`.

What a job is to do stands in these words, which are in its batch script, and nothing of it is code: the stage, the
digest of its config, and into how many parts the stage is cut. The record of its launch says which directory of
RUN_DIR/jobs/state is its own, and an array's which part each of its tasks does.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hpc_ae.config import RunConfig, dump_config
from hpc_ae.errors import HpcAeError, InputError
from hpc_ae.files import digest_bytes
from hpc_ae.interpreter import python_words
from hpc_ae.jobs.launched import await_launch
from hpc_ae.jobs.worker import StageJob, StopFlag
from hpc_ae.layout import RunLayout

_RECORD_SECONDS = 120.0  # the file systems of some clusters show a new file that late


def start_words(stage: str, config: RunConfig) -> list[str]:
    """The words that start a rank of a stage."""
    digest, num_parts = digest_bytes(dump_config(config).encode()), config.cluster.array_of(stage)[0]
    return python_words("hpc_ae.jobs.start", stage, digest, str(num_parts), str(config.run_path))


def find_job(stage: str, digest: str, num_parts: str, run_dir: str) -> StageJob:
    """The job of these words, by the record of its launch; of an array the task that this process is of."""
    import submitit

    here, layout = submitit.JobEnvironment(), RunLayout(Path(run_dir))
    number = here.array_job_id or here.raw_job_id
    launched = await_launch(layout, stage, number, _RECORD_SECONDS)
    if launched is None:
        raise InputError(
            "this job is not the newest launch of its stage",
            where=layout.launch_path(stage),
            got=f"job {number}",
            fix="the same command submits what is left to do",
        )
    index = int(here.array_task_id or 0) if launched.is_array else 0
    return StageJob(stage, launched.files, digest, launched.parts[index], int(num_parts))


def main(words: list[str]) -> int:
    """Run the job; the exit status of the contract where there is none to run."""
    stop = StopFlag()  # before all else: a signal that comes now is heard
    try:
        job = find_job(*words)
    except HpcAeError as error:
        print(f"hpc-ae: {error}", file=sys.stderr, flush=True)
        return error.exit_status
    job(stop)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
