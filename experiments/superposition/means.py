"""The ways to a speed that are compared: their shapes, and what differs from `launch/compress.py`."""

import dataclasses

from mux_jax.compression.shape import Shape
from mux_jax.errors import InputError
from mux_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Means:
    """A way to be faster.

    Attributes:
      layers: of the model; 0: all.
      hidden: dimensions of a state; 0: all.
      width: texts a row.
      share: a text's dimensions over D / N; above 1 the frames of neighbours overlap.
      hard: whether the weights between texts stay zero, and LayerNorms are by text.
      keys: `frames`, fitted by least squares; `gaussian`, the paper's, with the encoder as it is.
      primed: whether Gaussian keys are primed, as in the paper, before the model learns.
    """

    layers: int = 0
    hidden: int = 0
    width: int = 1
    share: float = 1.0
    hard: bool = False
    keys: str = "frames"
    primed: bool = False

    def shape(self, full: ModelConfig) -> Shape:
        """The shape of a reduction of the model `full`."""
        return Shape(
            layers=self.layers or full.num_hidden_layers,
            hidden=self.hidden or full.hidden_size,
            width=self.width,
            share=self.share,
        )


# About five and about two times as fast as a BERT of 6 layers and hidden 384.
MEANS = {
    "hidden_128": Means(hidden=128),
    "layers_2": Means(layers=2),
    "layers_3_hidden_256": Means(layers=3, hidden=256),
    "side_by_side_5": Means(width=5),
    "hard_5": Means(width=5, hard=True),
    "overlap_1.25_5": Means(width=5, share=1.25),
    "overlap_1.5_5": Means(width=5, share=1.5),
    "overlap_2_5": Means(width=5, share=2.0),
    "gaussian_5": Means(width=5, keys="gaussian"),
    "gaussian_primed_5": Means(width=5, keys="gaussian", primed=True),
    "layers_3_side_by_side_2": Means(layers=3, width=2),
    "hidden_256_side_by_side_2": Means(hidden=256, width=2),
    "hidden_256": Means(hidden=256),
    "layers_3": Means(layers=3),
    "side_by_side_2": Means(width=2),
    "overlap_1.5_2": Means(width=2, share=1.5),
    "hard_2": Means(width=2, hard=True),
    "gaussian_2": Means(width=2, keys="gaussian"),
    "gaussian_primed_2": Means(width=2, keys="gaussian", primed=True),
}


def find(name: str) -> Means:
    """The means of that name.

    Raises:
      InputError: there is none.
    """
    if name not in MEANS:
        raise InputError(f"--means={name} does not exist; there are: {', '.join(MEANS)}")
    return MEANS[name]
