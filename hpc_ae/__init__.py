"""hpc_ae: train an autoencoder on a star catalog and encode a whole survey with it."""

from __future__ import annotations

from hpc_ae.version import __version__

TYPE_CHECKING = False  # nothing else is imported here: `python -m hpc_ae` must first put its path in order
if TYPE_CHECKING:
    from hpc_ae.catalog.catalog import open_catalog

__all__ = ["__version__", "open_catalog"]


def __getattr__(name: str) -> object:
    """Import `open_catalog` (and with it h5py) only when it is asked for."""
    if name == "open_catalog":
        from hpc_ae.catalog.catalog import open_catalog

        return open_catalog
    raise AttributeError(f"module 'hpc_ae' has no attribute {name!r}")
