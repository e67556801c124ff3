"""What is kept between runs: packed text, trained vocabularies, compiled programs. All of it can be made again."""

import json
import shutil
import time
from pathlib import Path

from etils import epath
from rich.table import Table

from mux_jax import locks
from mux_jax.data.packing import cache_folder
from mux_jax.progress import console, say


def show_caches(given: str = "") -> None:
    """Prints what there is, how large it is and when it was used last.

    Args:
      given: the folder; see `packing.cache_folder`.
    """
    folder = cache_folder(given)
    table = Table(title=str(folder))
    for name in ("name", "what", "MB", "last used"):
        table.add_column(name, justify="right" if name == "MB" else "left")
    for path in _entries(folder):
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
        table.add_row(path.name, _what(path), f"{_size(path) / 1e6:,.1f}", used)
    console.print(table)


def clear_caches(given: str = "") -> None:
    """Removes all but what is being made just now.

    Not while a run reads it. A run that goes on packs its text again; it is refused if the text has changed since it
    began.
    """
    folder, freed = cache_folder(given), 0
    for path in _entries(folder):
        lock = locks.acquire(epath.Path(folder / f"{path.name.partition('.building-')[0]}.lock"))
        if lock is None:
            say(f"{path.name} is being made; it stays")
            continue
        freed += _size(path)
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        lock.release()
    say(f"{folder}: {freed / 1e6:,.1f} MB removed")


def _entries(folder: Path) -> list[Path]:
    """What is ours, the one used last first."""
    found = [path for pattern in ("tokens-*", "tokenizer-*", "compiled") for path in folder.glob(pattern)]
    return sorted((p for p in found if p.suffix != ".lock"), key=lambda p: -p.stat().st_mtime)


def _what(path: Path) -> str:
    if ".building-" in path.name:
        return "not whole, left by a process that was killed, or being made"
    if path.name == "compiled":
        return "compiled programs"
    if path.name.startswith("tokenizer-"):
        return "a trained vocabulary"
    if not (path / "meta.json").exists():
        return "damaged"
    meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
    return (
        f"{meta.get('source', 'text')}: {meta['train']:,} + {meta['heldout']:,} sequences of {meta['sequence_length']}"
    )


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file())
