"""Configurations by name: the user's own file, or the one that comes with the package."""

import pytest

import mux_jax
from mux_jax.configuration import find_config
from mux_jax.errors import InputError


def test_a_packaged_configuration_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = mux_jax.get_config("configs/mux_electra.py:size=base,width=5")
    assert config.model.width == 5 and config.pretraining.objective == "rtd"
    assert mux_jax.get_config("configs/finetune.py").data.task == "docstrings"


def test_a_file_of_the_users_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mux_bert.py").write_text("def get_config(argument=None): return argument")
    assert mux_jax.get_config("configs/mux_bert.py:anything") == "anything"
    assert find_config("configs/mux_bert.py:x=1") == "configs/mux_bert.py:x=1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("configs/none.py", "no file configs/none.py; with the package come configs/finetune.py, configs/mux_bert.py"),
        ("configs/mux_bert.py:with=5", "'with=5' is unknown"),
        ("empty.py", "empty.py defines no get_config"),
    ],
)
def test_what_is_no_configuration_is_refused(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(InputError, match=message.replace("(", ".")):
        mux_jax.get_config(text)
