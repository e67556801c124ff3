"""`compress` of an embedding model: the cheaper one embeds about as it does, and is one for sentence-transformers."""

import json

import jax
import numpy as np
import pytest

import mux_jax
from mux_jax.checkpoints.convert import convert
from mux_jax.checkpoints.source import open_model
from mux_jax.compression import texts as module
from mux_jax.compression.reduction import reduce_model
from mux_jax.compression.shape import Shape
from mux_jax.compression.speed import Speeds, Throughput
from mux_jax.compression.texts import read_texts, with_prompts
from mux_jax.data.neighbours import unit
from mux_jax.errors import InputError
from mux_jax.models.model import MuxModel
from tests.compression.test_reduction import full_model, texts
from tests.conftest import SPECIAL, apply, use_one_device
from tests.tasks import sentences, write_embedder, write_lines

PROMPTS = {"query": "river ", "passage": "stone "}


@pytest.fixture(scope="module", autouse=True)
def quick():
    """One device, few texts, and no measuring of speed."""

    def measure(self, models, dtypes, repeats=5):
        return {dtype: {name: Throughput(2000.0, 8, 1.0 + (name != "full")) for name in models} for dtype in dtypes}

    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        patch.setattr(Speeds, "measure", measure)
        patch.setattr(module, "_LEAST", 300)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with an embedding model, texts, and pairs that are alike if their words are."""
    root = tmp_path_factory.mktemp("embeddings")
    write_embedder(root / "model", prompts=PROMPTS, projections=((12, "tanh", True),))
    write_lines(root / "texts.txt", sentences(900, seed=7))
    first, second = sentences(60, seed=1), sentences(60, seed=2)
    scores = [5 * len({*x.split()} & {*y.split()}) / 8 for x, y in zip(first, second)]
    rows = ["sentence1\tsentence2\tscore", *(f"{x}\t{y}\t{z}" for x, y, z in zip(first, second, scores))]
    write_lines(root / "pairs.tsv", rows)
    return root


def compressed(root, name, **options):
    given = dict(texts=str(root / "texts.txt"), labelled=str(root / "pairs.tsv"), minutes=0.05, learning_rate=1e-3)
    mux_jax.compress(str(root / "model"), str(root / name), **given | options)
    return json.loads((root / name / "report.json").read_text())


@pytest.fixture(scope="module")
def narrow(root):
    return compressed(root, "narrow", hidden=16)


def test_a_narrow_model_gives_embeddings_of_the_same_size(root, narrow):
    found = open_model(str(root / "narrow"))
    assert found.config.projections == ((32, "", True), (12, "tanh", True)) and found.config.hidden_size == 16
    assert found.prompts() == PROMPTS
    ours, theirs = (mux_jax.Predictor(str(root / name)) for name in ("narrow", "model"))
    given = sentences(50, seed=11)
    for prompt in (None, "query"):
        cosines = (ours.embed(given, prompt) * theirs.embed(given, prompt)).sum(-1)
        assert cosines.mean() > 0.9
    assert narrow["made"]["agreement"]["value"] > 0.6
    assert narrow["task"] == {"kind": "embedding", "metric": "spearman", "labels": []}
    assert narrow["texts"]["labelled"] == 60 and narrow["deferral"] is None and narrow["row_mates"] is None


def test_the_score_is_the_correlation_of_cosines_with_the_labels(root, narrow):
    lines = [line.split("\t") for line in (root / "pairs.tsv").read_text().splitlines()[1:]]
    embed = mux_jax.Predictor(str(root / "model")).embed
    cosines = (embed([x[0] for x in lines]) * embed([x[1] for x in lines])).sum(-1)
    ranks = [np.argsort(np.argsort(x, kind="stable")) for x in (cosines, [float(x[2]) for x in lines])]
    expected = np.corrcoef(*ranks)[0, 1]  # but for ties
    assert narrow["full"]["score"]["spearman"] == pytest.approx(expected, abs=0.05)
    lost = narrow["full"]["score"]["spearman"] - narrow["made"]["score"]["spearman"]
    assert narrow["made"]["lost"]["value"] == pytest.approx(lost)


def test_the_made_model_is_one_for_others(root, narrow):
    convert(str(root / "narrow"), str(root / "converted"))
    given = sentences(20, seed=5)
    ours, theirs = (mux_jax.Predictor(str(root / name)).embed(given, "query") for name in ("narrow", "converted"))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.extra
def test_a_multiplexed_one_says_what_row_mates_change(root):
    report = compressed(root, "shared", width=2)
    mates = report["row_mates"]
    assert 0.5 < mates["rare"] <= mates["cosine"] <= 1 and 0.5 < mates["alone"] <= 1
    assert [found["slots"] for found in mates["ensembles"]] == [2]
    text = (root / "shared" / "report.md").read_text()
    assert "An embedding depends on its row-mate" in text and "## Texts in several slots" in text
    embeddings = mux_jax.Predictor(str(root / "shared"), ensemble=2).embed(sentences(9, seed=3))
    assert embeddings.shape == (9, 12)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=-1), 1, atol=1e-6)  # of a mean of two, too


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "mean_sqrt_length"])
def test_least_squares_keep_embeddings(pooling):
    """What comes of least squares alone is near, and much nearer than another text's."""
    full, params = full_model(head="embedding", labels=(), pooling=pooling, projections=((6, "", False),))
    given, others = texts(400, full, 0), texts(40, full, 1)
    shape = Shape(layers=3, hidden=24)
    config, made = reduce_model(full, params, shape, given, None, SPECIAL.pad, 0, lambda *_: None)
    assert config.projections == ((32, "", True), (6, "", False))
    ours, theirs = (
        unit(np.asarray(apply(MuxModel(c), p, others[:, None], others[:, None] != SPECIAL.pad))[:, 0])
        for c, p in ((config, made), (full, jax.tree.map(np.asarray, params)))
    )
    cosines_TT = ours @ theirs.T
    own = cosines_TT.diagonal()
    assert own.mean() > 0.9 and (own > cosines_TT.mean(1)).mean() > 0.9


