"""Small things that tests share."""

import dataclasses
import functools
import sys

import jax
import pytest
from etils import epath
from flax import linen as nn
from fsspec.implementations.memory import MemoryFileSystem

from mux_jax import configuration, cpu
from mux_jax.data.tokenizer import SpecialTokens
from mux_jax.models.config import ModelConfig
from mux_jax.models.model import MuxModel


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """A test of an extra that is skipped has failed: what it needs is to be installed."""
    report = (yield).get_result()
    if report.skipped and item.get_closest_marker("extra"):
        report.outcome, report.longrepr = "failed", f"{item.nodeid}: skipped, which an extra test may not be"


@pytest.fixture(scope="session", autouse=True)
def plain_cpu():
    """Predictions are in float32, whatever the CPU: tests compare them with each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "has_bfloat16", lambda: False)
        yield


SPECIAL = SpecialTokens(pad=0, unk=1, cls=2, sep=3, mask=4)

WORDS = (
    "time river stone light garden letter winter morning silver window paper music ocean "
    "mountain story village market bridge candle shadow forest harbour engine doctor"
).split()


def small_model(**changes) -> ModelConfig:
    """A model that compiles in seconds: 2 layers, D 32, 8 heads, V 64."""
    fields = dict(
        architecture="bert",
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=8,
        intermediate_size=64,
        embedding_size=32,
        max_position_embeddings=16,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    return ModelConfig.from_flat(fields | changes)


@functools.lru_cache
def _init(config: ModelConfig, seed: int):
    model = MuxModel(config)
    tokens = jax.numpy.zeros((1, config.width, 4), int)
    make = jax.jit(lambda rng: nn.meta.unbox(model.init(rng, tokens, method="init_all"))["params"])
    return model, make(jax.random.key(seed))


def init(config: ModelConfig, seed: int = 0):
    """A model without dropout and its parameters, a tree of the caller's own."""
    model, params = _init(config, seed)
    return model, jax.tree.map(lambda x: x, params)


@functools.partial(jax.jit, static_argnames=("model", "method"))
def apply(model: MuxModel, params, *args, method=None):
    return model.apply({"params": params}, *args, method=method)


def draw_tokens(config: ModelConfig, rows: int = 3, length: int = 12, seed: int = 1) -> jax.Array:
    """Random ordinary tokens after CLS, int32[rows, N, length]."""
    shape = (rows, config.width, length)
    tokens = jax.random.randint(jax.random.key(seed), shape, len(dataclasses.astuple(SPECIAL)), config.vocab_size)
    return tokens.at[:, :, 0].set(SPECIAL.cls)


def write_text(folder):
    """A file of a few hundred short documents of a small world."""
    lines = []
    for i in range(400):
        words = [WORDS[(i * 7 + j * j + j * i) % len(WORDS)] for j in range(25)]
        lines.append(" ".join(words) + f" number {i}.\n\n")
    (folder / "text.txt").write_text("".join(lines))
    return folder / "text.txt"


def use_one_device(monkeypatch):
    """Runs see one of the virtual devices: they are several times faster on few cores."""
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *backend: one)


@pytest.fixture
def text_file(tmp_path):
    return write_text(tmp_path)


@pytest.fixture
def one_device(monkeypatch):
    use_one_device(monkeypatch)


@pytest.fixture
def run_config(text_file, tmp_path, one_device):
    """A run of two short stages on `text_file`, seconds long."""
    return small_run("bert", text_file, tmp_path)


def small_run(architecture: str, text_file, tmp_path, **model):
    config = configuration.pretraining(architecture, "tiny", 2, **model)
    config.pretraining.objective = {"bert": "mlm", "electra": "rtd"}[architecture]
    config.model.update(
        hidden_size=16, embedding_size=16, intermediate_size=32, num_attention_heads=2, num_hidden_layers=1
    )
    config.model.max_position_embeddings = 16
    config.data.update(source="files", files=str(text_file), sequence_length=16, vocab_size=120)
    config.data.update(heldout_fraction=0.2, cache_dir=str(tmp_path / "cache"))
    config.rows = 8
    config.eval.update(every=8, batches=2)
    config.checkpoint.update(every=4, keep=3)
    config.log_every = 4
    for stage, steps in ((config.priming, 10), (config.pretraining, 10)):
        stage.update(steps=steps, warmup_steps=2, learning_rate=1e-3)
    return config


class Bucket(MemoryFileSystem):
    """gs:// as gcsfs has it, in memory: nothing is appended to an object."""

    protocol = "gcs"
    store, pseudo_dirs = {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("gs://").removeprefix("gcs://"))

    def _open(self, path, mode="rb", **kwargs):
        assert "a" not in mode
        return super()._open(path, mode, **kwargs)

    def unstrip_protocol(self, name):
        return f"gs://{self._strip_protocol(name).removeprefix('/')}"


@pytest.fixture
def bucket(monkeypatch):
    """A folder in gs://, which is kept in memory."""
    for name in ("gs", "gcs"):  # as `register_implementation` does, and undone
        monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, name, Bucket)
    yield epath.Path("gs://bucket")
    Bucket.store.clear()
    Bucket.pseudo_dirs[:] = [""]
