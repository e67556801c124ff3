"""A small task and a small model for the tests of fine-tuning and prediction."""

import numpy as np
from etils import epath

from mux_jax import configuration
from mux_jax.checkpoints import huggingface, sentence_transformers
from mux_jax.checkpoints.source import open_model
from mux_jax.checkpoints.task_info import TaskInfo
from mux_jax.data.encoding import Encoder
from mux_jax.data.rows import pad
from mux_jax.data.tokenizer import save_tokenizer
from mux_jax.data.vocabulary import train_tokenizer
from tests.conftest import WORDS, apply, init, small_model

LABELS = ("fruit", "stone")


def write_model(folder, sharpen=False, **changes):
    """A Hugging Face folder with a model of random weights and a tokenizer for WORDS.

    sharpen: whether its classifier's weights are large, so that answers differ from text to text.
    """
    tokenizer = train_tokenizer([" ".join(WORDS)] * 20, 150)
    fields = dict(vocab_size=tokenizer.backend.get_vocab_size(), max_position_embeddings=40, width=2)
    model, params = init(small_model(**fields | changes), seed=3)
    if sharpen:
        output = params["classifier"]["output"]
        ids = Encoder(tokenizer, 32)(sentences(200)).ids
        tokens_BNL = pad(ids, np.arange(200), 32, model.config.width, tokenizer.special.pad)
        mean_C = apply(model, params, tokens_BNL, tokens_BNL != tokenizer.special.pad).mean((0, 1))
        output |= {"kernel": 100 * output["kernel"], "bias": -100 * mean_C}
    folder.mkdir(parents=True)
    huggingface.write(epath.Path(folder), model.config, params)
    save_tokenizer(tokenizer, epath.Path(folder))
    return folder


def write_embedder(folder, pooling="mean", projections=(), normalize=True, prompts=None, limit=32, **changes):
    """A folder as sentence-transformers saves it, with a BERT of random weights."""
    write_model(folder, width=1, head="none", **changes)
    found = open_model(str(folder))
    config = small_model(head="embedding", pooling=pooling, projections=projections, normalize=normalize, width=1)
    _, params = init(config, seed=4)
    task = TaskInfo((limit,), ("text",), prompts or {})
    sentence_transformers.write(epath.Path(folder), config, params, task)
    assert open_model(str(folder)).config.vocab_size == found.config.vocab_size
    return folder


def sentences(count, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(count)]


def write_lines(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def write_sentences(folder, train=40, dev=13):
    """A task on sentences: is one of the first words in it?"""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count, seed in (("train", train, 0), ("dev", dev, 1)):
        rows = [(s, "stone" if set(s.split()) & set(WORDS[:6]) else "fruit") for s in sentences(count, seed)]
        (folder / f"{split}.tsv").write_text("text\tlabel\n" + "".join(f"{s}\t{label}\n" for s, label in rows))
    return folder


def write_words(folder, train=40, dev=13):
    """A task on words: how long is each? Files in CoNLL's format."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count, seed in (("train", train, 0), ("dev", dev, 1)):
        lines = [
            "".join(f"{w}\t{'long' if len(w) > 5 else 'short'}\n" for w in s.split()) for s in sentences(count, seed)
        ]
        (folder / f"{split}.conll").write_text("\n".join(lines))
    return folder


def finetuning(data, model, kind="sequence", **fields):
    """The configuration of a run of 8 steps on such a task."""
    config = configuration.finetuning("custom", str(data), 0)
    config.init_from = str(model)
    config.rows = 4
    config.data.update(kind=kind, sequence_length=24, bucket_lengths="8,16")
    config.finetuning.update(steps=8, warmup_steps=2, learning_rate=1e-3)
    config.eval.every = config.checkpoint.every = config.log_every = 2
    config.model.update(hidden_dropout=0.0, attention_dropout=0.0)
    config.num_compositions = 3
    config.update_from_flattened_dict(fields)
    return config
