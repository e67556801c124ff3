"""Exports: fine-tuned models as programs of other runtimes, in a folder with all that it takes to use them.

A folder has `export.json`, the program and the tokenizer. The program maps `tokens` int32[B, N, L], for some also
`token_types` of the same shape, to `logits` float32[B, N, C], [B, N, L, C] of words, or [B, N, E] of embeddings. B may
be any number, L any up to the model's limit.
"""

import dataclasses
import json
from typing import Any, Self

from etils import epath

from mux_jax.checkpoints.task_info import TaskInfo
from mux_jax.errors import InputError
from mux_jax.models.config import ModelConfig

FILE = "export.json"
PROGRAMS = {"onnx": "model.onnx", "openvino": "model.xml", "stablehlo": "model.stablehlo"}


@dataclasses.dataclass(frozen=True)
class Export:
    """What `export.json` says.

    Attributes:
      format: a name in `PROGRAMS`.
      precision: of matrix products: float32 or int8; OpenVINO may take bfloat16 in place of float32.
      inputs: of the program, in their order.
      pad_token_id: what fills rows.
      source: the address of the model that it was made of.
      difference: the largest of its logits from that model's, when it was made.
      model: that model.
      task: what goes with it.
    """

    format: str
    precision: str
    inputs: tuple[str, ...]
    pad_token_id: int
    source: str
    difference: float
    model: ModelConfig
    task: TaskInfo

    def save(self, folder: epath.Path) -> None:
        """Writes it into a folder that exists."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        described = fields | {"model": self.model.to_flat(), "task": self.task.to_json()}
        (folder / FILE).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: epath.Path) -> Self:
        """That of a folder.

        Raises:
          InputError: it is something else, or the program is not there.
        """
        file = folder / FILE
        try:
            read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            read["model"], read["task"] = ModelConfig.from_flat(read["model"]), TaskInfo.from_json(read["task"])
            found = cls(**read | {"inputs": tuple(read["inputs"])})
            program = folder / PROGRAMS[found.format]
        except (KeyError, TypeError, ValueError) as e:
            raise InputError(f"{file} is not what launch/export.py writes: {e}") from e
        if not program.exists():
            raise InputError(f"{program} is missing; run launch/export.py again")
        return found
