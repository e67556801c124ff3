"""Demultiplexers: the encoder's states of a row become states of its instances.

Each is called as `demultiplexer(hidden_BLD, instance, positions)` for the states that task heads
read, and `demultiplexer.retrieval(...)`, same arguments, for the states that the vocabulary head
reads. The caller says what is read, and nothing else is computed:

  instance   int, broadcastable to [B, X, P]: which instance each state is asked for;
  positions  int[B, X, P]: where in the row, prefix included, or None for all L positions (P = L);
  returns    [B, X, P, D].

So all instances everywhere are `instance = arange(N)[None, :, None]`; one instance at each
position is `instance` [B, 1, L]. A new demultiplexer is a class with a line in `DEMULTIPLEXERS`,
here or in a file of yours.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mux_jax.errors import InputError
from mux_jax.fields import described
from mux_jax.models import released
from mux_jax.models.dropout import Dropout
from mux_jax.models.layers import dense, gelu, layer_norm, partitioned, shard_rows
from mux_jax.models.variant import Variant

Hidden = Float[Array, "B L D"]
Instance = Int[Array, "#B #X #P"]
Positions = Int[Array, "B #X P"]
States = Float[Array, "B X P D"]


def select(hidden_BLD: jax.Array, positions_BXP: jax.Array | None) -> jax.Array:
    """The states at `positions`, [B, X, P, D]; all of them as [B, 1, L, D] for None."""
    if positions_BXP is None:
        return hidden_BLD[:, None]
    return jax.vmap(lambda hidden_LD, positions_XP: hidden_LD[positions_XP])(hidden_BLD, positions_BXP)


class Demultiplexer(Variant):
    """The base of demultiplexers; the module's docstring has the arguments of a call.

    A subclass defines `__call__` and `retrieval`, and what of the rest applies to it.
    """

    @property
    def prefix_length(self) -> int:
        """The positions that it puts in front of each instance."""
        return 0

    def add_prefix(self, tokens_BNL: jax.Array, mask_BNL: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        """Puts the prefix before each instance, [B, N, prefix_length + L]; the mask is True on it."""
        return tokens_BNL, mask_BNL

    def __call__(self, hidden_BLD: Hidden, instance: Instance, positions: Positions | None = None) -> States:
        """The states that task heads read, [B, X, P, D]."""
        raise NotImplementedError

    def retrieval(self, hidden_BLD: Hidden, instance: Instance, positions: Positions | None = None) -> States:
        """The states that the vocabulary head reads, [B, X, P, D]."""
        raise NotImplementedError

    def flops(self, shared: int, separated: int) -> int:
        """FLOPs of `separated` states for task heads, out of `shared` states of the row."""
        return 0

    def retrieval_flops(self, shared: int, separated: int) -> int:
        """FLOPs of `separated` states for the vocabulary head, out of `shared` states of the row."""
        return 0

    def act(self, states: jax.Array) -> jax.Array:
        """GELU of a layer's output, split over devices by row.

        Left to itself, XLA (0.10) splits N or P as well on a mesh whose three axes all split, and
        gets the gradients wrong, though not the loss.
        """
        return gelu(shard_rows(states))

    def dense(self, **kwargs: Any) -> nn.Module:
        """A linear layer to D dimensions."""
        return dense(self.config.hidden_size, ("embed", "mlp"), self.config.compute_dtype, **kwargs)

    def norm(self, **kwargs: Any) -> nn.LayerNorm:
        """A LayerNorm with the model's epsilon."""
        return layer_norm(self.config.layer_norm_eps, self.config.compute_dtype, **kwargs)