def test_texts_get_each_prompt_in_turn(root):
    config = open_model(str(root / "model")).config
    plain = read_texts([str(root / "texts.txt")], config, ("text",), labelled=str(root / "pairs.tsv"))
    found = with_prompts(plain, PROMPTS | {"": "stone "})
    assert [x[: -len(y)] for x, y in zip(found.learn[:4], plain.learn)] == ["stone ", "river ", "stone ", "river "]
    assert found.labelled[0].text == tuple(f"stone {x}" for x in plain.labelled[0].text)
    assert with_prompts(plain, {}) == plain


def test_two_columns_are_two_texts(root, monkeypatch):
    monkeypatch.setattr(module, "_LEAST", 100)
    config = open_model(str(root / "model")).config
    found = read_texts([str(root / "pairs.tsv")], config, ("text",), ("sentence1", "sentence2"))
    lines = [line.split("\t")[:2] for line in (root / "pairs.tsv").read_text().splitlines()[1:]]
    assert {*found.learn, *found.choose, *found.calibrate, *found.judge} == {text for pair in lines for text in pair}


@pytest.mark.parametrize(
    "options, words",
    [
        (
            dict(texts=(), labelled=""),
            "gives embeddings: name the texts to learn from by --texts=FILE; they need no labels",
        ),
        (dict(defer="0.1"), "gives embeddings: an embedding is no answer that could be unsure; nothing to defer"),
        (dict(standalone=True), "nothing to defer"),
        (dict(labelled="texts.txt"), "texts.txt: no column 'sentence1'"),
    ],
)
def test_what_embeddings_do_not_have_is_refused(root, options, words):
    options = {k: str(root / v) if k == "labelled" and v else v for k, v in options.items()}
    with pytest.raises(InputError, match=words):
        compressed(root, "refused", hidden=16, **options)
    assert not (root / "refused").exists()
