"""What happens inside multiplexed models as their width grows (MUX-PLMs, sec. 5, "muxology").

Figures are means over packed text, `rows` rows of N instances without padding.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from mux_jax.checkpoints.source import ModelSource, open_model
from mux_jax.data.packing import cut
from mux_jax.data.tokenizer import ModelTokenizer
from mux_jax.errors import InputError
from mux_jax.files import write_atomically
from mux_jax.models.encoder import split_layers
from mux_jax.models.layers import RelativeBias, TransformerLayer, broadcast_to_rank
from mux_jax.models.model import MuxModel
from mux_jax.parallel.compiled import CompiledByShape
from mux_jax.parallel.mesh import make_mesh
from mux_jax.paths import absolute
from mux_jax.plots import drawing, pyplot, save_figure
from mux_jax.progress import progress, say

_ROWS = 8  # of a batch


def analyze(models: Sequence[str], source: Any, length: int, rows: int, workdir: str) -> list[dict]:
    """Analyses models and writes `analysis.json` and a picture of each figure to the folder `workdir`.

    Args:
      models: runs, Hugging Face folders or ids of the hub.
      source: of `data.sources`; its first documents fill the rows, at random.
      length: tokens of an instance.
      rows: multiplexed rows that the figures are means over, made a multiple of 8.

    Returns:
      What `analysis.json` holds, an object for each model: see `measure`.

    Raises:
      InputError: no such model, too little text for it, a number out of range.
    """
    if rows < 1:
        raise InputError(f"--rows={rows} must be at least 1")
    sources = [open_model(path) for path in models]
    batches = -(-rows // _ROWS)
    given = []
    for found in sources:
        if not found.config.family.position_table:
            raise InputError(f"{found.folder}: the layers of a {found.config.architecture} are not looked into")
        room = found.config.max_length - found.config.prefix_length
        if not 2 <= length <= room:
            raise InputError(f"--length={length} must be from 2 to {room}, the positions of {found.folder}")
        texts = (text for text, _ in source.documents())
        given.append(pack(texts, found.tokenizer(), batches * _ROWS, found.config.width, length))
    folder, mesh = absolute(workdir), make_mesh(devices=jax.devices()[:1])
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    with progress("analysis") as report:
        for i, (path, found, tokens) in enumerate(zip(models, sources, given)):
            results.append({"model": path, "width": found.config.width} | measure(found, tokens, mesh))
            report((i + 1) / len(sources), path)
    write_atomically(folder / "analysis.json", json.dumps(results, indent=2) + "\n")
    names = ["analysis.json"]
    with drawing(folder):
        names += plot(results, folder)
    for name in names:
        say(f"  {folder / name}")
    return results


def pack(texts: Iterable[str], tokenizer: ModelTokenizer, rows: int, width: int, length: int) -> np.ndarray:
    """int32[rows, N, L]: CLS, then text; texts follow each other with a SEP between them.

    Which sequences share a row, and in which of its slots, is drawn at random.
    """
    special = tokenizer.special
    ids: list[int] = []
    wanted = rows * width * (length - 1)
    for text in texts:
        ids += [*tokenizer.backend.encode(text, add_special_tokens=False).ids, special.sep]
        if len(ids) >= wanted:
            sequences = cut(np.array(ids[:wanted], np.int32), length, special.cls)
            return np.random.default_rng(0).permutation(sequences).reshape(rows, width, length)
    raise InputError(
        f"the text has {len(ids):,} tokens; {rows} rows of {width} instances of {length} tokens need {wanted:,}"
    )


def measure(found: ModelSource, tokens_BNL: np.ndarray, mesh: Mesh) -> dict[str, Any]:
    """The figures of one model on rows of tokens.

    Returns:
      Lists over layers: `activation_norm`, the mean length of a state; `attention_entropy`, of a
      head's weights, in nats, mean over heads and positions. Of widths over 1 also
      `cosine_similarity` [N, N], between the demultiplexed states of two instances at the same
      position, and `retrieval_accuracy` [N, L], by slot and position.
    """
    config = dataclasses.replace(found.config.without_head, dtype="float32")
    model = MuxModel(config, split_layers=True)
    step = CompiledByShape(lambda params, tokens: _figures(model, params, tokens), mesh)
    params = split_layers(found.params(mesh))
    batches = np.split(tokens_BNL, len(tokens_BNL) // _ROWS)
    parts = [jax.device_get(step(params, jnp.asarray(tokens))) for tokens in batches]
    return jax.tree.map(lambda *x: np.mean(x, axis=0).tolist(), *parts)


def _figures(model: MuxModel, params: Any, tokens_BNL: jax.Array) -> dict[str, Any]:
    """What `measure` returns, of one batch."""
    config = model.config

    def capture(module: Any, _: str) -> bool:
        return isinstance(module, TransformerLayer | RelativeBias) or module.name in ("query", "key")

    def separate(bound: MuxModel) -> tuple[jax.Array, jax.Array] | None:
        hidden_BLD = bound.encode(tokens_BNL)
        if config.width == 1:
            return None
        every, positions = bound.all_instances, bound.after_prefix(hidden_BLD)
        correct = [
            bound.vocabulary_logits(hidden_BLD, jnp.full((1, 1, 1), i), positions)[:, 0].argmax(-1) == tokens_BNL[:, i]
            for i in range(config.width)
        ]
        return bound.demultiplexer(hidden_BLD, every, positions), jnp.stack(correct)

    separated, captured = model.apply(
        {"params": params}, method=separate, capture_intermediates=capture, mutable=["intermediates"]
    )
    encoder = captured["intermediates"]["encoder"]
    layers = [encoder[f"layers_{i}"] for i in range(config.num_hidden_layers)]
    bias_HLL = encoder["relative_bias"]["__call__"][0] if config.family.relative_bias else None
    H = config.num_attention_heads
    result = {
        "activation_norm": jnp.stack([jnp.linalg.norm(layer["__call__"][0], axis=-1).mean() for layer in layers]),
        "attention_entropy": jnp.stack([_entropy(H, layer["attention"], bias_HLL) for layer in layers]),
    }
    if separated:
        states_BNLD, correct_NBL = separated
        unit = states_BNLD / jnp.linalg.norm(states_BNLD, axis=-1, keepdims=True)
        result["cosine_similarity"] = jnp.einsum("bnld,bmld->nm", unit, unit) / (unit.shape[0] * unit.shape[2])
        result["retrieval_accuracy"] = correct_NBL.mean(axis=1)
    return result


def _entropy(heads: int, attention: dict[str, Any], bias_HLL: jax.Array | None) -> jax.Array:
    """The mean entropy of the weights that follow from a layer's queries and keys, and a bias by distance."""
    query, key = (attention[name]["__call__"][0] for name in ("query", "key"))
    query, key = (x.reshape(*x.shape[:-1], heads, -1) for x in (query, key))
    scores = jnp.einsum("blhk,bthk->bhlt", query, key) / np.sqrt(query.shape[-1])
    if bias_HLL is not None:
        scores += broadcast_to_rank(bias_HLL, scores.ndim)
    logs = jax.nn.log_softmax(scores)
    return -(jnp.exp(logs) * logs).sum(-1).mean()


