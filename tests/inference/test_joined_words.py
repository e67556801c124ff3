"""Whoever evaluates or predicts on words is told if the tokenizer joins them, as whoever fine-tunes is."""

import shutil

import pytest
from etils import epath

import mux_jax
from mux_jax.data.tokenizer import load_tokenizer, save_tokenizer
from tests.data.test_tokenizer_files import write
from tests.data.test_tokenizer_kinds import roberta
from tests.tasks import finetuning, write_model, write_words

LINE = "words of a list get no space before them, as in `transformers`"


@pytest.mark.parametrize("prefix_space", [False, True])
def test_evaluation_and_prediction_say_that_words_are_joined(tmp_path, capsys, one_device, prefix_space):
    said = dict(tokenizer_class="RobertaTokenizer", add_prefix_space=prefix_space)
    given = write(tmp_path / "given", tokenizer__json=roberta(prefix_space), tokenizer_config__json=said)
    model = write_model(tmp_path / "model", width=1, head="token", labels=("long", "short"), vocab_size=400)
    save_tokenizer(load_tokenizer(str(given)), epath.Path(model))
    config = finetuning(write_words(tmp_path / "data"), model, "token")
    mux_jax.evaluate(config, str(model), str(tmp_path / "result"))
    assert capsys.readouterr().out.count(LINE) == (not prefix_space)
    mux_jax.Predictor(str(model), rows=2)
    assert capsys.readouterr().out.count(LINE) == (not prefix_space)
    shutil.rmtree(model)  # of one for sentences nothing is said
    write_model(model, width=1, head="sequence", labels=("long", "short"), vocab_size=400)
    save_tokenizer(load_tokenizer(str(given)), epath.Path(model))
    mux_jax.Predictor(str(model), rows=2)
    assert LINE not in capsys.readouterr().out
