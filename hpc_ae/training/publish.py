"""The publication of a model that is trained: its best weights, and how uncertain its reconstructions are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpc_ae.analysis.denoising import fit_uncertainty
from hpc_ae.analysis.denoising_gaps import choose_patterns, fit_patterns, pattern_record
from hpc_ae.analysis.linear import linear_error
from hpc_ae.files import remove_debris
from hpc_ae.model.files import load_autoencoder, write_model
from hpc_ae.model.jacobian import reconstruct
from hpc_ae.model.step import Stepper
from hpc_ae.model.weights import Origin, Trained
from hpc_ae.provenance import Provenance
from hpc_ae.training.data import TrainingData
from hpc_ae.training.job import TrainJob
from hpc_ae.training.position import Position
from hpc_ae.training.split import one_in

_HELD_OUT_STARS = 100_000


def publish_model(job: TrainJob, data: TrainingData, stepper: Stepper, position: Position) -> None:
    """Rank 0 writes the model directory, when all ranks have given their held-out stars."""
    tensors = position.best or stepper.weights()
    held_out = _gather_held_out(job, data)
    if job.group.is_lead:
        num_bands, latent = len(job.catalog.bands), job.architecture.latent
        complete = held_out[~np.isnan(held_out[:, :num_bands]).any(axis=1), :num_bands]
        training = Trained(
            catalog_digest=job.catalog.digest,
            steps=position.step,
            best_step=position.best_step if position.best else position.step,
            validation_mse_mag2=position.best_mse if position.best else None,
            num_training_stars=data.plan.num_rows,
            num_validation_stars=data.num_held_out,
            linear_mse_mag2=linear_error(complete, latent) if len(complete) else None,
            world_size=job.group.ranks.world_size,
            compute=stepper.objective.name,
            torch=torch.__version__,
        )
        tables = _measure_uncertainty(job, held_out, tensors)
        origin = Origin(
            training=training,
            fingerprint=job.fingerprint,
            provenance=Provenance.now(job.settings.config),
            uncertainty=tables.complete,
            uncertainty_missing=tables.missing,
            min_bands=job.row_kind.least_bands,
        )
        remove_debris(job.layout.model_dir)
        write_model(job.layout.model_dir, job.architecture, tensors, origin)
    job.group.barrier()


def _gather_held_out(job: TrainJob, data: TrainingData) -> np.ndarray:
    """Held-out stars on rank 0, which ones and in which order whatever rank held them: magnitudes and, where there are
    such, their errors.
    """
    gathered = job.group.gather_rows(one_in(1 + data.num_held_out // _HELD_OUT_STARS, data.held_out))
    return gathered[np.lexsort(gathered.T)] if job.group.is_lead else gathered


@dataclass(frozen=True)
class _Tables:
    """How uncertain reconstructions are, as model.json has it: of stars with all bands, and where some are missing."""

    complete: dict[str, list[Any]] | None = None
    missing: list[dict[str, Any]] | None = None


def _measure_uncertainty(job: TrainJob, held_out: np.ndarray, tensors: dict[str, Tensor]) -> _Tables:
    """How uncertain the reconstructions of held-out stars are; nothing where that is not known."""
    bands, num_bands = job.catalog.bands, len(job.catalog.bands)
    if held_out.shape[1] == num_bands:
        return _Tables()
    model = load_autoencoder(job.architecture, {name: one.cpu() for name, one in tensors.items()}, "model")
    whole = held_out[~np.isnan(held_out[:, :num_bands]).any(axis=1)]
    magnitude, errors = whole[:, :num_bands], whole[:, num_bands:]
    table = fit_uncertainty(magnitude, errors, *reconstruct(model, magnitude))
    if table is None or not job.architecture.masked:
        return _Tables(None if table is None else table.record())
    order = np.random.default_rng(0).permutation(len(whole))  # held-out stars come in order of their brightness
    patterns = choose_patterns(held_out[:, :num_bands], job.row_kind.least_bands or 1)
    found = fit_patterns((magnitude[order], errors[order]), patterns, partial(reconstruct, model))
    return _Tables(table.record(), [pattern_record(bands, missing, one) for missing, one in found])
