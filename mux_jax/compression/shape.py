"""What a cheaper model looks like: fewer layers, narrower, several texts a row; and which may be made of a model."""

import dataclasses
from typing import Any

from mux_jax.errors import InputError
from mux_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes that a model is reduced to.

    Attributes:
      layers: K, of the encoder.
      hidden: D', dimensions of a state; heads keep their size, and neurons their ratio to D'.
      width: N, texts a row.
      share: dimensions of a text in a row over D' / N; above 1 the frames of neighbours overlap. 1 at width 1.
    """

    layers: int
    hidden: int
    width: int = 1
    share: float = 1.0

    def name(self, full: ModelConfig) -> str:
        """What differs from the model `full`, as people read it."""
        found = []
        if self.layers != full.num_hidden_layers:
            found.append(f"{self.layers} layer{'s' if self.layers > 1 else ''}")
        if self.hidden != full.hidden_size:
            found.append(f"hidden {self.hidden}")
        if self.width > 1:
            found.append(f"{self.width} texts a row" + (f", share {self.share:g}" if self.share > 1 else ""))
        return ", ".join(found) or "as it is"

    @property
    def text_dimensions(self) -> int:
        """d, a text's dimensions in the states of a row."""
        return min(self.hidden, round(self.share * (self.hidden // self.width)))


def reduced(full: ModelConfig, shape: Shape) -> ModelConfig:
    """The configuration of the model `full`, of width 1, in another shape.

    Raises:
      InputError: a shape that the model cannot have, by the flag, with what it can.
    """
    if full.width > 1:
        raise InputError(f"--model has width {full.width}; it must be an ordinary model, of width 1")
    most, heads, D = full.num_hidden_layers, full.num_attention_heads, full.hidden_size
    if not 1 <= shape.layers <= most:
        raise InputError(f"--layers={shape.layers} must be from 1 to {most}, the layers of --model")
    if (shape.hidden != D or shape.width > 1) and full.family.not_multiplexed:
        raise InputError(f"{full.architecture} can be made cheaper by --layers alone")
    K = full.head_size
    if not 1 <= shape.hidden <= D or shape.hidden % K:
        below = min(max(shape.hidden // K, 1), heads) * K
        near = " and ".join(str(size) for size in sorted({below, min(below + K, D)}))
        raise InputError(
            f"--hidden={shape.hidden} must be a multiple of {K}, the size of a head of --model, up to {D}: the next "
            f"are {near}"
        )
    heads = shape.hidden // K
    if not 1 <= shape.width <= heads:
        raise InputError(f"--width={shape.width} must be from 1 to {heads}, the heads: each text of a row needs one")
    if not 1 <= shape.share <= shape.width:
        raise InputError(f"--share={shape.share:g} must be from 1 to {shape.width}, the texts of a row")
    if shape.width > 1 and full.embedding_size != D:
        raise InputError(
            f"--width={shape.width}: --model has embeddings of {full.embedding_size} and states of {D} dimensions; to "
            "share rows they must be of one size"
        )
    changes: dict[str, Any] = dict(
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        num_attention_heads=heads,
        intermediate_size=max(1, full.intermediate_size * shape.hidden // D),
        embedding_size=shape.hidden if full.embedding_size == D else full.embedding_size,
        width=shape.width,
    )
    if full.head == "embedding" and shape.hidden != D:
        changes["projections"] = ((D, "", True), *full.projections)  # embeddings stay as large as they are
    kept = {name: value for name, value in full.to_flat().items() if name not in dict(full.options)}
    kept |= full.family_options(shape.width) | changes
    if shape.width > 1:
        kept |= dict(multiplexer="low_rank_orthogonal", demultiplexer="rsa", num_demux_layers=2)
        if full.has_pooler:
            kept["pooler"] = True  # which its classes are read from
    return ModelConfig.from_flat(kept)


MEANS = ("layers", "hidden", "both", "width")
_MOST_TEXTS = 20  # a row


def families(full: ModelConfig, means: str) -> list[list[Shape]]:
    """The shapes that a means gives: lists from the largest to the smallest, of those that the model can have.

    Args:
      means: `layers`: fewer; `hidden`: narrower; `both`: half or a third of the layers, and narrower; `width`: texts a
        row.
    """
    possible = ([shape for shape in family if not _problem(full, shape)] for family in _smaller(full, means))
    return [family for family in possible if family]


def check_means(full: ModelConfig, by: str) -> None:
    """Raises `InputError` if a means gives no shape; for `auto`, if none does.

    Args:
      by: a name in `MEANS`, or `auto`.
    """
    asked = MEANS if by == "auto" else (by,)
    if any(families(full, means) for means in asked):
        return
    problems = []
    for means in asked:
        shapes = [shape for family in _smaller(full, means) for shape in family]
        few = "layer" if full.num_hidden_layers == 1 and means in ("layers", "both") else "head"
        problems.append(_problem(full, shapes[0]) if shapes else f"--model has one {few}; nothing smaller exists")
    given = f"--by={by}" if by != "auto" else "--speedup: nothing is faster"
    raise InputError(f"{given}: {'; '.join(dict.fromkeys(problems))}")


def _smaller(full: ModelConfig, means: str) -> list[list[Shape]]:
    L, D, K, H = full.num_hidden_layers, full.hidden_size, full.head_size, full.num_attention_heads
    narrower = range(D - K, 0, -K)
    return {
        "layers": [[Shape(layers=k, hidden=D) for k in range(L - 1, 0, -1)]],
        "hidden": [[Shape(layers=L, hidden=h) for h in narrower]],
        "both": [[Shape(layers=k, hidden=h) for h in narrower] for k in sorted({-(-L // 2), -(-L // 3)} - {L})],
        "width": [[Shape(layers=L, hidden=D, width=n) for n in range(2, min(H, _MOST_TEXTS) + 1)]],
    }[means]


def _problem(full: ModelConfig, shape: Shape) -> str:
    """Why the model cannot have a shape; empty if it can."""
    try:
        reduced(full, shape)
    except InputError as e:
        return str(e)
    return ""
