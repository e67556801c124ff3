"""Every family and head computes here what `transformers` computes, and goes back there whole."""

import json

import jax
import numpy as np
import pytest
from etils import epath

import mux_jax
from mux_jax.checkpoints import huggingface
from mux_jax.checkpoints.convert import convert
from mux_jax.checkpoints.huggingface_config import class_name
from mux_jax.checkpoints.source import open_model
from mux_jax.models.config import ModelConfig
from mux_jax.models.families import FAMILIES
from mux_jax.training.loop import train
from tests.checkpoints.families import FOLDER, SHAPES, cases, difference
from tests.checkpoints.folders import assert_identical, change_config, change_tensors, load
from tests.conftest import apply, draw_tokens, init, small_model, small_run
from tests.tasks import finetuning, sentences, write_model, write_sentences

NAMES = [name for name, *_ in cases()]


def shaped():
    """Every model with its layers scanned, unrolled and taken apart; in the core's tests each family in some way."""
    for name in NAMES:
        alike = name.startswith(("camembert", "xlm_roberta", "electra_projected")) or name.endswith("one_logit")
        for shape in SHAPES:
            core = shape == "scanned" and not alike or name.endswith("_none") and shape == "unrolled"
            yield pytest.param(name, shape, marks=() if core else pytest.mark.extra)


@pytest.mark.parametrize(("name", "shape"), list(shaped()))
def test_a_model_computes_what_transformers_computes(name, shape):
    assert difference(FOLDER / name, shape) < 2e-5


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_comes_back_as_it_was(name, tmp_path):
    config, params = load(epath.Path(FOLDER / name))
    huggingface.write(epath.Path(tmp_path), config, params)
    back = load(epath.Path(tmp_path))
    assert back[0] == config
    assert_identical(back[1], params)
    names = [json.loads((folder / "config.json").read_text())["architectures"] for folder in (FOLDER / name, tmp_path)]
    assert names[0] == names[1] == [class_name(config)]


@pytest.mark.extra
@pytest.mark.parametrize("name", NAMES)
def test_transformers_takes_what_is_written_here(name, tmp_path):
    import torch
    import transformers

    config, params = load(epath.Path(FOLDER / name))
    huggingface.write(epath.Path(tmp_path), config, params)
    model, info = getattr(transformers, class_name(config)).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in info), info
    io = np.load(FOLDER / name / "io.npz")
    given = {"input_ids": io["tokens"], "attention_mask": io["mask"], "token_type_ids": io.get("types")}
    with torch.no_grad():
        out = model.eval()(**{k: torch.from_numpy(v.astype(np.int64)) for k, v in given.items() if v is not None})
    found = next(value for value in out.values() if value is not None).numpy()
    if found.shape[:2] == io["mask"].shape:
        found = found * io["mask"].reshape(*io["mask"].shape, *[1] * (found.ndim - 2))
    np.testing.assert_allclose(found, io["output"], rtol=0, atol=1e-5)


def copy(name, folder, **fields):
    """A copy of a known answer's folder, with fields of its configuration set."""
    for file in ("config.json", "model.safetensors"):
        (folder / file).write_bytes((FOLDER / name / file).read_bytes())
    change_config(epath.Path(folder), **fields)
    return epath.Path(folder)


def test_a_model_of_sentence_transformers_may_name_a_class_whose_head_it_lacks(tmp_path, capsys):
    """As all-mpnet-base-v2 does."""
    folder = copy("mpnet_none", tmp_path, architectures=["MPNetForMaskedLM"])
    with pytest.raises(mux_jax.InputError, match="6 missing: lm_head.dense.weight"):
        load(folder)
    (folder / "modules.json").write_text("[]")
    config, params = load(folder)
    assert config.head == "none" and config.has_pooler
    assert_identical(params, load(epath.Path(FOLDER / "mpnet_none"))[1])
    assert "no tensor of the head of MPNetForMaskedLM is there; taken without its head" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    [
        "modernbert_mlm",
        "distilbert_none",
        "distilbert_mlm",
        "distilbert_sequence",
        "roberta_mlm",
        "mpnet_token",
        "bert_sequence",
    ],
)
def test_a_class_that_is_not_named_is_told_by_its_tensors(name, tmp_path):
    folder = copy(name, tmp_path, architectures=None)
    known = load(epath.Path(FOLDER / name))
    for _ in range(2):
        config, params = load(folder)
        assert config == known[0]
        assert_identical(params, known[1])
        if name.endswith("_none") or name.startswith("modernbert"):
            break  # these tensors do not tell their family
        change_config(folder, model_type=None)


