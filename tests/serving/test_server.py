"""The server as clients meet it: answers are those of `Predictor`, refusals are JSON, nothing accepted is lost."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import jax
import numpy as np
import pytest

import mux_jax
from mux_jax.benchmark import rough
from mux_jax.errors import InputError
from mux_jax.serving.api import make_app
from mux_jax.serving.command import Options, load
from mux_jax.serving.figures import Figures
from mux_jax.serving.guard import Guard, Limits, read_keys
from tests.conftest import use_one_device
from tests.tasks import LABELS, sentences, write_embedder, write_model

pytestmark = pytest.mark.extra
ROOT = Path(__file__).parents[2]
LIMITS = Limits(concurrent=64, of_key=64, payload=10_000, body_seconds=5.0, request_seconds=30.0)
MODELS = {
    "single": dict(width=1, head="sequence", labels=LABELS),
    "double": dict(width=2, head="sequence", labels=LABELS),
    "tagger": dict(width=2, head="token", labels=("O", "B-x", "I-x")),
    "scorer": dict(width=1, head="sequence", labels=("score",)),
}


@pytest.fixture(scope="module", autouse=True)
def one():
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        devices = jax.local_devices()[:1]
        patch.setattr(jax, "local_devices", lambda: devices)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models by name."""
    root = tmp_path_factory.mktemp("serving")
    for name, fields in MODELS.items():
        write_model(root / name, sharpen=fields["head"] == "sequence", **fields)
    write_embedder(root / "embedder", prompts={"query": "river "}, limit=16)
    return root


class Client:
    """A server in this process, its limits included."""

    def __init__(self, model, limits=LIMITS, keys=None, **options):
        self.figures = Figures()
        self.service = load(Options(model=str(model), rows=4, **options), self.figures)
        app = make_app(lambda: self.service, limits, self.service.engine.name)
        self.app = Guard(app, limits, keys or {}, self.figures)

    def __enter__(self):
        self.service.start(lambda *_: None)
        return self

    def __exit__(self, *_):
        self.service.close()

    def __call__(self, path, body=None, **options):
        """The response to one request."""
        return asyncio.run(self.send((path, body, options)))[0]

    async def send(self, *requests):
        """The responses to requests that are sent at once."""
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server", timeout=60) as client:

            def one(path, body, options):
                if body is None:
                    return client.get(path, **options)
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                headers = {"content-type": "application/json"} | options.get("headers", {})
                return client.post(path, content=content, headers=headers)

            return await asyncio.gather(*(one(*request) for request in requests))


