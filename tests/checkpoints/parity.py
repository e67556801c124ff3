"""Known answers: folders of a checkpoint and `io.npz` with inputs and outputs of the released PyTorch code.

    python -m tests.checkpoints.parity tests/fixtures/*/

prints the largest absolute difference of every array. Rows are instance-minor: rows r * N to
r * N + N - 1 of the inputs share a multiplexed row. Positions are those of the row, prefix included.
"""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import mux_jax
from mux_jax.models.model import MuxModel, truncate_for_prefix
from mux_jax.objectives.corruption import Chosen
from mux_jax.objectives.objectives import detection_loss, masked_lm_loss
from mux_jax.objectives.retrieval import retrieval_loss

TASK, RETRIEVAL = 0.9, 0.1  # the coefficients of all folders


def outputs(folder: Path, scan_layers: bool = True) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(computed, expected), every array of `io.npz` that is an output, by name."""
    model, params = mux_jax.load_pretrained(str(folder))
    config = dataclasses.replace(model.config, dtype="float32", scan_layers=scan_layers)
    io = dict(np.load(folder / "io.npz"))
    N, P = config.width, config.prefix_length
    tokens, mask = (io.pop(name) for name in ("input_ids", "attention_mask"))
    tokens, mask = (x.reshape(-1, N, x.shape[-1]) for x in (tokens, mask.astype(bool)))
    pretraining = config.head in ("mlm", "rtd")
    labels = io.pop("labels").reshape(tokens.shape) if "labels" in io else None
    instance = io.pop("retrieval_instance", None)

    @jax.jit
    def compute(params, tokens, mask, labels, instance):
        bound = MuxModel(config).bind({"params": params})
        seen, real = (truncate_for_prefix(config, x) if pretraining else x for x in (tokens, mask))
        hidden = bound.encode(seen, real)
        found = {"encoder_output": hidden}
        logits = bound(tokens, mask)
        if config.head in ("sequence", "token"):
            places = None if config.head == "token" else jnp.full((len(tokens), N, 1), max(0, P - 1))
            found["demuxed"] = bound.demultiplexer(hidden, bound.all_instances, places)
            found["logits"] = logits
            return found
        found[f"{config.head}_logits"] = logits
        if instance is not None:
            found["retrieval_logits"] = bound.vocabulary_logits(hidden, instance[:, None])[:, 0]
            loss, _ = retrieval_loss(bound, hidden, seen, instance[:, P:])
            found["retrieval_loss"] = loss
        if labels is not None and config.head == "mlm":
            labels = truncate_for_prefix(config, labels)
            places = jnp.broadcast_to(jnp.arange(labels.shape[-1]), labels.shape)
            chosen = Chosen(places, jnp.maximum(labels, 0), (labels != -100).astype(jnp.float32))
            found["task_loss"], _ = masked_lm_loss(bound, hidden, chosen)
        elif labels is not None:
            found["task_loss"], _ = detection_loss(bound, hidden, truncate_for_prefix(config, labels), real)
        if {"task_loss", "retrieval_loss"} <= found.keys():
            found["loss"] = TASK * found["task_loss"] + RETRIEVAL * found["retrieval_loss"]
        return found

    found = compute(params, tokens, mask, labels, instance)
    found = {name: np.asarray(found[name]).reshape(io[name].shape) for name in io}
    if "mlm_logits" in io:  # 0 where nothing was predicted
        found["mlm_logits"] = found["mlm_logits"] * io["mlm_logits"].any(-1, keepdims=True)
    return found, io


def main() -> None:
    for folder in (Path(name) for name in sys.argv[1:] if Path(name, "io.npz").exists()):
        worst = {}
        for scan_layers in (True, False):
            found, expected = outputs(folder, scan_layers)
            for name in expected:
                worst[name] = max(worst.get(name, 0.0), float(np.abs(found[name] - expected[name]).max()))
        figures = ", ".join(f"{name} {value:.1e}" for name, value in worst.items())
        print(f"{folder.name}: {max(worst.values()):.1e} ({figures})")


if __name__ == "__main__":
    main()
