"""Files that are whole or absent."""

from etils import epath


def write_atomically(path: epath.Path, text: str) -> None:
    """Writes under another name, then renames: a reader sees the old file or the new one."""
    temporary = path.parent / f"{path.name}.partial"
    temporary.write_text(text)
    temporary.replace(path)
