"""Paths as users write them."""

from etils import epath


def absolute(path: str | epath.Path) -> epath.Path:
    """`~` and what is relative made absolute; gs://... is (and etils would take it for a local folder)."""
    found = epath.Path(path).expanduser()
    return found if "://" in str(path) else found.resolve()
