"""Two latent spaces of the same stars: how well one turns into the other, and who are neighbours in both.

Shape letters: N stars, A and L dimensions of the two, D = A + L.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class JointMoments:
    """Count, mean (D,) and scatter matrix (D, D) of two latents of each star, one behind the other."""

    num: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, other: np.ndarray, latent: np.ndarray) -> JointMoments:
        """Moments of other (N, A) and latent (N, L), finite."""
        joint = np.concatenate([other.T, latent.T]).astype(np.float64)
        mean = joint.mean(axis=1) if joint.shape[1] else np.zeros(len(joint))
        joint -= mean[:, None]
        return cls(joint.shape[1], mean, np.einsum("in,jn->ij", joint, joint))  # BLAS's sums depend on its threads

    def merge(self, more: JointMoments) -> JointMoments:
        """Moments of both parts together (Chan, Golub and LeVeque 1979)."""
        num = self.num + more.num
        if not self.num or not more.num:
            return self if self.num else more
        step = more.mean - self.mean
        scatter = self.scatter + more.scatter + np.outer(step, step) * (self.num * more.num / num)
        return JointMoments(num, self.mean + step * (more.num / num), scatter)


@dataclass(frozen=True)
class Alignment:
    """The similarity that brings `other` onto `latent`: scale, rotation (or reflection) and shift.

    `disparity` is Procrustes': the part of the variance that is left, 0 to 1. `linear` is the part of the variance of
    `latent` that any linear map of `other` explains: 1 where one is the other, stretched or sheared.
    """

    scale: float
    rotation: np.ndarray
    centre_other: np.ndarray
    centre: np.ndarray
    radius: float
    disparity: float
    linear: float

    def displacement(self, other: np.ndarray, latent: np.ndarray) -> np.ndarray:
        """How far each star is from its place in `latent` (N, L) once `other` (N, A) is aligned; in units of the root
        mean square distance of the stars from their centre, float32 (N,).
        """
        moved = self.scale * ((other - self.centre_other) @ self.rotation)
        size: np.ndarray = np.sqrt(np.square(moved - (latent - self.centre)).sum(axis=1))
        return (size / self.radius).astype(np.float32)


def align(moments: JointMoments, num_other: int) -> Alignment:
    """The best similarity (orthogonal Procrustes with scale; Gower 1975) of the two latents, from their moments."""
    from scipy.linalg import svd

    scatter = moments.scatter
    own, theirs = slice(num_other, None), slice(0, num_other)
    left, values, right = svd(scatter[theirs, own], full_matrices=False)
    total_other, total = np.trace(scatter[theirs, theirs]), np.trace(scatter[own, own])
    explained = scatter[own, theirs] @ np.linalg.pinv(scatter[theirs, theirs], hermitian=True) @ scatter[theirs, own]
    tiny = np.finfo(float).tiny
    return Alignment(
        scale=float(values.sum() / max(total_other, tiny)),
        rotation=left @ right,
        centre_other=moments.mean[theirs],
        centre=moments.mean[own],
        radius=float(np.sqrt(max(total, tiny) / max(1, moments.num))),
        disparity=float(np.clip(1.0 - values.sum() ** 2 / max(total_other * total, tiny), 0.0, 1.0)),
        linear=float(np.clip(np.trace(explained) / max(total, tiny), 0.0, 1.0)),
    )


def neighbour_overlap(other: np.ndarray, latent: np.ndarray, num_neighbours: int) -> float:
    """The mean part of a star's nearest neighbours in `latent` (N, L) that are such in `other` (N, A) too; NaN where
    there are too few stars.
    """
    from scipy.spatial import cKDTree

    if len(latent) <= num_neighbours:
        return float("nan")
    mine, theirs = (cKDTree(values).query(values, num_neighbours + 1)[1] for values in (latent, other))
    own = np.arange(len(latent))[:, None]
    shared = (mine[:, :, None] == theirs[:, None, :]).any(axis=2) & (mine != own)
    return float(np.minimum(shared.sum(axis=1), num_neighbours).mean() / num_neighbours)
