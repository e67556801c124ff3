"""On Apache Beam, for real: files by `launch/predict.py`, texts by `RunInference`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import mux_jax
from mux_jax.errors import InputError
from tests.bulk.test_folder import FILES, command, outputs, write_files
from tests.tasks import LABELS, sentences, write_embedder, write_model

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.extra
PROCESSES = ("--runner=DirectRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_model(tmp_path_factory.mktemp("m") / "double", sharpen=True, head="sequence", labels=LABELS))


def test_workers_write_what_one_process_writes(model, tmp_path):
    write_files(tmp_path / "in")
    texts = tmp_path / "in" / "**" / "*.jsonl"
    for output, more in (("one", ()), ("beam", ("--", *PROCESSES))):
        run = command(model, texts, tmp_path / output, *more)
        done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and "3 files, 48 rows, 0 errors" in done.stdout, done.stdout + done.stderr
    assert outputs(tmp_path / "beam") == outputs(tmp_path / "one") and len(outputs(tmp_path / "one")) == len(FILES)
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "3 files are whole; 0 to do" in done.stdout, done.stdout + done.stderr


def test_a_bad_file_is_named_and_others_are_done(model, tmp_path):
    write_files(tmp_path / "in", {"a.jsonl": 3, "b.jsonl": 2})
    (tmp_path / "in" / "a.jsonl").write_text('{"id": 1, "text": "time"}\n{"id": 2, "te')
    run = command(model, tmp_path / "in" / "*.jsonl", tmp_path / "out", "--", "--runner=DirectRunner")
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "a.jsonl:2" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert outputs(tmp_path / "out").keys() == {"b.jsonl"}


def inferred(model, texts, *, keyed=False, exceptions=False, **keywords):
    """The inference for each text, by RunInference in a process of its own: Beam and JAX leave threads behind."""
    program = """
import json, sys
import apache_beam as beam
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
from mux_jax.bulk.beam import MuxModelHandler

if __name__ == "__main__":
    model, texts, output, keyed, exceptions, keywords = json.loads(sys.argv[1])
    handler = MuxModelHandler(model, **keywords)
    if keyed:
        handler, texts = KeyedModelHandler(handler), list(enumerate(texts))
    run = RunInference(handler)

    def plain(found):
        key, result = found if keyed else (None, found)
        return json.dumps([key, result.example, result.inference], default=lambda x: x.tolist())

    options = beam.options.pipeline_options.PipelineOptions(["--runner=DirectRunner"])
    with beam.Pipeline(options=options) as pipeline:
        found = pipeline | beam.Create(texts)
        if exceptions:
            good, bad = found | run.with_exception_handling()
            bad = bad.failed_inferences | beam.Map(lambda x: json.dumps(["bad", str(x)]))
            bad | "B" >> beam.io.WriteToText(output + "-bad")
        else:
            good = found | run
        good | beam.Map(plain) | "G" >> beam.io.WriteToText(output + "-good")
"""
    folder = Path(keywords.pop("folder"))
    arguments = json.dumps([model, texts, str(folder / "out"), keyed, exceptions, keywords])
    (folder / "program.py").write_text(program)
    done = subprocess.run([sys.executable, folder / "program.py", arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for path in sorted(folder.glob("out-*")) for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("large_model", (False, True))
def test_run_inference_gives_the_answers_of_the_predictor(model, tmp_path, large_model):
    texts = sentences(20)
    options = {"alone": True, "dtype": "float32", "rows": 4}
    found = inferred(model, texts, folder=tmp_path, keyed=True, large_model=large_model, max_batch_size=8, **options)
    expected = mux_jax.Predictor(model, **options).predict(texts)
    assert sorted(key for key, _, _ in found) == list(range(20))
    for key, text, inference in found:
        assert text == texts[key] and inference["label"] == expected[key]["label"]
        assert inference["probabilities"] == pytest.approx(expected[key]["probabilities"], abs=1e-5)


def test_run_inference_embeds(tmp_path):
    embedder = str(write_embedder(tmp_path / "m"))
    found = inferred(embedder, ["time", "stone"], folder=tmp_path, dtype="float32", dimensions=4)
    expected = mux_jax.Predictor(embedder, dtype="float32").embed(["time", "stone"], dimensions=4)
    for text, row in zip(("time", "stone"), expected):
        (embedding,) = [inference for _, example, inference in found if example == text]
        assert embedding == pytest.approx(row.tolist(), abs=1e-5)


def test_failed_batches_are_kept_apart_where_asked(model, tmp_path):
    texts = ["time", 3, "river"]
    found = inferred(model, texts, folder=tmp_path, exceptions=True, min_batch_size=1, max_batch_size=1)
    assert sorted(x[1] for x in found if x[0] is None) == ["river", "time"]
    (bad,) = [x for x in found if x[0] == "bad"]
    assert "int is not a text" in bad[1]


def test_keywords_are_checked_and_passed_on(model):
    from mux_jax.bulk.beam import MuxModelHandler

    handler = MuxModelHandler(model, max_batch_size=64, large_model=True, rows=8)
    assert handler.batch_elements_kwargs() == {"min_batch_size": 64, "max_batch_size": 64}
    assert handler.share_model_across_processes() and handler.get_metrics_namespace() == "mux_jax"
    assert handler.get_num_bytes(["\u00e9", ("a", "bc")]) == 5
    with pytest.raises(InputError, match="batch_size is no option; there are: rows, "):
        MuxModelHandler(model, batch_size=3)
