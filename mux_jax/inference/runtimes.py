"""Programs of exports, run by their own runtimes: ONNX Runtime, OpenVINO, XLA."""

import importlib.util
import sys
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from mux_jax.checkpoints.exports import PROGRAMS, Export
from mux_jax.errors import InputError

Program = Callable[..., np.ndarray]  # tokens int32[B, N, L] and, of some, their types -> logits float32
_NEEDS = {"onnx": ("onnxruntime",), "openvino": ("openvino",), "stablehlo": ("flatbuffers",)}


def open_program(export: Export, folder: epath.Path, dtype: str) -> Program:
    """The program of an export, ready to run; threads may share it.

    Args:
      dtype: of products where the runtime has a choice, float32 or bfloat16.

    Raises:
      InputError: a runtime that is not installed, or a file that it does not read.
    """
    require(f"{folder}, an export to {export.format},", *_NEEDS[export.format])
    run = open_file(export.format, folder / PROGRAMS[export.format], dtype)

    def program(tokens_BNL: np.ndarray, *types_BNL: np.ndarray) -> np.ndarray:
        if types_BNL and len(export.inputs) == 1:
            raise InputError(f"{folder} was made for single texts, not for pairs: its program takes no token types")
        types_BNL = types_BNL or (np.zeros_like(tokens_BNL),) * (len(export.inputs) - 1)
        return run(tokens_BNL, *types_BNL)

    return program


def open_file(format: str, file: epath.Path, dtype: str) -> Program:
    """The program in a file, without the checks of `open_program`."""
    return {"onnx": _onnx, "openvino": _openvino, "stablehlo": _stablehlo}[format](file, dtype)


def installed(package: str) -> bool:
    """Whether a package is there to import."""
    return importlib.util.find_spec(package) is not None


def require(what: str, *packages: str, extra: str = "export") -> None:
    """Raises `InputError` if a package is not installed that something needs, with the extra that brings it."""
    missing = [name for name in packages if not installed(name)]
    if missing:
        raise InputError(f"{what} needs {' and '.join(missing)}: pip install 'mux_jax[{extra}]'")


def import_openvino() -> Any:
    """OpenVINO without what sends statistics: it does so from forks, in which JAX does not live."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it were not installed
    return importlib.import_module("openvino")


def _onnx(file: epath.Path, dtype: str) -> Program:
    import onnxruntime

    providers: list[Any] = ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"use_tf32": 0}))
    try:
        session = onnxruntime.InferenceSession(str(file), providers=providers)
    except Exception as e:  # its errors have no common class of their own
        raise InputError(f"{file}: ONNX Runtime does not read it: {e}") from e
    names = [x.name for x in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays)))[0]


def _openvino(file: epath.Path, dtype: str) -> Program:
    openvino = import_openvino()
    hints = {"INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype], "PERFORMANCE_HINT": "LATENCY"}
    core, lock = openvino.Core(), threading.Lock()  # a compiled model takes one batch at a time
    try:
        model = core.read_model(str(file))
    except RuntimeError as e:
        raise InputError(f"{file}: OpenVINO does not read it: {e}") from e
    compiled: dict[tuple[int, ...], Any] = {}

    def run(*arrays: np.ndarray) -> np.ndarray:
        shape = arrays[0].shape
        with lock:
            if shape not in compiled:  # which runs faster than one for all shapes
                model.reshape({x.get_any_name(): list(shape) for x in model.inputs})
                compiled[shape] = core.compile_model(model, "CPU", hints)
            return np.array(compiled[shape](list(arrays))[0])

    return run


def _stablehlo(file: epath.Path, dtype: str) -> Program:
    try:
        exported = jax.export.deserialize(bytearray(file.read_bytes()))
    except Exception as e:  # of flatbuffers, and of what JAX finds in them
        raise InputError(f"{file}: JAX does not read it: {e}") from e
    call = jax.jit(exported.call)
    return lambda *arrays: np.asarray(call(*arrays))
