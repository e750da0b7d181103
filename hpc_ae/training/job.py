"""One rank's training job: what it works on, where its files go, with whom."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from hpc_ae.catalog.catalog import Catalog
from hpc_ae.catalog.records import StarManifest
from hpc_ae.errors import InputError
from hpc_ae.layout import RunLayout
from hpc_ae.model.architecture import Architecture
from hpc_ae.model.autoencoder import make_autoencoder
from hpc_ae.model.scaling import standard_scaling
from hpc_ae.model.step import Stepper, StepSettings
from hpc_ae.provenance import Fingerprint
from hpc_ae.runtime.distributed import Group
from hpc_ae.sections import Divide, ModelSection, Standardize
from hpc_ae.training.settings import TrainSettings


@dataclass(frozen=True)
class TrainJob:
    """The stars, the files of the run, what is asked for, and the ranks that train together."""

    catalog: Catalog
    layout: RunLayout
    settings: TrainSettings
    group: Group

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """What decides the model that comes out."""
        return self.settings.fingerprint(self.catalog.digest)

    @property
    def architecture(self) -> Architecture:
        """The shape of the network."""
        model = self.settings.model
        return Architecture(tuple(self.catalog.bands), tuple(model.hidden), model.latent)


def make_stepper(job: TrainJob) -> Stepper:
    """A freshly initialised model with its optimizer, on this rank's device."""
    train, group = job.settings.train, job.group
    mean, std = make_scaling(job.settings.model, job.catalog)
    model = make_autoencoder(job.architecture, mean, std, job.settings.seed).to(group.device)
    settings = StepSettings(
        optimizer=train.optimizer,
        weight_decay=train.weight_decay,
        betas=train.betas,
        clip_norm=train.clip_norm,
        compute=train.compute,
        precision=train.precision,
    )
    return Stepper(model, group.wrap, settings)


def make_scaling(model: ModelSection, catalog: Catalog) -> tuple[list[float], list[float]]:
    """Mean and std per band in mag, as config and catalog say."""
    scaling = model.scaling
    if isinstance(scaling, Divide):
        return [0.0] * len(catalog.bands), [scaling.divide] * len(catalog.bands)
    if isinstance(scaling, Standardize):
        for key, values in (("mean", scaling.mean), ("std", scaling.std)):
            if len(values) != len(catalog.bands):
                raise InputError(
                    f"{len(values)} {key}s, {len(catalog.bands)} bands",
                    where=f"model.scaling.{key}",
                    got=values,
                    expected=f"a number for each of {', '.join(catalog.bands)}",
                )
        return scaling.mean, scaling.std
    statistics = catalog.manifest_as(StarManifest).statistics
    known = {band: found.to_json() for band, found in statistics.items()}
    return standard_scaling(known, catalog.bands, catalog.directory)
