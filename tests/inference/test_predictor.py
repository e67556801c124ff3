"""Predictions come in the order of the texts, one for each, from Python and from files."""

import concurrent.futures
import csv
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

import mux_jax
from mux_jax import cpu, locks
from mux_jax.checkpoints.source import open_model
from mux_jax.data.encoding import Encoded, Encoder
from mux_jax.data.formats import Record
from mux_jax.errors import InputError
from mux_jax.inference import files, records, writer
from mux_jax.inference.batch_runner import BatchRunner
from mux_jax.inference.loaded_model import in_dtype
from mux_jax.models.encoder import split_layers
from mux_jax.models.model import MuxModel
from mux_jax.parallel.mesh import make_mesh
from tests.conftest import small_model
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


@pytest.mark.parametrize("devices", [1, 4])
def test_few_texts_run_in_few_rows(devices):
    """Of 16 rows of two texts; more than half of the slots fill all."""
    model = MuxModel(small_model(**SEQUENCE))
    runner = BatchRunner(model, make_mesh(devices=jax.devices()[:devices]), 16, (8,), pad_id=0)
    for texts, slots, rows in ((1, 1, 1), (2, 1, 1), (3, 1, 2), (1, 2, 1), (9, 1, 8), (16, 1, 8), (17, 1, 16)):
        encoded = Encoded([np.full(5, i + 1, np.int32) for i in range(texts)], None, 0, [1] * texts)
        (batch,) = runner.batches(encoded, np.random.default_rng(0), slots)
        assert batch[1][0].shape == (max(rows, devices), 2, 8)
        assert set(batch[1][0][..., 0].ravel()) == set(range(1, texts + 1))  # each is there, and copies


def test_a_closed_predictor_says_so(double, one_device):
    with mux_jax.Predictor(str(double), rows=2) as predictor:
        assert len(predictor.predict(["time"])) == 1
    with pytest.raises(InputError, match="this Predictor is closed; make another"):
        predictor.predict(["time"])


def test_long_rows_run_in_smaller_batches():
    model = MuxModel(small_model(architecture="modernbert", width=1, max_position_embeddings=4096))
    mesh = make_mesh(devices=jax.devices()[:1])
    runner = BatchRunner(model, mesh, 8, (16, 512, 4096), pad_id=0)
    rng = np.random.default_rng(0)
    ids = [np.full(n, 5, np.int32) for n in rng.permutation([10] * 12 + [500] * 9 + [3000] * 8)]
    found = list(runner.batches(Encoded(ids, None, 0, [1] * len(ids)), rng))
    assert sorted(i for slots, _ in found for i in slots.examples[slots.real]) == list(range(len(ids)))
    shapes = {arrays[0].shape for _, arrays in found}
    assert shapes == {(8, 1, 16), (8, 1, 512), (1, 1, 4096)}


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
    for text in ("half \ud83d", ("a", "\ude00")):
        with pytest.raises(InputError, match=r"texts\[0\]: half of a surrogate pair, which is no character"):
            predictor.predict([text])


def test_a_tokenizer_without_a_mask_token_will_do(double, predictor, tmp_path, one_device):
    shutil.copytree(double, tmp_path / "m")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (double / name).read_text().replace('"mask_token": "[MASK]",', "").replace("[MASK]", "[unused]")
        (tmp_path / "m" / name).write_text(text)
    texts = sentences(5)
    assert open_model(str(tmp_path / "m")).tokenizer().special.mask is None
    assert mux_jax.Predictor(str(tmp_path / "m"), rows=4).predict(texts) == predictor.predict(texts)


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


@pytest.mark.parametrize(
    "given", ["A fine film.", b"fine", bytearray(b"a"), {"a": "b"}, {"a"}, frozenset("a"), None, 3, np.array([["a"]])]
)
def test_what_is_no_list_of_texts_is_not_taken_for_one(predictor, given):
    with pytest.raises(InputError, match=rf"a list of texts, not {type(given).__name__}; .* predict\(\[text\]\)"):
        predictor.predict(given)


