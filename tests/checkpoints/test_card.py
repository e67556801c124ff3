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
    assert card.startswith("---\nlicense:  # fill in\n") and "pipeline_tag: text-classification" in card
    assert "N = 2 texts a row" in card and "depends a little on the other texts of its row" in card
    assert "| labels | fruit, stone |" in card and str(tmp_path) not in card
    convert(str(tmp_path / "native"), str(tmp_path / "back"), overwrite=True)  # the card does not keep it from that


def test_a_card_has_scores_and_speed_of_the_run(tmp_path):
    found = open_model(str(write_model(tmp_path / "run", width=1, head="sequence", labels=LABELS)))
    run = {"init_from": "sentence-transformers/all-MiniLM-L6-v2@abc", "data": {"task": "sst2"}}
    found = dataclasses.replace(found, run=run)
    scores = {"mean": 0.9, "std": 0.01, "runs": [0.89, 0.91]}
    folder = epath.Path(tmp_path / "run")
    (folder / "result.json").write_text(json.dumps({"splits": {"dev": {"accuracy": scores}}}))
    card = model_card("mine", found, 1_000, None)
    assert "base_model: sentence-transformers/all-MiniLM-L6-v2\n" in card
    assert "| dev | accuracy | 0.9000 | 0.0100 | 2 |" in card and "Not measured" in card
    assert "An answer depends on its own text alone." in card

    (folder / "result.json").unlink()
    made = {
        "score": {"accuracy": 0.88},
        "agreement": {"value": 0.95, "low": 0.94, "high": 0.96},
        "throughput": {"float32": {"texts_per_second": 1234.5}},
    }
    report = {"model": "/somewhere/teacher", "machine": "1 x cpu", "full": {"score": {"accuracy": 0.9}}, "made": made}
    (folder / "report.json").write_text(json.dumps(report | {"factors": {"float32": 5.25}}))
    card = model_card("mine", found, 1_000)
    assert "| accuracy | 0.8800 | 0.9000 |" in card and "| float32 | 1,234 | 5.2 |" in card
    assert "`teacher`" in card and "/somewhere" not in card and "base_model" not in card