class RSA(Demultiplexer):
    """An MLP on [k_i ; h_j]; k_i is a learned private key of instance i (MUX-PLMs, sec. 3.3: RSA-Demux).

    x = GELU([k_i ; h_j] W_1 + b_1);  x = x + GELU(x W_m + b_m) for m = 2 ... M-1
    state = x + LN(GELU(x W + b))

    The first product is taken in halves, k_i W_k + h_j W_h, so that h_j W_h is computed once for all
    instances and k_i W_k once for all positions and rows.

    Attributes:
      num_demux_layers: M; the last of the layers serves retrieval alone, as in the released weights.
    """

    num_demux_layers: int = described(2, "hidden layers M of the demultiplexer's MLP", at_least=2)

    released_name: ClassVar[str] = "index_pos"
    released_options: ClassVar[dict[str, str]] = {"num_demux_layers": "num_hidden_demux_layers"}

    def setup(self) -> None:
        config = self.config
        normal = partitioned(nn.initializers.normal(1.0), None, None)
        self.keys = self.param("keys", normal, (config.width, config.hidden_size))
        self.dense_keys = self.dense(use_bias=False)
        self.layers = [self.dense() for _ in range(self.num_demux_layers)]
        self.norms = [self.norm() for _ in range(self.num_demux_layers)]
        self.drop = Dropout(config.hidden_dropout, self.deterministic)
        self.output, self.output_norm = self.dense(), self.norm()
        self.retrieval_output, self.retrieval_norm = self.dense(), self.norm()

    def join(self, hidden_BLD: jax.Array, instance: jax.Array, positions: jax.Array | None) -> jax.Array:
        """GELU([k_i ; h_j] W + b), [B, X, P, D]."""
        keys_ND = self.dense_keys(self.keys)
        return self.act(self.layers[0](shard_rows(select(hidden_BLD, positions))) + keys_ND[instance])

    def __call__(self, hidden_BLD: Hidden, instance: Instance, positions: Positions | None = None) -> States:
        x = self.drop(self.join(hidden_BLD, instance, positions))
        for layer in self.layers[1:-1]:
            x = x + self.drop(self.act(layer(x)))
        return x + self.output_norm(self.act(self.output(x)))

    @property
    def retrieval_depth(self) -> int:
        """The layers that retrieval reads: in released MUX-BERTs two, in MUX-ELECTRAs all."""
        return self.num_demux_layers if self.config.family.retrieval_skips else 2

    def retrieval(self, hidden_BLD: Hidden, instance: Instance, positions: Positions | None = None) -> States:
        # Released MUX-BERT has no skips here, MUX-ELECTRA has.
        skip, depth = self.config.family.retrieval_skips, self.retrieval_depth
        x = self.norms[0](self.join(hidden_BLD, instance, positions))
        for layer, norm in zip(self.layers[1:depth], self.norms[1:depth]):
            y = norm(self.act(layer(x)))
            x = x + y if skip else y
        if self.is_initializing():  # released weights hold all layers, read or not
            for layer, norm in zip(self.layers[depth:], self.norms[depth:]):
                norm(layer(x))
        y = self.retrieval_norm(self.act(self.retrieval_output(x)))
        return x + y if skip else y

    def flops(self, shared: int, separated: int) -> int:
        # Keys are multiplied once a batch, which is nothing.
        return 2 * self.config.hidden_size**2 * (shared + separated * (self.num_demux_layers - 1))

    def retrieval_flops(self, shared: int, separated: int) -> int:
        return 2 * self.config.hidden_size**2 * (shared + separated * self.retrieval_depth)

    def released_tensors(self) -> Iterator[released.Tensor]:
        for owner in ("", "demultiplexer.", "retrieval_head."):  # stored under the name of each module that reaches it
            yield from self._released_stack(f"{owner}demux_module")
        yield from released.linear("demultiplexer.pre_decoder", "demultiplexer/output")
        yield from released.norm("demultiplexer.pre_decoder_layer_norm", "demultiplexer/output_norm")
        yield from released.linear("retrieval_head.pre_decoder", "demultiplexer/retrieval_output")
        yield from released.norm("retrieval_head.pre_decoder_layer_norm", "demultiplexer/retrieval_norm")

    def _released_stack(self, name: str) -> Iterator[released.Tensor]:
        """The layers that the demultiplexer and the retrieval head share."""
        yield released.Tensor(f"{name}.demux_instance_embedding", ("demultiplexer/keys",))
        yield from released.keyed_linear(f"{name}.dense_1", "demultiplexer/dense_keys", "demultiplexer/layers_0")
        for i in range(1, self.num_demux_layers):
            yield from released.linear(f"{name}.dense_{i + 1}", f"demultiplexer/layers_{i}")
        for i in range(self.num_demux_layers):
            yield from released.norm(f"{name}.layer_norm_{i + 1}", f"demultiplexer/norms_{i}")


