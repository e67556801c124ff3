"""What a fine-tuned model keeps of its task, so that it is used as it was trained."""

import dataclasses
from typing import Any, Self


@dataclasses.dataclass(frozen=True)
class TaskInfo:
    """The part of a fine-tuning run that goes with its model wherever it is converted to.

    Attributes:
      bucket_lengths: the lengths that its rows may have, ascending.
      text_columns: the columns of the texts in the files it was trained on.
    """

    bucket_lengths: tuple[int, ...]
    text_columns: tuple[str, ...]

    @classmethod
    def from_json(cls, task: dict[str, Any]) -> Self:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError where it is something else."""
        return cls(tuple(map(int, task["bucket_lengths"])), tuple(map(str, task["text_columns"])))

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"bucket_lengths": list(self.bucket_lengths), "text_columns": list(self.text_columns)}
