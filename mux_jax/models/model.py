"""The model: embeddings, multiplexer, encoder, demultiplexer, heads."""

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from mux_jax.models.config import ModelConfig
from mux_jax.models.demultiplexers import DEMULTIPLEXERS, Identity
from mux_jax.models.embeddings import Embeddings
from mux_jax.models.encoder import Encoder
from mux_jax.models.heads import DetectionHead, VocabularyHead
from mux_jax.models.layers import dense, shard_rows
from mux_jax.models.multiplexers import MULTIPLEXERS


class MuxModel(nn.Module):
    """A multiplexed BERT or ELECTRA (MUX-PLMs, arXiv 2302.12441).

    `model.apply({"params": params}, tokens, mask)` returns the logits of the configured head.
    Training code binds the model and reads only what a loss needs: `encode`, then
    `vocabulary_logits` or `detection_logits`.
    """

    config: ModelConfig
    deterministic: bool = True

    def setup(self) -> None:
        config, dtype = self.config, self.config.compute_dtype
        self.embeddings = Embeddings(
            vocab_size=config.vocab_size,
            embedding_size=config.embedding_size,
            max_position_embeddings=config.max_position_embeddings,
            dropout=config.hidden_dropout,
            layer_norm_eps=config.layer_norm_eps,
            dtype=dtype,
            deterministic=self.deterministic,
        )
        if config.embedding_size != config.hidden_size:
            self.embeddings_project = dense(config.hidden_size, (None, "embed"), dtype)
        self.encoder = Encoder(config, self.deterministic)
        if config.width > 1:
            self.multiplexer = MULTIPLEXERS[config.multiplexer](config, self.deterministic)
            self.demultiplexer = DEMULTIPLEXERS[config.demultiplexer](config, self.deterministic)
        else:
            self.demultiplexer = Identity(config, self.deterministic)
        self.vocabulary_head = VocabularyHead(config.vocab_size)
        if config.head == "rtd":
            self.detection_head = DetectionHead(dtype)
            if config.generator == "learned":
                self.generator = MuxModel(config.generator_config, self.deterministic)

    def __call__(self, tokens_BNL: jax.Array, mask_BNL: jax.Array | None = None) -> jax.Array:
        """Logits of every instance at every position.

        Args:
          tokens_BNL: int32[B, N, L], CLS first.
          mask_BNL: bool[B, N, L], True on real tokens; None if there is no padding.

        Returns:
          float32: [B, N, L, V] for the head `mlm`, [B, N, L] for `rtd`.
        """
        hidden_BLD = self.encode(tokens_BNL, mask_BNL)
        if self.config.head == "rtd":
            return self.detection_logits(hidden_BLD)
        return self.vocabulary_logits(hidden_BLD, self.all_instances)

    @property
    def all_instances(self) -> jax.Array:
        """int32[1, N, 1]: the `instance` argument that asks for every instance."""
        return jnp.arange(self.config.width)[None, :, None]

    def encode(self, tokens_BNL: jax.Array, mask_BNL: jax.Array | None = None) -> jax.Array:
        """The encoder's last states on the muxed rows, [B, L, D].

        A muxed row gets no attention mask: each of its positions belongs to N instances of
        different lengths. Width 1 is masked as in BERT.
        """
        chex.assert_shape(tokens_BNL, (None, self.config.width, None))
        embedded_BNLE = self.embeddings(tokens_BNL)
        if self.config.width > 1:
            hidden, mask_BL = self.embeddings.place(self.multiplexer(embedded_BNLE, mask_BNL)), None
        else:
            hidden, mask_BL = embedded_BNLE[:, 0], None if mask_BNL is None else mask_BNL[:, 0]
        if self.config.embedding_size != self.config.hidden_size:
            hidden = self.embeddings_project(hidden)
        return shard_rows(self.encoder(shard_rows(hidden), mask_BL))

    def vocabulary_logits(
        self, hidden_BLD: jax.Array, instance: jax.Array, positions: jax.Array | None = None
    ) -> jax.Array:
        """Logits over the vocabulary where they are asked for, [B, X, P, V].

        `instance` and `positions` are those of `demultiplexers`.
        """
        states = self.demultiplexer.retrieval(hidden_BLD, instance, positions)
        tied = self.config.architecture == "bert"
        return self.vocabulary_head(states, self.embeddings.word if tied else None)

    def detection_logits(self, hidden_BLD: jax.Array) -> jax.Array:
        """The logit, for every token of every instance, that it was replaced: [B, N, L]."""
        return self.detection_head(self.demultiplexer(hidden_BLD, self.all_instances))

    def init_all(self, tokens_BNL: jax.Array) -> None:
        """Touches every part, so that `model.init(rng, tokens, method="init_all")` makes them all."""
        hidden_BLD = self.encode(tokens_BNL)
        self.demultiplexer(hidden_BLD, self.all_instances)
        if self.config.width > 1 or self.config.head == "mlm":
            self.vocabulary_logits(hidden_BLD, jnp.zeros((1, 1, 1), int))
        if self.config.head == "rtd":
            self.detection_logits(hidden_BLD)
            if self.config.generator == "learned":
                self.generator.init_all(tokens_BNL)
