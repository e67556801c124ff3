"""Files to predict on, one by one, and what stands beside each output: its manifest, and its bad records.

    OUT/year=2024/a.parquet                 of IN/year=2024/a.parquet
    OUT/_manifests/year=2024/a.parquet.json what it was made of, and whether it is whole
    OUT/_errors/year=2024/a.parquet.jsonl   its bad records, if it has any
    OUT/_partial/                           what is being written

Readers of folders, such as those of Arrow and Spark, leave out names that begin with `_`. The manifest is written
first, then the output gets its name: an output with a manifest of its size is whole.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from etils import epath

from mux_jax.bulk.worker import Worker
from mux_jax.data.formats import Record
from mux_jax.errors import InputError
from mux_jax.files import remove, whole_or_absent, write_atomically
from mux_jax.inference.files import is_ours
from mux_jax.inference.records import Reading, check_records, write_predictions
from mux_jax.inference.writer import OUTPUTS
from mux_jax.paths import absolute, file_version, find_files, fixed_part, split_patterns
from mux_jax.progress import say

MANIFESTS, ERRORS, PARTIAL, LOCK = "_manifests", "_errors", "_partial", ".lock"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file, and where its predictions go.

    Attributes:
      source: the file.
      root: the folder of all outputs.
      name: of its output, below `root`.
    """

    source: str
    root: str
    name: str

    @property
    def output(self) -> epath.Path:
        return epath.Path(self.root) / self.name

    @property
    def manifest(self) -> epath.Path:
        return epath.Path(self.root) / MANIFESTS / f"{self.name}.json"

    @property
    def errors(self) -> epath.Path:
        return epath.Path(self.root) / ERRORS / f"{self.name}.jsonl"

    @property
    def partial(self) -> epath.Path:
        return epath.Path(self.root) / PARTIAL


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What is known of an output.

    Attributes:
      made_of: the model by its digest, the options, the input by its size and version. Made of the same, it is the
        same.
      dtype: of matrix products, which the machine may have chosen.
      rows, errors: how many records, and bad ones among them.
      size, digest: of the output: bytes, and SHA-256.
      failure: why there is no output; "" if there is one.
    """

    made_of: dict[str, Any]
    dtype: str = ""
    rows: int = 0
    errors: int = 0
    size: int = 0
    digest: str = ""
    failure: str = ""

    @staticmethod
    def read(shard: Shard) -> "Manifest | None":
        """That of a shard; None if there is none that can be read."""
        try:
            return Manifest(**json.loads(shard.manifest.read_text(encoding="utf-8")))
        except (FileNotFoundError, TypeError, ValueError):
            return None

    def write(self, shard: Shard) -> None:
        shard.manifest.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(shard.manifest, json.dumps(dataclasses.asdict(self), indent=1) + "\n", shard.partial)


def find_shards(texts: str | Sequence[str], root: str, suffix: str = "") -> list[Shard]:
    """A shard for each file that globs match. Outputs keep the path below the part of a glob that is fixed.

    Args:
      texts: as `find_files` takes them.
      root: the folder of all outputs.
      suffix: of outputs; default: that of the input if outputs may have it, else `.jsonl`.

    Raises:
      InputError: no file, besides those in the folder of outputs; two with one output.
    """
    folder, shards, sources = absolute(root), list[Shard](), dict[str, str]()
    for pattern in split_patterns(texts):
        fixed = os.fspath(absolute(fixed_part(pattern))).rstrip("/") + "/"
        for file in find_files([pattern]):
            source = os.fspath(absolute(file))
            if source.startswith(f"{folder}/"):
                continue  # an output of an earlier run
            stem, end = os.path.splitext(source.removeprefix(fixed))
            name = stem + (suffix or (end if end in OUTPUTS else ".jsonl"))
            if sources.setdefault(name, source) != source:
                raise InputError(f"{sources[name]} and {source} would both be written to {folder / name}")
            shards.append(Shard(source, os.fspath(folder), name))
    if not shards:
        raise InputError(f"no file matches {texts!r} but those in {folder}, the folder to write to")
    return sorted(set(shards), key=lambda shard: shard.name)


def common(worker: Worker, reading: Reading, digest: str) -> dict[str, Any]:
    """What all outputs of a job are made of; `digest` is the model's. `Manifest.made_of` has the input, too."""
    options = dict(worker.options) | {"delimiter": reading.delimiter, "columns": list(reading.columns)}
    options |= {"keep": list(reading.keep)} | dataclasses.asdict(reading.wanted)
    return {"model": digest, "options": options}


