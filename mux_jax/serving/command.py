"""What `launch/serve.py` does: its arguments checked, the model loaded, requests answered until a signal comes."""

import asyncio
import contextlib
import dataclasses
import math
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import fastapi
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mux_jax.checkpoints.source import open_model
from mux_jax.errors import InputError, TrainingError
from mux_jax.inference.deferral import check_kind, check_labels, find_deferral
from mux_jax.inference.predictor import Predictor
from mux_jax.progress import progress, say
from mux_jax.serving.api import make_app
from mux_jax.serving.figures import Figures
from mux_jax.serving.guard import Guard, Limits, read_keys
from mux_jax.serving.service import MIXES, Service, name_of

_HEADER_SECONDS, _GRACE_SECONDS = 10.0, 0.5
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The flags of `launch/serve.py`, which describes them."""

    model: str
    name: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    hosts: str = ""
    rows: int = 32
    defer: str = "off"
    model_by_load: str = ""
    mix: str = ""
    max_wait_ms: float = 5.0
    dtype: str = "auto"
    keys: str = ""
    max_concurrent_requests: int = 512
    max_requests_of_key: int = 0
    max_client_batch_size: int = 32
    payload_limit: int = 2_000_000
    request_timeout: float = 30.0
    log_requests: bool = False

    def __post_init__(self) -> None:
        if self.mix and self.mix not in MIXES:
            raise InputError(f"--mix={self.mix} does not exist; there are: {', '.join(MIXES)}")
        for name in ("rows", "max_concurrent_requests", "max_client_batch_size", "payload_limit"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name}={getattr(self, name)} must be at least 1")
        if not 0 <= self.max_wait_ms < 10_000:
            raise InputError(f"--max_wait_ms={self.max_wait_ms:g} must be from 0 to 10,000")
        if not self.request_timeout > 0:
            raise InputError(f"--request_timeout={self.request_timeout:g} must be above 0")
        if self.max_requests_of_key < 0:
            raise InputError(f"--max_requests_of_key={self.max_requests_of_key} must be at least 1")
        if "/" in self.name:
            raise InputError(f"--name={self.name} must have no /: it is a part of paths")
        if not 0 <= self.port < 65536:
            raise InputError(f"--port={self.port} must be from 0 to 65535")
        if self.mix == "client" and not read_keys(self.keys):
            raise InputError("--mix=client needs --keys, which tell clients apart")


def load(options: Options, figures: Figures) -> Service:
    """The model, not compiled yet.

    Raises:
      InputError: as `Predictor`; a full model that cannot stand for it.
    """
    predictor = Predictor(options.model, rows=options.rows, defer=options.defer, dtype=options.dtype)
    name = options.name or name_of(options.model)
    if predictor.full and predictor.config.task_kind == "regression":
        raise InputError("--defer: numbers are unsure where two compositions differ, and a server runs one")
    by_load = None
    if options.model_by_load:
        by_load = _full(options, predictor)
    return Service(
        predictor,
        name,
        figures=figures,
        mix=options.mix or ("client" if read_keys(options.keys) else "request"),
        max_wait=options.max_wait_ms / 1000,
        max_texts=options.max_client_batch_size,
        by_load=by_load,
    )


def _full(options: Options, predictor: Predictor) -> tuple[str, Predictor]:
    """The name of the model that answers while few texts wait, and it."""
    full = options.model_by_load
    if full == "auto":
        full = find_deferral(open_model(options.model, takes_export=True)).full
    known = predictor.full if predictor.full and predictor.full.models[0] == full else None
    other = known or Predictor(full, rows=options.rows, dtype=options.dtype)
    check_kind(predictor.config, f"--model_by_load={full}: ")
    if check_labels(predictor.config, other.config, full) != list(range(len(other.config.labels))):
        raise InputError(f"--model_by_load={full}: its labels are in another order than those of {options.model}")
    name = name_of(full)
    return (f"{name} (full)" if name == name_of(options.model) else name), other


def serve(options: Options) -> None:
    """Listens, loads, and answers until SIGTERM or Ctrl-C; what was accepted by then is answered.

    Raises:
      InputError: an option or a model that cannot be.
      TrainingError: a device that failed.
    """
    keys, figures = read_keys(options.keys), Figures()
    service = load(options, figures)
    limits = Limits(
        concurrent=options.max_concurrent_requests,
        of_key=options.max_requests_of_key or options.max_concurrent_requests,
        payload=options.payload_limit,
        body_seconds=_HEADER_SECONDS,
        request_seconds=options.request_timeout,
    )
    app = make_app(lambda: service, limits, service.engine.name)
    app.router.lifespan_context = _lifespan(service)
    hosts = [*_LOOPBACK, options.host, *(name.strip() for name in options.hosts.split(","))]
    try:
        listening = socket.create_server((options.host, options.port), backlog=2048)
    except OSError as e:
        raise InputError(f"--host={options.host} --port={options.port}: {e.strerror or e}") from e
    config = uvicorn.Config(
        Guard(app, limits, keys, figures, hosts, options.log_requests),
        http=_Protocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=math.ceil(options.request_timeout) + 5,
        h11_max_incomplete_event_size=16_384,
    )
    server = _Server(config, f"{service.engine.name}, width {service.predictor.config.width}, rows of {service.mix}")
    service.on_failure = lambda: setattr(server, "should_exit", True)
    server.run([listening])
    if service.failure:
        raise TrainingError(f"the model failed, and the server ended: {service.failure}")


def _lifespan(service: Service) -> Any:
    @contextlib.asynccontextmanager
    async def run(_: fastapi.FastAPI) -> AsyncIterator[None]:
        def start() -> None:
            with progress("compiling") as report:
                service.start(report)
            if service.ready:
                say("ready")

        loading = threading.Thread(target=start, daemon=True)  # meanwhile requests are refused with 503
        loading.start()
        yield
        if service.ready:
            await asyncio.to_thread(service.close)

    return run


class _Server(uvicorn.Server):
    """Ends with status 0 after a signal, and says where it listens."""

    def __init__(self, config: uvicorn.Config, what: str):
        super().__init__(config)
        self._what = what

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            say(f"http://{host}:{port}: {self._what}; /docs describes the endpoints")

    async def shutdown(self, sockets: Any = None) -> None:
        """Takes no more connections, and gives those that there are the time to say what they want."""
        loop, config = asyncio.get_running_loop(), self.config
        for server in self.servers:
            taken = [connection for listening in server.sockets for connection in _accept_all(listening.fileno())]
            server.close()
            for connection in taken:
                await loop.connect_accepted_socket(
                    lambda: _Protocol(config, self.server_state, self.lifespan.state), connection
                )
        await asyncio.sleep(_GRACE_SECONDS)
        await super().shutdown(sockets)


def _accept_all(listening: int) -> list[socket.socket]:
    """The connections that the system holds ready for a socket: to close it would reset them."""
    found = []
    with socket.socket(fileno=os.dup(listening)) as copy, contextlib.suppress(BlockingIOError):
        while True:
            found.append(copy.accept()[0])
    return found


class _Protocol(H11Protocol):
    """Closes a connection on which a request is begun and does not come."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Waits for the head of a request, unless one is under way: `Guard` watches that."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering and self._timer:
            self._timer.cancel()
            self._timer = None
        elif not answering and self._timer is None:
            self._timer = self.loop.call_later(_HEADER_SECONDS, self.transport.abort)
