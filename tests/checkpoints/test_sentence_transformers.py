"""Folders of sentence-transformers: embeddings are that library's, modules and prompts are read, others are named."""

import json
import shutil

import huggingface_hub
import jax
import numpy as np
import pytest
from etils import epath
from huggingface_hub.errors import EntryNotFoundError

import mux_jax
from mux_jax.checkpoints import hub
from mux_jax.checkpoints.convert import convert
from mux_jax.checkpoints.source import open_model
from mux_jax.errors import InputError
from mux_jax.inference import files
from mux_jax.inference.records import Reading, Wanted
from tests.conftest import apply, draw_tokens, init, small_model
from tests.tasks import sentences, write_embedder, write_model

TEXTS = [*sentences(30), "", "time " * 100]
PROMPTS = {"query": "river: ", "passage": "stone: "}


def test_a_folder_gives_embeddings_of_any_number_of_texts(tmp_path, one_device):
    folder = write_embedder(tmp_path / "m", projections=((12, "tanh", True), (8, "", False)))
    found = open_model(str(folder))
    assert (found.config.head, found.config.dimensions, found.bucket_lengths()[-1]) == ("embedding", 8, 32)
    predictor = mux_jax.Predictor(str(folder))
    embeddings = predictor.embed(TEXTS)
    assert embeddings.shape == (32, 8) and embeddings.dtype == np.float32 and predictor.truncated == 1
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(predictor.embed(TEXTS[:3]), embeddings[:3], atol=1e-6)
    assert predictor.embed([]).shape == (0, 8)
    cut = predictor.embed(TEXTS, dimensions=3)
    expected = embeddings[:, :3] / np.linalg.norm(embeddings[:, :3], axis=-1, keepdims=True)
    np.testing.assert_allclose(cut, expected, atol=1e-6)


def test_a_prompt_stands_before_the_text(tmp_path, one_device):
    folder = write_embedder(tmp_path / "m", prompts=PROMPTS | {"": PROMPTS["passage"]})
    predictor = mux_jax.Predictor(str(folder))
    plain = mux_jax.Predictor(str(write_embedder(tmp_path / "plain")))
    np.testing.assert_allclose(predictor.embed(["time"], "query"), plain.embed(["river: time"]), atol=1e-6)
    np.testing.assert_allclose(predictor.embed(["time"]), plain.embed(["stone: time"]), atol=1e-6)
    with pytest.raises(InputError, match="prompt=title does not exist; the model's prompts are: query, passage"):
        predictor.embed(["time"], "title")
    with pytest.raises(InputError, match="the model's prompts are: none"):
        plain.embed(["time"], "query")


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "mean_sqrt_length"])
def test_padding_and_what_is_beside_it_do_not_change_an_embedding(pooling):
    config = small_model(head="embedding", pooling=pooling, width=1, normalize=False)
    model, params = init(config)
    tokens = draw_tokens(config, rows=2, length=6)
    long = jax.numpy.pad(tokens, ((0, 0), (0, 0), (0, 4)))
    np.testing.assert_allclose(apply(model, params, tokens), apply(model, params, long, long != 0), atol=1e-5)


@pytest.mark.parametrize("demultiplexer", ["rsa", "prefix"])
def test_a_multiplexed_model_pools_each_instances_own_tokens(demultiplexer):
    """What is behind the end of one instance, masked there, changes the mixture but is not pooled."""
    options = {"prefix_token_id": 40, "cls_token_id": 2} if demultiplexer == "prefix" else {}
    config = small_model(head="embedding", width=2, normalize=False, demultiplexer=demultiplexer, **options)
    model, params = init(config)
    tokens = draw_tokens(config, rows=2, length=6)
    mask = np.ones(tokens.shape, bool)
    mask[:, 0, 4:] = False
    found = apply(model, params, tokens, mask)
    states = apply(model, params, tokens, mask, method="encode")
    each = apply(model, params, states, method="demultiplex")[:, :, config.prefix_length :]
    assert found.shape == (2, 2, 32)
    np.testing.assert_allclose(found[:, 0], each[:, 0, :4].mean(1), atol=1e-5)
    np.testing.assert_allclose(found[:, 1], each[:, 1].mean(1), atol=1e-5)


