"""Pictures, by Matplotlib, which is slow to import and only needed for them."""

from typing import Any

from etils import epath


def pyplot() -> Any:
    """Matplotlib, drawing to files."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save_figure(figure: Any, path: epath.Path) -> None:
    """Writes a figure under another name, then renames it."""
    temporary = path.parent / f"{path.stem}.partial.png"
    with temporary.open("wb") as f:
        figure.savefig(f, dpi=120)
    temporary.replace(path)
    pyplot().close(figure)
