"""Predictions on many files: all checked first, the whole ones left as they are, the others predicted on."""

import concurrent.futures
import dataclasses
import threading
import time
from collections.abc import Callable, Sequence

from etils import epath

from mux_jax import locks
from mux_jax.bulk.shards import ERRORS, LOCK, PARTIAL, Manifest, Shard, find_shards, made_of, predict_shard, whole
from mux_jax.bulk.worker import Worker
from mux_jax.checkpoints.source import open_model
from mux_jax.errors import InputError
from mux_jax.files import remove
from mux_jax.inference.deferral import Deferral, open_full
from mux_jax.inference.files import check_input
from mux_jax.inference.records import Reading
from mux_jax.inference.writer import check_form
from mux_jax.progress import progress, say

_AT_ONCE = 2  # files: while the device works on one, another is read and tokenised
_LOOKING = 16  # threads that look at headers and manifests, which may be far away


@dataclasses.dataclass(frozen=True)
class Job:
    """What there is to do.

    Attributes:
      worker, reading: of all files.
      root: the folder of the outputs.
      todo: the files, each with what its output is made of (`made_of`).
      done: what is known of the outputs that are whole.
    """

    worker: Worker
    reading: Reading
    root: epath.Path
    todo: tuple[tuple[Shard, dict], ...]
    done: tuple[Manifest, ...]


def plan(
    worker: Worker, texts: str, root: str, reading: Reading, suffix: str, overwrite: bool, same_machine: bool
) -> Job:
    """Looks at all files before work starts.

    Args:
      texts, root, suffix: see `find_shards`.
      reading: its columns, if there are none, are found.
      overwrite: whether outputs that were made of something else are made anew.
      same_machine: whether this process predicts, so that the dtype of products that it takes is that of all.

    Raises:
      InputError: no file; one without the columns that others have; outputs that exist and are made of something else,
        or have no place for what is asked; a model that cannot give it.
    """
    shards, predictor = find_shards(texts, root, suffix), worker.predictor
    for shard in shards:
        check_form(shard.output, predictor.config, reading.keep)
    digest, dtype = _digest(worker), predictor.config.compute_dtype if same_machine else ""
    with concurrent.futures.ThreadPoolExecutor(_LOOKING) as pool:

        def columns(shard: Shard) -> tuple[str, ...]:
            check_input(shard.source, (), reading.columns, reading.delimiter, reading.keep)
            return check_input(shard.source, predictor.text_columns, reading.columns, reading.delimiter)[1]

        found = list(pool.map(columns, shards))
        for shard, names in zip(shards, found):
            if names != found[0]:
                raise InputError(
                    f"{shard.source} has its text in {', '.join(names)}, {shards[0].source} in {', '.join(found[0])}; "
                    "--text_columns names the columns for all"
                )
        reading = dataclasses.replace(reading, columns=found[0])
        made = list(pool.map(lambda shard: made_of(worker, reading, digest, shard), shards))
        known = list(pool.map(lambda shard, made: whole(shard, made, dtype, overwrite), shards, made))
    todo = tuple((shard, m) for shard, m, manifest in zip(shards, made, known) if manifest is None)
    return Job(worker, reading, epath.Path(shards[0].root), todo, tuple(filter(None, known)))


def predict_files(job: Job, run: Callable[[Job], Sequence[Manifest]]) -> None:
    """Predicts on files, by `run`; prints a summary.

    Raises:
      InputError: bad input in a file; the others are done.
    """
    job.root.mkdir(parents=True, exist_ok=True)
    if job.done:
        say(f"{job.root}: {len(job.done):,} files are whole; {len(job.todo):,} to do")
    start = time.monotonic()
    with locks.hold(job.root / LOCK, str(job.root)):
        remove(job.root / PARTIAL)  # of a process that was killed
        new = run(job) if job.todo else []
        remove(job.root / PARTIAL)
    seconds = time.monotonic() - start
    failures = [manifest for manifest in new if manifest.failure]
    made = [*job.done, *(manifest for manifest in new if not manifest.failure)]
    rows, errors = (sum(getattr(manifest, name) for manifest in made) for name in ("rows", "errors"))
    rate = sum(manifest.rows for manifest in new) / seconds
    say(f"{job.root}: {len(made):,} files, {rows:,} rows, {errors:,} errors" + f", {rate:,.0f} rows/s" * bool(new))
    if errors or failures:
        say(f"bad records: {job.root / ERRORS}")
    if failures:
        raise InputError(
            f"{failures[0].failure}" + f"; {len(failures) - 1} more files have no output" * (len(failures) > 1)
        )


def in_this_process(job: Job) -> list[Manifest]:
    """Predicts here, on all devices of this host, and shows progress."""
    sizes = {shard: made["input"]["size"] for shard, made in job.todo}
    fractions, rows, lock = dict.fromkeys(sizes, 0.0), dict.fromkeys(sizes, 0), threading.Lock()
    start = time.monotonic()
    with progress("predicting") as report, concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:

        def predict(shard: Shard, made: dict) -> Manifest:
            def show(done: int, of: int) -> None:
                with lock:
                    rows[shard], fractions[shard] = done, done / max(1, of)
                    fraction = sum(fractions[s] * size for s, size in sizes.items()) / max(1, sum(sizes.values()))
                    files, all_rows = sum(f == 1 for f in fractions.values()), sum(rows.values())
                    rate = all_rows / (time.monotonic() - start)
                    report(fraction, f"{files:,} of {len(sizes):,} files, {all_rows:,} rows, {rate:,.0f} rows/s")

            return predict_shard(job.worker, shard, job.reading, made, show)

        return list(pool.map(predict, *zip(*job.todo)))


def _digest(worker: Worker) -> str:
    """Of the model, and of those that it asks."""
    found = open_model(worker.model, takes_export=True)
    digests = [found.digest()]
    if dict(worker.options).get("defer", "off") != "off":
        while deferral := Deferral.load(found.folder):
            found = open_full(deferral, found.folder)
            digests.append(found.digest())
    return " ".join(digests)
