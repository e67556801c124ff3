"""The answers of another model, which stand in a file beside the texts, as logits."""

import math
from typing import Any

import numpy as np
from etils import epath

from mux_jax.data import formats
from mux_jax.data.labels import shown
from mux_jax.errors import InputError
from mux_jax.models.config import ModelConfig

_SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")
_PREFIX = "probability_"  # of the columns in tables of `launch/predict.py`
_FROM_ONE, _LEAST = 1e-3, 1e-6  # what the sum of probabilities may be off; the smallest one that counts


class Answers:
    """The answers in a file: the probabilities of a model's labels; of a regression, a number in a column `score`.

    Probabilities have a column for each label, called as the label or `probability_LABEL`, or stand together in a
    column `probabilities`, which maps labels to them: as `launch/predict.py` writes them.

    Args:
      file: a TSV, CSV, JSONL or Parquet file.
      config: of the model that is answered for.
      delimiter: of TSV and CSV, if it is not a tab or a comma.

    Attributes:
      file: the file.
      columns: those that hold the answers.

    Raises:
      InputError: a model that tags words; another kind of file, or one without such columns.
    """

    def __init__(self, file: epath.Path, config: ModelConfig, delimiter: str = ""):
        if config.head == "token":
            raise InputError(f"--answers={file}: --model tags words; answers are of models that classify whole texts")
        if file.suffix not in _SUFFIXES:
            raise InputError(f"--answers={file}: the name must end in {', '.join(_SUFFIXES)}")
        self.file, self._labels, self._multi_label = file, config.labels, config.multi_label
        candidates: list[tuple[str, ...]] = [("score",)]
        hint = "; --answers reads the column `score`"
        if len(config.labels) > 1:
            prefixed = tuple(_PREFIX + label for label in config.labels)
            candidates = [config.labels, prefixed, ("probabilities",)]
            hint = "; --answers reads a column for each label, or `probabilities`, which maps labels to numbers"
        delimiter = delimiter if file.suffix in formats.TABLES else ""
        self.columns = formats.find_columns(file, *candidates, hint=hint, delimiter=delimiter)

    def logits(self, record: formats.Record) -> np.ndarray:
        """The logits that a record's answer is made of, float32[C]: of a regression the score itself.

        ```
        log p;  log p - log(1 - p)  of a model with several labels a text       p from 1e-6 (to 1 - 1e-6)
        ```

        Raises:
          InputError: probabilities that are none, or that do not sum to 1 where one label is right; labels that are not
            those of the model; a score that is no number.
        """
        if len(self._labels) == 1:
            value = record.fields.get("score")
            score = _number(value)
            if not abs(score) <= float(np.finfo(np.float32).max):
                raise InputError(f"{record.where}: score={value!r} is not a finite number")
            return np.array([score], np.float32)
        given = self._given(record)
        if strange := [label for label in given if label not in self._labels]:
            raise InputError(
                f"{record.where}: label {strange[0]!r} is not among those of the model: {shown(self._labels)}"
            )
        if missing := [label for label in self._labels if label not in given]:
            raise InputError(
                f"{record.where}: no probability of label {missing[0]!r}; each needs one: {shown(self._labels)}"
            )
        p_C = np.array([_number(given[label]) for label in self._labels])
        for label, p in zip(self._labels, p_C):
            if not 0 <= p <= 1:
                raise InputError(f"{record.where}: probability {given[label]!r} of {label!r} is no number from 0 to 1")
        if not self._multi_label and abs(p_C.sum() - 1) > _FROM_ONE:
            raise InputError(
                f"{record.where}: probabilities sum to {p_C.sum():.4f}; they must sum to 1, within {_FROM_ONE}"
            )
        if self._multi_label:
            p_C = np.clip(p_C, _LEAST, 1 - _LEAST)
            return (np.log(p_C) - np.log1p(-p_C)).astype(np.float32)
        return np.log(np.maximum(p_C, _LEAST)).astype(np.float32)

    def _given(self, record: formats.Record) -> dict[str, Any]:
        """What a record gives for each label."""
        fields = record.fields
        if self.columns == ("probabilities",):
            try:
                return dict(fields.get("probabilities") or {})  # Parquet has maps as lists of pairs
            except (TypeError, ValueError) as e:
                found = fields["probabilities"]
                raise InputError(f"{record.where}: probabilities={found!r} do not map labels to numbers") from e
        if self.columns == self._labels:
            return {label: fields[label] for label in self._labels if label in fields}
        return {name.removeprefix(_PREFIX): value for name, value in fields.items() if name.startswith(_PREFIX)}


def _number(value: Any) -> float:
    """The number that a value of a file is; NaN if it is none."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