class Prefix(Demultiplexer):
    """Keys that the encoder computes from a prefix (MUX-PLMs, sec. 3.3; DataMUX, sec. 3).

    state = LN(GELU([k_i ; h_j] W + b))

    Each instance is given a prefix of N + 1 tokens: its own token at the i-th position, filler at
    the others, then CLS. The encoder's state at prefix position i is the key k_i. The product is taken
    in halves as in RSA.

    Attributes:
      prefix_token_id: the filler; instance i's own token is `prefix_token_id` - 2 - i, as released.
    """

    prefix_token_id: int = described(680, "the prefix's filler token; the tokens below it are the instances' own")

    released_name: ClassVar[str] = "index"

    def setup(self) -> None:
        self.dense_keys, self.layer, self.output_norm = self.dense(use_bias=False), self.dense(), self.norm()
        self.retrieval_dense_keys, self.retrieval_layer = self.dense(use_bias=False), self.dense()
        self.retrieval_norm = self.norm()

    def check(self) -> None:
        width, vocab_size = self.config.width, self.config.vocab_size
        if not width < self.prefix_token_id < vocab_size:
            raise InputError(
                f"model.prefix_token_id={self.prefix_token_id} must be from {width + 1} to {vocab_size - 1}: "
                f"below it are the tokens of {width} instances, and the vocabulary ends there"
            )

    @property
    def prefix_length(self) -> int:
        return self.config.width + 1

    def add_prefix(
        self, tokens_BNL: Int[Array, "B N L"], mask_BNL: Bool[Array, "#B N L"] | None
    ) -> tuple[jax.Array, jax.Array | None]:
        B, N, _ = tokens_BNL.shape
        index_NN = self.prefix_token_id - jnp.diag(2 + jnp.arange(N))
        prefix_NP = jnp.pad(index_NN, ((0, 0), (0, 1)), constant_values=self.config.cls_token_id)
        prefix_BNP = jnp.broadcast_to(prefix_NP.astype(tokens_BNL.dtype), (B, N, N + 1))
        if mask_BNL is not None:
            mask_BNL = jax.lax.concatenate([jnp.ones((mask_BNL.shape[0], N, N + 1), bool), mask_BNL.astype(bool)], 2)
        return jax.lax.concatenate([prefix_BNP, tokens_BNL], 2), mask_BNL

    def join(
        self,
        dense_keys: nn.Module,
        layer: nn.Module,
        hidden_BLD: jax.Array,
        instance: jax.Array,
        positions: jax.Array | None,
    ) -> jax.Array:
        """GELU([k_i ; h_j] W + b), [B, X, P, D]."""
        keys_BND = dense_keys(hidden_BLD[:, : self.config.width])
        instance = jnp.broadcast_to(instance, (hidden_BLD.shape[0], *instance.shape[1:]))
        return self.act(layer(shard_rows(select(hidden_BLD, positions))) + select(keys_BND, instance))

    def __call__(self, hidden_BLD: Hidden, instance: Instance, positions: Positions | None = None) -> States:
        return self.output_norm(self.join(self.dense_keys, self.layer, hidden_BLD, instance, positions))

    def retrieval(self, hidden_BLD: Hidden, instance: Instance, positions: Positions | None = None) -> States:
        joined = self.join(self.retrieval_dense_keys, self.retrieval_layer, hidden_BLD, instance, positions)
        return self.retrieval_norm(joined)

    def flops(self, shared: int, separated: int) -> int:
        return 2 * self.config.hidden_size**2 * (shared + self.config.width)

    def retrieval_flops(self, shared: int, separated: int) -> int:
        return self.flops(shared, separated)

    def released_tensors(self) -> Iterator[released.Tensor]:
        yield from released.keyed_linear("demultiplexer.dense", "demultiplexer/dense_keys", "demultiplexer/layer")
        yield from released.norm("demultiplexer.layer_norm", "demultiplexer/output_norm")
        retrieval = ("demultiplexer/retrieval_dense_keys", "demultiplexer/retrieval_layer")
        yield from released.keyed_linear("retrieval_head.dense", *retrieval)
        yield from released.norm("retrieval_head.layer_norm", "demultiplexer/retrieval_norm")


class Identity(Demultiplexer):
    """Width 1: there is nothing to separate. The masked-LM transform of the family serves the vocabulary head.

    state = h_j;  for the vocabulary head LN(GELU(h_j W + b))
    """

    def setup(self) -> None:
        biases = self.config.family.biases
        self.retrieval_output, self.retrieval_norm = self.dense(use_bias=biases), self.norm(use_bias=biases)

    def __call__(self, hidden_BLD: Hidden, instance: Instance, positions: Positions | None = None) -> States:
        return select(hidden_BLD, positions)

    def retrieval(self, hidden_BLD: Hidden, instance: Instance, positions: Positions | None = None) -> States:
        return self.retrieval_norm(self.act(self.retrieval_output(select(hidden_BLD, positions))))

    def retrieval_flops(self, shared: int, separated: int) -> int:
        return 2 * self.config.hidden_size**2 * separated


DEMULTIPLEXERS: dict[str, type[Demultiplexer]] = {"rsa": RSA, "prefix": Prefix}
