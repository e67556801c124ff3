"""What `launch/predict.py` does: one file to one file, or many to a folder, here or on a runner of Beam."""

import argparse
import dataclasses
import functools
import os
from collections.abc import Callable

from mux_jax import pipelines
from mux_jax.bulk.folder import in_this_process, plan, predict_files
from mux_jax.bulk.shards import Manifest
from mux_jax.bulk.worker import Worker
from mux_jax.data.formats import parse_delimiter
from mux_jax.errors import InputError
from mux_jax.inference.files import check_input, check_output, predict_file
from mux_jax.inference.predictor import Predictor
from mux_jax.inference.records import Reading, Wanted
from mux_jax.inference.writer import OUTPUTS
from mux_jax.paths import find_files, is_file

_OPTIONS = ("rows", "ensemble", "stride", "threshold", "defer", "dtype")


def predict(arguments: argparse.Namespace) -> None:
    """Predicts as the arguments of `launch/predict.py` say.

    Raises:
      InputError: what one of them, the model or a file does not allow.
    """
    if not 0 <= arguments.max_errors <= 1:
        raise InputError(f"--max_errors={arguments.max_errors} must be from 0 to 1")
    reading = Reading(
        columns=tuple(name for name in arguments.text_columns.split(",") if name),
        delimiter=parse_delimiter(arguments.delimiter, "--delimiter"),
        keep=tuple(dict.fromkeys(name for name in arguments.keep.split(",") if name)),
        max_errors=arguments.max_errors if arguments.on_error == "skip" else 0.0,
        wanted=Wanted(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Wanted)}),
    )
    options = {name: getattr(arguments, name) for name in _OPTIONS}
    if arguments.beam_options and not arguments.beam_options[0].startswith("-"):
        raise InputError(f"{arguments.beam_options[0]}: quote the globs, as in --texts='in/*.parquet'")
    suffix = os.path.splitext(arguments.output.rstrip("/"))[1]
    if suffix in OUTPUTS or suffix and is_file(arguments.texts):
        _one_file(arguments, reading, options)
    else:
        _folder(arguments, reading, options)


def _one_file(arguments: argparse.Namespace, reading: Reading, options: dict) -> None:
    if arguments.format or arguments.beam_options:
        raise InputError(f"--format and Beam's options are for a folder, and --output={arguments.output} is a file")
    if not is_file(arguments.texts) and (count := len(find_files(arguments.texts))):
        raise InputError(f"--texts={arguments.texts} matches {count:,} files; give a folder for them: --output=DIR")
    output = check_output(arguments.output, arguments.texts, arguments.overwrite)
    # The model, slow to load, says which columns if none are wanted.
    check_input(arguments.texts, (), reading.columns, reading.delimiter, reading.keep)
    predictor = Predictor(arguments.model, **options)
    source, columns = check_input(arguments.texts, predictor.text_columns, reading.columns, reading.delimiter)
    reading = dataclasses.replace(reading, columns=columns)
    predict_file(predictor, source, reading, output, arguments.overwrite)


def _folder(arguments: argparse.Namespace, reading: Reading, options: dict) -> None:
    run: Callable[..., list[Manifest]] = in_this_process
    suffix = f".{arguments.format}" if arguments.format else ""
    if arguments.beam_options:
        given = arguments.beam_options
        if "--runner=DirectRunner" in given and not any(option.startswith("--direct_") for option in given):
            given = [*given, "--direct_running_mode=multi_processing", "--direct_num_workers=0"]  # a process a core
        beam_options = pipelines.check_options(given, "predicting on a runner")
        from mux_jax.bulk.beam import on_runner  # where Beam is installed

        run = functools.partial(on_runner, options=beam_options)
    find_files(arguments.texts)  # before the model, which is slow to load
    worker = dataclasses.replace(Worker.of(arguments.model, **options), wanted=reading.wanted)
    here = not arguments.beam_options
    job = plan(worker, arguments.texts, arguments.output, reading, suffix, arguments.overwrite, here)
    predict_files(job, run)