def test_tensors_that_do_not_tell_are_no_guess(tmp_path):
    for name, fields in {
        "modernbert_token": dict(architectures=None),  # which is made like modernbert_sequence
        "mpnet_none": dict(architectures=None, model_type=None),
    }.items():
        with pytest.raises(mux_jax.InputError, match="architectures is missing; put the model's class there"):
            load(copy(name, tmp_path, **fields))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        (
            "bert_none",
            dict(architectures=["DebertaV2Model"], model_type="deberta-v2"),
            "DebertaV2Model' is not known here; there are: Bert, El",
        ),
        ("bert_none", dict(architectures=["AlbertModel"], model_type="albert"), "'AlbertModel' is not known here"),
        ("bert_none", dict(architectures=["T5EncoderModel"], model_type="t5"), "'T5EncoderModel' is not known here"),
        (
            "bert_none",
            dict(architectures=["NewModel"], model_type="new", auto_map={"AutoModel": "modeling.NewModel"}),
            "'NewModel' is not known here; code of its own, which `auto_map` names, is never run; there are: Bert",
        ),
        ("bert_none", dict(position_embedding_type="alibi"), "position_embedding_type='alibi' is not supported"),
        ("distilbert_none", dict(activation="relu"), "activation='relu' is not supported, only 'gelu'"),
        ("modernbert_none", dict(norm_bias=True), "norm_bias=True is not supported, only False"),
        ("mpnet_none", dict(relative_attention_num_buckets=16), "buckets=16 is not supported, only 32"),
        ("roberta_none", dict(is_decoder=True), "is_decoder=True is not supported"),
        ("roberta_sequence", dict(problem_type="regression"), "problem_type=regression has 3 labels"),
        ("roberta_sequence", dict(id2label={"0": "a", "1": "b", "2": "a"}), "id2label has two classes of one name"),
    ],
)
def test_what_is_not_known_is_named_with_what_is(name, fields, message, tmp_path):
    (tmp_path / "modeling.py").write_text("raise SystemExit('was run')")
    with pytest.raises(mux_jax.InputError, match=message):
        mux_jax.load_pretrained(str(copy(name, tmp_path, **fields)))


def test_labels_may_be_several_and_in_any_order(tmp_path):
    names = {"2": "c", "0": "a", "1": "b"}
    folder = copy("roberta_sequence", tmp_path, id2label=names, problem_type="multi_label_classification")
    config, params = load(folder)
    assert config.labels == ("a", "b", "c") and config.multi_label
    (tmp_path / "back").mkdir()
    huggingface.write(folder / "back", config, params)
    assert load(folder / "back")[0] == config


def test_a_decoder_that_is_not_tied_is_read_and_written(tmp_path):
    folder = copy("bert_mlm", tmp_path, tie_word_embeddings=False)
    with pytest.raises(mux_jax.InputError, match="1 missing: cls.predictions.decoder.weight"):
        load(folder)
    config, params = load(epath.Path(FOLDER / "bert_mlm"))
    untied = ModelConfig.from_flat(config.to_flat() | dict(tie_word_embeddings=False))
    kernel = np.random.default_rng(0).normal(size=params["embeddings"]["word"].shape).astype(np.float32)
    params["vocabulary_head"]["kernel"] = kernel
    huggingface.write(folder, untied, params)
    back = load(folder)
    assert back[0] == untied
    assert_identical(back[1], params)
    change_config(folder, tie_word_embeddings=True)
    with pytest.raises(mux_jax.InputError, match="differ; .* unless config.json has tie_word_embeddings=false"):
        load(folder)


def test_the_rows_of_a_roberta_begin_after_its_padding(tmp_path):
    """Rows 0 and 1 of its table of positions are read by no text."""
    model, params = mux_jax.load_pretrained(str(FOLDER / "roberta_none"))
    assert model.config.max_length == 46
    tokens = np.full((1, 1, 46), 5)
    expected = model.apply({"params": params}, tokens)
    changed = params["embeddings"]["position"].at[:2].add(1.0)
    other = params | {"embeddings": params["embeddings"] | {"position": changed}}
    np.testing.assert_array_equal(model.apply({"params": other}, tokens), expected)
    with pytest.raises(mux_jax.InputError, match="rows of 47 positions, .* longer than the 46 that the model has"):
        jax.eval_shape(model.apply, {"params": params}, np.full((1, 1, 47), 5))


def test_token_types_of_a_model_without_them_are_refused():
    model, params = mux_jax.load_pretrained(str(FOLDER / "roberta_none"))
    tokens = np.full((1, 1, 4), 5)
    with pytest.raises(mux_jax.InputError, match="a model of roberta of width 1 has no token types"):
        model.apply({"params": params}, tokens, None, np.zeros((1, 1, 4), np.int32))


MULTIPLEXED = [name for name, cls in FAMILIES.items() if not cls.not_multiplexed]


