"""Pictures, by Matplotlib, which is slow to import and only needed for them."""

from typing import Any

from etils import epath

from mux_jax.files import whole_or_absent


def pyplot() -> Any:
    """Matplotlib, drawing to files."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save_figure(figure: Any, path: epath.Path) -> None:
    """Writes a figure, whole or not at all."""
    with whole_or_absent(path) as temporary, temporary.open("wb") as f:
        figure.savefig(f, dpi=120)
    pyplot().close(figure)
