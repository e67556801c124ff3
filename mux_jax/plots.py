"""Pictures, by Matplotlib, which is slow to import and only needed for them."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from etils import epath

from mux_jax.files import whole_or_absent
from mux_jax.progress import say


def pyplot() -> Any:
    """Matplotlib, drawing to files."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False  # a $ in a label is a $
    import matplotlib.pyplot as plt

    return plt


@contextlib.contextmanager
def drawing(path: epath.Path) -> Iterator[None]:
    """A picture that cannot be drawn is told, and ends nothing. Letters that the font lacks are boxes."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except Exception as e:
        say(f"{path}: not drawn: {type(e).__name__}: {e}")


def save_figure(figure: Any, path: epath.Path) -> None:
    """Writes a figure, whole or not at all."""
    with whole_or_absent(path) as temporary, temporary.open("wb") as f:
        figure.savefig(f, dpi=120)
    pyplot().close(figure)