@pytest.fixture(scope="module")
def clients(folder):
    """Servers by the model's name, made when they are asked for."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = Client(folder / name).__enter__()
        return made[name]

    yield get
    for client in made.values():
        client.service.close()


@pytest.mark.parametrize("name", ["single", "double"])
def test_labels_are_those_of_the_predictor(name, folder, clients):
    texts, client = sentences(30, seed=1), clients(name)
    expected = mux_jax.Predictor(str(folder / name), rows=4).predict(texts)
    answer = client("/predict", {"inputs": [[text] for text in texts]})
    assert answer.status_code == 200 and answer.headers["x-width"] == str(MODELS[name]["width"])
    for found, theirs in zip(answer.json(), expected, strict=True):
        assert {x["label"]: x["score"] for x in found} == pytest.approx(theirs["probabilities"], abs=1e-6)
        assert found[0]["label"] == theirs["label"]  # the best first
    (one,) = mux_jax.Predictor(str(folder / name), rows=4).logits(texts[:1])
    raw = client("/predict", {"inputs": texts[0], "raw_scores": True}).json()
    assert sorted(x["score"] for x in raw) == pytest.approx(sorted(one.tolist()), abs=1e-5)


def test_pairs_and_single_texts_may_be_in_one_request(folder, clients):
    pair = ("time river", "stone")
    expected = mux_jax.Predictor(str(folder / "single"), rows=4).predict([pair, "garden"])
    found = clients("single")("/predict", {"inputs": [list(pair), ["garden"]]}).json()
    for ours, theirs in zip(found, expected, strict=True):
        assert {x["label"]: x["score"] for x in ours} == pytest.approx(theirs["probabilities"], abs=1e-6)
    alone = clients("single")("/predict", {"inputs": list(pair)}).json()
    assert [x["label"] for x in alone] == [x["label"] for x in found[0]]


def test_requests_of_many_clients_are_each_answered_once(folder, clients):
    client, texts = clients("double"), sentences(200, seed=2)
    predictor = mux_jax.Predictor(str(folder / "double"), rows=4)
    parts = [texts[i : i + 1 + i % 5] for i in range(0, 200, 5)]
    answers = asyncio.run(client.send(*(("/predict", {"inputs": [[x] for x in part]}, {}) for part in parts)))
    for part, answer in zip(parts, answers, strict=True):
        for found, theirs in zip(answer.json(), predictor.predict(part), strict=True):  # rows hold one request's texts
            assert {x["label"]: x["score"] for x in found} == pytest.approx(theirs["probabilities"], abs=1e-5)


def test_rows_are_shared_with_anybody_if_that_is_asked_for(folder):
    with Client(folder / "double", mix="all", max_wait_ms=200) as client:
        asyncio.run(client.send(*(("/predict", {"inputs": text}, {}) for text in sentences(8, seed=3))))
        assert client.figures.registry.get_sample_value("mux_jax_batch_rows_sum") <= 6  # not eight rows
    with Client(folder / "double", mix="request", max_wait_ms=200) as client:
        asyncio.run(client.send(*(("/predict", {"inputs": text}, {}) for text in sentences(8, seed=3))))
        assert client.figures.registry.get_sample_value("mux_jax_batch_rows_sum") == 8


def test_words_are_tagged_with_their_places(folder, clients):
    text = "time  river\tstone"
    found = clients("tagger")("/predict", {"inputs": text}).json()
    (expected,) = mux_jax.Predictor(str(folder / "tagger"), rows=4).predict([text], spans=True)
    assert [x["entity"] for x in found] == expected["tags"]
    assert [(x["word"], x["start"], x["end"]) for x in found] == [("time", 0, 4), ("river", 6, 11), ("stone", 12, 17)]
    spans = clients("tagger")("/predict", {"inputs": text, "aggregation": True}).json()
    assert [(x["entity_group"], x["start"], x["end"]) for x in spans] == [
        (x["label"], x["start"], x["end"]) for x in expected["spans"]
    ]


def test_embeddings_as_each_client_asks_for_them(folder, clients):
    client, predictor = clients("embedder"), mux_jax.Predictor(str(folder / "embedder"), rows=4)
    texts = ["time river", "stone", ""]
    found = client("/embed", {"inputs": texts}).json()
    np.testing.assert_allclose(found, predictor.embed(texts), atol=1e-6)
    found = client("/embed", {"inputs": "stone", "prompt_name": "query", "dimensions": 5}).json()
    np.testing.assert_allclose(found, predictor.embed(["stone"], "query", 5), atol=1e-6)
    answer = client("/v1/embeddings", {"input": texts[:2], "model": "any"}).json()
    np.testing.assert_allclose([x["embedding"] for x in answer["data"]], predictor.embed(texts[:2]), atol=1e-6)
    assert [x["index"] for x in answer["data"]] == [0, 1] and answer["usage"]["total_tokens"] > 4
    assert client("/embed", {"inputs": "stone", "dimensions": 999}).status_code == 422
    assert client("/predict", {"inputs": "stone"}).status_code == 424


def test_texts_are_ordered_by_their_score_beside_a_query(folder, clients):
    texts = sentences(6, seed=4)
    found = clients("scorer")("/rerank", {"query": "river", "texts": texts, "raw_scores": True, "return_text": True})
    scores = mux_jax.Predictor(str(folder / "scorer"), rows=4).predict([("river", text) for text in texts])
    expected = sorted(((x["score"], i) for i, x in enumerate(scores)), reverse=True)
    assert [x["index"] for x in found.json()] == [i for _, i in expected]
    assert [x["score"] for x in found.json()] == pytest.approx([score for score, _ in expected], abs=1e-5)
    assert found.json()[0]["text"] == texts[expected[0][1]]


def test_tensors_of_kserve(folder, clients):
    client = clients("double")
    assert client("/v2/models/double/ready").json() == {"name": "double", "ready": True}
    outputs = {x["name"]: x["shape"] for x in client("/v2/models/double").json()["outputs"]}
    assert outputs == {"label": [-1], "probabilities": [-1, 2]}
    texts = sentences(3, seed=5)
    body = {"id": "7", "inputs": [{"name": "text", "shape": [3, 1], "datatype": "BYTES", "data": [[x] for x in texts]}]}
    found = client("/v2/models/double/infer", body).json()
    expected = mux_jax.Predictor(str(folder / "double"), rows=4).predict(texts)
    by_name = {x["name"]: x for x in found["outputs"]}
    assert found["id"] == "7" and by_name["label"]["data"] == [x["label"] for x in expected]
    assert by_name["probabilities"]["shape"] == [3, 2]
    shares = [p for x in expected for p in x["probabilities"].values()]
    assert by_name["probabilities"]["data"] == pytest.approx(shares, abs=1e-5)
    assert client("/v2/models/other/infer", body).status_code == 404
    body["inputs"][0]["shape"] = [4]
    assert client("/v2/models/double/infer", body).status_code == 422


@pytest.mark.parametrize(
    "body, status",
    [
        ({"inputs": ""}, 400),
        ({"inputs": []}, 400),
        ({"inputs": [[]]}, 422),
        ({"inputs": 5}, 422),
        ({"inputs": ["a", "b", "c"]}, 422),
        ({"texts": "a"}, 422),
        (b"{not json", 422),
        (b"", 422),
        ({"inputs": "time " * 40}, 413),
        ({"inputs": "\ud800"}, 422),
        (b"\xff\xff", 400),
        ({"inputs": [["a"]] * 40}, 413),
        ({"inputs": "x" * 20_000}, 413),
    ],
)
def test_bad_requests_are_refused_in_json(body, status, clients):
    answer = clients("single")("/predict", body)
    assert answer.status_code == status and set(answer.json()) == {"error", "error_type"}


def test_a_text_over_the_limit_may_be_cut(folder, clients):
    text = "time river " * 30
    found = clients("single")("/predict", {"inputs": text, "truncate": True}).json()
    (expected,) = mux_jax.Predictor(str(folder / "single"), rows=4).predict([text])
    assert {x["label"]: x["score"] for x in found} == pytest.approx(expected["probabilities"], abs=1e-6)
    blob = "x" * 5_000 + " river"  # an unknown word and a known one
    found = clients("single")("/predict", {"inputs": blob}).json()
    (expected,) = mux_jax.Predictor(str(folder / "single"), rows=4).predict([blob])
    assert {x["label"]: x["score"] for x in found} == pytest.approx(expected["probabilities"], abs=1e-6)


def test_other_paths_compressed_bodies_and_methods(clients):
    client = clients("single")
    assert client("/nothing").status_code == 404 and set(client("/nothing").json()) == {"error", "error_type"}
    assert client("/predict").status_code == 405
    gzip = {"headers": {"content-encoding": "gzip"}}
    assert client("/predict", {"inputs": "a"}, **gzip).status_code == 415
    assert client("/health").status_code == 200 and client("/info").json()["width"] == 1
    assert 'mux_jax_requests_total{path="/predict",status="415"}' in client("/metrics").text


def test_another_host_is_refused(folder):
    client = Client(folder / "single")
    client.app = Guard(client.app._app, LIMITS, {}, client.figures, hosts=("server", "[::1]"))
    with client:
        assert client("/predict", {"inputs": "stone"}).status_code == 200
        for host, status in (("evil", 400), ("server:8000", 200), ("[::1]:8000", 200), ("", 400)):
            answer = client("/predict", {"inputs": "stone"}, headers={"host": host})
            assert answer.status_code == status and answer.headers["content-type"] == "application/json"


def test_tensors_of_embeddings_are_those_of_the_predictor(folder, clients, tmp_path):
    write_embedder(tmp_path / "prompted", prompts={"query": "river ", "": "river "}, limit=16)
    body = {"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["stone", "time"]}]}
    with Client(tmp_path / "prompted") as client:
        (found,) = client("/v2/models/prompted/infer", body).json()["outputs"]
        expected = mux_jax.Predictor(str(tmp_path / "prompted"), rows=4).embed(["stone", "time"])
        np.testing.assert_allclose(np.reshape(found["data"], found["shape"]), expected, atol=1e-6)
        np.testing.assert_allclose(client("/embed", {"inputs": ["stone", "time"]}).json(), expected, atol=1e-6)


def test_keys_guard_all_but_health(folder, tmp_path, monkeypatch):
    (tmp_path / "keys").write_text("# who\nanna one\nben two\n")
    keys = read_keys(str(tmp_path / "keys"))
    assert "one" not in repr(keys)
    with Client(folder / "double", keys=keys) as c:
        assert c("/health").status_code == 200 and c("/info").status_code == 401
        assert c("/predict", {"inputs": "a"}).status_code == 401
        wrong = {"headers": {"authorization": "Bearer three"}}
        assert c("/predict", {"inputs": "a"}, **wrong).status_code == 401
        right = {"headers": {"authorization": "Bearer two"}}
        assert c("/predict", {"inputs": "stone"}, **right).status_code == 200
    monkeypatch.setenv("MUX_JAX_API_KEYS", "anna one,ben")
    with pytest.raises(InputError, match="MUX_JAX_API_KEYS:2: must be NAME KEY"):
        read_keys("")
    with pytest.raises(InputError, match="--keys=.*none: No such file"):
        read_keys(str(tmp_path / "none"))


def test_more_requests_than_there_may_be_are_refused_at_once(folder):
    few = Limits(concurrent=3, of_key=3, payload=10_000, body_seconds=5.0, request_seconds=30.0)
    with Client(folder / "double", limits=few, max_wait_ms=300) as client:
        answers = asyncio.run(client.send(*(("/predict", {"inputs": x}, {}) for x in sentences(9, seed=6))))
        statuses = [answer.status_code for answer in answers]
        assert sorted(statuses) == [200] * 3 + [429] * 6
        assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 429)


def test_a_request_that_takes_too_long_is_given_up(folder):
    short = Limits(concurrent=9, of_key=9, payload=10_000, body_seconds=5.0, request_seconds=0.2)
    with Client(folder / "double", limits=short, max_wait_ms=2_000) as client:
        assert client("/predict", {"inputs": "stone"}).status_code == 504
        assert client.service.engine._waiting.next_batch(time.monotonic()) == (None, float("inf"))  # its slots are free


def test_it_is_not_ready_before_all_is_compiled(folder):
    client = Client(folder / "double")
    for path, body in (("/health", None), ("/predict", {"inputs": "a"}), ("/v2/health/ready", None)):
        answer = client(path, body)
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert client("/v2/health/live").status_code == 200


def test_a_model_that_fails_ends_the_server_and_its_requests(folder):
    client = Client(folder / "single")
    ended = []
    client.service.on_failure = lambda: ended.append(True)
    with client:

        def broken(*_):
            raise RuntimeError("the device is gone")

        client.service.engine.predictor.runner.run = broken
        asked = (("/predict", {"inputs": text}, {}) for text in sentences(9, seed=1))
        for answer in asyncio.run(client.send(*asked)):  # some wait while others run
            assert answer.status_code == 500
            assert answer.json() == {"error": "the server failed to answer", "error_type": "Backend"}
        assert ended == [True]
        assert client("/health").status_code == 503


def test_a_model_that_cannot_be_compiled_ends_the_server(folder, monkeypatch):
    client, ended = Client(folder / "single"), []
    client.service.on_failure = lambda: ended.append(True)

    def broken(*_):
        raise MemoryError("too much")

    client.service.engine.predictor.runner.run = broken
    with client:
        assert ended == [True] and isinstance(client.service.failure, MemoryError)
        assert client("/health").status_code == 503


@pytest.mark.parametrize("name", ["single", "tagger"])
def test_what_is_no_number_is_an_error(name, folder):
    with Client(folder / name) as client:
        runner = client.service.engine.predictor.runner
        run = runner.run
        runner.run = lambda *given: run(*given) * np.nan
        answer = client("/predict", {"inputs": "stone"})
        assert answer.status_code == 500 and "no numbers" in answer.json()["error"]


def test_deferral_is_the_predictors(folder, tmp_path):
    texts = sentences(300, seed=8)
    write_model(tmp_path / "cheap", sharpen=True, **MODELS["single"])
    write_model(tmp_path / "full", sharpen=True, **MODELS["single"] | {"num_hidden_layers": 3})
    mux_jax.fit_deferral(str(tmp_path / "cheap"), str(tmp_path / "full"), texts, 0.3)
    predictor = mux_jax.Predictor(str(tmp_path / "cheap"), rows=4, defer="auto")
    expected = predictor.predict(texts[:30])
    with Client(tmp_path / "cheap", defer="auto") as client:
        answer = client("/predict", {"inputs": [[text] for text in texts[:30]]})
        for found, theirs in zip(answer.json(), expected, strict=True):
            assert {x["label"]: x["score"] for x in found} == pytest.approx(theirs["probabilities"], abs=1e-5)
        assert answer.headers["x-model"] == "cheap,full" and answer.headers["x-width"] == "1,1"
        assert client.figures.registry.get_sample_value("mux_jax_texts_deferred_total") == predictor.deferred > 0


def test_the_full_model_answers_while_few_texts_wait(folder, tmp_path, monkeypatch):
    full = dict(MODELS["single"], num_hidden_layers=3)
    write_model(tmp_path / "full", sharpen=True, **full)
    with Client(folder / "single", model_by_load=str(tmp_path / "full")) as client:
        found = client("/predict", {"inputs": "river"})
        (expected,) = mux_jax.Predictor(str(tmp_path / "full"), rows=4).predict(["river"])
        assert found.headers["x-model"] == "full"
        assert {x["label"]: x["score"] for x in found.json()} == pytest.approx(expected["probabilities"], abs=1e-6)
        waiting, chosen = [0], []
        monkeypatch.setattr(type(client.service.engine), "waiting", property(lambda self: waiting[-1] / 2))
        for texts in (0, 7, 9, 5, 3, 1, 5):  # of both models; a batch has four
            waiting.append(texts)
            chosen.append(client.service._chosen() is client.service.engine)
        assert chosen == [False, False, True, True, True, False, False]


def test_a_process_answers_what_it_accepted_and_ends_with_0(folder):
    """Requests are under way when SIGTERM comes."""
    command = [sys.executable, "launch/serve.py", "--model", str(folder / "double"), "--port", "0", "--rows", "4"]
    command += ["--max_wait_ms", "800", "--dtype", "float32"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        lines = iter(process.stdout.readline, "")
        address = next(line for line in lines if line.startswith("http://")).split(": ")[0]
        next(line for line in lines if line.startswith("ready"))
        answers = []

        def ask(text):
            answers.append(httpx.post(f"{address}/predict", json={"inputs": text}, timeout=30))

        threads = [threading.Thread(target=ask, args=(text,)) for text in sentences(6, seed=9)]
        for thread in threads:
            thread.start()
        time.sleep(0.4)  # they are accepted, and wait for others
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200] * 6
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.stdout.close()


def test_rough_clients_change_nothing_for_the_others(folder):
    """And SIGTERM in the midst loses none that was accepted."""
    texts = sentences(50, seed=10)
    expected = [x["probabilities"] for x in (mux_jax.Predictor(str(folder / "double")).predict([t])[0] for t in texts)]
    command = [sys.executable, "launch/serve.py", "--model", str(folder / "double"), "--port", "0", "--rows", "4"]
    process = subprocess.Popen(
        [*command, "--dtype", "float32"], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        lines = iter(process.stdout.readline, "")
        port = int(next(line for line in lines if line.startswith("http://")).split(": ")[0].rpartition(":")[2])
        next(line for line in lines if line.startswith("ready"))
        found = asyncio.run(rough.drive(port, texts, expected, clients=16, requests=400))
        kinds = {kind: {x.removeprefix(f"{kind} ") for x in found if x.startswith(kind)} for kind in rough.KINDS}
        assert kinds == {"good": {"right"}, "slow": {"right"}, "gone": {"left"}, "half": {"left"}} | {
            "not json": {"422"}, "wrong type": {"422"}, "huge": {"413"}, "empty": {"400"}
        }  # fmt: skip
        assert found.total() == 400 and process.poll() is None

        async def end_in_the_midst():
            clients = asyncio.create_task(rough.drive(port, texts, expected, clients=16, requests=400, seed=1))
            await asyncio.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            return await clients

        found = asyncio.run(end_in_the_midst())
        assert found["good right"] and found["good refused"] and not {x for x in found if x.endswith(("none", "wrong"))}
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.stdout.close()


def test_the_client_of_openai_gets_its_embeddings(folder):
    import openai

    command = [sys.executable, "launch/serve.py", "--model", str(folder / "embedder"), "--port", "0", "--rows", "1"]
    command += ["--dtype", "float32"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MUX_JAX_API_KEYS": "anna secret"}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        lines = iter(process.stdout.readline, "")
        address = next(line for line in lines if line.startswith("http://")).split(": ")[0]
        next(line for line in lines if line.startswith("ready"))
        texts = ["time river", "stone"]
        expected = mux_jax.Predictor(str(folder / "embedder")).embed(texts)
        with openai.OpenAI(base_url=f"{address}/v1", api_key="secret", max_retries=0) as client:
            for form in ({}, {"encoding_format": "float"}):  # without one it asks for base64
                found = client.embeddings.create(input=texts, model="embedder", **form)
                np.testing.assert_allclose([x.embedding for x in found.data], expected, atol=1e-6)
        with openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                client.embeddings.create(input=texts, model="embedder")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(mix="some"), "--mix=some does not exist; there are: all, client, request"),
        (dict(mix="client"), "--mix=client needs --keys, which tell clients apart"),
        (dict(rows=0), "--rows=0 must be at least 1"),
        (dict(name="a/b"), "--name=a/b must have no /"),
        (dict(max_requests_of_key=-1), "--max_requests_of_key=-1 must be at least 1"),
        (dict(max_wait_ms=-1.0), "--max_wait_ms=-1 must be from 0"),
        (dict(request_timeout=0.0), "--request_timeout=0 must be above 0"),
    ],
)
def test_options_that_cannot_be_are_one_line(options, words):
    with pytest.raises(InputError, match=words):
        Options(model="m", **options)
