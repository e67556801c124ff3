"""A teacher: what it says of each text, the loss, the texts that only it labels, and a run."""

import json
import pickle
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

import mux_jax
from mux_jax import configuration
from mux_jax.checkpoints.source import open_model
from mux_jax.data.examples import read_unlabelled
from mux_jax.data.tasks import TASKS
from mux_jax.errors import InputError
from mux_jax.objectives import objectives
from mux_jax.objectives.stages import FinetuneStage
from mux_jax.parallel.mesh import make_mesh, split_batch
from mux_jax.training import loop
from mux_jax.training.distillation import Teacher
from mux_jax.training.finetune_data import load_finetune_data
from tests.conftest import SPECIAL, WORDS, apply, draw_tokens, init, small_model
from tests.tasks import LABELS, sentences, write_model, write_sentences, write_words
from tests.tasks import finetuning as task_config


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A multiplexed model to train, teachers that fit and that do not, and data of both kinds."""
    root = tmp_path_factory.mktemp("distillation")
    write_model(root / "model")
    write_model(root / "teacher", width=1, head="sequence", labels=LABELS)
    write_model(root / "word_teacher", width=1, head="token", labels=("long", "short"))
    write_model(root / "other", width=1, head="sequence", labels=("a", "b"))
    write_model(root / "short", width=1, head="sequence", labels=LABELS, max_position_embeddings=30)
    shutil.copytree(root / "teacher", root / "foreign")
    vocabulary = json.loads((root / "foreign" / "tokenizer.json").read_text())
    words = vocabulary["model"]["vocab"]
    words[WORDS[0]], words[WORDS[1]] = words[WORDS[1]], words[WORDS[0]]
    (root / "foreign" / "tokenizer.json").write_text(json.dumps(vocabulary))
    write_sentences(root / "data")
    write_words(root / "words")
    return root


def losses(config, labels, teacher, tokens, part=0.75, temperature=3.0):
    """The objective's outputs, and the model's logits."""
    model, params = init(config)
    stage = FinetuneStage(
        task_coefficient=1.0,
        retrieval_coefficient=0.0,
        distillation_coefficient=part,
        temperature=temperature,
    )
    batch = {"tokens": tokens, "labels": labels, "teacher": teacher}
    loss, outputs = objectives.make(stage, SPECIAL)(model, params, batch, jax.random.key(0))
    return loss, outputs, np.asarray(model.apply({"params": params}, tokens))


def divergence(wanted, logits, temperature=3.0):
    """temperature² KL(wanted || logits), by definition."""
    p = softmax(wanted / temperature, axis=-1)
    difference = log_softmax(wanted / temperature, axis=-1) - log_softmax(logits / temperature, axis=-1)
    return temperature**2 * (p * difference).sum(-1)


def test_the_loss_is_the_labels_and_the_divergence_from_the_teacher():
    config = small_model(head="sequence", labels=("a", "b", "c"))
    wanted = np.random.default_rng(0).normal(size=(3, 2, 3)).astype(np.float32)
    labels = jnp.array([[0, -1], [1, -1], [-1, 2]])
    loss, outputs, logits = losses(config, labels, wanted, draw_tokens(config))
    of_labels = -log_softmax(logits, axis=-1)[[0, 1, 2], [0, 0, 1], [0, 1, 2]].mean()
    np.testing.assert_allclose(outputs["label_loss"], of_labels, rtol=1e-4)
    np.testing.assert_allclose(outputs["teacher_loss"], divergence(wanted, logits).mean(), rtol=1e-4)
    np.testing.assert_allclose(loss, 0.25 * outputs["label_loss"] + 0.75 * outputs["teacher_loss"], rtol=1e-6)


def test_tokens_that_are_padding_are_not_taught_and_numbers_by_squared_error():
    config = small_model(head="token", labels=("a", "b"))
    tokens = draw_tokens(config).at[:, 1, 6:].set(SPECIAL.pad)
    wanted = np.random.default_rng(0).normal(size=(*tokens.shape, 2)).astype(np.float32)
    _, outputs, logits = losses(config, jnp.full(tokens.shape, -1), wanted, tokens)
    real = np.asarray(tokens != SPECIAL.pad)
    np.testing.assert_allclose(outputs["teacher_loss"], divergence(wanted, logits)[real].mean(), rtol=1e-4)
    assert outputs["label_loss"] == 0

    config = small_model(head="sequence", labels=("score",))
    wanted, labels = np.ones((3, 2, 1), np.float32), jnp.full((3, 2), jnp.nan)
    _, outputs, logits = losses(config, labels, wanted, draw_tokens(config))
    np.testing.assert_allclose(outputs["teacher_loss"], ((logits - 1) ** 2).mean(), rtol=1e-4)


def test_each_of_several_labels_is_taught_by_itself():
    config = small_model(head="sequence", labels=("a", "b", "c"), multi_label=True)
    wanted = np.random.default_rng(0).normal(size=(3, 2, 3)).astype(np.float32)
    _, outputs, logits = losses(config, jnp.full((3, 2, 3), -1), wanted, draw_tokens(config))
    p, q = (1 / (1 + np.exp(-x / 3.0)) for x in (wanted, logits))
    expected = 3.0**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    np.testing.assert_allclose(outputs["teacher_loss"], expected.mean(), rtol=1e-4)
    assert outputs["label_loss"] == 0


@pytest.mark.parametrize("mesh", [dict(data=4), dict(data=2, fsdp=2)])
@pytest.mark.parametrize("name", ["teacher", "word_teacher"])
def test_a_teacher_says_of_each_text_what_it_says_of_it_alone(folders, name, mesh):
    found = open_model(str(folders / name))
    model, params = mux_jax.load_pretrained(str(folders / name))
    mesh = make_mesh(**mesh, devices=jax.devices()[:4])
    tokens = np.array(draw_tokens(small_model(width=3, vocab_size=found.config.vocab_size), rows=8))
    pad = found.tokenizer().special.pad
    tokens[:, :, 7:] = pad
    batch = Teacher(found, mesh, pad)({"tokens": split_batch(tokens, mesh)})
    alone = apply(model, params, tokens.reshape(24, 1, -1), tokens.reshape(24, 1, -1) != pad)
    said = np.asarray(batch["teacher"])
    assert said.shape[:2] == (8, 3)
    np.testing.assert_allclose(said.reshape(alone.shape), alone, atol=1e-5)


@pytest.mark.parametrize("kind", ["sequence", "token"])
def test_half_of_the_texts_are_joined_ones_without_labels(folders, tmp_path, kind):
    data, teacher = ("data", "teacher") if kind == "sequence" else ("words", "word_teacher")
    config = task_config(folders / data, folders / "model", kind, teacher=str(folders / teacher))
    config.model.width = 2
    init = open_model(str(folders / "model"))
    config = configuration.resolve(config, init.config)
    data = load_finetune_data(config, tmp_path, init, open_model(config.teacher))
    loaded, batches = data.examples, data.batches(np.arange(config.rows))
    assert batches.per_epoch == 10  # 40 examples and as many joined, in batches of 8
    sent = pickle.loads(pickle.dumps(batches))  # as Grain sends them to its workers
    special = loaded.tokenizer.special
    plain = sorted(tuple(ids) for ids in loaded.splits["train"].encoded.ids)
    bodies = {ids[1:-1] for ids in plain}
    joined = []
    for epoch in range(2):
        labelled, new = [], []
        for step in range(10 * epoch, 10 * epoch + 10):
            np.testing.assert_array_equal(sent[step]["tokens"], batches[step]["tokens"])
            tokens = batches[step]["tokens"].reshape(8, -1)
            labels = batches[step]["labels"].reshape(8, -1)
            for ids, known in zip(tokens, (labels >= 0).any(1)):
                (labelled if known else new).append(tuple(ids[ids != special.pad]))
        assert sorted(labelled) == plain and len(new) == 40
        for first, *body, last in new:
            assert (first, last) == (special.cls, special.sep) and len(body) <= 22
            assert special.sep not in body
            assert any(tuple(body[: len(b)]) == b[: len(body)] for b in bodies)
            assert len(body) == 22 or any(tuple(body[-len(b) :]) == b for b in bodies)  # or the limit cuts it
        joined.append(new)
    assert sorted(joined[0]) != sorted(joined[1])


@pytest.mark.parametrize(("kind", "count"), [("sequence", 100), ("token", 100), ("sequence", 7)])
def test_with_unlabelled_texts_half_are_of_those_each_once_in_an_epoch(folders, tmp_path, kind, count):
    data, teacher = ("data", "teacher") if kind == "sequence" else ("words", "word_teacher")
    texts = list(dict.fromkeys(sentences(count, seed=2)))
    (tmp_path / "texts.txt").write_text("\n\n".join(texts))
    fields = {"teacher": str(folders / teacher), "data.unlabelled": str(tmp_path / "texts.txt")}
    config = task_config(folders / data, folders / "model", kind, **fields)
    init = open_model(str(folders / "model"))
    config = configuration.resolve(config, init.config)
    loaded = load_finetune_data(config, tmp_path, init, open_model(config.teacher))
    batches = loaded.batches(np.arange(config.rows))
    new, per_epoch = min(len(texts), 40), batches.per_epoch
    assert per_epoch == -(-(40 + new) // 8)
    known = {tuple(loaded.examples.tokenizer.backend.encode(text).ids) for text in texts}
    pad, seen = loaded.special.pad, []
    for epoch in range(2):
        found = []
        for step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            tokens, labels = (batches[step][name].reshape(8, -1) for name in ("tokens", "labels"))
            found += [tuple(ids[ids != pad]) for ids, label in zip(tokens, labels) if not (label >= 0).any()]
        drawn = [ids for ids in found if ids in known]
        assert len(set(drawn)) == new
        seen.append(set(drawn))
    assert (seen[0] != seen[1]) == (count == 100)

    (tmp_path / "config.json").write_text("{}")  # the run has begun
    (tmp_path / "texts.txt").write_text("another text")
    with pytest.raises(InputError, match="the unlabelled texts of .* changed since the run"):
        load_finetune_data(config, tmp_path, init, open_model(config.teacher))


def test_unlabelled_texts_of_a_task_on_pairs_are_pairs(tmp_path):
    pairs, texts = tmp_path / "pairs.jsonl", tmp_path / "texts.txt"
    pairs.write_text('{"sentence1": "a b", "sentence2": "c"}\n')
    texts.write_text("a b c")
    assert read_unlabelled(TASKS["rte"], str(pairs)) == [("a b", "c")]
    with pytest.raises(InputError, match="texts.txt: no column 'sentence1'; there are: 'text'"):
        read_unlabelled(TASKS["rte"], str(texts))


@pytest.mark.extra
def test_a_run_learns_what_its_teacher_says_and_goes_on_where_it_stopped(folders, tmp_path, one_device):
    fields = {"teacher": str(folders / "teacher"), "finetuning.distillation_coefficient": 1.0}
    config = task_config(folders / "data", folders / "model", **fields)
    config.finetuning.update(steps=60, warmup_steps=2)
    config.checkpoint.every = config.eval.every = 60
    loop.train(config, str(tmp_path / "whole"))
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    of_teacher = [row["teacher_loss"] for row in rows if "teacher_loss" in row]
    assert np.mean(of_teacher[-3:]) < 0.5 * np.mean(of_teacher[:3])

    class Stopped(Exception):
        pass

    short = config.copy_and_resolve_references()
    short.checkpoint.every = 24
    with pytest.MonkeyPatch.context() as patch:
        save = loop.Checkpoints.save

        def stop(self, step, *args):
            save(self, step, *args)
            if step == 48:
                self.wait()
                raise Stopped

        patch.setattr(loop.Checkpoints, "save", stop)
        with pytest.raises(Stopped):
            loop.train(short.copy_and_resolve_references(), str(tmp_path / "stopped"))
    loop.train(short, str(tmp_path / "stopped"))
    whole, again = (mux_jax.load_pretrained(str(tmp_path / name))[1] for name in ("whole", "stopped"))
    jax.tree.map(np.testing.assert_array_equal, whole, again)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"teacher": "model"}, "teacher=.*model: its width is 2; it must be an ordinary model"),
        ({"teacher": "word_teacher"}, "its head is 'token'; the task's is 'sequence'"),
        ({"teacher": "other"}, "its labels are 'a', 'b'; the task's are 'fruit', 'stone'"),
        ({"teacher": "teacher", "data.labels": "stone,fruit"}, "give their order: data.labels=fruit,stone"),
        ({"teacher": "foreign"}, "it has another vocabulary than init_from"),
        ({"teacher": "nothing"}, "no model there"),
        ({"data.sequence_length": 40, "teacher": "short"}, "it has 30 positions for data.sequence_length=40"),
        ({"finetuning.distillation_coefficient": 1.5}, "distillation_coefficient=1.5 must be in \\[0, 1\\]"),
        ({"finetuning.temperature": 0.0}, "temperature=0.0 must be positive"),
        ({"data.unlabelled": "texts.txt"}, "data.unlabelled=texts.txt needs a teacher"),
        ({"teacher": "teacher", "data.unlabelled": "nowhere.txt"}, "nowhere.txt: no such file"),
        ({"teacher": "teacher", "data.unlabelled": __file__}, "the name must end in .txt"),
    ],
)
def test_a_teacher_of_something_else_is_refused(fields, message, folders, tmp_path, one_device):
    fields = {k: str(folders / v) if k == "teacher" else v for k, v in fields.items()}
    config = task_config(folders / "data", folders / "model", **fields)
    with pytest.raises(InputError, match=message):
        loop.train(config, str(tmp_path / "run"))