def test_a_generator_of_texts_is_as_good_as_a_list(predictor):
    texts = sentences(3)
    assert predictor.predict(text for text in texts) == predictor.predict(texts) == predictor.predict(tuple(texts))
    assert predictor.predict(dict.fromkeys(texts).keys()) == predictor.predict(list(dict.fromkeys(texts)))
    with pytest.raises(InputError, match=r"texts\[1\]: half of a surrogate pair"):
        predictor.predict(text for text in ("time", "\ud83d"))


def test_only_the_columns_that_are_used_must_be_text(predictor, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "time", "x": "\\ud83d", "\\ude00": ["\\ud83d"]}\n' * 2)
    assert run(predictor, tmp_path / "in.jsonl", tmp_path / "out.jsonl") == {"rows": 2, "errors": 0}
    with pytest.raises(InputError, match="in.jsonl:1: half of a surrogate pair"):
        run(predictor, tmp_path / "in.jsonl", tmp_path / "x.jsonl", wanted=("x",))


def test_models_without_classes_are_refused(tmp_path):
    folder = write_model(tmp_path / "mlm")
    with pytest.raises(InputError, match="head 'mlm'; one for `sequence` or `token`"):
        mux_jax.Predictor(str(folder))


def predict_in_worker(predictor):
    return [prediction["label"] for prediction in predictor.predict(sentences(5))]


def test_a_predictor_goes_to_processes_and_threads(double):
    predictor = mux_jax.Predictor(str(double), rows=8, ensemble=2, seed=3)
    expected, truncated = predict_in_worker(predictor), predictor.truncated
    again = pickle.loads(pickle.dumps(predictor))
    assert predict_in_worker(again) == expected
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(predict_in_worker, [predictor] * 8)) == [expected] * 8
    assert predictor.truncated == 9 * truncated
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        assert pool.submit(predict_in_worker, predictor).result() == expected


def test_a_predictor_of_a_model_in_memory_is_not_pickled(predictor):
    in_memory = object.__new__(mux_jax.Predictor)
    in_memory._path = None
    with pytest.raises(TypeError, match="of a model in memory cannot be pickled; save it"):
        pickle.dumps(in_memory)


