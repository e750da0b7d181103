"""What a run's config says to the verbs that train and encode: paths and settings of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpc_ae.config import RunConfig

if TYPE_CHECKING:
    from hpc_ae.encode import EncodePaths, EncodeSettings
    from hpc_ae.training.settings import TrainSettings


def training_of(config: RunConfig) -> TrainSettings:
    """How to train."""
    from hpc_ae.training.settings import TrainSettings

    return TrainSettings(config.seed, config.model, config.train, config.shared)


def encoding_of(config: RunConfig) -> tuple[EncodePaths, EncodeSettings]:
    """Where encode reads and writes, and how."""
    from hpc_ae.encode import EncodePaths, EncodeSettings

    section = config.encode
    paths = EncodePaths(config.catalog_path, config.model_path, config.encoding_path)
    return paths, EncodeSettings(section.reconstruction, section.uncertainty, section.compute)
