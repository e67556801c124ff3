"""Deferral: what a cheaper model is not sure of, the full model answers.

How sure a model is of a text is its log-odds, in nats, that the label it gives is right:

  log p - log(1 - p)          of a text with one label, p being the highest probability
  the least of its labels     where it may have several, each there or not (from the threshold on)
  the least of its words      of tags
  -|x - y|                    of a regression of several texts a row: its answers in two compositions

The threshold is fitted on texts that neither model has learned from, and kept with the model, so that an answer depends
on its text and not on how many came with it.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import scipy.optimize
import scipy.special
from etils import epath

from mux_jax.checkpoints.source import ModelSource, open_model
from mux_jax.data import metrics
from mux_jax.data.labels import shown
from mux_jax.errors import InputError
from mux_jax.files import write_atomically
from mux_jax.inference.batch_runner import labels_from_logits
from mux_jax.models.config import ModelConfig

FILE = "deferral.json"  # in a model's folder
_SHARES = np.linspace(0, 1, 101)


class Aim(NamedTuple):
    """How much to defer: `off`; `auto`, as kept with the model; a `share`; or as little as an `agreement` takes."""

    kind: str
    value: float = 0.0


def parse_aim(defer: str | float) -> Aim:
    """What `--defer` says.

    Raises:
      InputError: something else.
    """
    kind, _, number = str(defer).rpartition("=")
    if not kind and number in ("off", "auto"):
        return Aim(number)
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if kind not in ("", "agreement") or not 0 <= value <= 1:
        raise InputError(
            f"defer={defer} must be off, auto, a share from 0 to 1 of the texts, or agreement=X with X from 0 to 1"
        )
    return Aim("agreement", value) if kind else Aim("share" if value else "off", value)


def passes(config: ModelConfig) -> int:
    """How often a model reads a text until it knows how sure it is; 0 if it never does."""
    return 1 if config.task_kind != "regression" else 2 if config.width > 1 else 0


def check_kind(config: ModelConfig, where: str = "") -> None:
    """Raises `InputError` if a model's answers do not say how sure they are."""
    if config.head == "embedding":
        raise InputError(f"{where}an embedding is no answer that could be unsure; nothing to defer")
    if not passes(config):
        raise InputError(
            f"{where}a number of a model with one text a row does not say how sure it is; nothing to defer"
        )


@dataclasses.dataclass(frozen=True)
class Deferral:
    """When to ask the full model.

    Attributes:
      full: its address; one without a folder before it is in the model's own folder.
      temperature: that logits are divided by.
      texts: how many it was fitted on.
      share: of them, to defer if nothing else is asked for.
      thresholds: float[101], of how sure the model is: those below which 0, 1, ... 100 % of the texts were.
      agreement: float[101], with the full model, if these are deferred.
    """

    full: str
    temperature: float
    texts: int
    share: float
    thresholds: tuple[float, ...]
    agreement: tuple[float, ...]

    @staticmethod
    def fit(
        logits: list[np.ndarray], sure: np.ndarray, full_logits: list[np.ndarray], config: ModelConfig, full: str
    ) -> "Deferral":
        """Fits thresholds to the answers of both models to some texts; `share` is 0.

        Args:
          logits, sure: what `sure_logits` gives, at temperature 1.
          full_logits: those of the full model, labels in the same order.
          config: of the cheaper model.
          full: the full model's address.
        """
        wanted = labels_from_logits(full_logits, config, 0.5)
        after = agreement_after(config.task_kind, labels_from_logits(logits, config, 0.5), wanted)

        def fitted(temperature: float, sure: np.ndarray) -> Deferral:
            finite = sure[np.isfinite(sure)]
            thresholds = np.quantile(finite if len(finite) else np.zeros(1), _SHARES)
            agreement = [after(sure < x) for x in thresholds[:-1]] + [1.0]
            return Deferral(
                full, temperature, len(sure), 0.0, tuple(map(float, thresholds)), tuple(map(float, agreement))
            )

        plain = fitted(1.0, sure)
        if len(config.labels) < 3 or config.multi_label:
            return plain  # the order is the same at all temperatures
        temperature = _temperature(logits, full_logits)
        scaled = fitted(temperature, confidence(logits, config, temperature))
        return scaled if np.mean(scaled.agreement) > np.mean(plain.agreement) else plain

    def share_for(self, aim: Aim) -> float:
        """The share of texts that an aim takes, on those that this was fitted on."""
        if aim.kind == "agreement":
            return float(_SHARES[np.argmax(np.array(self.agreement) >= aim.value)])
        return {"off": 0.0, "auto": self.share, "share": aim.value}[aim.kind]

    def aimed(self, aim: Aim) -> Self:
        """The same, with the share that an aim takes as its own."""
        return dataclasses.replace(self, share=self.share_for(aim))

    def threshold(self, share: float) -> float:
        """What a text must be below to be deferred."""
        if share in (0, 1):
            return np.inf if share else -np.inf
        return float(np.interp(share, _SHARES, self.thresholds))

    def save(self, folder: epath.Path) -> None:
        """Writes it to a model's folder."""
        write_atomically(folder / FILE, json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: epath.Path) -> Self | None:
        """That of the model in a folder, with the whole address of its full model; None if there is none."""
        file = folder / FILE
        if not file.exists():
            return None
        try:
            read = json.loads(file.read_text(encoding="utf-8")).items()
            fields: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in read}
            kept = cls(**fields)
        except (AttributeError, TypeError, ValueError) as e:
            raise InputError(f"{file} is not what was written here: {e}") from e
        return kept if "/" in kept.full else dataclasses.replace(kept, full=str(folder / kept.full))