@pytest.mark.parametrize("end", ["npy", "jsonl", "parquet"])
def test_files_of_embeddings(tmp_path, end, one_device):
    predictor = mux_jax.Predictor(str(write_embedder(tmp_path / "m")))
    (tmp_path / "in.jsonl").write_text('{"text": "time river"}\n{"text": 3}\n{"text": "stone"}\n')
    output = files.check_output(str(tmp_path / f"out.{end}"), "", False)
    source, columns = files.check_input(str(tmp_path / "in.jsonl"), predictor.text_columns, ())
    reading = Reading(columns=columns, max_errors=0.5, wanted=Wanted(dimensions=5))
    assert files.predict_file(predictor, source, reading, output) == {"rows": 3, "errors": 1}
    expected = predictor.embed(["time river", "stone"], dimensions=5)
    if end == "npy":
        found = np.load(output, mmap_mode="r")
        assert found.shape == (3, 5) and found.dtype == np.float32 and np.isnan(found[1]).all()
    elif end == "jsonl":
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        assert "in.jsonl" in rows[1]["error"] and "embedding" not in rows[1]
        found = [rows[0]["embedding"], None, rows[2]["embedding"]]
    else:
        found = pytest.importorskip("pyarrow.parquet").read_table(output)["embedding"].to_pylist()
        assert found[1] is None
    np.testing.assert_allclose([found[0], found[2]], expected, atol=1e-7)
    with pytest.raises(InputError, match="exists; --overwrite replaces it"):
        files.check_output(str(output), "", False)
    files.check_output(str(output), "", True)


def test_what_does_not_go_together_is_said_before_work(tmp_path, one_device):
    predictor = mux_jax.Predictor(str(write_embedder(tmp_path / "m")))
    classifier = mux_jax.Predictor(str(write_model(tmp_path / "c", width=1, head="sequence", labels=("a", "b"))))
    (tmp_path / "in.txt").write_text("time\n")
    for asked, output, options, message in (
        (predictor, "out.tsv", {}, "is no place for embeddings; write .npy, .parquet or .jsonl"),
        (predictor, "out.npy", {"keep": ("id",)}, "holds embeddings alone, and no --keep=id"),
        (classifier, "out.npy", {}, "holds embeddings alone, and no predictions"),
        (classifier, "out.jsonl", {"wanted": Wanted(dimensions=3)}, "this model gives no embeddings"),
        (
            predictor,
            "out.npy",
            {"wanted": Wanted(dimensions=99)},
            "dimensions=99 must be from 1 to 32, those of the model",
        ),
    ):
        source, output = epath.Path(tmp_path / "in.txt"), epath.Path(tmp_path / output)
        with pytest.raises(InputError, match=message):
            files.predict_file(asked, source, Reading(columns=("text",), **options), output)
        assert not output.exists()
    with pytest.raises(InputError, match="this model gives embeddings, and nothing to predict"):
        predictor.predict(["time"])
    with pytest.raises(InputError, match=r"texts\[1\]: tuple is not a text"):
        predictor.embed(["time", ("river", "stone")])
    (tmp_path / "array.npy").write_text("theirs")
    with pytest.raises(InputError, match="holds no predictions; --overwrite replaces only"):
        files.check_output(str(tmp_path / "array.npy"), "", True)


def change(folder, file, change):
    described = json.loads((folder / file).read_text())
    change(described)
    (folder / file).write_text(json.dumps(described))


@pytest.mark.parametrize(
    "file, change_it, message",
    [
        (
            "modules.json",
            lambda x: x[1].update(type="sentence_transformers.models.LSTM"),
            "the module LSTM is not known",
        ),
        ("modules.json", lambda x: x.pop(1), "the module Normalize is not known here, or not in this place"),
        ("modules.json", lambda x: x.clear(), "no Pooling, which makes one embedding"),
        ("modules.json", lambda x: x[0].pop("path"), "each module must have `type` and `path`"),
        ("1_Pooling/config.json", lambda x: x.update(pooling_mode="lasttoken"), "pooling by lasttoken is not known"),
        ("1_Pooling/config.json", lambda x: x.update(pooling_mode_cls_token=True), "one of them"),
        ("1_Pooling/config.json", lambda x: x.update(include_prompt=False), "include_prompt=false"),
        ("sentence_bert_config.json", lambda x: x.update(do_lower_case=True), "do_lower_case=true is not supported"),
        ("config_sentence_transformers.json", lambda x: x.update(default_prompt_name="no"), "default_prompt_name='no'"),
    ],
)
def test_modules_that_are_not_known_are_named(tmp_path, file, change_it, message):
    folder = write_embedder(tmp_path / "m")
    change(folder, file, change_it)
    with pytest.raises(InputError, match=message):
        open_model(str(folder))


