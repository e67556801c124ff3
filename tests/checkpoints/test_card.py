"""Model cards say what is known of a model, and no folder of the machine that it was made on."""

import dataclasses
import json

from etils import epath

from mux_jax.checkpoints.card import model_card
from mux_jax.checkpoints.convert import convert
from mux_jax.checkpoints.source import open_model
from tests.tasks import LABELS, write_model


def test_a_converted_folder_has_a_card(tmp_path):
    write_model(tmp_path / "first", head="sequence", labels=LABELS)
    convert(str(tmp_path / "first"), str(tmp_path / "native"))
    assert not (tmp_path / "native" / "README.md").exists()
    convert(str(tmp_path / "native"), str(tmp_path / "back"))
    card = (tmp_path / "back" / "README.md").read_text()
    assert card.startswith("---\nlicense:  # fill in\nlibrary_name: mux_jax\ntags: [data-multiplexing]\n")
    assert "N = 2 texts a row" in card and "depends a little on the other texts of its row" in card
    assert "| labels | fruit, stone |" in card and str(tmp_path) not in card and "judged" not in card


def test_what_somebody_wrote_into_a_card_stays(tmp_path):
    write_model(tmp_path / "first", head="sequence", labels=LABELS)
    for name, other in (("first", "native"), ("native", "back")):
        convert(str(tmp_path / name), str(tmp_path / other))
        (tmp_path / other / "README.md").write_text("mine, under the MIT licence")
        convert(str(tmp_path / name), str(tmp_path / other), overwrite=True)
        assert (tmp_path / other / "README.md").read_text() == "mine, under the MIT licence"


def written(tmp_path, run, result=None, report=None):
    """The card of a run of width 1 with these files."""
    found = open_model(str(write_model(tmp_path / "run", width=1, head="sequence", labels=LABELS)))
    for name, text in (("result", result), ("report", report)):
        if text:
            (epath.Path(tmp_path / "run") / f"{name}.json").write_text(json.dumps(text))
    return model_card("mine", dataclasses.replace(found, run=run), 1_000)


def test_a_card_has_the_scores_of_the_run(tmp_path):
    scores = {"mean": 0.9, "std": 0.01, "runs": [0.89, 0.91]}
    run = {"init_from": "hf://sentence-transformers/all-MiniLM-L6-v2@abc", "data": {"task": "sst2"}}
    card = written(tmp_path, run, {"splits": {"dev": {"accuracy": scores}}})
    assert "library_name: transformers\n" in card and "data-multiplexing" not in card
    assert "base_model: sentence-transformers/all-MiniLM-L6-v2\n" in card
    assert "| dev | accuracy | 0.9000 | 0.0100 |" in card and "Not measured" in card
    assert "An answer depends on its own text alone." in card and "| data | `sst2` |" in card


def test_a_card_has_what_compression_measured(tmp_path):
    made = {
        "score": {"accuracy": 0.88, "pearson": None},  # of answers that are all the same
        "lost": {"value": 0.02, "low": -0.01, "high": 0.05},
        "agreement": {"value": 0.95, "low": 0.94, "high": 0.96},
        "throughput": {"float32": {"texts_per_second": 1234.5}},
    }
    report = {"machine": "1 x cpu", "full": {"score": {"accuracy": 0.9, "pearson": None}}, "made": made}
    run = {"init_from": "runs/x/starts/hidden_96", "teacher": "~/models/bert", "data": {"task": "custom"}}
    card = written(tmp_path, run, report=report | {"factors": {"float32": 5.25}})
    assert "| accuracy | 0.8800 | 0.9000 |" in card and "| pearson | – | – |" in card
    assert "| lost against the full model, 95 % interval | 0.0200 (-0.0100 to 0.0500) |" in card
    assert "| agreement with the full model, 95 % interval | 0.9500 (0.9400 to 0.9600) |" in card
    assert "| float32 | 1,234 | 5.2 |" in card and "| made from | `bert` |" in card and "base_model" not in card
    assert "| data | the owner's texts |" in card


def test_files_of_that_name_in_folders_of_others_are_not_read(tmp_path):
    assert "None are kept with the model." in written(tmp_path, None, {"splits": [1]}, ["a report"])
