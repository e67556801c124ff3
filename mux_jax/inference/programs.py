"""Models made programs of other runtimes: StableHLO, ONNX, OpenVINO; in int8, if that is wanted.

A program takes any number of rows of any length: both are symbols when the model is traced.
"""

import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from mux_jax.inference.batch_runner import forward
from mux_jax.inference.runtimes import import_openvino
from mux_jax.models.model import MuxModel

_MOST_BYTES = 2**31 - 2**24  # of weights that stay in a file of protobuf


def needs(format: str, int8: bool) -> tuple[str, ...]:
    """The packages that it takes to write a program."""
    more = {"onnx": ("jax2onnx", "onnxruntime"), "openvino": ("jax2onnx", "openvino", *("nncf",) * int8)}
    return more.get(format, ("flatbuffers",) if format == "stablehlo" else ())


def to_stablehlo(model: MuxModel, params: Any, pad_id: int, inputs: tuple[str, ...]) -> bytes:
    """A model as `jax.export.deserialize` reads it; arguments as in `to_onnx`."""
    logits, shapes = _traceable(model, params, pad_id, inputs)
    return bytes(jax.export.export(jax.jit(logits), platforms=("cpu", "cuda", "tpu"))(*shapes).serialize())


def to_onnx(model: MuxModel, params: Any, pad_id: int, inputs: tuple[str, ...]) -> Any:
    """A model as a program of ONNX, from `inputs` to logits.

    Args:
      params: as `split_layers` gives them.
      pad_id: the token that is masked.
      inputs: `tokens`, and `token_types` if it takes them.
    """
    import jax2onnx

    logits, shapes = _traceable(model, params, pad_id, inputs)
    with quiet():
        program = jax2onnx.to_onnx(
            logits, shapes, model_name="mux_jax", input_names=list(inputs), output_names=["logits"]
        )
    del program.graph.value_info[:]  # what it says of shapes inside is not always so
    return program


def _traceable(
    model: MuxModel, params: Any, pad_id: int, inputs: tuple[str, ...]
) -> tuple[Callable[..., jax.Array], list[jax.ShapeDtypeStruct]]:
    """The function from inputs to logits, and the shapes of these."""
    run, config = forward(model, pad_id), model.config
    prefix = config.prefix_length
    # A row's length with its prefix is the symbol, so that all sizes in the program are products of symbols.
    shape = jax.export.symbolic_shape(
        f"B,{config.width},L" + (f"-{prefix}" if prefix else ""),
        constraints=[f"L >= {prefix + 2}", f"L <= {config.max_length}"],
    )
    return lambda *arrays: run(params, *arrays), [jax.ShapeDtypeStruct(shape, jnp.int32)] * len(inputs)


def write(format: str, program: Any, int8: bool, batches: list[list[np.ndarray]], file: epath.Path) -> None:
    """Writes a program of ONNX, which is of no use afterwards, to a file of ONNX or OpenVINO.

    Args:
      int8: whether matrix products are of 8 bits: in ONNX with scales of each batch's own, which ONNX Runtime runs
        faster, in OpenVINO with those of `batches`, each the inputs in their order.
    """
    import onnx

    if format == "onnx" and int8:
        _quantize_onnx(program, file)
    elif format == "onnx":
        size = sum(len(x.raw_data) for x in program.graph.initializer)
        onnx.save_model(program, str(file), save_as_external_data=size > _MOST_BYTES, location=f"{file.name}.data")
    else:
        openvino, source = import_openvino(), file.parent / "program.onnx"
        onnx.save_model(program, str(source), save_as_external_data=True, location="program.data")
        made = openvino.Core().read_model(str(source))
        openvino.save_model(quantized(made, batches) if int8 else made, str(file), compress_to_fp16=False)
        for name in ("program.onnx", "program.data"):
            (file.parent / name).unlink()


def _quantize_onnx(program: Any, file: epath.Path) -> None:
    """Writes a program in int8, after what is constant was computed: more products have weights then."""
    import onnxruntime
    from onnxruntime.quantization import quantize_dynamic

    folded, options = file.parent / "folded.onnx", onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    onnxruntime.InferenceSession(program.SerializeToString(), options, providers=["CPUExecutionProvider"])
    with quiet():
        quantize_dynamic(str(folded), str(file), extra_options={"MatMulConstBOnly": True})
    folded.unlink()


def quantized(program: Any, batches: Sequence[Any]) -> Any:
    """A program of OpenVINO in int8: static scales, SmoothQuant, and what NNCF knows of Transformers.

    The last product, which gives the logits, stays as it is: it costs nothing.
    """
    import_openvino()  # the first, as NNCF imports it
    import nncf

    products = [x.get_friendly_name() for x in program.get_ordered_ops() if x.get_type_name() == "MatMul"]
    left_out = nncf.IgnoredScope(names=products[-1:])
    data, kind = nncf.Dataset(list(batches)), nncf.ModelType.TRANSFORMER
    with quiet(), contextlib.redirect_stdout(io.StringIO()):  # bars of its own
        return nncf.quantize(program, data, subset_size=len(batches), model_type=kind, ignored_scope=left_out)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters and quantisers log much that is no one's concern."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
