"""Simulated SDSS photometry: stars with magnitudes, errors, positions and ids, drawn from a model of real ones.

Pure arithmetic on arrays (numpy only). The model's numbers, with their provenance, are in `sdss_stars.json`;
`benchmarks/fit_photometry.py` fits them.
"""

from hpc_ae.photometry.mixture import BANDS, BLOCK_ROWS, simulate_stars
from hpc_ae.photometry.truth import simulate_observed

__all__ = ["BANDS", "BLOCK_ROWS", "simulate_observed", "simulate_stars"]
