"""Scores of a model on a task, over draws of which examples share rows."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mux_jax.data import metrics
from mux_jax.data.neighbours import cosines
from mux_jax.data.task_data import Split, TaskData
from mux_jax.inference.batch_runner import BatchRunner, labels_from_logits
from mux_jax.inference.deferral import agreement_after, sure_logits


@dataclasses.dataclass(frozen=True)
class Deferred:
    """What the full model answers in place of another.

    Attributes:
      threshold, temperature: see `deferral`.
      logits: of the full model, by split.
    """

    threshold: float
    temperature: float
    logits: Mapping[str, list[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A task and what runs a model on it. Parameters are those that `split_layers` gives.

    Attributes:
      data: the examples.
      runner: the model.
      ensemble: slots that each example is put in.
      seed: of the draws of which examples share rows.
      threshold: where a text may have several labels: the probability from which on it has one.
      deferred: what another model answers; figures are then those of both, with the share that is `deferred`, and
        the `agreement` with the other one.
    """

    data: TaskData
    runner: BatchRunner
    ensemble: int
    seed: int
    threshold: float
    deferred: Deferred | None = None

    def score(self, params: Any) -> dict[str, float]:
        """The figures on the first split to evaluate on, in one composition; `score` is the task's own metric."""
        split = self.data.splits[self.data.task.dev[0]]
        figures = self._figures(split, self._logits(params, split, self.seed))
        return {"score": next(iter(figures.values()))} | figures

    def predict(self, params: Any, split: str) -> list[Any]:
        """The predictions on the examples of a split, in their order, in one composition."""
        return self._predicted(self._answer(params, split, [self.seed])[0])

    def score_compositions(
        self, params: Any, num_compositions: int, report: Callable[[float, str], None]
    ) -> tuple[dict[str, Any], tuple[list, list]]:
        """The figures of all splits over several compositions.

        Returns:
          What `result.json` holds; labels and predictions of the first split in the first composition, those of
          words one after the other.
        """
        task, width = self.data.task, self.runner.config.width
        compositions = num_compositions if width > 1 else 1  # of width 1 all are one
        runs = [(name, i) for name in task.dev for i in range(compositions)]
        found: dict[str, list[dict[str, float]]] = {}
        labelled: tuple[list, list] = ([], [])
        for done, (name, i) in enumerate(runs):
            split = self.data.splits[name]
            logits, shares = self._answer(params, name, [self.seed, i])
            found.setdefault(name, []).append(self._figures(split, logits) | shares)
            if not done:
                labelled = self._labelled(split, logits)
            report((done + 1) / len(runs), f"composition {i + 1} of {name}")
        splits = {
            name: {metric: spread([f[metric] for f in figures]) for metric in figures[0]}
            for name, figures in found.items()
        }
        first = splits[task.dev[0]]
        result = {
            "metric": next(iter(first)),
            "examples": len(self.data.splits[task.dev[0]].examples),
            "width": width,
            "ensemble": self.ensemble,
            "effective_width": width / self.ensemble,
            "score": next(iter(first.values())),
            "splits": splits,
            "truncated": {name: self.data.splits[name].encoded.truncated for name in task.dev},
        }
        return result, labelled

    def _answer(self, params: Any, name: str, seed: list[int]) -> tuple[list[np.ndarray], dict[str, float]]:
        """Logits on a split; and which share is the full model's, and the agreement with it, if that is asked."""
        split = self.data.splits[name]

        def run(composition: int) -> list[np.ndarray]:
            return self._logits(params, split, [*seed, composition] if composition else seed)

        if not self.deferred:
            return run(0), {}
        logits, sure = sure_logits(run, self.runner.config, self.deferred.temperature, self.threshold)
        unsure, full = sure < self.deferred.threshold, self.deferred.logits[name]
        agreed = agreement_after(self.data.task.kind, self._predicted(logits), self._predicted(full))(unsure)
        merged = [np.where(np.isnan(y), x, y) if asked else x for x, y, asked in zip(logits, full, unsure)]
        return merged, {"deferred": float(unsure.mean()), "agreement": agreed}

    def _logits(self, params: Any, split: Split, seed: int | list[int]) -> list[np.ndarray]:
        # Copies in left-over slots, which would help a little, are not what very many texts get.
        return self.runner(params, split.encoded, np.random.default_rng(seed), self.ensemble, copies=False)

    def _predicted(self, logits: list[np.ndarray]) -> list[Any]:
        return labels_from_logits(logits, self.runner.config, self.threshold)

    def _figures(self, split: Split, logits: list[np.ndarray]) -> dict[str, float]:
        gold, predicted = [e.label for e in split.examples], self._predicted(logits)
        task = self.data.task
        if task.kind == "embedding":
            predicted = cosines(predicted)
        return metrics.compute(task.kind, task.metric, gold, predicted, self.data.labels)

    def _labelled(self, split: Split, logits: list[np.ndarray]) -> tuple[list, list]:
        gold, predicted = [e.label for e in split.examples], self._predicted(logits)
        if self.data.task.kind == "token":
            pairs = [(g, p) for gs, ps in zip(gold, predicted) for g, p in zip(gs, ps) if p is not None]
            gold, predicted = [g for g, _ in pairs], [p for _, p in pairs]
        return gold, predicted


def spread(runs: list[float]) -> dict[str, Any]:
    """Mean, standard deviation, minimum and maximum of the scores of several compositions."""
    return {
        "mean": float(np.mean(runs)),
        "std": float(np.std(runs)),
        "min": float(np.min(runs)),
        "max": float(np.max(runs)),
        "runs": runs,
    }
