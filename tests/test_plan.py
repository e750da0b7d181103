"""hpc-ae plan: the arithmetic with given rates, and the command with its real calibration."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from commands import hpc_ae, in_process, write_config
from runs import make_catalog

from hpc_ae.cluster import limit_seconds
from hpc_ae.config import RunConfig, check_config
from hpc_ae.jobs.advice import problems_of, warnings_of
from hpc_ae.jobs.plan import disk_gb, make_plan
from hpc_ae.jobs.resources import threads_per_rank
from hpc_ae.jobs.stages import make_run

RATES = dict.fromkeys(("simulate", "ingest", "train", "encode", "finalise", "postprocess"), 1000000.0)


def make_config(tmp_path: Path, **sections: Any) -> RunConfig:
    """Ten million simulated stars."""
    values = {"run_dir": str(tmp_path), "catalog": {"source": {"simulate": {"stars": 10_000_000}}}, **sections}
    return check_config(values, "test")


def test_time_is_work_over_rate_and_processes(tmp_path: Path) -> None:
    """Encode of ten million stars by 4 ranks of a million stars/s takes 2.5 s beside the start."""
    config = make_config(tmp_path, cluster={"ranks_per_node": 4})
    plans = {plan.stage: plan for plan in make_plan(make_run(config), RATES)}
    assert list(plans) == ["simulate", "train", "encode", "finalise", "postprocess"]
    slower = {plan.stage: plan for plan in make_plan(make_run(config), {**RATES, "encode": 0.5e6})}
    assert slower["encode"].seconds - plans["encode"].seconds == pytest.approx(2.5)
    assert plans["encode"].processes == 4 and plans["encode"].disk_gb == pytest.approx(0.48)


def test_sort_needs_room_for_its_copies(tmp_path: Path) -> None:
    """Sky order needs the disk for the stars as read, the sorted runs and the new shards at the same time."""
    raw = tmp_path / "raw.csv"
    raw.write_bytes(b"0" * 1_000_000)
    needed = {}
    for order in ("input", "healpix"):
        config = make_config(tmp_path, catalog={"source": {"raw": [str(raw)]}, "order": order})
        needed[order] = disk_gb(config, "ingest", 1_000_000)
    assert needed["healpix"] == pytest.approx(3 * needed["input"]) and needed["input"] == pytest.approx(0.072)


def test_epochs_and_steps_decide_the_training(tmp_path: Path) -> None:
    """Steps x batch, or epochs x the stars that are not held out."""
    by_steps = make_plan(make_run(make_config(tmp_path, train={"steps": 1000, "batch_size": 6400})), RATES)[1]
    by_epochs = make_plan(make_run(make_config(tmp_path, train={"epochs": 2})), RATES)[1]
    assert by_epochs.seconds - by_steps.seconds == pytest.approx(19.0 - 6.4)


def test_warnings_say_what_to_change(tmp_path: Path) -> None:
    """Fewer shards than ranks, a time limit that is too short, a batch that the partitions do not divide."""
    cluster = {"kind": "slurm", "nodes": 8, "ranks_per_node": 8, "time": "00:01"}
    config = make_config(tmp_path, cluster=cluster, train={"batch_size": 500})
    text = " ".join(warnings_of(make_run(config), make_plan(make_run(config), RATES)))
    assert "20 shards for 64 ranks" in text and "longer than its time 00:01" in text
    assert "use 512" in " ".join(problems_of(config))


def test_memory_of_an_array_is_that_of_one_task(tmp_path: Path) -> None:
    """What a node needs is for the ranks that share it, however many tasks an array has."""
    stages = {"encode": {"array": 50, "mem": "1G"}}
    config = make_config(tmp_path, cluster={"kind": "slurm", "stages": stages})
    assert "encode may need" not in " ".join(warnings_of(make_run(config)))
    stages = {"encode": {"ranks_per_node": 50, "mem": "1G"}}
    assert "encode may need" in " ".join(
        warnings_of(make_run(make_config(tmp_path, cluster={"kind": "slurm", "stages": stages})))
    )


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 5400), ("01:30", 90), ("02:00:01", 7201), ("1-12", 129_600), ("1-00:30", 88_200)]
)
def test_time_limits_are_read_as_sbatch_reads_them(text: str, seconds: int) -> None:
    """Minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes."""
    assert limit_seconds(text) == seconds


def test_command_measures_this_machine(tmp_path: Path) -> None:
    """The real calibration gives a rate for every stage, and leaves nothing in the run directory."""
    config = tmp_path / "plan.yaml"
    config.write_text(f"run_dir: {tmp_path}/run\ncatalog: {{source: {{simulate: {{stars: 1000000}}}}}}\n")
    done = hpc_ae("plan", config, "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["num_stars"] == 1_000_000 and all(stage["seconds"] > 0 for stage in record["stages"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("cluster", "compute", "expected"),
    [
        ({}, "auto", None),
        ({}, "torch", 1),
        ({"ranks_per_node": 2}, "auto", 1),
        ({"ranks_per_node": 1, "cpus_per_task": 3}, "torch", 3),
        ({"kind": "slurm", "cpus_per_task": 4}, "auto", 4),
    ],
)
def test_threads_of_training(cluster: dict[str, object], compute: str, expected: int | None) -> None:
    """All cores for the one rank of the fused kernel where nothing is said (None), else what the config says."""
    config = check_config({"run_dir": "x", "cluster": cluster, "train": {"compute": compute}}, "test")
    assert threads_per_rank(config, "train") == (expected or min(8, len(os.sched_getaffinity(0))))
    assert threads_per_rank(config, "encode") == cluster.get("cpus_per_task", 1)


def test_shards_are_those_of_the_catalog(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`check` counts the shards that are there, whatever the config would make."""
    stars = make_catalog(tmp_path / "stars", num_stars=2000, shard_rows=1000)
    catalog = {"path": str(stars), "source": None, "shard_rows": 10}
    config = write_config(tmp_path, catalog=catalog, cluster={"ranks_per_node": 4})
    status, said = in_process(capsys, "check", config, "train.partitions=8")
    assert status == 0 and "2 shards for 4 ranks of encode: more than 2 have nothing to do" in said
