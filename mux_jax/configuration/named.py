"""Configurations by the name of their file, as `--config=` takes them."""

import runpy
from pathlib import Path

import ml_collections

from mux_jax.errors import InputError
from mux_jax.paths import packaged
from mux_jax.progress import say


def find_config(text: str) -> str:
    """`FILE[:arguments]` with the path of the file: `configs/NAME.py` comes with the package, if none is here."""
    file, colon, arguments = text.partition(":")
    own = packaged("configs") / Path(file).name
    if Path(file).exists() or Path(file).parts[:-1] != ("configs",) or not own.exists():
        return text
    say(f"{file} is that of the package")
    return f"{own}{colon}{arguments}"


def get_config(text: str) -> ml_collections.ConfigDict:
    """The configuration that `--config=TEXT` gives, to change and to hand to `train` or `evaluate`.

    Args:
      text: `FILE[:arguments]`, such as `configs/mux_electra.py:size=base,width=5`. The file is one of yours, which is
        run, or one of those that come with the package.

    Raises:
      InputError: no such file, none that defines `get_config`, or an unknown argument.
    """
    file, _, arguments = find_config(text).partition(":")
    if not Path(file).is_file():
        names = ", ".join(f"configs/{path.name}" for path in sorted(packaged("configs").glob("*.py")))
        raise InputError(f"no file {file}; with the package come {names}")
    defined = runpy.run_path(file)
    if "get_config" not in defined:
        raise InputError(f"{file} defines no get_config(argument=None)")
    config: ml_collections.ConfigDict = defined["get_config"](*[arguments] if arguments else [])
    return config