@pytest.mark.parametrize(
    "family", [pytest.param(x, marks=() if x in ("roberta", "mpnet") else pytest.mark.extra) for x in MULTIPLEXED]
)
def test_every_family_starts_a_multiplexed_run(family, text_file, tmp_path, one_device):
    """By the configuration of a MUX-BERT; a step of rate 0 leaves what it started from."""
    folder = write_model(tmp_path / "model", architecture=family, width=1, vocab_size=170)
    config = small_run("bert", text_file, tmp_path)
    config.init_from, config.stages = str(folder), ("priming",)
    config.priming.update(steps=1, warmup_steps=1)
    train(config, str(tmp_path / "run"))
    (model, params), (plain, given) = (mux_jax.load_pretrained(str(path)) for path in (tmp_path / "run", folder))
    like_bert = plain.config.family.encodes_like(FAMILIES["bert"]())
    assert model.config.architecture == ("bert" if like_bert else family)
    assert (model.config.width, model.config.max_length) == (2, plain.config.max_length)
    for part in ("embeddings", "encoder"):
        assert_identical(params[part], given[part])


@pytest.mark.parametrize("family", MULTIPLEXED)
def test_rows_of_a_multiplexed_model_count_positions_from_0_whatever_is_padding(family):
    model, params = init(small_model(architecture=family, width=2))
    tokens = draw_tokens(model.config, length=8)
    padded = tokens.at[:, 0, 5:].set(1)
    states = apply(model, params, padded, padded != 1, method="encode")
    np.testing.assert_array_equal(states, apply(model, params, padded, method="encode"))
    moved = params["embeddings"]["position"].at[model.config.family.position_offset + 8 :].add(1.0)
    other = params | {"embeddings": params["embeddings"] | {"position": moved}}
    np.testing.assert_array_equal(states, apply(model, other, padded, method="encode"))


def test_a_modernbert_is_not_multiplexed_and_says_why():
    with pytest.raises(mux_jax.InputError, match="model.width=2: modernbert exists at width 1 only; .* LayerNorm"):
        small_model(architecture="modernbert", width=2)


@pytest.mark.extra
@pytest.mark.parametrize("family", FAMILIES)
def test_others_serve_what_was_fine_tuned_here(family, tmp_path, one_device):
    import torch
    import transformers

    model = write_model(tmp_path / "model", architecture=family, width=1, vocab_size=170)
    config = finetuning(write_sentences(tmp_path / "data"), model)
    train(config, str(tmp_path / "run"))
    convert(str(tmp_path / "run"), str(tmp_path / "out"))
    pairs = list(zip(sentences(5), sentences(5, seed=1)))
    cls = transformers.AutoModelForSequenceClassification
    theirs, info = cls.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[kind] for kind in info), info
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for texts, given in ((sentences(5), (sentences(5),)), (pairs, zip(*pairs))):
        inputs = tokenizer(*map(list, given), padding=True, return_tensors="pt")
        with torch.no_grad():
            expected = theirs.eval()(**inputs).logits.softmax(-1).numpy()
        for path in ("run", "out"):
            found = mux_jax.Predictor(str(tmp_path / path)).predict(texts)
            assert list(found[0]["probabilities"]) == list(theirs.config.label2id)
            values = [list(x["probabilities"].values()) for x in found]
            np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)


def test_a_decoder_that_is_not_tied_has_its_own_bias(tmp_path):
    """`transformers` saves another bias beside it, which it reads no more."""
    config, params = load(epath.Path(FOLDER / "bert_mlm"))
    untied = ModelConfig.from_flat(config.to_flat() | dict(tie_word_embeddings=False))
    params["vocabulary_head"]["kernel"] = np.ones_like(params["embeddings"]["word"])
    huggingface.write(epath.Path(tmp_path), untied, params)
    change_tensors(epath.Path(tmp_path), lambda found: found["cls.predictions.bias"].__iadd__(1))
    assert_identical(load(epath.Path(tmp_path))[1], params)


def test_the_folder_that_holds_the_model_is_named(tmp_path):
    inside = tmp_path / "whole" / "0_Transformer"
    inside.mkdir(parents=True)
    copy("bert_none", inside)
    with pytest.raises(mux_jax.InputError, match=f"no model there: .*; give {inside}"):
        mux_jax.load_pretrained(str(tmp_path / "whole"))
    with pytest.raises(mux_jax.InputError, match=f"; give its folder, {inside}"):
        mux_jax.load_pretrained(str(inside / "model.safetensors"))


def test_a_padding_token_of_two_numbers_is_said(tmp_path, capsys):
    folder = write_model(tmp_path / "model", architecture="roberta", width=1, vocab_size=170)
    open_model(str(folder)).tokenizer()
    assert "pad_token_id is 1 in config.json and 0 by the tokenizer" in capsys.readouterr().out
    change_config(epath.Path(folder), pad_token_id=0)
    open_model(str(folder)).tokenizer()
    assert "pad_token_id" not in capsys.readouterr().out
