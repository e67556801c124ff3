"""Configurations are described, and docs/configuration.md is what the descriptions say."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from mux_jax import configuration
from mux_jax.configuration import FinetuneConfig, PretrainConfig
from mux_jax.errors import InputError
from mux_jax.models.config import ModelConfig

ROOT = Path(__file__).parents[2]


def test_the_reference_page_is_up_to_date():
    made = subprocess.run([sys.executable, "-m", "mux_jax.configuration.reference"], capture_output=True, text=True)
    assert made.stdout == (ROOT / "docs" / "configuration.md").read_text(), (
        "python -m mux_jax.configuration.reference > docs/configuration.md"
    )


def sections(config):
    yield config
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(getattr(config, field.name)):
            yield from sections(getattr(config, field.name))


@pytest.mark.parametrize(
    "written", [configuration.pretraining("bert", "tiny", 2), configuration.finetuning("docstrings", "", 0)]
)
def test_every_field_has_a_meaning_and_survives_there_and_back(written):
    config = configuration.read(written)
    for section in sections(config):
        for field in dataclasses.fields(section):
            nested = dataclasses.is_dataclass(getattr(section, field.name)) or field.name == "options"
            assert nested or field.metadata["meaning"], (type(section).__name__, field.name)
    again = configuration.from_mapping(type(config), configuration.to_json(config))
    assert again == config
    assert configuration.read(configuration.to_config_dict(config)) == config


def test_fields_that_do_not_exist_or_are_of_another_type_are_named():
    written = configuration.to_json(configuration.read(configuration.pretraining("bert", "tiny", 2)))
    with pytest.raises(InputError, match="the configuration has no field optimizer.beta; there are: b1, b2"):
        configuration.from_mapping(PretrainConfig, written | {"optimizer": {"beta": 1.0}})
    with pytest.raises(InputError, match="data.sequence_length='long' must be of type int"):
        configuration.from_mapping(PretrainConfig, written | {"data": {"sequence_length": "long"}})
    assert configuration.from_mapping(FinetuneConfig, {"ensemble": 1, "model": {"width": 2}}).model.width == 2


@pytest.mark.parametrize("several", [["a,b.txt", "c*.txt"], ("a,b.txt", "c*.txt")])
def test_files_may_be_a_text_or_a_list(several):
    written = configuration.pretraining("bert", "tiny", 2)
    for section in (written.data, written.data.mixture.books):
        section.files = several
    config = configuration.read(written.copy_and_resolve_references())
    assert config.data.files == config.data.mixture["books"].files == ("a,b.txt", "c*.txt")
    assert configuration.from_mapping(PretrainConfig, configuration.to_json(config)) == config
    written.data.files = "a.txt"
    assert configuration.read(written).data.files == "a.txt"
    for wrong in (1, ["a", 1]):
        with pytest.raises(InputError, match="data.files=.* must be of type str or list of str"):
            configuration.from_mapping(PretrainConfig, configuration.to_json(config) | {"data": {"files": wrong}})


def test_text_must_be_named_for_sizes_that_are_no_trial():
    config = configuration.pretraining("bert", "base", 2)
    assert config.data.source == "" and configuration.pretraining("bert", "tiny", 2).data.source == "pydocs"


def test_a_model_survives_there_and_back():
    fields = dict(multiplexer="binary", binary_epsilon=0.5, demultiplexer="prefix", prefix_token_id=600)
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, embedding_size=32)
    model = ModelConfig.from_flat(fields | sizes | dict(max_position_embeddings=16, vocab_size=1000))
    assert ModelConfig.from_flat(model.to_flat()) == model and model.to_flat()["binary_epsilon"] == 0.5
