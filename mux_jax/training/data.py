"""The data of a run: its tokenizer and packed text, prepared once and remembered in its workdir."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from tokenizers import Tokenizer

from mux_jax.data.loader import Batches
from mux_jax.data.packing import PackedTokens, cached_tokenizer, cached_tokens, check_writable
from mux_jax.data.sources import open_sources
from mux_jax.data.tokenizer import SpecialTokens, load_tokenizer, special_tokens
from mux_jax.errors import InputError
from mux_jax.pretrained import Pretrained
from mux_jax.training.checkpoints import write_atomically


@dataclasses.dataclass(frozen=True)
class RunData:
    """A tokenizer and the packed sequences of both splits, each with its weight in the mixture."""

    tokenizer: Tokenizer
    train: list[tuple[float, PackedTokens]]
    heldout: list[tuple[float, PackedTokens]]

    @property
    def special(self) -> SpecialTokens:
        return special_tokens(self.tokenizer)


def prepare(config: Any, workdir: epath.Path, init: Pretrained | None = None) -> RunData:
    """The data that `config.data` names; a run that goes on finds what it started with.

    Raises:
      InputError: bad text, or text that has changed since the run began.
    """
    cache_dir = Path(config.data.cache_dir or os.environ.get("MUX_JAX_CACHE", "~/.cache/mux_jax")).expanduser()
    check_writable(cache_dir)
    tokenizer_file, caches_file = workdir / "tokenizer.json", workdir / "data.json"
    # config.json is written last: without it, what is here is of a start that failed.
    begun = (workdir / "config.json").exists() and caches_file.exists()
    known = json.loads(caches_file.read_text()) if begun else None
    if known and all((cache_dir / name).exists() for _, name in known):
        caches = known
        tokenizer = Tokenizer.from_str(tokenizer_file.read_text())
    else:
        sources = open_sources(config.data)
        if known:
            tokenizer = Tokenizer.from_str(tokenizer_file.read_text())
        else:
            tokenizer = _tokenizer(config, sources, cache_dir, init)
        length, heldout = config.data.sequence_length, config.data.heldout_fraction
        caches = [
            [weight, cached_tokens(source, tokenizer, length, heldout, cache_dir).name] for weight, source in sources
        ]
        if known and caches != known:
            raise InputError(
                f"the text of {config.data.source} has changed since the run in {workdir} began, and its packed "
                f"copy in {cache_dir} is gone; start in another workdir"
            )
        write_atomically(tokenizer_file, tokenizer.to_str())
        write_atomically(caches_file, json.dumps(caches))
    train, heldout = (
        [(weight, PackedTokens(cache_dir / name, split)) for weight, name in caches] for split in ("train", "heldout")
    )
    return RunData(tokenizer, train, heldout)


def _tokenizer(config: Any, sources: list[tuple[float, Any]], cache_dir: Path, init: Pretrained | None) -> Tokenizer:
    """The tokenizer of a new run: the given one, that of the model it starts from, or a trained one."""
    given = load_tokenizer(config.data.tokenizer) if config.data.tokenizer else None
    if init is None:
        return given or cached_tokenizer(sources, config.data.vocab_size, cache_dir)
    theirs = init.tokenizer()
    if given and theirs and given.get_vocab() != theirs.get_vocab():
        raise InputError(f"data.tokenizer={config.data.tokenizer} has another vocabulary than init={config.init}")
    tokenizer = theirs or given
    if tokenizer is None:
        raise InputError(f"init={config.init} has no tokenizer; name its vocabulary with data.tokenizer")
    if tokenizer.get_vocab_size() > init.config.vocab_size:
        raise InputError(
            f"the tokenizer has {tokenizer.get_vocab_size()} tokens, init={config.init} {init.config.vocab_size}"
        )
    return tokenizer


def train_batches(data: RunData, config: Any) -> Batches:
    """The batches of this host, by step."""
    return Batches(
        data.train,
        rows=config.rows,
        width=config.model.width,
        seed=config.seed,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )


def heldout_batches(data: RunData, config: Any, multiple: int) -> list[np.ndarray]:
    """The held-out rows of this host, the same at each evaluation: `eval.batches` batches at most.

    A batch has `rows` rows, or fewer, a multiple of `multiple`, where the text has no more.

    Raises:
      InputError: less held-out text than that.
    """
    held = sum(len(sequences) for _, sequences in data.heldout) // config.model.width
    rows = min(config.rows, held // multiple * multiple)
    if not rows:
        raise InputError(
            f"the held-out text has {held} rows of model.width={config.model.width} sequences of "
            f"{config.data.sequence_length} tokens, and {multiple} devices need one each; raise data.heldout_fraction"
        )
    batches = Batches(
        data.heldout,
        rows=rows,
        width=config.model.width,
        seed=0,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )
    return [batches[i] for i in range(min(config.eval.batches, held // rows))]
