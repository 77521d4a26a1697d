"""Distances between sets of features (n, d), which measure how two sets of pictures differ."""

from __future__ import annotations

import numpy as np


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of Gaussians fitted to two sets (Heusel and others, 2017, equation 6)."""
    (mean_a, cov_a), (mean_b, cov_b) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (a, b))
    # The trace of the root of a product, through a symmetric matrix with the same eigenvalues.
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    product = np.linalg.eigvalsh(root @ cov_b @ root)
    cross = np.sqrt(np.clip(product, 0, None)).sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return unbiased squared MMD with the cubic kernel (Binkowski and others, 2018)."""

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def apart(x: np.ndarray) -> float:
        k = kernel(x, x)
        return float((k.sum() - np.trace(k)) / (len(x) * (len(x) - 1)))

    a, b = a.astype(np.float64), b.astype(np.float64)
    return apart(a) + apart(b) - 2 * float(kernel(a, b).mean())


def inception_score(probabilities: np.ndarray) -> float:
    """Inception score of class probabilities (n, c) (Salimans and others, 2016)."""
    p = np.clip(probabilities, 1e-12, None)
    return float(np.exp((p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean()))


def precision_recall(real: np.ndarray, painted: np.ndarray, *, k: int = 3) -> tuple[float, float]:
    """Return shares within the k-nearest-neighbour balls of the other set (Kynkäänniemi 2019)."""

    def covered(by: np.ndarray, points: np.ndarray) -> float:
        radius = np.partition(squared_distances(by, by), k, axis=1)[:, k]  # the nearest is itself
        return float((squared_distances(points, by) <= radius).any(axis=1).mean())

    return covered(real, painted), covered(painted, real)


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return squared distances (n, m) between the rows of two sets."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.clip((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0, None)