def test_a_forked_process_is_told_instead_of_hanging(predictor, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(InputError, match="forked from the one that made the Predictor, .*get_context..spawn"):
        predictor.predict(["time"])


@pytest.mark.parametrize("sent, status", [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_ends_a_prediction_with_one_line_and_nothing_half_written(double, tmp_path, sent, status):
    (tmp_path / "in.txt").write_text("\n".join(sentences(20_000)))
    (tmp_path / "out.jsonl.partial").write_text("theirs")
    arguments = ["--model", str(double), "--texts", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out.jsonl")]
    command = [sys.executable, "launch/predict.py", *arguments, "--rows", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("out.*-*.partial.jsonl")):
        assert process.poll() is None, process.stderr.read()
    process.send_signal(getattr(signal, sent))
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error.splitlines()[-1]) == (status, f"error: stopped by {sent}")
    assert "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.jsonl.partial"]


def run(predictor, source, output, max_errors=0.0, wanted=(), overwrite=False, delimiter=""):
    output = files.check_output(str(output), str(source), overwrite)
    source, columns = files.check_input(str(source), predictor.text_columns, wanted, delimiter)
    reading = records.Reading(columns=columns, delimiter=delimiter, max_errors=max_errors)
    return files.predict_file(predictor, source, reading, output, overwrite)


def test_files_in_and_out(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_WINDOW", 5)
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


def test_a_bad_line_stops_the_run_or_becomes_an_error_row(predictor, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text('{"text": "time"}\n{"text": 7}\nnot json\n{"text": "river"}\n')
    with pytest.raises(InputError, match=r"in.jsonl:2: no text in column 'text'"):
        run(predictor, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    with pytest.raises(InputError, match=r"2 of 4 records are bad, 50.0%; --max_errors=0.4 allows 40.0%. Nothing was"):
        run(predictor, tmp_path / "in.jsonl", tmp_path / "out.jsonl", max_errors=0.4)
    assert "in.jsonl:3: not JSON" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl"]
    assert run(predictor, tmp_path / "in.jsonl", tmp_path / "out.jsonl", max_errors=0.5) == {"rows": 4, "errors": 2}
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert ["error" in row for row in rows] == [False, True, True, False]


def test_an_open_quote_in_a_long_csv_is_one_error_by_its_line(predictor, tmp_path):
    texts = [f"{text}, {i}" for i, text in enumerate(sentences(300))]
    lines = [f'{i},"{text}"' for i, text in enumerate(texts)]
    lines[100] = lines[100][:-1]
    (tmp_path / "in.csv").write_text("id,text\n" + "\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"in.csv:102: an open quote"):
        run(predictor, tmp_path / "in.csv", tmp_path / "out.jsonl")
    assert run(predictor, tmp_path / "in.csv", tmp_path / "out.jsonl", max_errors=0.01) == {"rows": 300, "errors": 1}
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [i for i, row in enumerate(rows) if "error" in row] == [100]


def test_outputs_that_are_no_predictions_are_not_replaced(predictor, tmp_path):
    texts, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    texts.write_text('{"text": "time"}\n')
    with pytest.raises(InputError, match="in.jsonl is the file to read"):
        files.check_output(str(texts), str(texts), overwrite=True)
    run(predictor, texts, output)
    with pytest.raises(InputError, match="out.jsonl exists; --overwrite replaces it"):
        files.check_output(str(output), str(texts), overwrite=False)
    run(predictor, texts, output, overwrite=True)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(InputError, match="metrics.jsonl holds no predictions; --overwrite replaces only"):
        files.check_output(str(tmp_path / "metrics.jsonl"), str(texts), overwrite=True)
    with pytest.raises(InputError, match="must end in .jsonl, .tsv, .parquet"):
        files.check_output(str(tmp_path / "out.txt"), str(texts), overwrite=False)
    with locks.hold(epath.Path(tmp_path / ".out.jsonl.lock"), "x"):
        with pytest.raises(InputError, match="out.jsonl is being written by another process"):
            run(predictor, texts, output, overwrite=True)


def test_predictions_from_store_to_store(predictor, tmp_path, bucket):
    (bucket / "in.txt").write_text("\n".join(sentences(7)))
    run(predictor, f"{bucket}/in.txt", f"{bucket}/deep/out.jsonl")
    (tmp_path / "in.txt").write_text("\n".join(sentences(7)))
    run(predictor, tmp_path / "in.txt", tmp_path / "out.jsonl")
    assert (bucket / "deep" / "out.jsonl").read_text() == (tmp_path / "out.jsonl").read_text()
    assert [path.name for path in (bucket / "deep").iterdir()] == ["out.jsonl"]


def test_windows_are_bounded_by_characters_and_by_records(monkeypatch):
    monkeypatch.setattr(records, "_WINDOW", 3)
    monkeypatch.setattr(records, "_WINDOW_CHARACTERS", 10)
    found = [Record("", {"text": "x" * n}) for n in (1, 1, 1, 20, 4, 4, 4, 1)]
    assert [len(window) for window in records._windows(found)] == [3, 1, 3, 1]


def test_columns_are_found_or_those_there_are_named(predictor, tmp_path):
    (tmp_path / "in.tsv").write_text("a\tb\ntime\triver\n")
    with pytest.raises(InputError, match="no column 'text'; there are: 'a', 'b'; --text_columns"):
        run(predictor, tmp_path / "in.tsv", tmp_path / "out.jsonl")
    assert run(predictor, tmp_path / "in.tsv", tmp_path / "out.jsonl", wanted=("a", "b"))["rows"] == 1
    (tmp_path / "empty.tsv").write_text("")
    with pytest.raises(InputError, match="empty.tsv: empty file"):
        run(predictor, tmp_path / "empty.tsv", tmp_path / "out2.jsonl")


@pytest.fixture(scope="module")
def tagger(single):
    return mux_jax.Predictor(str(single), rows=8)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("in.txt", "time x a\nriver x c\n\nstone x b\n"),
        ("in.txt", "time\nriver\n\nstone\n"),
        ("in.txt", "time river\n\nstone\n"),
        ("in.conll", "# id 1\tdomain=en\ntime _ a\nriver _ c\n\n\nstone _ b\n"),
        ("in.conll", "time\nriver\n\nstone\n"),
        ("in.conll", "time\ta\nriver\tb\n\nstone\tc\n"),
        ("in.jsonl", '{"words": ["time", "river"]}\n{"words": ["stone"]}\n'),
    ],
)
def test_words_are_taken_from_files_as_people_have_them(tagger, tmp_path, capsys, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert run(tagger, tmp_path / name, tmp_path / "out.jsonl") == {"rows": 2, "errors": 0}
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == tagger.predict([["time", "river"], ["stone"]])
    assert capsys.readouterr().out.count("1 lines left out as comments, the first is line 1") == ("#" in text)


def test_no_break_spaces_stay_in_words_from_file_to_file(tagger, tmp_path):
    words = ["10\u00a0000", "\u00a0", "time"]
    (tmp_path / "in.conll").write_text("".join(f"{word} a\n" for word in words), encoding="utf-8")
    run(tagger, tmp_path / "in.conll", tmp_path / "out.jsonl")
    row = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))
    assert row["words"] == words and row["tags"][1] is None and len(row["tags"]) == 3
    assert tagger.predict([" ".join(words)]) == [row]
    run(tagger, tmp_path / "in.conll", tmp_path / "out.tsv")
    found, tags, _ = (tmp_path / "out.tsv").read_text(encoding="utf-8").splitlines()[1].split("\t")
    assert found.split(" ") == words and tags.split(" ")[1] == "_"


def test_a_cell_of_a_tsv_keeps_all_but_tabs_and_ends_of_lines():
    assert writer._cell(["a b", "", " ", None, "\u00a0", "c\td"]) == "a_b _ _ _ \u00a0 c_d"
    assert writer._cell(" very  good\u00a0!\t\n") == " very  good\u00a0! " and writer._cell(None) == ""


@pytest.mark.extra  # for its time
def test_the_command_reads_tables_as_european_excel_writes_them(double, tmp_path):
    (tmp_path / "in.csv").write_bytes('\ufeffid; text\r\n1;"time; river"\r\n2;stone\r\n'.encode())
    command = [sys.executable, "launch/predict.py", "--model", str(double), "--texts", str(tmp_path / "in.csv")]
    command += ["--output", str(tmp_path / "out.jsonl"), "--text_columns", " text"]

    def call(*arguments):
        return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)

    done = call("--delimiter", "\\t")
    assert done.returncode == 2 and "--delimiter='\\\\t' cannot be a delimiter" in done.stderr, done.stderr
    done = call()
    assert done.returncode == 2 and "there are: 'id; text'; if the delimiter is ';': --delimiter=';'" in done.stderr
    done = call("--delimiter", ";")
    assert done.returncode == 0 and len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 2, done.stderr


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


def test_products_are_in_bfloat16_where_the_cpu_has_them(double, one_device, monkeypatch, capsys):
    monkeypatch.setattr(cpu, "has_bfloat16", lambda: True)
    fast, exact = mux_jax.Predictor(str(double)), mux_jax.Predictor(str(double), dtype="float32")
    assert capsys.readouterr().out.count("matrix products in bfloat16, which this CPU has") == 1
    assert (fast.config.dtype, exact.config.dtype) == ("bfloat16", "float32")
    ours, theirs = (np.stack(p.logits(sentences(50))) for p in (fast, exact))
    assert 0 < np.abs(ours - theirs).max() < 0.02
    assert pickle.loads(pickle.dumps(exact)).config.dtype == "float32"
    with pytest.raises(InputError, match="dtype=float16 does not exist; there are: auto, float32, bfloat16"):
        mux_jax.Predictor(str(double), dtype="float16")


def test_a_dtype_that_training_was_given_is_that_of_predictions(monkeypatch):
    monkeypatch.setattr(cpu, "has_bfloat16", lambda: True)
    assert in_dtype(small_model(dtype="float32")).dtype == "float32"
    monkeypatch.setattr(cpu, "has_bfloat16", lambda: False)
    assert in_dtype(small_model()).dtype == "float32"
