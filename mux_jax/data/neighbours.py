"""Nearest neighbours of texts by the cosine of their embeddings: exact, by matrix products."""

from collections.abc import Sequence

import numpy as np

NEIGHBOURS = 10  # of a text, that two models are compared by
_BLOCK = 1_024  # texts whose cosines with all others are in memory


def unit(embeddings_TE: np.ndarray) -> np.ndarray:
    """The same of length 1; zeros stay."""
    return embeddings_TE / np.maximum(np.linalg.norm(embeddings_TE, axis=-1, keepdims=True), 1e-12)


def nearest(embeddings_TE: np.ndarray, count: int = NEIGHBOURS) -> np.ndarray:
    """The `count` nearest other texts of each, in no order: int [T, count], of fewer texts all others."""
    x_TE = unit(embeddings_TE.astype(np.float32))
    T = len(x_TE)
    count = min(count, T - 1)
    found = np.zeros((T, count), int)
    for start in range(0, T, _BLOCK):
        cosines = x_TE[start : start + _BLOCK] @ x_TE.T
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -np.inf  # a text is no neighbour of itself
        found[start : start + _BLOCK] = np.argpartition(cosines, T - count - 1, axis=-1)[:, T - count :]
    return found


def common_neighbours(ours_TE: np.ndarray, theirs_TE: np.ndarray) -> np.ndarray:
    """How many of the nearest neighbours of each text are the same by two models: int [T]."""
    pairs = zip(nearest(ours_TE), nearest(theirs_TE))
    return np.array([len(np.intersect1d(x, y, assume_unique=True)) for x, y in pairs], int)


def cosines(embeddings: Sequence[np.ndarray]) -> list[float]:
    """The cosine of each pair of embeddings: of the first two, of the next two."""
    pairs = unit(np.array(embeddings)).reshape(-1, 2, np.shape(embeddings)[-1])
    return (pairs[:, 0] * pairs[:, 1]).sum(-1).tolist()