def test_an_embedding_model_is_converted_both_ways(tmp_path, one_device):
    folder = write_embedder(tmp_path / "m", "max", ((8, "tanh", True),), prompts=PROMPTS)
    expected = mux_jax.Predictor(str(folder)).embed(TEXTS, "query")
    convert(str(folder), str(tmp_path / "native"))
    convert(str(tmp_path / "native"), str(tmp_path / "back"))
    for name in ("native", "back"):
        np.testing.assert_allclose(mux_jax.Predictor(str(tmp_path / name)).embed(TEXTS, "query"), expected, atol=1e-6)
    convert(str(tmp_path / "native"), str(tmp_path / "back"), overwrite=True)


def test_a_program_of_an_embedding_model_gives_its_embeddings(tmp_path, one_device):
    folder = write_embedder(tmp_path / "m", prompts=PROMPTS)
    found = mux_jax.export(str(folder), str(tmp_path / "x"), "stablehlo")
    assert found["difference"] < 1e-5 and found["agreement"] > 0.99999
    ours, theirs = (mux_jax.Predictor(str(path)).embed(TEXTS, "query") for path in (folder, tmp_path / "x"))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_module_without_its_settings_is_missing(tmp_path):
    folder = write_embedder(tmp_path / "m")
    (folder / "1_Pooling/config.json").unlink()
    with pytest.raises(InputError, match="1_Pooling/config.json is missing, which says how an embedding is made"):
        open_model(str(folder))


def test_all_modules_of_a_model_of_the_hub_are_fetched(tmp_path, monkeypatch, one_device):
    source, cache = write_embedder(tmp_path / "m", projections=((8, "tanh", True),)), tmp_path / "0123"

    def download(_, file, revision):
        if not (source / file).exists():
            raise EntryNotFoundError(file)
        (cache / file).parent.mkdir(parents=True, exist_ok=True)
        return shutil.copy(source / file, cache / file)

    monkeypatch.setattr(hub, "_cached", lambda _: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    ours, theirs = (mux_jax.Predictor(path).embed(TEXTS) for path in (str(source), "owner/embedder"))
    np.testing.assert_array_equal(ours, theirs)


def test_weights_of_a_projection_are_missing_or_of_another_shape(tmp_path):
    folder = write_embedder(tmp_path / "m", projections=((8, "tanh", True),))
    change(folder, "2_Dense/config.json", lambda x: x.update(out_features=9))
    with pytest.raises(InputError, match=r"2_Dense/model.safetensors: must have .*\(9, 32\)"):
        mux_jax.Predictor(str(folder))
    (folder / "2_Dense/model.safetensors").unlink()
    with pytest.raises(InputError, match="2_Dense: no weights of a Dense layer there"):
        mux_jax.Predictor(str(folder))


@pytest.mark.extra
@pytest.mark.parametrize(
    "pooling, projections, normalize",
    [
        ("mean", (), True),
        ("cls", ((12, "tanh", True),), False),
        ("max", ((12, "gelu", False), (8, "", True)), True),
        ("mean_sqrt_length", ((12, "relu", True),), False),
    ],
)
def test_embeddings_are_those_of_the_library(tmp_path, pooling, projections, normalize, one_device):
    from sentence_transformers import SentenceTransformer

    folder = write_embedder(tmp_path / "m", pooling, projections, normalize, PROMPTS, limit=24)
    theirs = SentenceTransformer(str(folder), device="cpu")
    ours = mux_jax.Predictor(str(folder))
    for prompt in (None, "query"):
        expected = theirs.encode(TEXTS, prompt_name=prompt)
        np.testing.assert_allclose(ours.embed(TEXTS, prompt), expected, atol=2e-5)
    theirs.save(str(tmp_path / "saved"))  # as their newest version writes it
    saved = mux_jax.Predictor(str(tmp_path / "saved"))
    np.testing.assert_allclose(saved.embed(TEXTS), ours.embed(TEXTS), atol=1e-6)
