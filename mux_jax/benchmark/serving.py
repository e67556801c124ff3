"""A server under load: beside `Predictor` on the same texts, and a server as people write it with PyTorch."""

import asyncio
import contextlib
import importlib.util
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mux_jax.benchmark import rough
from mux_jax.checkpoints.source import open_model
from mux_jax.errors import InputError
from mux_jax.inference.predictor import Predictor
from mux_jax.inference.runtimes import require
from mux_jax.progress import say

_PER_REQUEST, _CLIENTS, _SECONDS, _LATENCY_SECONDS = 8, 64, 20.0, 5.0
_OVERLOAD = 4  # times as many clients as requests are accepted
_ACCEPTED = 128
_ROUGH, _TEXTS = 10_000, 200  # requests of rough clients, and their texts
_START_SECONDS = 600.0
_PROGRAM = Path(__file__).parents[2] / "launch" / "serve.py"


def run(model: str, texts: list[str], rows: int, dtype: str, json_file: str | None) -> None:
    """Prints and saves throughput at saturation, the time of a single text, and what an overload does.

    Raises:
      InputError: a model that does not label texts.
    """
    require("serving", "fastapi", "uvicorn", "prometheus_client", extra="serve")
    predictor = Predictor(model, rows=rows, dtype=dtype)
    if predictor.config.head != "sequence":
        raise InputError(f"--model={model} has the head {predictor.config.head!r}; serving times models of texts")
    found: dict[str, Any] = {"Predictor": _rate(predictor, texts), "one row": _one_row(predictor, texts)}
    say(f"Predictor: {found['Predictor']:,.0f} texts/s; one text takes it {1000 * found['one row']:.1f} ms")
    program = [sys.executable, str(_PROGRAM), f"--model={model}", f"--rows={rows}", f"--dtype={dtype}"]
    options = ["--mix=all", f"--max_concurrent_requests={_ACCEPTED}"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.json"
        file.write_text(json.dumps(texts), encoding="utf-8")
        with _server([*program, *options]) as port:
            load = {"port": port, "texts": str(file), "per_request": _PER_REQUEST}
            found["saturated"] = _load(load | {"clients": _CLIENTS, "seconds": _SECONDS})
            found["single"] = _load(load | {"clients": 1, "per_request": 1, "seconds": _LATENCY_SECONDS})
            found["overload"] = _load(load | {"clients": _OVERLOAD * _ACCEPTED, "seconds": _SECONDS})
        # In float32, where an answer does not depend on how many rows ran with it.
        exact = Predictor(model, rows=rows, dtype="float32")
        program[-1] = "--dtype=float32"
        with _server([*program, "--mix=request", f"--max_concurrent_requests={_ACCEPTED}"]) as port:
            expected = [exact.predict([text])[0]["probabilities"] for text in texts[:_TEXTS]]
            found["rough"] = asyncio.run(rough.drive(port, texts[:_TEXTS], expected, _CLIENTS, _ROUGH))
        if all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
            with _peer(model, folder) as port:
                load["port"] = port
                found["PyTorch"] = _load(load | {"clients": 16, "seconds": _SECONDS})
    _show(found)
    if json_file:
        Path(json_file).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        say(f"  {json_file}")


def _show(found: dict[str, Any]) -> None:
    saturated, single, overload = (found[name] for name in ("saturated", "single", "overload"))
    rate = saturated["texts_per_second"]
    part = rate / found["Predictor"]
    say(f"server, {_CLIENTS} clients of {_PER_REQUEST} texts: {rate:,.0f} texts/s, {part:.2f} of Predictor's")
    p50 = single["seconds"]["answered"]["p50"]
    say(f"one client, one text at a time: p50 {1000 * p50:.1f} ms, {p50 / found['one row']:.2f} of Predictor's")
    say(
        f"overload, {_OVERLOAD * _ACCEPTED} clients: statuses {overload['statuses']}; "
        + "; ".join(
            f"{name} " + ", ".join(f"{p} {1000 * x:,.0f} ms" for p, x in times.items())
            for name, times in overload["seconds"].items()
            if times
        )
    )
    say(f"rough clients, {_ROUGH:,} requests: " + ", ".join(f"{x} {n:,}" for x, n in sorted(found["rough"].items())))
    if peer := found.get("PyTorch"):
        theirs = peer["texts_per_second"]
        say(f"FastAPI and PyTorch, width 1: {theirs:,.0f} texts/s; the server has {rate / theirs:.1f} times that")


def _rate(predictor: Predictor, texts: list[str]) -> float:
    """Texts a second, the median of three turns."""
    predictor.predict(texts)
    return len(texts) / _median(lambda: predictor.predict(texts), 3)


def _one_row(predictor: Predictor, texts: list[str]) -> float:
    """Seconds that a single text takes."""
    for text in texts[:100]:  # all lengths are compiled
        predictor.predict([text])
    return float(np.median([_median(lambda text=text: predictor.predict([text]), 3) for text in texts[:100]]))


def _median(call: Any, times: int) -> float:
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        found.append(time.perf_counter() - begun)
    return float(np.median(found))


@contextlib.contextmanager
def _server(command: list[str]) -> Iterator[int]:
    """A process that serves; gives its port when it is ready."""
    port = _free_port()
    yield from _ready(subprocess.Popen([*command, f"--port={port}"], stdout=subprocess.DEVNULL), port)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _ready(process: subprocess.Popen, port: int) -> Iterator[int]:
    end = time.monotonic() + _START_SECONDS
    try:
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            if process.poll() is not None or time.monotonic() > end:
                raise InputError("the server did not start")
            time.sleep(0.5)
        yield port
    finally:
        process.terminate()
        process.wait(60)


@contextlib.contextmanager
def _peer(model: str, folder: str) -> Iterator[int]:
    """The server with PyTorch: a BERT of the same sizes and width 1, random weights, the same tokenizer."""
    found, port = open_model(model, takes_export=True), _free_port()
    config, vocabulary = found.config, found.tokenizer()
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    tokenizer = f"{folder}/tokenizer.json"
    vocabulary.backend.save(tokenizer)
    settings = {"sizes": {name: getattr(config, name) for name in names}, "tokenizer": tokenizer, "port": port}
    settings |= {"pad": vocabulary.backend.id_to_token(vocabulary.special.pad), "length": found.bucket_lengths()[-1]}
    command = [sys.executable, "-W", "ignore", "-m", "mux_jax.benchmark.torch_server", json.dumps(settings)]
    yield from _ready(subprocess.Popen(command), port)


def _load(settings: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "mux_jax.benchmark.load", json.dumps(settings)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
