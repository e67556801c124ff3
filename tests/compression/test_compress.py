"""`launch/compress.py`: mixtures are read before any training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

import mux_jax
from mux_jax import configuration
from mux_jax.checkpoints.source import open_model
from mux_jax.data.sources import TextFiles
from mux_jax.errors import InputError
from mux_jax.training import loop
from tests.checkpoints.folders import change_tensors
from tests.conftest import apply, draw_tokens, init
from tests.tasks import finetuning, sentences, write_model, write_sentences, write_words

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(sentences(3000)))
    return path


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("ordinary") / "model", width=1)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUX_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", params=[2, 3])  # 3 divides neither the dimensions nor the heads nor the neurons
def made(request, ordinary, text, tmp_path_factory):
    """The folder of a multiplexed model."""
    folder = tmp_path_factory.mktemp("made") / "out"
    make(ordinary, text, folder, request.param)
    return folder


def make(ordinary, text, workdir, width=2, **changes):
    given = dict(sequences=200, length=12, steps=0, dtype="auto", seed=0, overwrite=False) | changes
    source = TextFiles(str(text), "text") if text else None
    return mux_jax.compress(str(ordinary), width, source, workdir=str(workdir), **given)


def read_from(states_TD, wanted_TD):
    """The variance of `wanted` that a linear map of `states` gives, on the half it was not fitted on."""
    x = np.concatenate([states_TD, np.ones((len(states_TD), 1))], axis=1)
    (x, left_x), (y, left_y) = (np.array_split(z, 2) for z in (x, wanted_TD))
    error = left_y - left_x @ np.linalg.lstsq(x, y, rcond=1e-6)[0]
    return 1 - (error**2).sum() / ((left_y - left_y.mean(0)) ** 2).sum()


def test_the_ordinary_states_are_read_from_mixtures(ordinary, made):
    plain, plain_params = mux_jax.load_pretrained(str(ordinary))
    model, params = mux_jax.load_pretrained(str(made))
    tokens_BNL = draw_tokens(model.config, rows=60)
    wanted_TD = apply(plain, plain_params, tokens_BNL.reshape(-1, 1, tokens_BNL.shape[-1]), method="encode")
    wanted_TD = np.asarray(wanted_TD).reshape(-1, wanted_TD.shape[-1])

    def found(params):
        def separate(bound):
            return bound.demultiplex(bound.encode(tokens_BNL))

        states = model.apply({"params": params}, method=separate)
        return np.asarray(states).reshape(wanted_TD.shape)

    fresh = init(model.config)[1] | {"embeddings": plain_params["embeddings"], "encoder": plain_params["encoder"]}
    read = read_from(found(params), wanted_TD)
    assert 1 - read < 0.8 * (1 - read_from(found(fresh), wanted_TD))
    # The states are the ordinary ones, not only a linear map away.
    assert 1 - ((found(params) - wanted_TD) ** 2).mean() / wanted_TD.var(0).mean() > read - 0.1
    assert 0.3 < json.loads((made / "result.json").read_text())["explained"] < 1


def test_instances_hardly_disturb_each_other(made):
    model, params = mux_jax.load_pretrained(str(made))
    tokens_BNL = draw_tokens(model.config, rows=8)
    others_BNL = tokens_BNL.at[:, 1].set(draw_tokens(model.config, rows=8, seed=2)[:, 1])

    def separate(bound, tokens_BNL):
        return bound.demultiplex(bound.encode(tokens_BNL))

    a, b = (np.asarray(model.apply({"params": params}, x, method=separate)) for x in (tokens_BNL, others_BNL))
    changed = [np.square(a[:, i] - b[:, i]).mean() / a[:, i].var(axis=(0, 1)).mean() for i in range(2)]
    assert changed[0] < 0.1 and changed[1] > 0.5


def test_what_is_left_over_can_be_trained(made):
    model, params = mux_jax.load_pretrained(str(made))
    attention = jax.tree.map(np.asarray, params["encoder"]["layers"]["attention"])
    width, head = model.config.width, model.config.head_size
    used = width * (model.config.num_attention_heads // width) * head
    assert (np.abs(attention["query"]["kernel"][..., used:]).max((0, 1)) > 0).all()
    assert not attention["output"]["kernel"][:, used:, : 32 // width * width].any()


@pytest.mark.parametrize(
    "family",
    [pytest.param("distilbert", marks=pytest.mark.extra), pytest.param("roberta", marks=pytest.mark.extra), "mpnet"],
)
def test_models_of_other_families_are_read_from_mixtures(family, text, tmp_path):
    folder = write_model(tmp_path / "model", architecture=family, width=1)
    if family == "mpnet":  # whose bias shall matter

        def enlarge(found):
            found["mpnet.encoder.relative_attention_bias.weight"] *= 50

        change_tensors(epath.Path(folder), enlarge)
    assert make(folder, text, tmp_path / "out") > 0.7
    assert mux_jax.load_pretrained(str(tmp_path / "out"))[0].config.architecture == family


def test_a_classifier_keeps_the_pooler_that_it_reads(text, tmp_path):
    folder = write_model(tmp_path / "model", width=1, head="sequence", labels=("a", "b"), pooler=True)
    make(folder, text, tmp_path / "out")
    (_, given), (model, params) = (mux_jax.load_pretrained(str(path)) for path in (folder, tmp_path / "out"))
    assert model.config.has_pooler
    for part in ("pooler", "classifier"):
        jax.tree.map(np.testing.assert_array_equal, params[part], given[part])


def test_a_run_takes_the_model_as_it_is(made, tmp_path):
    found = open_model(str(made))
    config = finetuning(write_sentences(tmp_path / "data"), made)
    config = configuration.resolve(config, found.config)
    assert (config.model.multiplexer, config.model.width) == ("low_rank_orthogonal", found.config.width)
    assert found.find_tokenizer() is not None


@pytest.mark.parametrize("kind, write", [("sequence", write_sentences), ("token", write_words)])
@pytest.mark.extra
def test_a_fine_tuned_model_is_fitted_on_the_texts_of_its_task(ordinary, tmp_path, one_device, capsys, kind, write):
    config = finetuning(write(tmp_path / "data", train=3000, dev=100), ordinary, kind)
    config.finetuning.steps = 60
    loop.train(config, str(tmp_path / "run"))
    capsys.readouterr()
    found = make(tmp_path / "run", None, tmp_path / "own")
    assert f"text: the training examples of custom, from {tmp_path}/data" in capsys.readouterr().out
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n".join(sentences(3000)))  # what both tasks are written from
    assert found == make(tmp_path / "run", texts, tmp_path / "given")
    run, own, given = (mux_jax.load_pretrained(str(tmp_path / name))[1] for name in ("run", "own", "given"))
    jax.tree.map(np.testing.assert_array_equal, own, given)
    # It does the task at once, with the same classifier.
    jax.tree.map(np.testing.assert_array_equal, own["classifier"], run["classifier"])
    score = {}
    for name in ("run", "own"):
        again = finetuning(tmp_path / "data", "", kind)
        score[name] = mux_jax.evaluate(again, str(tmp_path / name), str(tmp_path / f"score_{name}"))["score"]["mean"]
    assert score["own"] > score["run"] - 0.1 and (kind == "sequence" or score["run"] > 0.9)


@pytest.mark.parametrize(
    "model, changes, message",
    [
        (dict(width=2), {}, "--model has width 2; it must be an ordinary model"),
        (dict(width=1), dict(width=9), "--width=9 must be from 2 to 8, the heads"),
        (dict(width=1), dict(width=1), "--width=1 must be from 2"),
        (dict(width=1), dict(length=41), "--length=41 must be from 2 to 40"),
        (dict(width=1), dict(seed=-1), "--seed=-1 must be at least 0"),
        (dict(width=1), dict(steps=-1), "--steps=-1 must be at least 0"),
        (dict(width=1), dict(sequences=0), "--sequences=0 must be at least 1"),
        (
            dict(width=1, architecture="electra", embedding_size=16, head="rtd"),
            {},
            "embeddings of 16 and states of 32 dimensions",
        ),
    ],
)
def test_what_cannot_be_shared_out_is_refused(text, tmp_path, model, changes, message):
    with pytest.raises(InputError, match=message):
        make(write_model(tmp_path / "model", **model), text, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.extra
def test_the_command_refines_and_spares_a_folder_that_exists(ordinary, text, tmp_path):
    command = [sys.executable, "launch/compress.py", f"--model={ordinary}", "--width=2", f"--workdir={tmp_path}/out"]
    command += [f"--texts={text}", "--sequences=40", "--length=12", "--steps=30"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0 and "of the variance of the last states" in done.stdout, done.stderr
    refined = json.loads((tmp_path / "out" / "result.json").read_text())["explained"]
    assert make(ordinary, text, tmp_path / "fitted", sequences=40) < refined < 1
    with pytest.raises(InputError, match="out exists; --overwrite replaces it"):
        make(ordinary, text, tmp_path / "out")
    with pytest.raises(InputError, match="holds the model to read, .*; choose another folder"):
        make(ordinary, text, ordinary, overwrite=True)
