"""Evaluation on held-out text: an objective's outputs become figures."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np


def evaluate(eval_step: Callable, params: Any, batches: Iterable[jax.Array]) -> dict[str, Any]:
    """The figures of an objective on `batches`, always the same draws for the same batches.

    Returns:
      `loss` and, where the objective gives them: `retrieval_accuracy`,
      `retrieval_accuracy_per_slot` (a list over the N instances), `mlm_loss`, `mlm_accuracy`,
      `rtd_loss`, `rtd_roc_auc`, `rtd_f1` (of the replaced tokens, at probability 1/2).
    """
    outputs = []
    for i, tokens in enumerate(batches):
        outputs.append(jax.device_get(eval_step(params, tokens, jax.random.fold_in(jax.random.key(0), i))))
    return figures({name: np.stack([o[name] for o in outputs]) for name in outputs[0]})


def figures(outputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Figures from an objective's outputs, stacked over batches."""
    result: dict[str, Any] = {name: float(x.mean()) for name, x in outputs.items() if x.ndim == 1}
    if "retrieval_correct" in outputs:
        correct, instance = outputs["retrieval_correct"], outputs["retrieval_instance"]
        result["retrieval_accuracy"] = float(correct.mean())
        result["retrieval_accuracy_per_slot"] = [
            float(correct[instance == i].mean()) for i in range(int(instance.max()) + 1)
        ]
    if "mlm_correct" in outputs:
        weights = outputs["mlm_weights"]
        result["mlm_accuracy"] = float((outputs["mlm_correct"] * weights).sum() / max(weights.sum(), 1))
    if "rtd_logits" in outputs:
        from sklearn.metrics import f1_score, roc_auc_score  # slow to import

        real = outputs["rtd_real"]
        labels, logits = outputs["rtd_labels"][real], outputs["rtd_logits"][real]
        result["rtd_roc_auc"] = float(roc_auc_score(labels, logits))
        result["rtd_f1"] = float(f1_score(labels, logits > 0, zero_division=0))
    return result


def unigram_entropy(tokens: np.ndarray, special: Iterable[int]) -> float:
    """The entropy, in nats, of the distribution of the tokens that are not special.

    It is the masked-LM loss of a model that knows how frequent each token is and no more.
    """
    counts = np.bincount(tokens.ravel())
    counts[[i for i in special if i < len(counts)]] = 0
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())