def plot(results: list[dict[str, Any]], folder: epath.Path) -> list[str]:
    """Draws a picture for each figure, of all models; returns their names."""
    names = []
    for key, label in (
        ("activation_norm", "mean length of a state"),
        ("attention_entropy", "entropy of attention, nats"),
    ):
        figure, axis = pyplot().subplots(figsize=(6, 4), layout="constrained")
        for result in results:
            axis.plot(range(1, len(result[key]) + 1), result[key], marker="o", label=_label(result))
        axis.set_xlabel("layer")
        axis.set_ylabel(label)
        axis.legend(fontsize=8)
        names.append(_save(figure, folder, key))
    muxed = [result for result in results if result["width"] > 1]
    if not muxed:
        return names
    plt, wide = pyplot(), 3.2 * len(muxed) + 0.6
    figure, axes = plt.subplots(1, len(muxed), figsize=(wide, 3.4), layout="constrained", squeeze=False)
    for axis, result in zip(axes[0], muxed):
        image = axis.imshow(result["cosine_similarity"], cmap="RdBu_r", vmin=-1, vmax=1)
        axis.set_title(_label(result), fontsize=8)
        axis.set_xlabel("slot")
        axis.set_xticks(range(result["width"]))
        axis.set_yticks(range(result["width"]))
    figure.colorbar(image, ax=axes[0].tolist(), label="cosine similarity")
    names.append(_save(figure, folder, "cosine_similarity"))
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    for result in muxed:
        accuracy_NL = np.array(result["retrieval_accuracy"])
        axes[0].plot(range(result["width"]), accuracy_NL.mean(axis=1), marker="o", label=_label(result))
        axes[1].plot(accuracy_NL.mean(axis=0), label=_label(result))
    axes[0].set_xlabel("slot")
    axes[0].set_xticks(range(max(result["width"] for result in muxed)))
    axes[1].set_xlabel("position")
    axes[0].set_ylabel("retrieval accuracy")
    axes[0].legend(fontsize=8)
    names.append(_save(figure, folder, "retrieval_accuracy"))
    return names


def _label(result: dict[str, Any]) -> str:
    return f"N={result['width']} {epath.Path(result['model']).name}"


def _save(figure: Any, folder: epath.Path, name: str) -> str:
    save_figure(figure, folder / f"{name}.png")
    return f"{name}.png"
