"""What stands before the endpoints: keys, limits, time-outs. Every refusal is JSON, and nothing is logged of texts."""

import asyncio
import dataclasses
import hashlib
import hmac
import json
import os
import time
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from mux_jax.errors import InputError
from mux_jax.paths import absolute
from mux_jax.progress import say
from mux_jax.serving.figures import Figures

OPEN = ("/health", "/v2/health/live", "/v2/health/ready")  # without a key, and whatever the load
KEYS = "MUX_JAX_API_KEYS"


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one server takes.

    Attributes:
      concurrent: requests at a time.
      of_key: of these, of one key.
      payload: bytes of a body.
      body_seconds: until a body is there.
      request_seconds: until it is answered.
    """

    concurrent: int
    of_key: int
    payload: int
    body_seconds: float
    request_seconds: float


def read_keys(path: str) -> dict[bytes, str]:
    """The names of API keys by their SHA-256; empty: everybody may ask.

    They are in a file, `NAME KEY` a line, or in the environment, `MUX_JAX_API_KEYS="NAME KEY,NAME KEY"`.

    Raises:
      InputError: no such file, or another form, by line.
    """
    try:
        where, text = (path, absolute(path).read_text("utf-8")) if path else (KEYS, os.environ.get(KEYS, ""))
    except OSError as e:
        raise InputError(f"--keys={path}: {e.strerror or e}") from e
    found: dict[bytes, str] = {}
    for number, line in enumerate(text.replace(",", "\n").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, key = line.split()
        except ValueError as e:
            raise InputError(f"{where}:{number}: must be NAME KEY, with a blank between") from e
        found[hashlib.sha256(key.encode()).digest()] = name
    if path and not found:
        raise InputError(f"{path}: no keys there")
    return found


class Refusal(Exception):
    """A request that is not answered: status, kind as text-embeddings-inference has it, and why."""

    def __init__(self, status: int, kind: str, message: str):
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message


class Guard:
    """ASGI middleware. `scope["state"]` gets `client`, the name of the key or the address, and `with_keys`."""

    def __init__(
        self,
        app: Any,
        limits: Limits,
        keys: Mapping[bytes, str],
        figures: Figures,
        hosts: Collection[str] = ("*",),
        log: bool = False,
    ):
        """Args:
        keys: as `read_keys` gives them.
        hosts: the names that clients may use for this server; *: any.
        log: whether each request is written to standard output, without its body.
        """
        self._app, self._limits, self._keys, self._figures, self._log = app, limits, keys, figures, log
        self._hosts = set(hosts)
        self._paths = {route.path for route in app.routes}
        self._active: Counter[str] = Counter()  # requests that are under way, by client

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, sent = time.monotonic(), 0

        async def noted(message: Any) -> None:
            nonlocal sent
            if message["type"] == "http.response.start":
                sent = message["status"]
            await send(message)

        refusal, client = None, (scope.get("client") or ("",))[0]
        try:
            self._check_host(scope)
            client = self._client(scope) or client
            scope.setdefault("state", {}).update(client=client, with_keys=bool(self._keys))
            if scope["path"] in OPEN or scope["method"] == "GET":
                await self._app(scope, receive, noted)
            else:
                await self._counted(client, scope, receive, noted)
        except Refusal as e:
            refusal = e
        except Exception as e:  # whatever it is, its traceback stays here
            say(f"{scope['method']} {scope['path']}: {type(e).__name__}: {e}")
            refusal = Refusal(500, "Backend", "the server failed to answer; its log says why")
        if refusal and not sent:
            await self._refuse(refusal, noted)
        seconds = time.monotonic() - began
        self._figures.requests.labels(self._known(scope), sent or 499).inc()
        self._figures.seconds.observe(seconds)
        if self._log:
            line = {"method": scope["method"], "path": self._known(scope), "status": sent or 499, "client": client}
            print(json.dumps(line | {"seconds": round(seconds, 4)}), flush=True)

    def _check_host(self, scope: Any) -> None:
        given = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        name = given if given.endswith("]") else given.rpartition(":")[0] or given
        if not self._hosts & {"*", name}:
            raise Refusal(400, "Validation", "the request names another host; --hosts lists those that this one has")

    def _client(self, scope: Any) -> str:
        """The name of the key that a request has; empty where there are none."""
        if not self._keys or scope["path"] in OPEN:
            return ""
        given = dict(scope["headers"]).get(b"authorization", b"")
        digest = hashlib.sha256(given.removeprefix(b"Bearer ")).digest()
        found = [name for known, name in self._keys.items() if hmac.compare_digest(known, digest)]
        if not found:
            raise Refusal(401, "Validation", "a key is needed: Authorization: Bearer KEY")
        return found[0]

    async def _counted(self, client: str, scope: Any, receive: Any, send: Any) -> None:
        """Answers one of as many requests as there may be at a time."""
        if self._active.total() >= self._limits.concurrent or self._active[client] >= self._limits.of_key:
            raise Refusal(429, "Overloaded", "too many requests are under way; try again in a second")
        self._active[client] += 1
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                await self._answer(scope, receive, send)
        except TimeoutError as e:
            raise Refusal(504, "Overloaded", f"no answer within {self._limits.request_seconds:g} seconds") from e
        finally:
            self._active[client] -= 1

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        """Reads the body, and lets the endpoint work until it has answered or the client goes away."""
        headers = dict(scope["headers"])
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise Refusal(415, "Validation", "compressed bodies are not taken")
        if int(headers.get(b"content-length", b"0") or 0) > self._limits.payload:
            raise self._too_large()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                body = await self._body(receive)
        except TimeoutError as e:
            raise Refusal(408, "Validation", f"the body was not there in {self._limits.body_seconds:g} seconds") from e
        if body is None:
            return

        async def replay() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        work = asyncio.ensure_future(self._app(scope, replay, send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _body(self, receive: Any) -> bytes | None:
        """The body; None of a client that went away."""
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self._limits.payload:
                raise self._too_large()
            if not message.get("more_body", False):
                return bytes(body)

    def _known(self, scope: Any) -> str:
        """The path as it is declared; those that are not count together."""
        declared = getattr(scope.get("route"), "path", scope["path"])
        return declared if declared in self._paths else "other"

    def _too_large(self) -> Refusal:
        return Refusal(413, "Validation", f"a body of over {self._limits.payload:,} bytes")

    async def _refuse(self, refusal: Refusal, send: Any) -> None:
        body = json.dumps({"error": refusal.message, "error_type": refusal.kind}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(b"connection", b"close")]  # the body may not have been read
        headers += [(b"retry-after", b"1")] if refusal.status in (429, 503) else []
        headers += [(b"www-authenticate", b"Bearer")] if refusal.status == 401 else []
        await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
