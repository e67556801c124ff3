"""The data of pre-training: packed text, remembered in the workdir, and figures on held-out rows."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh

from mux_jax.checkpoints.source import ModelSource
from mux_jax.configuration import PretrainConfig
from mux_jax.data.loader import Batches
from mux_jax.data.packing import PackedTokens, cache_folder, cached_tokenizer, cached_tokens, content_digest
from mux_jax.data.sources import open_sources
from mux_jax.data.tokenizer import ModelTokenizer, SpecialTokens, load_tokenizer, tokenizer_files
from mux_jax.errors import InputError
from mux_jax.models.config import ModelConfig
from mux_jax.models.model import MuxModel
from mux_jax.objectives.objectives import Objective
from mux_jax.parallel import hosts
from mux_jax.parallel.mesh import rows_multiple, split_batch
from mux_jax.training.heldout import evaluate, unigram_entropy
from mux_jax.training.step import make_eval_step
from mux_jax.training.workdir import known_data


@dataclasses.dataclass(frozen=True)
class PretrainData:
    """Packed text to train on and to be judged by.

    Attributes:
      config: of the run.
      tokenizer: what the text was tokenised with.
      train: the sequences to train on, each source with its weight in the mixture.
      heldout: the sequences to be judged by.
    """

    config: PretrainConfig
    tokenizer: ModelTokenizer
    train: list[tuple[float, PackedTokens]]
    heldout: list[tuple[float, PackedTokens]]

    @property
    def special(self) -> SpecialTokens:
        return self.tokenizer.special

    def model_config(self, init: ModelSource | None) -> ModelConfig:
        """The model to train."""
        vocab_size = init.config.vocab_size if init else self.tokenizer.num_ids
        return self.config.model_config(vocab_size, self.special.cls)

    def batches(self, mine: np.ndarray) -> Batches:
        """The rows `mine` of each batch, by step."""
        config = self.config
        return Batches(self.train, rows=config.rows, width=config.model.width, seed=config.seed, mine=mine)

    def heldout_batches(self, multiple: int) -> list[dict[str, np.ndarray]]:
        """The held-out rows, the same at each evaluation: `eval.batches` x `rows` at most.

        A batch has as many as a step takes at a time, `rows` / `grad_accumulation_steps`, for which there is memory; or
        fewer, a multiple of `multiple`, where the text has no more.

        Raises:
          InputError: less held-out text than that.
        """
        config = self.config
        held = sum(len(sequences) for _, sequences in self.heldout) // config.model.width
        rows = min(config.rows // config.grad_accumulation_steps, held // multiple * multiple)
        if not rows:
            raise InputError(
                f"the held-out text has {held} rows of model.width={config.model.width} sequences of "
                f"{config.data.sequence_length} tokens, and {multiple} devices need one each; "
                "raise data.heldout_fraction"
            )
        batches = Batches(self.heldout, rows=rows, width=config.model.width, seed=0)
        return [batches[i] for i in range(min(config.eval.batches * config.grad_accumulation_steps, held // rows))]

    def evaluator(self, model: MuxModel, mesh: Mesh) -> Callable[[Objective, Any], dict[str, Any]]:
        """(objective, params) -> its figures on held-out rows."""
        rows = self.heldout_batches(rows_multiple(mesh))
        tokens = np.stack([batch["tokens"] for batch in rows])
        entropy = unigram_entropy(tokens, self.special.ids)
        batches = [split_batch(batch, mesh) for batch in rows]
        steps: dict[Objective, Any] = {}

        def evaluate_on_heldout(objective: Objective, params: Any) -> dict[str, Any]:
            if objective not in steps:
                steps[objective] = make_eval_step(objective, model, mesh)
            figures = evaluate(steps[objective], params, batches)
            return figures | ({"unigram_entropy": entropy} if "mlm_loss" in figures else {})

        return evaluate_on_heldout

    def finish(
        self, model: MuxModel, mesh: Mesh, params: Any, workdir: epath.Path
    ) -> tuple[dict[str, Any], Callable[[], None]]:
        """What the end of a run adds to `result.json`, and draws: nothing."""
        return {}, lambda: None


def load_pretrain_data(config: PretrainConfig, workdir: epath.Path, init: ModelSource | None) -> PretrainData:
    """Packs the text that `config.data` names; a run that goes on finds the text that it started with.

    Raises:
      InputError: bad text, or text that has changed since the run began.
    """
    cache_dir = cache_folder(config.data.cache_dir)
    caches_file = workdir / "data.json"
    known = known_data(workdir)
    packed = bool(known) and all((cache_dir / name).exists() for _, name, *_ in known)
    if all(hosts.gather(packed)):  # what follows is for all hosts or for none
        caches = known
        tokenizer = load_tokenizer(str(workdir))
    else:
        sources = open_sources(config.data)
        if known:
            tokenizer = load_tokenizer(str(workdir))
        else:
            tokenizer = _tokenizer(config, sources, cache_dir, init)
        if tokenizer.special.mask is None:
            raise InputError(
                "pre-training needs a mask token, and the tokenizer has none; give another: data.tokenizer"
            )
        length, fraction = config.data.sequence_length, config.data.heldout_fraction
        folders = [cached_tokens(source, tokenizer, length, fraction, cache_dir) for _, source in sources]
        digests = [content_digest(folder) for folder in folders]
        caches = [[weight, folder.name, digest] for (weight, _), folder, digest in zip(sources, folders, digests)]
        if known and not (len(known) == len(caches) and all(map(_same, known, caches))):
            raise InputError(
                f"the text of {config.data.source} has changed since the run in {workdir} began, and its packed "
                f"copy in {cache_dir} is gone; start in another workdir"
            )
        tokenizer_digest = hashlib.blake2b(tokenizer.backend.to_str().encode(), digest_size=8).hexdigest()
        hosts.agree({"the text": digests, "the vocabulary": tokenizer_digest})
        for name, text in tokenizer_files(tokenizer).items():
            hosts.write_text(workdir / name, text)
        hosts.write_text(caches_file, json.dumps(caches))
    train, heldout = (
        [(weight, PackedTokens(cache_dir / name, split)) for weight, name, *_ in caches]
        for split in ("train", "heldout")
    )
    return PretrainData(config, tokenizer, train, heldout)


def _same(known: list[Any], cache: list[Any]) -> bool:
    """Whether two entries of `data.json` are of one text: their weights, and their names or digests, are the same."""
    return known[0] == cache[0] and not set(known[1:]).isdisjoint(cache[1:])


def _tokenizer(
    config: PretrainConfig, sources: list[tuple[float, Any]], cache_dir: Path, init: ModelSource | None
) -> ModelTokenizer:
    """The tokenizer of a new run: the given one, that of the model it starts from, or a trained one."""
    if init:
        return init.tokenizer(config.data.tokenizer)
    if config.data.tokenizer:
        return load_tokenizer(config.data.tokenizer)
    return cached_tokenizer(sources, config.data.vocab_size, cache_dir)
