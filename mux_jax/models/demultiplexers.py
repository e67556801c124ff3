"""Demultiplexers: the encoder's states of a row become states of its instances.

Each is a module called as `demultiplexer(hidden_BLD, instance, positions)` for the states that
task heads read, and `demultiplexer.retrieval(...)`, same arguments, for the states that the
vocabulary head reads. The caller says what is read, and nothing else is computed:

  instance   int, broadcastable to [B, X, P]: which instance each state is asked for;
  positions  int[B, X, P]: where in the row, prefix included, or None for all L positions (P = L);
  returns    [B, X, P, D].

So all instances everywhere are `instance = arange(N)[None, :, None]`; one instance at each
position is `instance` [B, 1, L]. A new demultiplexer is a class here and a line in
`DEMULTIPLEXERS`.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from mux_jax.models.layers import dense, gelu, layer_norm, partitioned, shard_rows


def select(hidden_BLD: jax.Array, positions_BXP: jax.Array | None) -> jax.Array:
    """The states at `positions`, [B, X, P, D]; all of them as [B, 1, L, D] for None."""
    if positions_BXP is None:
        return hidden_BLD[:, None]
    return jax.vmap(lambda hidden_LD, positions_XP: hidden_LD[positions_XP])(hidden_BLD, positions_BXP)


class Demultiplexer(nn.Module):
    """What all demultiplexers share: the configuration and its layers."""

    config: "ModelConfig"  # noqa: F821
    deterministic: bool = True

    def act(self, states: jax.Array) -> jax.Array:
        """GELU of a layer's output, split over devices by row.

        Left to itself, XLA (0.10) splits N or P as well on a mesh whose three axes all split, and
        gets the gradients wrong, though not the loss.
        """
        return gelu(shard_rows(states))

    def dense(self, **kwargs) -> nn.Dense:
        return dense(self.config.hidden_size, ("embed", "mlp"), self.config.compute_dtype, **kwargs)

    def norm(self) -> nn.LayerNorm:
        return layer_norm(self.config.layer_norm_eps, self.config.compute_dtype)


class RSA(Demultiplexer):
    """Index embeddings with a private key for each instance (MUX-PLMs, sec. 3.3: RSA-Demux).

    An MLP on [k_i ; h_j]. Its first product is taken in halves, k_i W_k + h_j W_h, so that h_j W_h
    is computed once for all instances and k_i W_k once for all positions and rows.
    """

    def setup(self) -> None:
        config = self.config
        normal = partitioned(nn.initializers.normal(1.0), None, None)
        self.keys = self.param("keys", normal, (config.width, config.hidden_size))
        self.dense_keys = self.dense(use_bias=False)
        self.layers = [self.dense() for _ in range(config.num_demux_layers)]
        self.norms = [self.norm() for _ in range(config.num_demux_layers)]
        self.drop = nn.Dropout(config.hidden_dropout, deterministic=self.deterministic)
        self.output, self.output_norm = self.dense(), self.norm()
        self.retrieval_output, self.retrieval_norm = self.dense(), self.norm()

    def join(self, hidden_BLD: jax.Array, instance: jax.Array, positions: jax.Array | None) -> jax.Array:
        """GELU([k_i ; h_j] W + b), [B, X, P, D]."""
        keys_ND = self.dense_keys(self.keys)
        return self.act(self.layers[0](shard_rows(select(hidden_BLD, positions))) + keys_ND[instance])

    def __call__(self, hidden_BLD: jax.Array, instance: jax.Array, positions: jax.Array | None = None) -> jax.Array:
        # The last layer of the stack serves retrieval alone, as in the released weights.
        x = self.drop(self.join(hidden_BLD, instance, positions))
        for layer in self.layers[1:-1]:
            x = x + self.drop(self.act(layer(x)))
        return x + self.output_norm(self.act(self.output(x)))

    def retrieval(self, hidden_BLD: jax.Array, instance: jax.Array, positions: jax.Array | None = None) -> jax.Array:
        # Released MUX-BERT reads two layers without skips, MUX-ELECTRA all of them with skips.
        skip = self.config.architecture == "electra"
        depth = self.config.num_demux_layers if skip else 2
        x = self.norms[0](self.join(hidden_BLD, instance, positions))
        for layer, norm in zip(self.layers[1:depth], self.norms[1:depth]):
            y = norm(self.act(layer(x)))
            x = x + y if skip else y
        if self.is_initializing():  # released weights hold all layers, read or not
            for layer, norm in zip(self.layers[depth:], self.norms[depth:]):
                norm(layer(x))
        y = self.retrieval_norm(self.act(self.retrieval_output(x)))
        return x + y if skip else y


class Prefix(Demultiplexer):
    """Index embeddings that the encoder computes (MUX-PLMs, sec. 3.3; DataMUX, sec. 3).

    A prefix in front of each instance (`MuxModel.encode`) says which it is: the encoder's state at
    prefix position i is the key of instance i. The demultiplexer is LN(GELU([key ; h_j] W + b)),
    the product taken in halves as in RSA.
    """

    def setup(self) -> None:
        self.dense_keys, self.layer, self.output_norm = self.dense(use_bias=False), self.dense(), self.norm()
        self.retrieval_dense_keys, self.retrieval_layer = self.dense(use_bias=False), self.dense()
        self.retrieval_norm = self.norm()

    def join(
        self,
        dense_keys: nn.Dense,
        layer: nn.Dense,
        hidden_BLD: jax.Array,
        instance: jax.Array,
        positions: jax.Array | None,
    ) -> jax.Array:
        """GELU([k_i ; h_j] W + b), [B, X, P, D]."""
        keys_BND = dense_keys(hidden_BLD[:, : self.config.width])
        instance = jnp.broadcast_to(instance, (len(hidden_BLD), *instance.shape[1:]))
        return self.act(layer(shard_rows(select(hidden_BLD, positions))) + select(keys_BND, instance))

    def __call__(self, hidden_BLD: jax.Array, instance: jax.Array, positions: jax.Array | None = None) -> jax.Array:
        return self.output_norm(self.join(self.dense_keys, self.layer, hidden_BLD, instance, positions))

    def retrieval(self, hidden_BLD: jax.Array, instance: jax.Array, positions: jax.Array | None = None) -> jax.Array:
        joined = self.join(self.retrieval_dense_keys, self.retrieval_layer, hidden_BLD, instance, positions)
        return self.retrieval_norm(joined)


class Identity(Demultiplexer):
    """Width 1: there is nothing to separate. BERT's masked-LM transform serves the vocabulary head."""

    def setup(self) -> None:
        self.retrieval_output, self.retrieval_norm = self.dense(), self.norm()

    def __call__(self, hidden_BLD: jax.Array, instance: jax.Array, positions: jax.Array | None = None) -> jax.Array:
        return select(hidden_BLD, positions)

    def retrieval(self, hidden_BLD: jax.Array, instance: jax.Array, positions: jax.Array | None = None) -> jax.Array:
        return self.retrieval_norm(self.act(self.retrieval_output(select(hidden_BLD, positions))))


DEMULTIPLEXERS = {"rsa": RSA, "prefix": Prefix}
