"""What a training is asked to do. Without PyTorch: whether a model is that of a config is asked in many places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hpc_ae.catalog.catalog import Catalog
from hpc_ae.errors import InputError
from hpc_ae.provenance import Fingerprint
from hpc_ae.sections import MIN_MASKED_BANDS, ModelSection, TrainSection
from hpc_ae.training.usable import UsableStars

# What may change between a start and a restart of a training without changing its result.
_OPERATIONAL = {"checkpoint_steps", "checkpoint_seconds", "keep_checkpoints", "tensorboard", "compute", "memory_limit"}


@dataclass(frozen=True)
class TrainSettings:
    """The parts of a config that training goes by; `config` is all of it, for the model's provenance."""

    seed: int
    model: ModelSection
    train: TrainSection
    config: dict[str, Any]

    def fingerprint(self, catalog_digest: str) -> Fingerprint:
        """What decides the model that is trained on a catalog of this digest."""
        settings = self.train.model_dump(mode="json", exclude=_OPERATIONAL)
        if settings["noise"] == "none":  # as it was before there was noise: older trainings go on
            del settings["noise"]
        model = self.model.model_dump(mode="json")
        if not self.model.masked:  # the same of networks that see all bands
            del model["missing"], model["min_bands"], settings["hide_bands"]
        return {"seed": self.seed, "model": model, "train": settings, "catalog": catalog_digest}


def check_usable(stars: UsableStars) -> None:
    """InputError where no star of a catalog can be trained on, or a star would need more bands than there are."""
    catalog, least = stars.catalog, stars.kind.least_bands
    bands = catalog.bands
    if least is not None and least > len(bands):
        expected = f"at most {len(bands)}, the bands of the catalog"
        raise InputError("more bands asked for than there are", where="model.min_bands", got=least, expected=expected)
    if stars.num_stars:
        return
    if least is None:
        what, expected = "no star of the catalog has all bands", "stars whose quality is 0"
        fix = "set model.missing=mask to use stars that lack bands" if len(bands) >= MIN_MASKED_BANDS else ""
    else:
        what = f"no star of the catalog has {least} measured bands"
        expected, fix = f"stars with model.min_bands={least} of {', '.join(bands)}", "lower model.min_bands"
    got = f"{catalog.num_stars:,} stars, none of them usable"
    raise InputError(what, where=catalog.directory, got=got, expected=expected, fix=fix)


def check_errors(catalog: Catalog) -> None:
    """InputError where a catalog has no magnitude errors, of which training is to draw noise."""
    if "magnitude_error" not in catalog.columns:
        raise InputError(
            "the catalog has no magnitude errors to draw noise from",
            where=f"{catalog.directory}, train.noise",
            got=f"columns {', '.join(catalog.columns)}",
            expected="magnitude_error",
            fix="set train.noise=0.05 (mag) or train.noise=none, or ingest raw files with their errors",
        )
