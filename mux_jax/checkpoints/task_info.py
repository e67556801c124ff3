"""What a fine-tuned model keeps of its task, so that it is used as it was trained."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self


@dataclasses.dataclass(frozen=True)
class TaskInfo:
    """The part of a fine-tuning run that goes with its model wherever it is converted to.

    Attributes:
      bucket_lengths: the lengths that its rows may have, ascending.
      text_columns: the columns of the texts in the files it was trained on.
      prompts: of an embedding model: what is put before texts, by name; "": what is if none is named.
    """

    bucket_lengths: tuple[int, ...]
    text_columns: tuple[str, ...]
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_json(cls, task: dict[str, Any]) -> Self:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError where it is something else."""
        lengths, columns = tuple(map(int, task["bucket_lengths"])), tuple(map(str, task["text_columns"]))
        return cls(lengths, columns, dict(task.get("prompts", {})))

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        found = {"bucket_lengths": list(self.bucket_lengths), "text_columns": list(self.text_columns)}
        return found | ({"prompts": dict(self.prompts)} if self.prompts else {})