def input_of(shard: Shard) -> dict[str, Any]:
    """The file as it is now."""
    return {"path": shard.source} | file_version(shard.source)


def whole(shard: Shard, made: dict[str, Any], dtype: str, overwrite: bool) -> Manifest | None:
    """What is known of an output that is whole and made of what is wanted; None if there is none.

    Args:
      made: what it is to be made of.
      dtype: of products; "": whatever the machine chose.
      overwrite: whether predictions that are made of something else count as none, instead of as an error.

    Raises:
      InputError: an output that is made of something else, or that nothing is known of.
    """
    if not shard.output.exists():
        return None
    manifest = Manifest.read(shard)
    if manifest is None:
        fault = f"has no manifest in {MANIFESTS}"
    elif manifest.failure or manifest.size != shard.output.stat().length:
        fault = f"is not what its manifest in {MANIFESTS} says"
    else:
        found = _difference(manifest.made_of | {"dtype": manifest.dtype}, made | {"dtype": dtype or manifest.dtype})
        if not found:
            return manifest
        fault = f"was made with {found}"
    if not overwrite:
        raise InputError(f"{shard.output} {fault}; --overwrite replaces it, another --output leaves it")
    if not is_ours(shard.output):
        raise InputError(f"{shard.output} holds no predictions; --overwrite replaces only what predictions are in")
    return None


def _difference(made: dict[str, Any], wanted: dict[str, Any], name: str = "") -> str:
    """The first thing in which two differ, as a message says it."""
    for key in sorted({*made, *wanted}):
        one, other = made.get(key), wanted.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            if found := _difference(one, other, f"{name}{key}."):
                return found
        elif one != other:
            return f"{name}{key} {one!r}, not {other!r}"
    return ""


def predict_shard(
    worker: Worker,
    shard: Shard,
    reading: Reading,
    made: dict[str, Any],
    on_rows: Callable[[int, int], None] = lambda done, rows: None,
    check: Callable[[], None] = lambda: None,
) -> Manifest:
    """Writes the predictions on a file, its bad records and its manifest, unless that is done.

    Bad input is in the manifest and not raised, so that other files go on.

    Args:
      made: what the output is made of.
      on_rows: is told how many rows of how many are done.
      check: is called before the output gets its name; it raises if that shall not be.
    """
    if done := whole(shard, made, "", overwrite=True):
        return done  # by another worker, or before a retry
    predictor, source = worker.predictor, epath.Path(shard.source)
    manifest = Manifest(made, predictor.config.compute_dtype)
    shard.output.parent.mkdir(parents=True, exist_ok=True)
    shard.partial.mkdir(parents=True, exist_ok=True)
    try:
        with _bad_records(shard) as on_bad:
            checked = check_records(predictor, source, reading, on_note=say, on_bad=on_bad)
        with whole_or_absent(shard.output, shard.partial) as partial:
            write_predictions(predictor, source, reading, checked, partial, lambda done: on_rows(done, checked.rows))
            if input_of(shard) != made["input"]:
                raise InputError(f"{source} changed while it was read")
            with partial.open("rb") as f:
                digest = hashlib.file_digest(f, "sha256").hexdigest()  # type: ignore[arg-type]
            counts = {"rows": checked.rows, "errors": checked.errors, "size": partial.stat().length}
            manifest = dataclasses.replace(manifest, **counts, digest=digest)
            check()
            remove(shard.output)  # an old one must not be there beside the new manifest
            manifest.write(shard)
    except InputError as e:
        bad = len(shard.errors.read_text(encoding="utf-8").splitlines()) if shard.errors.exists() else 0
        manifest = dataclasses.replace(manifest, errors=bad, failure=str(e))
        manifest.write(shard)
    return manifest


@contextlib.contextmanager
def _bad_records(shard: Shard) -> Iterator[Callable[[Record, str], None]]:
    """Yields what puts a record into the file of bad ones, which is there if there are any."""
    remove(shard.errors)
    shard.errors.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        lines: Any = None

        def add(record: Record, error: str) -> None:
            nonlocal lines
            if lines is None:
                file = stack.enter_context(whole_or_absent(shard.errors, shard.partial))
                lines = stack.enter_context(file.open("wb"))
            line = {"where": record.where, "error": error, "record": record.fields}
            lines.write(f"{json.dumps(line, default=str)}\n".encode())

        try:
            yield add
        except InputError:
            stack.close()  # the file stays
            raise
