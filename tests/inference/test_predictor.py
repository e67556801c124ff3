"""Predictions come in the order of the texts, one for each, from Python and from files."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import mux_jax
from mux_jax.checkpoints.source import open_model
from mux_jax.data.encoding import Encoder
from mux_jax.errors import InputError
from mux_jax.inference import files
from mux_jax.inference.batch_runner import BatchRunner
from mux_jax.models.encoder import split_layers
from mux_jax.parallel.mesh import make_mesh
from tests.tasks import LABELS, sentences, write_model

ROOT = Path(__file__).parents[2]
SEQUENCE = dict(head="sequence", labels=LABELS)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("m") / "single", width=1, head="token", labels=("a", "b", "c"))


@pytest.fixture(scope="module")
def double(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("m") / "double", **SEQUENCE)


@pytest.fixture(scope="module")
def predictor(double):
    with pytest.MonkeyPatch.context() as patch:
        one = jax.local_devices()[:1]
        patch.setattr(jax, "local_devices", lambda: one)
        yield mux_jax.Predictor(str(double), rows=4)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 50])
def test_any_number_of_texts_gets_a_prediction_each(predictor, count):
    found = predictor.predict(sentences(count))
    assert len(found) == count
    for prediction in found:
        assert prediction["label"] == max(prediction["probabilities"], key=prediction["probabilities"].get)
        assert sum(prediction["probabilities"].values()) == pytest.approx(1)
        assert tuple(prediction["probabilities"]) == LABELS


def test_texts_and_pairs_and_the_same_answer_twice(predictor):
    texts = ["time river", ("time", "river"), "", "time river"]
    assert predictor.predict(texts) == predictor.predict(texts)
    with pytest.raises(InputError, match=r"texts\[1\]: int is not a text or a pair of texts"):
        predictor.predict(["a", 3])


def test_it_says_once_that_pairs_have_no_token_types_with_a_model_from_elsewhere(tmp_path, capsys):
    predictor = mux_jax.Predictor(str(write_model(tmp_path / "m", **SEQUENCE | dict(width=1))), rows=1)
    for texts in (["time"], [("time", "river")], [("time", "river")]):
        predictor.predict(texts)
    assert capsys.readouterr().out.count("pairs: token types are 0 for both texts") == 1


def classifier(folder, rows=2, devices=1):
    found = open_model(str(folder))
    mesh = make_mesh(devices=jax.devices()[:devices])
    model, params = mux_jax.load_pretrained(str(folder))
    pad = 0
    return BatchRunner(model, mesh, rows, (8, 16, 32), pad), found.params(mesh), Encoder(found.tokenizer(), 32), model


def test_logits_are_those_of_the_model_on_the_composed_rows(double):
    classify, params, encode, model = classifier(double, rows=1)
    encoded = encode(["time river stone", "winter"])
    found = classify(split_layers(params), encoded, np.random.default_rng(0))
    tokens = np.zeros((1, 2, 8), int)
    expected = {}
    for order in ((0, 1), (1, 0)):
        for slot, example in enumerate(order):
            tokens[0, slot] = 0
            tokens[0, slot, : len(encoded.ids[example])] = encoded.ids[example]
        expected[order] = np.asarray(model.apply({"params": params}, tokens, tokens != 0))[0][np.argsort(order)]
    assert any(np.allclose(found, logits, atol=1e-5) for logits in expected.values())


def test_an_ensemble_averages_over_slots(double):
    classify, params, encode, model = classifier(double, rows=1)
    encoded = encode(["time river stone"])
    found = classify(split_layers(params), encoded, np.random.default_rng(0), ensemble=2)
    tokens = np.zeros((1, 2, 8), int)
    tokens[0, :, : len(encoded.ids[0])] = encoded.ids[0]
    expected = model.apply({"params": params}, tokens, tokens != 0)[0].mean(0)
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


def test_width_1_does_not_see_other_texts_or_devices(single):
    texts = [s.split() for s in sentences(11)]
    order = np.random.default_rng(0).permutation(11)
    results = []
    for rows, devices, chosen in ((2, 1, range(11)), (8, 8, order)):
        classify, params, encode, _ = classifier(single, rows, devices)
        logits = classify(split_layers(params), encode([texts[i] for i in chosen]), np.random.default_rng(rows))
        results.append(dict(zip(chosen, logits)))
    for i in range(11):
        assert len(results[0][i]) == len(texts[i])
        np.testing.assert_allclose(results[0][i], results[1][i], atol=1e-5)


def test_words_beyond_the_limit_have_no_tag(single):
    found = mux_jax.Predictor(str(single), rows=8)
    words = ["time"] * 60
    prediction = found.predict([words, "river stone"])
    assert prediction[0]["words"] == words and prediction[0]["tags"][-1] is None
    assert set(prediction[0]["tags"][:20]) <= {"a", "b", "c"} and len(prediction[0]["tags"]) == 60
    assert [len(p["tags"]) for p in prediction] == [60, 2] and found.truncated == 1
    with pytest.raises(InputError, match=r"texts\[1\]: a sentence of zero words"):
        found.predict(["a", "  "])


def test_one_text_alone_is_not_taken_for_its_characters(predictor):
    with pytest.raises(InputError, match=r"predict\(\[text\]\)"):
        predictor.predict("A fine film.")


def test_models_without_classes_are_refused(tmp_path):
    folder = write_model(tmp_path / "mlm")
    with pytest.raises(InputError, match="head 'mlm'; one for `sequence` or `token`"):
        mux_jax.Predictor(str(folder))


def run(predictor, source, output, skip=False, wanted=()):
    output = files.check_output(str(output), overwrite=False)
    source, columns = files.check_input(str(source), predictor.text_columns, wanted)
    return files.predict_file(predictor, source, columns, output, skip)


def test_files_in_and_out(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_WINDOW", 5)
    texts = sentences(12)
    (tmp_path / "in.txt").write_text("\n".join(texts))
    (tmp_path / "in.csv").write_text("id,text\n" + "".join(f"{i},{t}\n" for i, t in enumerate(texts)))
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    for name in ("in.txt", "in.csv", "in.jsonl"):
        assert run(predictor, tmp_path / name, tmp_path / f"{name}.jsonl") == {"rows": 12, "errors": 0}
    lines = [json.loads(line) for line in (tmp_path / "in.txt.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines[:5]] == [p["label"] for p in predictor.predict(texts[:5])]
    assert (tmp_path / "in.csv.jsonl").read_text() == (tmp_path / "in.jsonl.jsonl").read_text()
    run(predictor, tmp_path / "in.txt", tmp_path / "out.tsv")
    with (tmp_path / "out.tsv").open() as f:
        rows = list(csv.DictReader(f, delimiter="\t"))
    assert [row["label"] for row in rows] == [line["label"] for line in lines]
    assert float(rows[0]["probability_stone"]) == pytest.approx(lines[0]["probabilities"]["stone"])


@pytest.mark.extra
def test_predictions_as_parquet(predictor, tmp_path):
    import pyarrow.parquet

    (tmp_path / "in.txt").write_text("\n".join(sentences(9)))
    run(predictor, tmp_path / "in.txt", tmp_path / "out.parquet")
    labels = pyarrow.parquet.read_table(tmp_path / "out.parquet").column("label").to_pylist()
    assert labels == [prediction["label"] for prediction in predictor.predict(sentences(9))]


def test_a_bad_line_stops_the_run_or_becomes_an_error_row(predictor, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "time"}\n{"text": 7}\nnot json\n{"text": "river"}\n')
    with pytest.raises(InputError, match=r"in.jsonl:2: no text in column 'text'"):
        run(predictor, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl"]
    assert run(predictor, tmp_path / "in.jsonl", tmp_path / "out.jsonl", skip=True) == {"rows": 4, "errors": 2}
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert ["error" in row for row in rows] == [False, True, True, False]
    with pytest.raises(InputError, match="out.jsonl exists; --overwrite replaces it"):
        files.check_output(str(tmp_path / "out.jsonl"), overwrite=False)
    with pytest.raises(InputError, match="must end in .jsonl, .tsv, .parquet"):
        files.check_output(str(tmp_path / "out.txt"), overwrite=False)


def test_columns_are_found_or_those_there_are_named(predictor, tmp_path):
    (tmp_path / "in.tsv").write_text("a\tb\ntime\triver\n")
    with pytest.raises(InputError, match="no column 'text'; there are: a, b; --text_columns"):
        run(predictor, tmp_path / "in.tsv", tmp_path / "out.jsonl")
    assert run(predictor, tmp_path / "in.tsv", tmp_path / "out.jsonl", wanted=("a", "b"))["rows"] == 1
    (tmp_path / "empty.tsv").write_text("")
    with pytest.raises(InputError, match="empty.tsv: empty file"):
        run(predictor, tmp_path / "empty.tsv", tmp_path / "out2.jsonl")


def test_the_command_predicts_tags(single, tmp_path):
    (tmp_path / "in.conllu").write_text("1\ttime\t_\tNOUN\t_\t_\t_\t_\t_\t_\n2\triver\t_\tNOUN\t_\t_\t_\t_\t_\t_\n\n")
    arguments = ["--model", str(single), "--texts", str(tmp_path / "in.conllu")]
    command = [sys.executable, "launch/predict.py", *arguments, "--output", str(tmp_path / "out.tsv")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    header, row = (tmp_path / "out.tsv").read_text().splitlines()
    assert header == "words\ttags\terror" and row.startswith("time river\t")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "exists; --overwrite" in done.stderr and "Traceback" not in done.stderr
