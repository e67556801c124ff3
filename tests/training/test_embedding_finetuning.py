"""Fine-tuning on texts that belong together: they come near each other, and others can embed with the run."""

import json

import numpy as np
import pytest

import mux_jax
from mux_jax.checkpoints.source import open_model
from mux_jax.data import metrics
from mux_jax.data.neighbours import unit
from mux_jax.errors import InputError
from mux_jax.training import loop
from tests.conftest import WORDS
from tests.tasks import finetuning, write_embedder, write_lines, write_model

PROMPTS = {"query": "river "}


def pairs(count, seed):
    """Texts in the first half of the words, each with its like in the second half."""
    rng, half = np.random.default_rng(seed), len(WORDS) // 2
    chosen = [rng.choice(half, rng.integers(2, 5), replace=False) for _ in range(count)]
    return [(" ".join(WORDS[i] for i in x), " ".join(WORDS[half + i] for i in x)) for x in chosen]


def write_pairs(folder, columns=2):
    folder.mkdir(parents=True)
    train = [(*pair, other[1])[:columns] for pair, other in zip(pairs(300, 0), pairs(300, 9))]
    names = ("anchor", "positive", "negative")[:columns]
    write_lines(folder / "train.tsv", ["\t".join(row) for row in (names, *train)])
    near = [(*pair, 5) for pair in pairs(30, 1)]
    far = [(x[0], y[1], 0) for x, y in zip(pairs(30, 2), pairs(30, 3))]
    write_lines(folder / "dev.tsv", ["sentence1\tsentence2\tscore", *("\t".join(map(str, row)) for row in near + far)])
    return folder


def cosines(model):
    """The mean cosine of texts with their like, and with another text's."""
    given = pairs(40, 5)
    first, second = (unit(mux_jax.Predictor(str(model)).embed([pair[i] for pair in given])) for i in (0, 1))
    all_ = first @ second.T
    return all_.diagonal().mean(), all_.mean()


@pytest.mark.parametrize("columns, width", [(2, 1), (3, 1), pytest.param(2, 2, marks=pytest.mark.extra)])
def test_texts_that_belong_together_come_near(columns, width, tmp_path, one_device):
    data, model = write_pairs(tmp_path / "data", columns), write_embedder(tmp_path / "model", prompts=PROMPTS)
    fields = {"rows": 30 // width, "finetuning.steps": 60, "finetuning.learning_rate": 3e-3, "model.width": width}
    if columns == 3:
        fields["data.text_columns"] = "anchor,positive,negative"
    config = finetuning(data, model, "embedding", **fields)
    config.eval.every = config.checkpoint.every = config.log_every = 20
    result = loop.train(config, str(tmp_path / "run"))
    own, any_ = cosines(tmp_path / "run")
    assert own > 0.7
    assert (
        result["score"]["mean"] > (0.7 if width == 1 else 0.4)
        and result["metric"] == "spearman"
        and len(result["score"]["runs"]) in (1, 3)
    )
    found = open_model(str(tmp_path / "run"))
    assert (found.config.head, found.config.width, found.text_columns()) == ("embedding", width, ("text",))
    assert found.prompts() == PROMPTS
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["pair_loss"] for line in lines if "pair_loss" in line]
    assert losses[-1] < losses[0] / 2
    score = mux_jax.evaluate(finetuning(data, "", "embedding"), str(tmp_path / "run"), str(tmp_path / "score"))["score"]
    assert score["mean"] == pytest.approx(result["score"]["mean"], abs=1e-4 if width == 1 else 0.05)
    own_before, any_before = cosines(model)
    assert own - any_ > own_before - any_before + 0.2


def test_an_ordinary_encoder_becomes_an_embedding_model(tmp_path, one_device):
    data, model = write_pairs(tmp_path / "data"), write_model(tmp_path / "model", width=1, head="none")
    loop.train(finetuning(data, model, "embedding"), str(tmp_path / "run"))
    config = open_model(str(tmp_path / "run")).config
    assert (config.head, config.pooling, config.normalize, config.projections) == ("embedding", "mean", True, ())


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"rows": 1}, "rows=1 of 1 texts hold 0 examples of 2 texts; a batch needs two or more"),
        ({"grad_accumulation_steps": 2}, "grad_accumulation_steps=2: texts are told from all others of their batch"),
        ({"finetuning.class_weights": "1,2"}, "a task of kind embedding has no classes"),
        ({"data.labels": "a,b"}, "a task of kind embedding has no labels"),
        ({"data.label_column": "score"}, "data.label_column=score is not for embeddings; leave it out"),
        ({"finetuning.temperature": 1.0}, "finetuning.temperature=1.0 is not for embeddings; leave it out"),
        ({"finetuning.objective": "mlm"}, "finetuning.objective='mlm' must be 'embedding' for kind=embedding"),
        ({"data.metric": "accuracy"}, "a task of kind embedding has spearman"),
        ({"data.text_columns": "a,b,c,d"}, "a task of kind embedding has at most 3"),
        ({"data.text_columns": "anchor"}, "pairs or triples"),
        ({"data.text_columns": "anchor,other"}, "train.tsv: no column 'other'"),
    ],
)
def test_what_pairs_cannot_be_is_said_before_training(fields, words, tmp_path, one_device):
    data, model = write_pairs(tmp_path / "data"), write_embedder(tmp_path / "model")
    with pytest.raises(InputError, match=words):
        loop.train(finetuning(data, model, "embedding", **fields), str(tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()  # the folder takes other fields


def test_a_model_that_is_multiplexed_keeps_its_dense_layers(tmp_path, one_device, capsys):
    data = write_pairs(tmp_path / "data")
    model = write_embedder(tmp_path / "model", projections=((6, "tanh", True),))
    loop.train(finetuning(data, model, "embedding", **{"model.width": 2, "rows": 8}), str(tmp_path / "run"))
    taken = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("init_from:"))
    assert "embedding_head" in taken and open_model(str(tmp_path / "run")).config.projections == ((6, "tanh", True),)


def test_a_teacher_of_other_dimensions_is_refused(tmp_path, one_device):
    data, model = write_pairs(tmp_path / "data"), write_embedder(tmp_path / "model")
    teacher = write_embedder(tmp_path / "teacher", projections=((6, "", False),))
    with pytest.raises(InputError, match="its embeddings have 6 dimensions, the model's 32"):
        loop.train(finetuning(data, model, "embedding", teacher=str(teacher)), str(tmp_path / "run"))


def test_the_default_prompt_stands_before_the_texts_to_evaluate_on(tmp_path, one_device):
    data, prompted = write_pairs(tmp_path / "data"), PROMPTS | {"": PROMPTS["query"]}
    model = write_embedder(tmp_path / "model", prompts=prompted)
    found = mux_jax.evaluate(finetuning(data, "", "embedding"), str(model), str(tmp_path / "score"))["score"]["mean"]
    lines = [line.split("\t") for line in (data / "dev.tsv").read_text().splitlines()[1:]]
    embed = mux_jax.Predictor(str(model)).embed
    near = (embed([x[0] for x in lines]) * embed([x[1] for x in lines])).sum(-1)
    expected = metrics.compute("embedding", "spearman", [float(x[2]) for x in lines], near.tolist(), ())
    assert found == pytest.approx(expected["spearman"], abs=1e-6)
