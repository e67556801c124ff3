"""A model in fewer layers, fewer dimensions, with several texts a row: fitted to the one that it comes from.

A text has d dimensions of the states of the reduced model, its frame (`frames`), and some of its heads and neurons. In
a narrow model (N = 1) the frame is the whole state. One layer after the other is fitted, by ridge regression on texts,
to compute in each frame what the full model computes; one fit serves all frames. The order:

1. Directions u [D, d]: eigenvectors of sum_k X_k'X_k / tr(X_k'X_k). X_k are the full model's states about their mean,
   after each attention and each layer that is to be met. The trace makes all k count alike. What a frame should hold is
   target(state) = (state - mean state) u. u is turned so that dimensions have about the same size and their mean is 0
   at every position, since LayerNorm would take it away.
2. Embeddings: a narrow model's tables are projected on u; of several texts the multiplexer's keys do it.
3. Layers, first to last, attention before feed-forward. Layer j of K has the weights of one of L to start from, and is
   to give the states after the last of its L / K. A fit reads what earlier fits give, and so makes up for their errors.
4. Head: read from the frame (N = 1), or the full model's, which reads what the demultiplexer gives (N > 1).

- Kernels read and write frames alone, and biases repeat: texts meet in LayerNorms, and in frames that overlap.
- Heads keep their size K = D // H. No head and no neuron serves two texts.
- A bias by distance (MPNet's) is one for all layers. So all layers then keep the heads that the first one has chosen,
  with their biases.
- Where N does not divide the dimensions, heads or neurons, what is left over keeps fresh random weights and reads all
  texts; only LayerNorms carry anything back.
- Where no dimension is to be saved, u is the identity, and all heads and neurons stay. Where no layer is either, the
  model stays as it is: a fit would only come close to it, as its targets are states after LayerNorm.

The method is ours; fitting layer by layer is known from pruning.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mux_jax.compression.demultiplexer import fit_demultiplexer, line
from mux_jax.compression.frames import Frames, directions, multiplexer_keys
from mux_jax.compression.regression import Params, Regression, linear
from mux_jax.compression.shape import Shape, reduced
from mux_jax.compression.sublayers import attend, embed, relative_bias, sublayers
from mux_jax.compression.units import fit_head, fit_units
from mux_jax.models.config import ModelConfig
from mux_jax.models.encoder import split_layers
from mux_jax.models.heads import pool
from mux_jax.models.layers import gelu
from mux_jax.models.model import MuxModel
from mux_jax.parallel.mesh import make_mesh
from mux_jax.parallel.params import init_params

Report = Callable[[float, str], None]


def reduce_model(
    full: ModelConfig,
    params: Params,
    shape: Shape,
    tokens_SL: np.ndarray,
    types_SL: np.ndarray | None,
    pad_id: int,
    seed: int,
    report: Report,
) -> tuple[ModelConfig, Params]:
    """A model in another shape that does about what the full one does.

    Args:
      full: an ordinary model, of width 1.
      params: its parameters, on the host.
      shape: what to make.
      tokens_SL: int32[S, L], texts to fit on, with padding; those of a row follow each other, and N divides S.
      types_SL: their token types; None: all are 0.
      pad_id: the padding token.
      seed: of what is not fitted: the retrieval head, and what is left over where N does not divide.
      report: see `progress`.

    Returns:
      `reduced(full, shape)`, and its parameters, float32, on the host.

    Raises:
      InputError: a shape that the model cannot have.
    """
    config = reduced(full, shape)
    if shape == Shape(layers=full.num_hidden_layers, hidden=full.hidden_size):
        return config, jax.tree.map(lambda x: np.asarray(x, np.float32), params)  # nothing to save
    if full.family.not_multiplexed:
        return config, _with_layers(full, params, shape.layers)
    if shape.width > 1 and shape.hidden < full.hidden_size:  # narrow first, then shared
        narrow = dataclasses.replace(shape, width=1, share=1.0)
        full, params = reduce_model(full, params, narrow, tokens_SL, types_SL, pad_id, seed, report)
    fresh = jax.device_get(init_params(MuxModel(config), make_mesh(devices=jax.devices()[:1]), seed))
    with jax.default_matmul_precision("highest"):
        made = _Reduction(full, config, params, fresh, shape, tokens_SL, types_SL, pad_id).run(report)
    return config, jax.tree.map(lambda x: np.asarray(x, np.float32), made)


def _with_layers(full: ModelConfig, params: Params, count: int) -> Params:
    """Some layers as they are: of a family whose layers differ by their number, one of the same kind each."""
    every, last = dict(full.options).get("global_attn_every_n_layers", 1), full.num_hidden_layers - 1
    wanted = [round(j * last / max(1, count - 1)) for j in range(count)]
    kept = [min(w - (w - j) % every, last) for j, w in enumerate(wanted)]
    layers = jax.tree.map(lambda x: x[np.array(kept)], params["encoder"]["layers"])
    return params | {"encoder": params["encoder"] | {"layers": layers}}


class _Reduction:
    """The fits of a reduction, in order. States of texts are [S, L, D], of rows [B, L, D], of tokens [T, D]."""

    def __init__(
        self,
        full: ModelConfig,
        config: ModelConfig,
        params: Params,
        fresh: Params,
        shape: Shape,
        tokens_SL: np.ndarray,
        types_SL: np.ndarray | None,
        pad_id: int,
    ):
        self.full = dataclasses.replace(full, dtype="float32")
        self.config = dataclasses.replace(config, dtype="float32")
        self.params, self.fresh = params, fresh
        self.tokens_SL, self.types_SL = tokens_SL, types_SL if full.takes_token_types else None
        self.mask_SL = jnp.asarray(tokens_SL != pad_id)
        self.real_T = np.flatnonzero(tokens_SL != pad_id)  # what is fitted on
        self.frames = Frames(config.width, shape.text_dimensions, config.hidden_size)
        self.row_mask = self.mask_SL if config.width == 1 else None  # as in `MuxModel.encode`
        self.same = config.width == 1 and config.hidden_size == full.hidden_size
        K, L = config.num_hidden_layers, full.num_hidden_layers
        self.ends = [-(-(j + 1) * L // K) - 1 for j in range(K)]  # the layers whose states are met

    def run(self, report: Report) -> Params:
        """The parameters of the reduced model."""
        layers = split_layers(self.params)["encoder"]
        fresh_layers = split_layers(self.fresh)["encoder"]
        length = self.tokens_SL.shape[1]
        bias_HLL = new_bias_HLL = relative_bias(self.full, self.params["encoder"], length)
        embedded_SLD = embed(self.full, self.params, self.tokens_SL, self.types_SL)
        states = [embedded_SLD]  # before each layer, and at the end
        attended = []
        for i in range(self.full.num_hidden_layers):
            report(0.3 * i / self.full.num_hidden_layers, "states")
            found = sublayers(self.full, layers[f"layers_{i}"], states[-1], self.mask_SL, bias_HLL)
            attended.append(found[0])
            states.append(found[1])
        met = [attended[i] for i in self.ends] + [states[i + 1] for i in self.ends]
        eye_DD = np.eye(self.full.hidden_size, dtype=np.float32)
        self.directions_Dd = eye_DD if self.same else directions(map(self._tokens, met), self.frames)
        params = dict(self.fresh) | self._embeddings(embedded_SLD)
        mixed_BLD = embed(self.config, params, self.tokens_SL, self.types_SL)

        heads: list[int] = []
        fitted, encoder = [], {}
        for j, end in enumerate(self.ends):
            report(0.3 + 0.6 * j / len(self.ends), f"layer {j + 1} of {len(self.ends)}")
            layer, new = layers[f"layers_{end}"], fresh_layers[f"layers_{j}"]
            target_Td = self._target(attended[end])
            found, chosen = self._attention(layer, new, states[end], target_Td, mixed_BLD, bias_HLL, heads)
            if bias_HLL is not None and not heads:
                heads = chosen
                encoder = {"relative_bias": self._chosen_bias(heads)}
                new_bias_HLL = relative_bias(self.config, encoder, length)
            new = new | found
            new = new | self._norm("attention_norm", new, target_Td, mixed_BLD, new_bias_HLL)
            attended_BLD = sublayers(self.config, new, mixed_BLD, self.row_mask, new_bias_HLL)[0]
            target_Td = self._target(states[end + 1])
            new = new | self._feed_forward(layer, new, attended[end], target_Td, attended_BLD)
            new = new | self._norm("output_norm", new, target_Td, mixed_BLD, new_bias_HLL)
            mixed_BLD = sublayers(self.config, new, mixed_BLD, self.row_mask, new_bias_HLL)[1]
            fitted.append(new)
        params["encoder"] = encoder | {"layers": jax.tree.map(lambda *x: np.stack(x), *fitted)}
        report(0.9, "head")
        return params | self._head(mixed_BLD, states[-1])

    def _tokens(self, state_SLD: jax.Array) -> jax.Array:
        """The states of tokens, [T, D], without those of padding."""
        return state_SLD.reshape(-1, state_SLD.shape[-1])[self.real_T]

    def _frames(self, mixed_BLD: jax.Array) -> jax.Array:
        """What the frame of its text holds at each token, [T, d]."""
        return self.frames.of(mixed_BLD)[self.real_T]

    def _target(self, state_SLD: jax.Array) -> jax.Array:
        """What it is to hold; the mean of each dimension is 0, unless nothing is saved."""
        state_TD = self._tokens(state_SLD)
        return state_TD if self.same else (state_TD - state_TD.mean(0)[None]) @ self.directions_Dd

    def _embeddings(self, embedded_SLD: jax.Array) -> Params:
        """Embeddings, and the multiplexer or projection after them."""
        embeddings = self.params["embeddings"]
        if self.same or self.config.width > 1:
            names = ("embeddings", "embeddings_project")
            found: Params = {name: self.params[name] for name in names if name in self.params}
            if self.config.width > 1:
                keys_NEE = multiplexer_keys(self.directions_Dd, self.frames, embeddings["norm"]["scale"])
                found["multiplexer"] = {"keys": keys_NEE}
            return found
        mean_D = np.asarray(self._tokens(embedded_SLD).mean(0))
        kernel_Ed = self.directions_Dd
        if "embeddings_project" in self.params:  # what they are projected to is the state
            project = self.params["embeddings_project"]
            kernel_Ed = project["kernel"] @ self.directions_Dd
            if self.config.embedding_size != self.config.hidden_size:
                bias = (project["bias"] - mean_D) @ self.directions_Dd
                return {"embeddings": embeddings, "embeddings_project": {"kernel": kernel_Ed, "bias": bias}}
        scaled_Ed = np.asarray(embeddings["norm"]["scale"])[:, None] * kernel_Ed
        scaled_Ed -= scaled_Ed.mean(0)  # LayerNorm takes the mean over E away
        d = len(scaled_Ed[0])
        tables = {name: table @ scaled_Ed for name, table in embeddings.items() if name != "norm"}
        plain = {"norm": {"scale": np.ones(d, np.float32), "bias": np.zeros(d, np.float32)}}
        given = {"embeddings": tables | plain}
        found_SLd = embed(self.config, given, self.tokens_SL, self.types_SL)
        scale_d, bias_d = line(self._tokens(found_SLd), self._target(embedded_SLD))
        return {"embeddings": tables | {"norm": {"scale": np.asarray(scale_d), "bias": np.asarray(bias_d)}}}

    def _attention(
        self,
        layer: Params,
        new: Params,
        state_SLD: jax.Array,
        target_Td: jax.Array,
        mixed_BLD: jax.Array,
        bias_HLL: jax.Array | None,
        heads: list[int],
    ) -> tuple[Params, list[int]]:
        """The attention of a text: as many of the full model's heads as it has, those that explain most together.

          [q k v] = part W + b             ~ the layer's projections of `state_SLD`, all H heads
          a = softmax(q k' / sqrt(K)) v    [S, L, D], each head by itself
          a[chosen] W + b                  ~ target - part, as the residual adds the part

        Heads, unless they are given, are chosen one by one, each time the one that explains most together with those
        chosen before; they are returned, too.
        """
        D, H = self.full.hidden_size, self.full.num_attention_heads
        names, parts_Td = ("query", "key", "value"), self._frames(mixed_BLD)
        state_TD = self._tokens(state_SLD)
        wanted_TX = jnp.concatenate([linear(layer["attention"][name], state_TD) for name in names], axis=-1)
        fitted = Regression(parts_Td, wanted_TX).solve()
        fits = {name: {k: v[..., i * D : (i + 1) * D] for k, v in fitted.items()} for i, name in enumerate(names)}
        parts_SLd = self.frames.of(mixed_BLD).reshape(*state_SLD.shape[:2], -1)
        read_SLD = attend(*(linear(fits[name], parts_SLd) for name in names), H, self.mask_SL, bias_HLL)
        regression = Regression(self._tokens(read_SLD), target_Td - parts_Td)

        dimensions = np.arange(D).reshape(H, -1)  # of each head
        chosen, count = list(heads), self.config.num_attention_heads // self.config.width
        if count == H:
            chosen = list(range(H))
        while len(chosen) < count:
            left = [head for head in range(H) if head not in chosen]
            chosen.append(max(left, key=lambda head: regression.explained(dimensions[[*chosen, head]].ravel())))
        used = dimensions[chosen].ravel()
        made = {
            name: self.frames.reading({k: v[..., used] for k, v in fits[name].items()}, new["attention"][name])
            for name in names
        }
        made["output"] = self.frames.writing(regression.solve(used), new["attention"]["output"])
        return {"attention": made}, chosen

    def _feed_forward(
        self, layer: Params, new: Params, state_SLD: jax.Array, target_Td: jax.Array, attended_BLD: jax.Array
    ) -> Params:
        """The feed-forward layer of a text: as many of the full model's neurons as it has.

        z = part W + b                   ~ the layer's `intermediate`, all F neurons, before GELU
        GELU(z)[used] W + b              ~ target - part, as the residual adds the part
        """
        parts_Td = self._frames(attended_BLD)
        units_TF = linear(layer["intermediate"], self._tokens(state_SLD))
        count = self.config.intermediate_size // self.config.width
        first, second = fit_units(parts_Td, units_TF, gelu, target_Td - parts_Td, count)
        return {
            "intermediate": self.frames.reading(first, new["intermediate"]),
            "output": self.frames.writing(second, new["output"]),
        }

    def _norm(
        self, name: str, new: Params, target_Td: jax.Array, mixed_BLD: jax.Array, bias_HLL: jax.Array | None
    ) -> Params:
        """A LayerNorm, by the line in each dimension from what it gives with scale 1 and bias 0 to the target."""
        D = self.config.hidden_size
        plain = {name: {"scale": np.ones(D, np.float32), "bias": np.zeros(D, np.float32)}}
        place = ("attention_norm", "output_norm").index(name)
        found_BLD = sublayers(self.config, new | plain, mixed_BLD, self.row_mask, bias_HLL)[place]
        fitted = line(self._frames(found_BLD), target_Td)
        scale, bias = (self.frames.tiled(np.asarray(x), new[name][part]) for x, part in zip(fitted, ("scale", "bias")))
        return {name: {"scale": scale, "bias": bias}}

    def _chosen_bias(self, heads: list[int]) -> Params:
        """The bias by distance of the heads that were chosen, for each text."""
        table = np.array(self.fresh["encoder"]["relative_bias"]["table"])
        chosen = np.tile(self.params["encoder"]["relative_bias"]["table"][:, heads], self.config.width)
        table[:, : chosen.shape[1]] = chosen
        return {"table": table}

    def _head(self, mixed_BLD: jax.Array, state_SLD: jax.Array) -> Params:
        """The head, and what it reads the states with."""
        parts = ("pooler", "classifier", "embedding_head")
        kept: Params = {name: self.params[name] for name in parts if name in self.params}
        if self.config.width > 1:
            fresh, state_TD = self.fresh["demultiplexer"], self._tokens(state_SLD)
            found = fit_demultiplexer(self.config, self.frames, fresh, mixed_BLD, state_TD, self.real_T)
            return kept | {"demultiplexer": found}
        if self.same:
            return kept
        head = self.config.head
        pooling = self.config.pooling if head == "embedding" else "cls"
        read, wanted = (
            self._tokens(x) if head == "token" else pool(pooling, x[:, None], self.mask_SL[:, None])[:, 0]
            for x in (mixed_BLD, state_SLD)
        )
        return fit_head(self.full, self.params, self.config.hidden_size, read, wanted)
