"""The endpoints: as clients of text-embeddings-inference, OpenAI and KServe know them, described by OpenAPI."""

import base64
import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal
from urllib.parse import quote

import fastapi
import numpy as np
import prometheus_client
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from mux_jax.data.neighbours import unit
from mux_jax.errors import InputError
from mux_jax.serving import kserve
from mux_jax.serving.answers import labels, relevance, tags
from mux_jax.serving.guard import Limits, Refusal
from mux_jax.serving.service import Answers, NotFinite, Service, TooLarge
from mux_jax.version import VERSION

Pair = Annotated[list[str], Field(min_length=2, max_length=2)]
One = Annotated[list[str], Field(min_length=1, max_length=1)]


class Strict(BaseModel):
    """A body without conversions: a number is no text."""

    model_config = ConfigDict(strict=True)


class PredictRequest(Strict):
    """Texts, or pairs of texts, to classify; words to tag."""

    inputs: str | Pair | list[One | Pair]
    raw_scores: bool = Field(False, description="logits in place of probabilities")
    truncate: bool | None = Field(False, description="whether a text over the limit is cut; else it is refused")
    truncation_direction: Literal["right", "Right"] = "right"
    aggregation: bool = Field(False, description="of a tagging model: spans in place of words")


class EmbedRequest(Strict):
    """Texts to embed."""

    inputs: str | list[str]
    normalize: bool = True
    truncate: bool | None = False
    truncation_direction: Literal["right", "Right"] = "right"
    prompt_name: str | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None


class OpenAIRequest(Strict):
    """Texts to embed, as OpenAI's clients send them."""

    input: str | list[str]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None


