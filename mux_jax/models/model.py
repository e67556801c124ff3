"""The model: embeddings, multiplexer, encoder, demultiplexer, heads."""

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from mux_jax.errors import InputError
from mux_jax.models.config import ModelConfig
from mux_jax.models.demultiplexers import Hidden, Instance, Positions, States
from mux_jax.models.embeddings import Embeddings
from mux_jax.models.heads import DetectionHead, EmbeddingHead, VocabularyHead, decode
from mux_jax.models.layers import by_copy, dense, shard_rows


def truncate_for_prefix(config: ModelConfig, tokens_BNL: jax.Array) -> jax.Array:
    """Drops the last tokens for the prefix, if there is one, so that rows keep their length."""
    return tokens_BNL[..., : tokens_BNL.shape[-1] - config.prefix_length]


class MuxModel(nn.Module):
    """A multiplexed encoder (MUX-PLMs, arXiv 2302.12441); of width 1 an ordinary one.

    `model.apply({"params": params}, tokens, mask)` returns the logits of the configured head.
    Training code binds the model and reads only what a loss needs: `encode`, then
    `vocabulary_states`, `detection_logits` or `class_logits`.

    Attributes:
      config: shape and parts.
      deterministic: whether dropout is off.
      split_layers: whether each layer has arrays of its own, for inference: see `encoder.split_layers`.
    """

    config: ModelConfig
    deterministic: bool = True
    split_layers: bool = False

    def setup(self) -> None:
        config, dtype = self.config, self.config.compute_dtype
        self.embeddings = Embeddings(config, self.deterministic)
        if config.embedding_size != config.hidden_size:
            self.embeddings_project = dense(config.hidden_size, (None, "embed"), dtype)
        self.encoder = config.family.encoder(config, self.deterministic, self.split_layers)
        if config.width > 1:
            self.multiplexer = config.multiplexer_module(self.deterministic)
        self.demultiplexer = config.demultiplexer_module(self.deterministic)
        self.vocabulary_head = VocabularyHead(config.vocab_size, config.hidden_size)
        if config.head == "rtd":
            self.detection_head = DetectionHead(dtype)
            if config.generator == "learned":
                self.generator = MuxModel(config.generator_config, self.deterministic)
        if config.has_pooler:
            self.pooler = dense(config.hidden_size, ("embed", "mlp"), dtype)
        if config.head == "embedding":
            self.embedding_head = EmbeddingHead(config.pooling, config.projections, config.normalize)
        if config.labels:
            self.classifier = config.family.classifier(config, self.deterministic)

    def __call__(
        self,
        tokens_BNL: Int[ArrayLike, "B N L"],
        mask_BNL: Bool[ArrayLike, "#B N L"] | None = None,
        token_types_BNL: Int[ArrayLike, "B N L"] | None = None,
    ) -> Float[Array, "B N *_"]:
        """What the configured head says of every instance.

        The prefix demultiplexer's N + 1 positions are part of the row, and come first in what is
        returned. Pre-training heads keep a row's length, so that the last N + 1 tokens make place
        for the prefix; the others let the row grow to L + N + 1.

        Args:
          tokens_BNL: int32[B, N, L], CLS first.
          mask_BNL: bool[B, N, L], True on real tokens; None if there is no padding.
          token_types_BNL: int32[B, N, L], of models with `config.takes_token_types`: 1 on the second text of a pair;
            None if all are 0.

        Returns:
          float32: logits [B, N, L, V] for the head `mlm`, [B, N, L] for `rtd`, [B, N, C] for
          `sequence`, [B, N, L, C] for `token`; embeddings [B, N, E] for `embedding`; demultiplexed states
          [B, N, L, D] for `none`.
        """
        config, tokens_BNL = self.config, jnp.asarray(tokens_BNL)
        mask_BNL = None if mask_BNL is None else jnp.asarray(mask_BNL)
        if config.head in ("mlm", "rtd"):
            tokens_BNL = truncate_for_prefix(config, tokens_BNL)
            mask_BNL = None if mask_BNL is None else truncate_for_prefix(config, mask_BNL)
        hidden_BLD = self.encode(tokens_BNL, mask_BNL, config.states_read, token_types_BNL)
        if config.head == "mlm":
            return self.vocabulary_logits(hidden_BLD, self.all_instances)
        if config.head == "rtd":
            return self.detection_logits(hidden_BLD)
        if config.head == "none":
            return self.demultiplex(hidden_BLD).astype(jnp.float32)
        if config.head == "embedding":
            return self.embed(hidden_BLD, mask_BNL)
        return self.class_logits(hidden_BLD, mask_BNL)

    @property
    def all_instances(self) -> jax.Array:
        """int32[1, N, 1]: the `instance` argument that asks for every instance."""
        return jnp.arange(self.config.width)[None, :, None]

    def encode(
        self,
        tokens_BNL: Int[ArrayLike, "B N L"],
        mask_BNL: Bool[ArrayLike, "#B N L"] | None = None,
        num_positions: int | None = None,
        token_types_BNL: Int[ArrayLike, "B N L"] | None = None,
    ) -> Float[Array, "B P D"]:
        """The encoder's last states on the muxed rows, [B, L, D], or of the first `num_positions` positions.

        A prefix, where the demultiplexer has one, is put in front: the row is then N + 1 longer. A
        muxed row gets no attention mask: each of its positions belongs to N instances of different
        lengths. Width 1 is masked as in BERT.

        Raises:
          InputError: a row longer than `config.max_length`, or token types for a model that has none.
        """
        chex.assert_shape(tokens_BNL, (None, self.config.width, None))
        given = None if mask_BNL is None else jnp.asarray(mask_BNL)
        tokens_BNL, mask_BNL = self.demultiplexer.add_prefix(jnp.asarray(tokens_BNL), given)
        if tokens_BNL.shape[-1] > self.config.max_length:
            raise InputError(
                f"rows of {tokens_BNL.shape[-1]} positions, {self.config.prefix_length} of them prefix, are longer "
                f"than the {self.config.max_length} that the model has"
            )
        if token_types_BNL is not None and not self.config.takes_token_types:
            raise InputError(f"a model of {self.config.architecture} of width {self.config.width} has no token types")
        types_BNL = None if token_types_BNL is None else jnp.asarray(token_types_BNL)
        embedded_BNLE = self.embeddings(tokens_BNL, types_BNL)
        if self.config.width > 1:
            hidden, mask_BL = self.embeddings.add_positions(self.multiplexer(embedded_BNLE, mask_BNL)), None
        else:
            hidden, mask_BL = embedded_BNLE[:, 0], None if mask_BNL is None else mask_BNL[:, 0]
        if self.config.embedding_size != self.config.hidden_size:
            hidden = self.embeddings_project(hidden)
        return shard_rows(self.encoder(shard_rows(hidden), mask_BL, num_positions))

    def after_prefix(self, hidden_BLD: jax.Array) -> jax.Array | None:
        """The `positions` of an instance's tokens, int[B, 1, L]; None, which is all, if there is no prefix."""
        if not self.config.prefix_length:
            return None
        B, L, _ = hidden_BLD.shape
        return jnp.broadcast_to(jnp.arange(self.config.prefix_length, L), (B, 1, L - self.config.prefix_length))

    def demultiplex(self, hidden_BLD: Float[Array, "B L D"]) -> Float[Array, "B N L D"]:
        """The demultiplexed states of all instances at all positions, as task heads read them: [B, N, L, D]."""
        return self.demultiplexer(hidden_BLD, self.all_instances)

    def vocabulary_logits(
        self, hidden_BLD: Hidden, instance: Instance, positions: Positions | None = None
    ) -> Float[Array, "B X P V"]:
        """Logits over the vocabulary where they are asked for, [B, X, P, V].

        The module `demultiplexers` explains `instance` and `positions`.
        """
        states_BXPD, (kernel_SVD, bias_V) = self.vocabulary_states(hidden_BLD, instance, positions), self.decoder()
        states_TD = states_BXPD.reshape(-1, states_BXPD.shape[-1])
        logits_TV = by_copy(lambda kernel_VD, states_TD: decode(states_TD, kernel_VD, bias_V), kernel_SVD, states_TD)
        return logits_TV.reshape(*states_BXPD.shape[:-1], -1)

    def vocabulary_states(self, hidden_BLD: Hidden, instance: Instance, positions: Positions | None = None) -> States:
        """The states that the decoder turns to logits, [B, X, P, D]."""
        return self.demultiplexer.retrieval(hidden_BLD, instance, positions)

    def decoder(self) -> tuple[jax.Array, jax.Array]:
        """The vocabulary's kernel [S, V, D], a copy for each part of the rows, and bias [V]."""
        return self.vocabulary_head(self.embeddings.word_SVE if self.config.family.tie_word_embeddings else None)

    def detection_logits(self, hidden_BLD: Float[Array, "B L D"]) -> Float[Array, "B N L"]:
        """The logit, for every token of every instance, that it was replaced: [B, N, L]."""
        return self.detection_head(self.demultiplex(hidden_BLD))

    def class_logits(
        self, hidden_BLD: Float[Array, "B L D"], mask_BNL: Bool[ArrayLike, "#B N _"] | None = None
    ) -> Float[Array, "B N *_"]:
        """Logits of the classes: [B, N, C] for the head `sequence`, [B, N, L, C] for `token`.

        mask_BNL: as in a call; only the mean over states needs it.
        """
        if self.config.head == "token":
            return self.classifier(self.demultiplex(hidden_BLD))
        if self.config.family.classifier_pooling == "mean":
            states_BNLD = self.demultiplex(hidden_BLD)
            shown = None if mask_BNL is None else jnp.asarray(mask_BNL)[..., None]
            return self.classifier(jnp.mean(states_BNLD, axis=2, where=shown))
        # CLS comes first, in a prefix last.
        place = max(0, self.config.prefix_length - 1)
        positions_BNP = jnp.broadcast_to(place, (hidden_BLD.shape[0], self.config.width, 1))
        states_BND = self.demultiplexer(hidden_BLD, self.all_instances, positions_BNP)[:, :, 0]
        if self.config.has_pooler:
            states_BND = jnp.tanh(self.pooler(states_BND))
        return self.classifier(states_BND)

    def embed(
        self, hidden_BLD: Float[Array, "B L D"], mask_BNL: Bool[ArrayLike, "#B N _"] | None = None
    ) -> Float[Array, "B N E"]:
        """The embedding of each instance, of the head `embedding`: [B, N, E].

        mask_BNL: as in a call; of the instances' tokens, without the prefix.
        """
        states_BNLD = self.demultiplex(hidden_BLD)[:, :, self.config.prefix_length :]
        return self.embedding_head(states_BNLD, None if mask_BNL is None else jnp.asarray(mask_BNL))

    def init_all(self, tokens_BNL: jax.Array) -> None:
        """Touches every part, so that `model.init(rng, tokens, method="init_all")` makes them all."""
        hidden_BLD = self.encode(tokens_BNL)
        self.demultiplex(hidden_BLD)
        if self.config.width > 1 or self.config.head == "mlm":
            self.vocabulary_logits(hidden_BLD, jnp.zeros((1, 1, 1), int))
        if self.config.head == "rtd":
            self.detection_logits(hidden_BLD)
            if self.config.generator == "learned":
                self.generator.init_all(tokens_BNL)
        if self.config.head == "embedding":
            self.embed(hidden_BLD)
        if self.config.labels:
            self.class_logits(hidden_BLD)
        elif self.config.has_pooler:
            self.pooler(hidden_BLD)
