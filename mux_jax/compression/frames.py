"""Frames: the dimensions that each text of a row has in the states of a reduced model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mux_jax.compression.regression import Params


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
