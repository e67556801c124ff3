"""Predictions on many files: all checked first, the whole ones left as they are, the others predicted on."""

import concurrent.futures
import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from mux_jax import locks
from mux_jax.bulk.shards import (
    ERRORS,
    LOCK,
    PARTIAL,
    Manifest,
    Shard,
    common,
    find_shards,
    input_of,
    predict_shard,
    whole,
)
from mux_jax.bulk.worker import Worker
from mux_jax.checkpoints.source import ModelSource, open_model
from mux_jax.data.formats import import_pyarrow
from mux_jax.errors import InputError
from mux_jax.files import remove
from mux_jax.inference.deferral import Deferral, open_full
from mux_jax.inference.files import check_input
from mux_jax.inference.records import Reading
from mux_jax.inference.writer import check_form
from mux_jax.progress import progress, say

AT_ONCE = 2  # files: while the device works on one, another is read and tokenised
LOOKING = 16  # threads that look at headers and manifests, which may be far away


@dataclasses.dataclass(frozen=True)
class Job:
    """What there is to do.

    Attributes:
      worker, reading: of all files.
      root: the folder of the outputs.
      common: what all outputs are made of.
      todo: the files, each as it was when the job began (`input_of`).
      done: what is known of the outputs that are whole.
    """

    worker: Worker
    reading: Reading
    root: epath.Path
    common: dict[str, Any]
    todo: tuple[tuple[Shard, dict[str, Any]], ...]
    done: tuple[Manifest, ...]


def plan(
    worker: Worker, texts: str, root: str, reading: Reading, suffix: str, overwrite: bool, same_machine: bool
) -> Job:
    """Looks at all files before work starts.

    Args:
      texts, root, suffix: see `find_shards`.
      reading: its columns, if there are none, are found.
      overwrite: whether predictions that were made of something else are made anew.
      same_machine: whether this process predicts; the model is loaded then, and its dtype of products is that of all.

    Raises:
      InputError: no file; one without the columns that others have; outputs that exist and are made of something else,
        or have no place for what is asked; a model that cannot give it.
    """
    shards, found = find_shards(texts, root, suffix), open_model(worker.model, takes_export=True)
    worker.wanted.check(found.config, found.prompts())
    for shard in shards:
        check_form(shard.output, found.config, reading.keep)
    if parquet := next((shard for shard in shards if shard.name.endswith(".parquet")), None):
        import_pyarrow(parquet.output)
    dtype = worker.predictor.config.compute_dtype if same_machine else ""
    with concurrent.futures.ThreadPoolExecutor(LOOKING) as pool:

        def columns_of(shard: Shard) -> tuple[str, ...]:
            check_input(shard.source, (), reading.columns, reading.delimiter, reading.keep)
            return check_input(shard.source, found.text_columns(), reading.columns, reading.delimiter)[1]

        columns = list(pool.map(columns_of, shards))
        for shard, names in zip(shards, columns):
            if names != columns[0]:
                raise InputError(
                    f"{shard.source} has its text in {', '.join(names)}, {shards[0].source} in "
                    f"{', '.join(columns[0])}; --text_columns names the columns for all"
                )
        reading = dataclasses.replace(reading, columns=columns[0])
        of_all = common(worker, reading, _digest(found, worker))

        def look(shard: Shard) -> tuple[dict[str, Any], Manifest | None]:
            read = input_of(shard)
            return read, whole(shard, of_all | {"input": read}, dtype, overwrite)

        known = list(pool.map(look, shards))
    for shard, (_, manifest) in zip(shards, known):
        if manifest and manifest.errors > reading.max_errors * manifest.rows:
            raise InputError(f"{shard.output} has {manifest.errors:,} bad records of {manifest.rows:,}: --max_errors")
    todo = tuple((shard, read) for shard, (read, manifest) in zip(shards, known) if manifest is None)
    done = tuple(manifest for _, manifest in known if manifest)
    return Job(worker, reading, epath.Path(shards[0].root), of_all, todo, done)


def predict_files(job: Job, run: Callable[[Job, Callable[[], None]], Sequence[Manifest]]) -> None:
    """Predicts on files; prints a summary.

    Args:
      run: (a job, what to call before an output gets its name) -> a manifest for each file to do.

    Raises:
      InputError: bad input in a file; the others are done.
    """
    job.root.mkdir(parents=True, exist_ok=True)
    if job.done:
        say(f"{job.root}: {len(job.done):,} files are whole; {len(job.todo):,} to do")
    start = time.monotonic()
    with locks.hold(job.root / LOCK, str(job.root)) as lock:
        remove(job.root / PARTIAL)  # of a process that was killed
        new = run(job, lock.check) if job.todo else []
        remove(job.root / PARTIAL)
    seconds = time.monotonic() - start
    failures = [manifest.failure for manifest in new if manifest.failure]
    made = [*job.done, *(manifest for manifest in new if not manifest.failure)]
    rows = sum(manifest.rows for manifest in made)
    errors = sum(manifest.errors for manifest in (*job.done, *new))  # of files without an output, too
    rate = sum(manifest.rows for manifest in new) / seconds
    say(f"{job.root}: {len(made):,} files, {rows:,} rows, {errors:,} errors" + f", {rate:,.0f} rows/s" * bool(new))
    if len(dtypes := sorted({manifest.dtype for manifest in made})) > 1:
        say(f"machines differ: products were in {' and '.join(dtypes)}, as the manifests say; --dtype sets one for all")
    if errors or failures:
        say(f"bad records: {job.root / ERRORS}")
    if failures:
        more = f"; {len(failures) - 1:,} more files have no output" if len(failures) > 1 else ""
        raise InputError(f"{failures[0]}{more}")


def in_this_process(job: Job, check: Callable[[], None]) -> list[Manifest]:
    """Predicts here, on all devices of this host, and shows progress."""
    predictor, size = job.worker.predictor, sum(read["size"] for _, read in job.todo)
    rows: dict[str, int] = {}  # of the files under way
    all_rows, all_bytes, files = 0, 0.0, 0
    lock, start = threading.Lock(), time.monotonic()
    with progress("predicting") as report, concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:

        def predict(shard: Shard, read: dict[str, Any]) -> Manifest:
            def show(done: int, of: int) -> None:
                nonlocal all_rows, all_bytes
                with lock:
                    new = done - rows.get(shard.name, 0)
                    rows[shard.name] = done
                    all_rows, all_bytes = all_rows + new, all_bytes + read["size"] * new / max(1, of)
                    rate = all_rows / (time.monotonic() - start)
                    note = f"{files:,} of {len(job.todo):,} files, {all_rows:,} rows, {rate:,.0f} rows/s"
                    report(all_bytes / max(1, size), note)

            manifest = predict_shard(job.worker, shard, job.reading, job.common | {"input": read}, show, check)
            with lock:
                nonlocal files
                files += 1
                rows.pop(shard.name, None)
            return manifest

        manifests = list(pool.map(predict, *zip(*job.todo)))
    if predictor.truncated:
        say(f"{predictor.truncated:,} texts cut")
    if len(predictor.models) > 1:
        say(f"{predictor.deferred:,} texts went to {predictor.models[1]}")
    return manifests


def _digest(found: ModelSource, worker: Worker) -> str:
    """Of the model, and of those that it asks."""
    digests = [found.digest()]
    if dict(worker.options).get("defer", "off") != "off":
        while deferral := Deferral.load(found.folder):
            found = open_full(deferral, found.folder)
            digests.append(found.digest())
    return " ".join(digests)
