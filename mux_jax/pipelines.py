"""What pipelines of Apache Beam share: options that are checked, bad input that comes back from workers."""

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

from mux_jax.errors import InputError


def check_options(beam_options: Sequence[str], what: str) -> Any:
    """The `PipelineOptions` of options as on a command line.

    Raises:
      InputError: no Beam, which `what` needs; options that it refuses.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
    except ImportError as e:
        raise InputError(f"{what} needs Apache Beam: pip install 'mux_jax[beam]'") from e
    options = PipelineOptions(list(beam_options))
    if options.view_as(StandardOptions).no_wait_until_finish:
        raise InputError("Beam options: --no_wait_until_finish would end the command before its work")
    try:
        beam.Pipeline(options=options)  # checks them
    except (ValueError, ImportError) as e:
        raise InputError(f"Beam options: {e}") from e
    return options


@contextlib.contextmanager
def input_errors() -> Iterator[None]:
    """`InputError` of a worker is raised here as one: it comes back with the name of the step, mostly as text."""
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)  # it logs the error that is raised
    try:
        yield
    except Exception as e:
        found = re.search(r"InputError: (.*?)(?: \[while running|\n|$)", f"{type(e).__name__}: {e}")
        if found:
            raise InputError(found[1]) from e
        raise