def find_deferral(found: ModelSource) -> Deferral:
    """The deferral of a model.

    Raises:
      InputError: it has none.
    """
    check_kind(found.config, f"{found.folder}: ")
    deferral = Deferral.load(found.folder)
    if deferral is None:
        raise InputError(
            f"{found.folder} does not say when to ask which model: it has no {FILE}, which launch/compress.py makes "
            "with a cheaper model, and mux_jax.fit_deferral for any other"
        )
    return deferral


def check_labels(config: ModelConfig, full: ModelConfig, where: str) -> list[int]:
    """The places of a model's labels among those of the full model, which messages call `where`.

    Raises:
      InputError: they do not have the same ones.
    """
    if full.task_kind != config.task_kind or set(full.labels) != set(config.labels):
        raise InputError(
            f"{where} cannot answer for it: its labels are {shown(full.labels)} ({full.task_kind}), those of the "
            f"cheaper model {shown(config.labels)} ({config.task_kind})"
        )
    return [full.labels.index(label) for label in config.labels]


def open_full(deferral: Deferral, where: epath.Path) -> ModelSource:
    """The full model that the file in the folder `where` names.

    Raises:
      InputError: it is not there.
    """
    try:
        return open_model(deferral.full, takes_export=True)
    except InputError as e:
        raise InputError(f"{where / FILE} names the full model, and it cannot be had: {e}") from e


def sure_logits(
    run: Callable[[int], list[np.ndarray]], config: ModelConfig, temperature: float = 1.0, threshold: float = 0.5
) -> tuple[list[np.ndarray], np.ndarray]:
    """Logits of texts, and how sure the model is of each, float64 [texts].

    Args:
      run: gives the logits in one composition, and in another one.
      threshold: of several labels a text, see `labels_from_logits`.
    """
    logits = run(0)
    if config.task_kind != "regression":
        return logits, confidence(logits, config, temperature, threshold)
    pairs = list(zip(logits, run(1)))
    return [(x + y) / 2 for x, y in pairs], np.array([-abs(float(x[0] - y[0])) for x, y in pairs])


def confidence(
    logits: list[np.ndarray], config: ModelConfig, temperature: float = 1.0, threshold: float = 0.5
) -> np.ndarray:
    """How sure a model is of each text, float64 [texts]; infinite where it has nothing to say."""
    if not logits:
        return np.zeros(0)
    if config.multi_label:
        return np.array([np.abs(x - scipy.special.logit(threshold)).min() for x in logits], float) / temperature
    found = np.concatenate([np.reshape(x, (-1, x.shape[-1])) for x in logits]).astype(float)
    sorted_MC = np.sort(found / temperature, axis=-1)
    sure_M = sorted_MC[:, -1] - scipy.special.logsumexp(sorted_MC[:, :-1], axis=-1)
    if config.head != "token":
        return sure_M
    words = np.split(np.where(np.isnan(sure_M), np.inf, sure_M), np.cumsum([len(x) for x in logits])[:-1])
    return np.array([x.min(initial=np.inf) for x in words])


def agreement_after(kind: str, ours: Sequence, full: Sequence) -> Callable[[np.ndarray], float]:
    """(bool [texts], those deferred) -> agreement with the full model then; of a regression the correlation.

    Args:
      kind: of the task: a name in `metrics.OF_KIND`.
      ours, full: predictions by name.
    """
    if kind == "regression":
        x, y = np.array(ours, float), np.array(full, float)
        return lambda deferred: metrics.correlation(np.where(deferred, y, x), y)
    equal, all_ = metrics.equal_counts(kind, ours, full)
    return lambda deferred: float(np.where(deferred, all_, equal).sum() / max(1, all_.sum()))


def _temperature(logits: list[np.ndarray], full_logits: list[np.ndarray]) -> float:
    """That at which the probabilities of the full model's labels are highest (Guo et al., arXiv 1706.04599)."""
    ours_MC, full_MC = (np.concatenate([np.reshape(x, (-1, x.shape[-1])) for x in y]) for y in (logits, full_logits))
    there = ~np.isnan(ours_MC[:, 0]) & ~np.isnan(full_MC[:, 0])
    ours_MC, wanted_M = ours_MC[there].astype(float), full_MC[there].argmax(-1)

    def distance(log_temperature: float) -> float:
        log_p = scipy.special.log_softmax(ours_MC / np.exp(log_temperature), axis=-1)
        return -float(log_p[np.arange(len(log_p)), wanted_M].mean())

    found: Any = scipy.optimize.minimize_scalar(distance, bounds=(-3.0, 3.0), method="bounded")
    return float(np.exp(found.x))
