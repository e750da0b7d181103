"""VERB train: a star catalog to checkpoints and a model, on one rank or many. Start and restart are one path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hpc_ae.catalog.catalog import open_catalog
from hpc_ae.layout import RunLayout
from hpc_ae.model.weights import is_model_of
from hpc_ae.runtime.distributed import Group
from hpc_ae.training.data import load_data
from hpc_ae.training.job import TrainJob, make_stepper
from hpc_ae.training.loop import Loop
from hpc_ae.training.partition import BatchPlan, check_cut, check_enough
from hpc_ae.training.position import restore
from hpc_ae.training.publish import publish_model
from hpc_ae.training.settings import TrainSettings, check_errors, check_usable
from hpc_ae.training.usable import UsableStars


def train(
    catalog_dir: Path,
    layout: RunLayout,
    settings: TrainSettings,
    group: Group,
    stop_requested: Callable[[], bool] = lambda: False,
) -> str:
    """Train to the end, or until asked to stop. Returns "done" or "interrupted" (a checkpoint is saved).

    InputError where batch size, partitions and number of stars do not go together.
    """
    job = TrainJob(open_catalog(catalog_dir), layout, settings, group)
    if is_model_of(layout.model_dir, job.fingerprint):
        return "done"
    check_cut(settings.train.batch_size, settings.train.partitions, group.ranks.world_size)
    # Before the scaling, which needs stars too: what all good stars cannot fill, those that are not held out cannot.
    usable = UsableStars.of(job.catalog, job.row_kind)
    check_usable(usable)
    check_enough(BatchPlan(usable.num_stars, settings.train.partitions, settings.train.batch_size, settings.seed))
    if settings.train.needs_errors:
        check_errors(job.catalog)
    stepper = make_stepper(job)
    position = restore(job, stepper)
    data = load_data(usable, settings.train, settings.seed, group)
    if not Loop(job, data, stepper, position).run(stop_requested):
        return "interrupted"
    publish_model(job, data, stepper, position)
    return "done"
