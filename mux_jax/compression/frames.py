"""Frames: the dimensions that each text of a row has in the states of a reduced model."""

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from mux_jax.compression.regression import Params, moments_about_means


@dataclasses.dataclass(frozen=True)
class Frames:
    """N frames of d of a row's D dimensions, frame i from i (D // N) on; one over the end goes on at the start.

    Attributes:
      count: N.
      size: d.
      dimensions: D.
    """

    count: int
    size: int
    dimensions: int

    @property
    def own(self) -> int:
        """A text's dimensions before those that it has together with the next."""
        return self.dimensions // self.count

    @property
    def places_Nd(self) -> np.ndarray:
        """int[N, d]: the row's dimensions that are a frame's, in its order."""
        return (np.arange(self.count)[:, None] * self.own + np.arange(self.size)) % self.dimensions

    @property
    def holds_ND(self) -> np.ndarray:
        """bool[N, D]: whether a dimension is in a frame."""
        held_ND = np.zeros((self.count, self.dimensions), bool)
        np.put_along_axis(held_ND, self.places_Nd, True, axis=1)
        return held_ND

    def of(self, mixed_BLD: jax.Array) -> jax.Array:
        """Each text's frame of the states of rows: [B, L, D] -> [B N L, d], one text after the other."""
        return jnp.take(mixed_BLD, self.places_Nd, axis=-1).swapaxes(1, 2).reshape(-1, self.size)

    def reading(self, part: Params, fresh: Params) -> Params:
        """A linear map [d, c] of each frame, side by side: [D, N c]; columns that are left over stay fresh."""
        c = part["kernel"].shape[1]
        kernel, bias = np.array(fresh["kernel"]), np.array(fresh["bias"])
        kernel[:, : self.count * c] = 0
        for i, places in enumerate(self.places_Nd):
            kernel[places, i * c : (i + 1) * c] = part["kernel"]
        bias[: self.count * c] = np.tile(part["bias"], self.count)
        return {"kernel": kernel, "bias": bias}

    def writing(self, part: Params, fresh: Params) -> Params:
        """A linear map [c, d] into each frame: [N c, D]; rows that are left over stay fresh, but write to no frame.

        Where M frames overlap, each writes an M-th: all correct the same sum.
        """
        c = len(part["kernel"])
        kernel, bias = np.array(fresh["kernel"]), np.array(fresh["bias"])
        frames_D = self.holds_ND.sum(0)
        held = frames_D > 0
        kernel[: self.count * c], kernel[:, held], bias[held] = 0, 0, 0
        for i, places in enumerate(self.places_Nd):
            kernel[i * c : (i + 1) * c, places] = part["kernel"] / frames_D[places]
            bias[places] += part["bias"] / frames_D[places]
        return {"kernel": kernel, "bias": bias}

    def tiled(self, part_d: np.ndarray, fresh_D: np.ndarray) -> np.ndarray:
        """A number for each dimension of a frame, as one of the row's: the mean where frames overlap."""
        sums, counts = np.zeros(self.dimensions), np.zeros(self.dimensions)
        for places in self.places_Nd:
            sums[places] += part_d
            counts[places] += 1
        return np.where(counts > 0, sums / np.maximum(counts, 1), fresh_D).astype(np.float32)


def directions(states: Iterable[jax.Array], frames: Frames) -> np.ndarray:
    """What frames hold of states: orthonormal columns [D, d] of the directions with the most variance, turned.

    They are the first eigenvectors of sum_k X_k'X_k / tr(X_k'X_k), X_k being the `states` [T, D] about their mean; of
    frames that overlap, what is a text's own gets the first ones.
    """
    covariance: np.ndarray | float = 0.0
    for state_TD in states:
        moment = jax.device_get(moments_about_means(state_TD, state_TD)[1][0])
        covariance = covariance + moment.astype(np.float64) / moment.trace()
    vectors_DD = np.linalg.eigh(covariance)[1][:, ::-1].astype(np.float32)
    own, found, start = min(frames.own, frames.size), [], 0
    for size in (own, frames.size - own):
        turn = _turn(size)
        found.append(vectors_DD[:, start : start + len(turn)] @ turn)
        start += len(turn)
    return np.concatenate(found, axis=1)


def _turn(size: int) -> np.ndarray:
    """Orthonormal rows [size - 1, size], each with a sum of 0, drawn at random; of size 1 the one that there is."""
    if size < 2:
        return np.ones((size, size), np.float32)
    drawn = np.random.default_rng(size).normal(size=(size, size))
    drawn[:, 0] = 1
    return np.linalg.qr(drawn)[0][:, 1:].T.astype(np.float32)


def multiplexer_keys(directions_Dd: np.ndarray, frames: Frames, scale_E: np.ndarray) -> np.ndarray:
    """The multiplexer's matrices [N, E, E]: each puts the same directions into its text's frame.

      G_i = diag(1 / scale) Z_i u'     Z_i [E, d] is 1 where a dimension is the j-th of frame i, and 0 elsewhere

    The multiplexer gives sum_i G_i x_i / sqrt(N). The embeddings' LayerNorm follows, and multiplies by `scale_E`, which
    is taken out before. Scales below 0.3 of their mean, a plain choice, count as that: 1 / scale would otherwise
    let one dimension fill the row, and LayerNorm shrink the rest. What is left over is 0.
    """
    D = len(directions_Dd)
    scale_E = np.asarray(scale_E)
    scale_E = np.copysign(np.maximum(np.abs(scale_E), 0.3 * np.abs(scale_E).mean()), scale_E)
    keys_NEE = np.zeros((frames.count, D, D), np.float32)
    for key, places in zip(keys_NEE, frames.places_Nd):
        key[places] = directions_Dd.T
    return keys_NEE / scale_E[:, None]
