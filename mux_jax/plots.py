"""Pictures, by Matplotlib, which is slow to import and only needed for them."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from typing import Any

from etils import epath

from mux_jax.files import whole_or_absent
from mux_jax.progress import say

# Of all pictures: blue, orange, green, violet, red, grey, on white, to be read on a dark page too.
COLOURS = ("#2563eb", "#d97706", "#16a34a", "#7c3aed", "#dc2626", "#6b7280")


def pyplot() -> Any:
    """Matplotlib, drawing to files; in a notebook as the notebook says."""
    import matplotlib

    if not os.environ.get("MPLBACKEND", "").startswith("module://"):
        matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


@contextlib.contextmanager
def drawing(path: epath.Path) -> Iterator[None]:
    """A picture that cannot be drawn is told, and ends nothing. Letters that the font lacks are boxes."""
    try:
        plt = pyplot()
        style = {"text.parse_math": False, "axes.prop_cycle": plt.cycler(color=COLOURS)}  # a $ in a label is a $
        with warnings.catch_warnings(action="ignore"), plt.rc_context(style):
            yield
    except Exception as e:
        say(f"{path}: not drawn: {type(e).__name__}: {e}")


def save_figure(figure: Any, path: epath.Path) -> None:
    """Writes a figure, whole or not at all."""
    with whole_or_absent(path) as temporary, temporary.open("wb") as f:
        figure.savefig(f, dpi=120)
    pyplot().close(figure)
