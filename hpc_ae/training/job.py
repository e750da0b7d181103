"""One rank's training job: what it works on, where its files go, with whom."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property

from hpc_ae.catalog.catalog import Catalog
from hpc_ae.catalog.records import BandStatistics, StarManifest
from hpc_ae.errors import InputError
from hpc_ae.layout import RunLayout
from hpc_ae.model.architecture import Architecture
from hpc_ae.model.autoencoder import make_autoencoder
from hpc_ae.model.step import Stepper, StepSettings
from hpc_ae.provenance import Fingerprint
from hpc_ae.runtime.distributed import Group
from hpc_ae.sections import Divide, ModelSection, Standardize
from hpc_ae.training.settings import TrainSettings
from hpc_ae.training.usable import RowKind

_NOTHING = BandStatistics(mean=0.0, std=0.0, min=0.0, max=0.0)  # of a band that no star has
_SMALLEST_STD = 1.0e-6  # mag; float32 resolves no less at these magnitudes


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
        return Architecture(tuple(self.catalog.bands), tuple(model.hidden), model.latent, model.masked)

    @property
    def row_kind(self) -> RowKind:
        """What the network is trained on."""
        return RowKind.of(self.settings.model, self.settings.train, self.catalog)


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
    return _standard_scaling(catalog, model.masked)


def _standard_scaling(catalog: Catalog, masked: bool) -> tuple[list[float], list[float]]:
    """Mean and std in mag of each band over the good stars (over all measured, where the catalog knows them); of a band
    that a masked network never sees, as it is measured of no star, those of all others.

    InputError where a band does not vary.
    """
    statistics = catalog.manifest_as(StarManifest).statistics
    seen = [one for one in statistics.values() if one != _NOTHING]
    if masked and len(seen) < len(catalog.bands) and seen:
        unseen = [band for band in catalog.bands if statistics[band] == _NOTHING]
        print(f"train: no star has band {', '.join(unseen)}: what is predicted of it means nothing", file=sys.stderr)
        like = BandStatistics(
            mean=sum(one.mean for one in seen) / len(seen), std=max(one.std for one in seen), min=0.0, max=0.0
        )
        statistics = {**statistics, **dict.fromkeys(unseen, like)}
    for band in catalog.bands:
        if not statistics[band].std > _SMALLEST_STD:
            raise InputError(
                f"band {band} is constant: all good stars have the same magnitude",
                where=catalog.directory,
                got=f"mean {statistics[band].mean}, std {statistics[band].std} mag",
                expected="magnitudes that vary",
                fix=f"if that is right, say model.scaling.divide=20; else ingest again with --map {band}=COLUMN",
            )
    return [statistics[band].mean for band in catalog.bands], [statistics[band].std for band in catalog.bands]
