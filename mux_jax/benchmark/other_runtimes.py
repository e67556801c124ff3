"""Our models and the ordinary BERT of `transformers` in other runtimes, each in a process of its own."""

import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from mux_jax.benchmark import processes
from mux_jax.benchmark.measure import random_tokens
from mux_jax.benchmark.torch_baseline import torch_baseline
from mux_jax.data.tokenizer import BERT_TOKENS
from mux_jax.errors import InputError
from mux_jax.inference import programs, runtimes
from mux_jax.inference.batch_runner import compile_logits
from mux_jax.models.config import ModelConfig
from mux_jax.models.encoder import split_layers
from mux_jax.models.model import MuxModel
from mux_jax.parallel.mesh import make_mesh, split_batch
from mux_jax.parallel.params import init_params

# The format of the program, whether in int8, and the dtype of other products. The peer of XLA is PyTorch.
RUNTIMES = {
    "xla_float32": ("xla", False, "float32"),
    "xla_bfloat16": ("xla", False, "bfloat16"),
    "onnx": ("onnx", False, "float32"),
    "onnx_int8": ("onnx", True, "float32"),
    "openvino": ("openvino", False, "float32"),
    "openvino_bfloat16": ("openvino", False, "bfloat16"),
    "openvino_int8": ("openvino", True, "bfloat16"),
}
_BATCHES = 4  # of random tokens that int8 is fitted on: its speed does not depend on them
_MODULE = "mux_jax.benchmark.other_runtimes"


def check(names: tuple[str, ...]) -> None:
    """Raises `InputError` for a name that is not in `RUNTIMES`, or whose packages are not installed."""
    if names and jax.default_backend() != "cpu":
        raise InputError("--runtimes is for CPUs: its processes would share the accelerator")
    for name in names:
        if name not in RUNTIMES:
            raise InputError(f"--runtimes={name} does not exist; there are: {', '.join(RUNTIMES)}")
        format, int8, _ = RUNTIMES[name]
        runtimes.require(f"--runtimes={name}", *programs.needs(format, int8))


def ours(runtime: str, config: ModelConfig, rows: int, length: int) -> Callable[[], float]:
    """A function that runs a model with random weights once, and returns the seconds."""
    return processes.start(_MODULE, "ours", _settings(runtime, config, rows, length))


def peer(runtime: str, config: ModelConfig, rows: int, length: int) -> Callable[[], float] | None:
    """A function that runs the ordinary BERT of these dimensions once; None if PyTorch is not installed.

    It is made as its users make it: OpenVINO converts from PyTorch; int8 is dynamic in ONNX Runtime, and static in
    OpenVINO.
    """
    format, _, dtype = RUNTIMES[runtime]
    if format == "xla":
        settings = _settings(runtime, config, rows, length) | {"task": config.head, "dtype": dtype}
        return torch_baseline("inference", settings)
    if not all(map(runtimes.installed, ("torch", "transformers", "onnxscript"))):
        return None
    return processes.start(_MODULE, "peer", _settings(runtime, config, rows, length))


def _settings(runtime: str, config: ModelConfig, rows: int, length: int) -> dict[str, Any]:
    return {"runtime": runtime, "model": config.to_flat(), "rows": rows, "length": length}


def _ours(settings: dict[str, Any], folder: epath.Path) -> Callable[[], Any]:
    format, int8, dtype = RUNTIMES[settings["runtime"]]
    config = dataclasses.replace(
        ModelConfig.from_flat(settings["model"]), dtype=dtype if format == "xla" else "float32"
    )
    model, mesh, inputs = MuxModel(config), make_mesh(devices=jax.local_devices()[:1]), ("tokens",)
    params = split_layers(init_params(model, mesh, seed=0), config.dtype)
    shape = (settings["rows"], config.width, settings["length"])
    batches = [[random_tokens(shape, config.vocab_size, seed)] for seed in range(_BATCHES)]
    if format == "xla":
        logits, arrays = compile_logits(model, mesh, BERT_TOKENS.pad), split_batch(batches[0], mesh)
        return lambda: logits(params, *arrays).block_until_ready()
    file = folder / "ours.xml" if format == "openvino" else folder / "ours.onnx"
    program = programs.to_onnx(model, params, BERT_TOKENS.pad, inputs)
    programs.write(format, program, int8, batches, file)
    run = runtimes.open_file(format, file, dtype)
    return lambda: run(*batches[0])


def _peer(settings: dict[str, Any], folder: epath.Path) -> Callable[[], Any]:
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    format, int8, dtype = RUNTIMES[settings["runtime"]]
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    dimensions = {name: settings["model"][name] for name in names}
    classes: Any = {
        "sequence": transformers.BertForSequenceClassification,
        "token": transformers.BertForTokenClassification,
    }
    config = transformers.BertConfig(num_labels=2, attn_implementation="sdpa", **dimensions)
    made = classes[settings["model"]["head"]](config).eval()

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = made

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    shape, vocab_size = (settings["rows"], settings["length"]), dimensions["vocab_size"]
    drawn = (random_tokens(shape, vocab_size, seed) for seed in range(_BATCHES))
    batches = [[tokens.astype(int), np.ones(shape, int)] for tokens in drawn]
    tensors = tuple(map(torch.from_numpy, batches[0]))
    file = folder / "peer.xml" if format == "openvino" else folder / "peer.onnx"
    if format == "openvino":
        openvino = runtimes.import_openvino()
        program = openvino.convert_model(Logits(), example_input=tensors)
        openvino.save_model(
            programs.quantized(program, batches) if int8 else program, str(file), compress_to_fp16=False
        )
    else:
        torch.onnx.export(Logits(), tensors, str(file), verbose=False)
        if int8:
            from onnxruntime.quantization import quantize_dynamic

            plain, file = file, folder / "int8.onnx"
            quantize_dynamic(str(plain), str(file))
    run = runtimes.open_file(format, file, dtype)
    return lambda: run(*batches[0])


def _main(kind: str, settings: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        processes.serve({"ours": _ours, "peer": _peer}[kind](settings, epath.Path(folder)))


if __name__ == "__main__":
    from mux_jax.allocator import keep_freed_memory

    keep_freed_memory()  # as the process of the benchmark does
    _main(sys.argv[1], json.loads(sys.argv[2]))
