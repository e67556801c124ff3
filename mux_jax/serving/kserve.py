"""KServe's protocol, version 2, with tensors of strings in JSON (the open inference protocol)."""

from collections.abc import Awaitable, Callable
from typing import Any

import fastapi
import numpy as np
from fastapi.responses import Response
from pydantic import BaseModel

from mux_jax.errors import InputError
from mux_jax.inference.batch_runner import labels_from_logits, probabilities
from mux_jax.models.config import ModelConfig
from mux_jax.serving.guard import Refusal
from mux_jax.serving.service import Answers, Service
from mux_jax.version import VERSION


class Tensor(BaseModel):
    """A tensor that is sent: of texts, or of the second texts of pairs."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] = {}


class Wanted(BaseModel):
    """A tensor that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(BaseModel):
    """Texts to answer: a tensor of them, and of pairs a second one."""

    id: str | None = None
    parameters: dict[str, Any] = {}
    inputs: list[Tensor]
    outputs: list[Wanted] = []


def add(
    app: fastapi.FastAPI,
    served: Callable[[], Service],
    answer: Callable[[fastapi.Request, Service, list[Any], bool], Awaitable[Answers]],
    headers: Callable[..., None],
    name: str,
) -> None:
    """Adds the endpoints to an app; arguments are those of `api.make_app`."""

    def known(model: str) -> Service:
        if model != name:
            raise Refusal(404, "Validation", f"no model {model!r}; there is {name!r}")
        return served()

    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        """Whether the process works."""
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready() -> dict[str, bool]:
        """Whether requests are answered."""
        served()
        return {"ready": True}

    @app.get("/v2")
    async def server() -> dict[str, Any]:
        """The server."""
        return {"name": "mux_jax", "version": VERSION, "extensions": []}

    @app.get("/v2/models/{model}/ready")
    async def model_ready(model: str) -> dict[str, Any]:
        """Whether the model answers."""
        known(model)
        return {"name": name, "ready": True}

    @app.get("/v2/models/{model}")
    async def model_metadata(model: str) -> dict[str, Any]:
        """What the model takes and gives; -1 is any number."""
        config = known(model).predictor.config
        text = {"name": "text", "datatype": "BYTES", "shape": [-1]}
        outputs = [{"name": key, "datatype": kind, "shape": shape} for key, kind, shape in _outputs(config)]
        return {"name": name, "versions": [], "platform": "jax", "inputs": [text], "outputs": outputs}

    @app.post("/v2/models/{model}/infer")
    async def infer(model: str, body: InferRequest, request: fastapi.Request, response: Response) -> dict[str, Any]:
        """The answers to a tensor of texts."""
        found = known(model)
        texts = _texts(body.inputs)
        answers = await answer(request, found, texts, body.parameters.get("truncate") is True)
        headers(response, found, answers)
        asked = [output.name for output in body.outputs]
        outputs = [x for x in _answers(found.predictor.config, answers.logits) if not asked or x["name"] in asked]
        if missing := set(asked) - {x["name"] for x in outputs}:
            raise InputError(f"no output {sorted(missing)[0]!r}; there are: {_names(found.predictor.config)}")
        return {"model_name": name, "outputs": outputs} | ({"id": body.id} if body.id is not None else {})


def _texts(tensors: list[Tensor]) -> list[Any]:
    """The texts in a tensor, or the pairs in two."""
    if not 1 <= len(tensors) <= 2:
        raise InputError(f"{len(tensors)} inputs; one holds texts, a second one of pairs the second texts")
    columns = []
    for tensor in tensors:
        data = tensor.data
        while data and all(isinstance(x, list) for x in data):
            data = [x for part in data for x in part]
        if tensor.datatype != "BYTES" or not all(isinstance(x, str) for x in data):
            raise InputError(f"input {tensor.name!r} must be of datatype BYTES, with texts in data")
        if int(np.prod(tensor.shape)) != len(data):
            raise InputError(f"input {tensor.name!r} has shape {tensor.shape} and {len(data)} texts")
        columns.append(data)
    if len({len(column) for column in columns}) > 1:
        raise InputError("the inputs hold different numbers of texts")
    return columns[0] if len(columns) == 1 else list(zip(*columns))


def _outputs(config: ModelConfig) -> list[tuple[str, str, list[int]]]:
    """The name, type and shape of each tensor that a model gives."""
    if config.head == "embedding":
        return [("embedding", "FP32", [-1, config.dimensions])]
    if config.head == "token":
        return [("tags", "BYTES", [-1])]
    if len(config.labels) == 1:
        return [("score", "FP32", [-1])]
    return [("label", "BYTES", [-1]), ("probabilities", "FP32", [-1, len(config.labels)])]


def _names(config: ModelConfig) -> str:
    return ", ".join(name for name, _, _ in _outputs(config))


def _answers(config: ModelConfig, logits: list[np.ndarray]) -> list[dict[str, Any]]:
    """The tensors: tags and the labels of a text that may have several are one string, with blanks between."""
    named = labels_from_logits(logits, config, 0.5)
    found: dict[str, list[Any]] = {
        "embedding": [x for vector in logits for x in vector.tolist()] if config.head == "embedding" else [],
        "tags": [" ".join(tag or "-" for tag in tags) for tags in named] if config.head == "token" else [],
        "score": named,
        "label": [label if isinstance(label, str) else " ".join(label) for label in named]
        if config.head == "sequence" and len(config.labels) > 1
        else [],
        "probabilities": probabilities(logits, config).ravel().tolist() if config.head == "sequence" else [],
    }
    return [
        {"name": key, "datatype": kind, "shape": [len(logits), *shape[1:]], "data": found[key]}
        for key, kind, shape in _outputs(config)
    ]
