"""`mux-jax`, and what the entry points share: a configuration flag, errors as one line, compiled programs kept."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of an import that Ctrl-C interrupts

import ast
import importlib.util
import io
import itertools
import logging as std_logging
import os
import platform
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from mux_jax import interrupts
from mux_jax.allocator import keep_freed_memory
from mux_jax.errors import InputError, TrainingError
from mux_jax.fields import TEXT_OR_LIST
from mux_jax.paths import is_storage_error, packaged
from mux_jax.progress import print_error, say
from mux_jax.version import VERSION

# JAX reads it when it is imported. A host of its own for each: what is compiled for one CPU may not run on another.
_COMPILED = os.path.join(os.environ.get("MUX_JAX_CACHE") or "~/.cache/mux_jax", "compiled", platform.node())
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.expanduser(_COMPILED))

flags.disclaim_key_flags()  # --help lists the flags defined here with those of the program


class _AsGiven(flags.ArgumentParser):
    """Takes a text from the command line, and a default of another type as it is."""

    def parse(self, argument: Any) -> Any:
        return argument


config_flags.register_flag_parser_for_type(TEXT_OR_LIST, _AsGiven())


def main() -> None:
    """`mux-jax NAME ...` is `python launch/NAME.py ...`, wherever the package is installed."""
    programs = {path.stem: path for path in sorted(packaged("launch").glob("*.py"))}
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name == "--version":
        say(f"mux_jax {VERSION}")
    elif name in ("--help", "-h"):
        say("mux-jax PROGRAM [options], mux-jax PROGRAM --help")
        for program, path in programs.items():
            about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            say(f"  {program:14} {about.splitlines()[0]}")
    elif name not in programs:
        _leave(f"no program {name!r}; there are: {', '.join(programs)}", 2)
    else:
        sys.argv = [f"mux-jax {name}", *sys.argv[2:]]
        spec = importlib.util.spec_from_file_location("__main__", programs[name])
        assert spec and spec.loader
        sys.modules["__main__"] = module = importlib.util.module_from_spec(spec)
        module.__spec__ = None  # as of a program that Python is given: processes that are spawned look for its file
        spec.loader.exec_module(module)


def define_config(example: str) -> flags.FlagHolder:
    """The flag `--config=FILE[:arguments]`, with `--config.field=value` for single fields."""
    return config_flags.DEFINE_config_file("config", None, f"The configuration, such as {example}.")


def train_program(example: str) -> None:
    """A training program: its flags, the hosts of the job, the run."""
    config = define_config(example)
    workdir = flags.DEFINE_string("workdir", None, "The run's folder; default: runs/NAME, NAME from the configuration.")
    coordinator = flags.DEFINE_string(
        "coordinator",
        None,
        "Of a job on several hosts: HOST:PORT of the first one. Cloud TPU, GKE, Slurm and Open MPI need no flags.",
    )
    num_processes = flags.DEFINE_integer("num_processes", None, "With --coordinator: how many processes there are.")
    process_id = flags.DEFINE_integer("process_id", None, "With --coordinator: which of them this is, from 0.")

    cache = flags.DEFINE_enum(
        "cache", None, ("show", "clear"), "Instead of training: what is kept between runs (packed text, vocabularies)."
    )

    def main() -> None:
        if cache.value:
            from mux_jax.data import caches

            given = config.value.data.get("cache_dir", "") if config.value else ""
            return caches.show_caches(given) if cache.value == "show" else caches.clear_caches(given)
        _require_training()
        from mux_jax import train  # slow to import: after the flags are checked
        from mux_jax.parallel import hosts

        hosts.connect(coordinator.value, num_processes.value, process_id.value)
        with hosts.all_or_none():
            train(config.value, workdir.value or f"runs/{config.value.name}")

    run(main, config, resumable=True)


def _require_training() -> None:
    """Raises `InputError` unless what training needs, and prediction does not, is installed."""
    missing = [
        name for name in ("grain", "matplotlib", "sklearn", "tensorboardX") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise InputError(f"training needs {', '.join(missing)}: pip install 'mux_jax[train]'")


def run(main: Callable[[], None], config: flags.FlagHolder, resumable: bool = False) -> None:
    """Parses the flags and calls `main`; bad input is one line on stderr and exit status 2."""

    def parse(arguments: Sequence[str]) -> list[str]:
        try:
            rest = flags.FLAGS(list(_find_configs(arguments)))
            if len(rest) > 1:
                raise InputError(f"unknown argument {rest[1]!r}; --help lists the flags")
            optional = flags.FLAGS["help"].present or "cache" in flags.FLAGS and flags.FLAGS["cache"].present
            if config.value is None and not optional:
                raise InputError(f"--config=FILE is needed; {flags.FLAGS['config'].help}")
            if config.value is not None:
                config.value.keys()  # raises what kept the file from being loaded
        except InputError as e:
            _leave(e, 2)
        except flags.Error as e:
            message, _, trace = str(e).partition("Traceback (most recent call last):")
            _leave(message + trace.strip().rpartition("\n")[2], 2)
        except (AttributeError, KeyError) as e:  # from ml_collections
            _leave(f"--config has no such field: {e}", 2)
        except Exception as e:  # whatever the configuration file, or a field given a wrong value, raises
            _leave(f"--config: {type(e).__name__}: {e}", 2)
        return rest

    def guarded(_: list[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.ERROR)  # libraries are quiet unless asked
        guard(main, resumable)

    app.run(guarded, flags_parser=parse)


def _find_configs(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments, those of `--config` with the path of the file."""
    for before, word in itertools.pairwise(("", *arguments)):
        flag, equals, value = word.partition("=")
        if flag.lstrip("-") == "config" and equals:
            yield f"{flag}={_found_config(value)}"
        else:
            yield _found_config(word) if before.lstrip("-") == "config" and before.startswith("-") else word


def _found_config(text: str) -> str:
    from mux_jax.configuration import find_config  # slow to import

    return find_config(text)


def guard(main: Callable[[], None], resumable: bool = False) -> None:
    """Calls `main`; errors are one line on stderr, and exit status 2 for bad input.

    So are Ctrl-C, SIGTERM and SIGHUP, with 128 and the signal's number. Of a program that is `resumable` SIGTERM and
    SIGHUP are no failure: it goes on from what is saved when it is started again.
    """
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a locale may lack letters of labels and paths
    _silence_threads()
    if resumable:
        statuses: dict[int, int] = {number: 0 for number in interrupts.SIGNALS if number != signal.SIGINT}
        interrupts.end_at_signals("stopped; the same command continues from what is saved", statuses)
    else:
        interrupts.end_at_signals()
    try:
        main()
    except InputError as e:
        _leave(e, 2)
    except Exception as e:
        if not isinstance(e, TrainingError) and not is_storage_error(e):
            raise
        _leave(e, 1)


def _silence_threads() -> None:
    """Keeps what threads of Orbax and TensorStore say of a failed save off the screen: it is raised, too."""
    std_logging.getLogger("absl").addFilter(lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname)
    std_logging.getLogger("asyncio").setLevel(std_logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine 'async_serialize", RuntimeWarning)
    in_thread, unraisable = threading.excepthook, sys.unraisablehook

    def report_thread(failure: threading.ExceptHookArgs) -> None:
        if not type(failure.thread).__module__.startswith("orbax."):
            in_thread(failure)

    def report_unraisable(failure: Any) -> None:
        if str(failure.exc_value) != "Event loop is closed":
            unraisable(failure)

    threading.excepthook, sys.unraisablehook = report_thread, report_unraisable


def _leave(error: object, status: int) -> None:
    print_error(error)
    sys.exit(status)
