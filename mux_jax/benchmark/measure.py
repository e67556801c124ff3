"""Measuring: cases take turns, so that what slows the machine for a while slows them all."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from mux_jax.files import write_atomically
from mux_jax.inference.batch_runner import cpu_options
from mux_jax.inference.timing import interleave
from mux_jax.models.layers import multiply
from mux_jax.paths import absolute
from mux_jax.progress import progress, say

# Shapes of the plain products whose best rate is the machine's limit: square, and a base model's own.
_PRODUCTS = {
    "cpu": ((2048, 2048, 2048), (2048, 768, 3072), (2048, 3072, 768)),
    "accelerator": ((8192, 8192, 8192), (32768, 768, 3072), (32768, 3072, 768)),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """Something to time.

    `run` does it once and returns when it is done, or returns the seconds that another process took;
    `instances` are those of one call, `flops` its FLOPs by formula, None if there is none.
    `baseline` names the case that its factor is over.
    """

    name: str
    task: str
    multiplexer: str
    width: int
    run: Callable[[], float | None]
    instances: int
    flops: int | None = None
    baseline: str | None = None
    compile_seconds: float | None = None
    peak_memory_bytes: int | None = None


def measure(cases: Sequence[Case], dtype: str, repeats: int) -> list[dict[str, Any]]:
    """A row for each case, as `--json` writes it, times the machine's own limit in the same turns.

    Factors and fractions are medians of the ratios within a turn: what is slow for all of a turn is not in them.

    Returns:
      Objects with `name`, `task`, `multiplexer`, `width`; `instances_per_second`, the median, with
      its `_min` and `_max`; `factor` over width 1 and `flop_factor`, what the FLOPs allow;
      `flops_per_second`; `fraction_of_limit`, that over the best plain matrix product;
      `peak_memory_bytes`, `compile_seconds`. What does not apply is None.
    """
    products = _products(dtype)
    runs = {c.name: c.run for c in cases} | {name: run for name, (run, _) in products.items()}
    with progress("measuring") as report:
        taken = interleave(runs, repeats, report)
    limits = [flops / taken[name] for name, (_, flops) in products.items()]
    limit = max(limits, key=np.median)  # at each turn
    best = f"the best of {len(products)} plain {dtype} matrix products"
    say(f"the machine's limit, {best}: {_spread(limit / 1e9)} GFLOP/s")
    by_name = {case.name: case for case in cases}
    rows = []
    for case in cases:
        rate, base = case.instances / taken[case.name], by_name.get(case.baseline or "")
        speed = case.flops / taken[case.name] if case.flops else None
        factor = flop_factor = None
        if base:
            factor = float(np.median(rate / (base.instances / taken[base.name])))
            if case.flops and base.flops:
                flop_factor = (case.instances / case.flops) / (base.instances / base.flops)
        rows.append(
            {
                "name": case.name,
                "task": case.task,
                "multiplexer": case.multiplexer,
                "width": case.width,
                "instances_per_second": float(np.median(rate)),
                "instances_per_second_min": float(rate.min()),
                "instances_per_second_max": float(rate.max()),
                "factor": factor,
                "flop_factor": flop_factor,
                "flops_per_second": None if speed is None else float(np.median(speed)),
                "fraction_of_limit": None if speed is None else float(np.median(speed / limit)),
                "peak_memory_bytes": case.peak_memory_bytes,
                "compile_seconds": case.compile_seconds,
            }
        )
    return rows


def _products(dtype: str) -> dict[str, tuple[Callable[[], None], int]]:
    """Plain matrix products with their FLOPs."""
    on_cpu = jax.default_backend() == "cpu"
    found: dict[str, tuple[Callable[[], None], int]] = {}
    for m, k, n in _PRODUCTS["cpu" if on_cpu else "accelerator"]:
        a, b = jnp.ones((m, k), dtype), jnp.ones((k, n), dtype)
        # On CPU by all of XLA's libraries that have them: each is the faster one for some shapes.
        for i, options in enumerate(({}, cpu_options(dtype)) if on_cpu else ({},)):
            multiplied = jax.jit(multiply, compiler_options=options).lower(a, b).compile()

            def run(multiplied: Callable = multiplied, a: jax.Array = a, b: jax.Array = b) -> None:
                multiplied(a, b).block_until_ready()

            found[f"product {m}x{k}x{n} {i}"] = (run, 2 * m * k * n)
    return found


def random_tokens(shape: tuple[int, ...], vocab_size: int, seed: int = 0) -> np.ndarray:
    """Random tokens without padding, int32; special ones are in the lower half of a vocabulary."""
    return np.random.default_rng(seed).integers(vocab_size // 2, vocab_size, shape, np.int32)


def memory(compiled: Any) -> int:
    """Bytes that a compiled function holds at its peak: arguments, results, temporaries."""
    m = compiled.memory_analysis()
    return m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Prints the rows as a table, in Markdown."""
    table = Table(box=box.MARKDOWN)
    table.add_column("case", no_wrap=True)
    for name in (
        "instances/s",
        "min to max",
        "factor",
        "by FLOPs",
        "quotient",
        "GFLOP/s",
        "of limit",
        "MB",
        "compile s",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        quotient = row["factor"] / row["flop_factor"] if row["factor"] and row["flop_factor"] else None
        speed = row["flops_per_second"] and row["flops_per_second"] / 1e9
        size = row["peak_memory_bytes"] and row["peak_memory_bytes"] / 1e6
        table.add_row(
            row["name"],
            f"{row['instances_per_second']:,.2f}",
            f"{row['instances_per_second_min']:,.2f} to {row['instances_per_second_max']:,.2f}",
            *(_number(x, 2) for x in (row["factor"], row["flop_factor"], quotient)),
            _number(speed, 1),
            _number(row["fraction_of_limit"], 2),
            _number(size, 0),
            _number(row["compile_seconds"], 1),
        )
    say(title)
    Console(width=160).print(table)


def _spread(x: np.ndarray) -> str:
    return f"{np.median(x):,.1f} ({x.min():,.1f} to {x.max():,.1f})"


def _number(x: float | None, digits: int) -> str:
    return "" if x is None else f"{x:,.{digits}f}"


def save(rows: list[dict[str, Any]], path: str) -> None:
    """Writes the rows as a JSON list."""
    file = absolute(path)
    write_atomically(file, json.dumps(rows, indent=2) + "\n")
    say(f"  {file}")