class RerankRequest(Strict):
    """A query, and texts to order by how well they answer it."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool | None = False
    truncation_direction: Literal["right", "Right"] = "right"


class Failure(BaseModel):
    """Why a request was not answered."""

    error: str
    error_type: str


FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure} for status in (400, 401, 404, 408, 413, 415, 422, 424, 429, 500, 503, 504)
}


def make_app(service: Callable[[], Service | None], limits: Limits, name: str) -> fastapi.FastAPI:
    """The endpoints.

    Args:
      service: gives what answers; None while it loads.
      name: of the model.
    """
    app = fastapi.FastAPI(title="mux_jax", version=VERSION, responses=FAILURES, redoc_url=None)

    def served(head: str | None = None) -> Service:
        found = service()
        if found is None or not found.ready:
            why = "failed" if found and found.failure else "loads, or ends"
            raise Refusal(503, "Unhealthy", f"the server {why}")
        config = found.predictor.config
        if head and config.head not in head.split("|"):
            raise Refusal(424, "Backend", f"the model has the head {config.head!r}; this endpoint is for {head}")
        return found

    async def ask(request: fastapi.Request, found: Service, texts: list[Any], truncate: bool | None) -> Answers:
        if not texts or any(text == "" for text in texts) and found.predictor.config.head != "embedding":
            raise Refusal(400, "Empty", "an empty text")
        found.check(texts)
        state = request.state
        return await found.answer(texts, state.client, state.with_keys, bool(truncate))

    def headers(response: Response, found: Service, answers: Answers) -> None:
        engines = sorted(set(answers.engines), key=lambda engine: engine.name)
        response.headers["x-model"] = ",".join(quote(engine.name) for engine in engines)
        response.headers["x-width"] = ",".join(str(engine.predictor.config.width) for engine in engines)
        response.headers["x-rows-shared-with"] = found.mix

    @app.exception_handler(Refusal)
    async def refused(_: Any, e: Refusal) -> Response:
        retry = {"retry-after": "1"} if e.status in (429, 503) else None
        return JSONResponse({"error": e.message, "error_type": e.kind}, e.status, retry)

    @app.exception_handler(InputError)
    async def bad_input(_: Any, e: InputError) -> Response:
        status = 413 if isinstance(e, TooLarge) else 422
        return JSONResponse({"error": str(e), "error_type": "Validation"}, status)

    @app.exception_handler(UnicodeEncodeError)
    async def no_text(_: Any, e: UnicodeEncodeError) -> Response:
        message = "half of a surrogate pair, which is no character"
        return JSONResponse({"error": message, "error_type": "Validation"}, 422)

    @app.exception_handler(NotFinite)
    async def not_finite(_: Any, e: NotFinite) -> Response:
        return JSONResponse({"error": str(e), "error_type": "Backend"}, 500)

    @app.exception_handler(Exception)
    async def failed(_: Any, e: Exception) -> Response:
        """It is raised again, and `Guard` writes it to the log."""
        return JSONResponse({"error": "the server failed to answer", "error_type": "Backend"}, 500)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Any, e: RequestValidationError) -> Response:
        first = e.errors()[0]
        where = ".".join(str(x) for x in first["loc"])
        return JSONResponse({"error": f"{where}: {first['msg']}", "error_type": "Validation"}, 422)

    @app.exception_handler(HTTPException)
    async def no_endpoint(_: Any, e: HTTPException) -> Response:
        return JSONResponse({"error": str(e.detail), "error_type": "Validation"}, e.status_code, e.headers)

    @app.post("/predict")
    async def predict(body: PredictRequest, request: fastapi.Request, response: Response) -> list[Any]:
        """Of each text its labels with their scores, the best first; of a tagging model its words with their tags."""
        found = served("sequence|token")
        single = isinstance(body.inputs, str) or isinstance((*body.inputs, [])[0], str)
        given: list[Any] = [body.inputs] if single else list(body.inputs)
        texts: list[Any] = [
            text if isinstance(text, str) else text[0] if len(text) == 1 else tuple(text) for text in given
        ]
        answers = await ask(request, found, texts, body.truncate)
        headers(response, found, answers)
        config = found.predictor.config
        if config.head == "token":
            each: list[Any] = [tags(config, text, x, body.aggregation) for text, x in zip(texts, answers.logits)]
        else:
            each = [labels(config, x, body.raw_scores) for x in answers.logits]
        return each[0] if single else each

    @app.post("/embed")
    async def embed(body: EmbedRequest, request: fastapi.Request, response: Response) -> list[list[float]]:
        """The embedding of each text."""
        found = served("embedding")
        embeddings, answers = await _embed(
            found, request, body.inputs, body.truncate, body.prompt_name, body.dimensions, body.normalize
        )
        headers(response, found, answers)
        return embeddings.tolist()

    @app.post("/v1/embeddings")
    async def openai(body: OpenAIRequest, request: fastapi.Request, response: Response) -> dict[str, Any]:
        """The embedding of each text."""
        found = served("embedding")
        embeddings, answers = await _embed(found, request, body.input, False, None, body.dimensions, True)
        headers(response, found, answers)
        as_text = body.encoding_format == "base64"
        shown = [base64.b64encode(x.astype("<f4").tobytes()).decode() if as_text else x.tolist() for x in embeddings]
        data = [{"object": "embedding", "embedding": x, "index": i} for i, x in enumerate(shown)]
        usage = {"prompt_tokens": answers.tokens, "total_tokens": answers.tokens}
        return {"object": "list", "data": data, "model": name, "usage": usage}

    async def _embed(
        found: Service,
        request: fastapi.Request,
        inputs: str | list[str],
        truncate: bool | None,
        prompt: str | None,
        dimensions: int | None,
        normalize: bool,
    ) -> tuple[np.ndarray, Answers]:
        found.predictor.check_embedding(prompt, dimensions)
        before = found.predictor.prompts.get(prompt or "", "")
        texts = [before + text for text in ([inputs] if isinstance(inputs, str) else inputs)]
        answers = await ask(request, found, texts, truncate)
        embeddings = np.stack(answers.logits)[:, :dimensions]
        return unit(embeddings) if normalize or dimensions else embeddings, answers

    @app.post("/rerank")
    async def rerank(body: RerankRequest, request: fastapi.Request, response: Response) -> list[dict[str, Any]]:
        """The texts by their score beside the query, the best first; for models that score pairs with one number."""
        found = served("sequence")
        if len(found.predictor.config.labels) > 2:
            raise Refusal(424, "Backend", "the model has more than two labels, which give no order")
        answers = await ask(request, found, [(body.query, text) for text in body.texts], body.truncate)
        headers(response, found, answers)
        scores = relevance(answers.logits, body.raw_scores)
        order = np.argsort(-scores, kind="stable").tolist()
        text = (lambda i: {"text": body.texts[i]}) if body.return_text else lambda _: {}
        return [{"index": i, "score": float(scores[i])} | text(i) for i in order]

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether requests are answered."""
        served()
        return {"status": "ok"}

    @app.get("/info")
    async def info() -> dict[str, Any]:
        """The model, and what a request may be."""
        found = served()
        config = found.predictor.config
        id2label = {str(i): label for i, label in enumerate(config.labels)}
        kind: dict[str, Any] = {"embedding": {"pooling": config.pooling}}
        if config.head != "embedding":
            kind = {"classifier": {"id2label": id2label, "label2id": {x: int(i) for i, x in id2label.items()}}}
        return {
            "model_id": name,
            "served_model_name": name,
            "model_type": kind,
            "model_dtype": config.dtype,
            "width": config.width,
            "rows_shared_with": found.mix,
            "models": [engine.name for engine in found.engines],
            "max_input_length": found.predictor.runner.lengths[-1],
            "max_client_batch_size": found.max_texts,
            "max_batch_tokens": found.engine.capacity * found.predictor.runner.lengths[-1],
            "max_concurrent_requests": limits.concurrent,
            "auto_truncate": False,
            "tokenization_workers": 2,
            "version": VERSION,
        }

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        found = service()
        text = prometheus_client.generate_latest(found.figures.registry) if found else b""
        return Response(text, media_type=prometheus_client.CONTENT_TYPE_LATEST)

    async def answer(request: fastapi.Request, found: Service, texts: list[Any], truncate: bool) -> Answers:
        """What KServe asks: embeddings as they are by default."""
        if found.predictor.config.head != "embedding":
            return await ask(request, found, texts, truncate)
        if any(not isinstance(text, str) for text in texts):
            raise InputError("an embedding is of one text")
        normalize = found.predictor.config.normalize
        embeddings, answers = await _embed(found, request, texts, truncate, None, None, normalize)
        return dataclasses.replace(answers, logits=list(embeddings))

    kserve.add(app, served, answer, headers, name)
    return app
