"""What a step spends its time on: by part of the model, pass and kind of operation."""

import collections
import dataclasses
import re
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from mux_jax.scaling.program import Operation
from mux_jax.scaling.topologies import Chip

# Parts by what is in the scope of an operation: the first that fits.
_PARTS = (
    ("optimiser", r"optimizer"),
    ("vocabulary", r"vocabulary"),
    ("demultiplexer", r"demultiplexer"),
    ("multiplexer", r"multiplexer"),
    ("attention", r"/attention/"),
    ("LayerNorm", r"/\w*norms?(_\d+)?/"),
    ("feed-forward", r"/layers(_\d+)?/(\w+/)*(intermediate|output)/|/layers(_\d+)?/(erf|exp|mul|add|integer_pow)"),
    ("layers, the rest", r"/layers"),
    ("embeddings", r"embeddings"),
)
KERNEL_SHARE = 0.5  # of the chip's rates, that a kernel is taken to reach


@dataclasses.dataclass(frozen=True)
class Line:
    """Operations that belong together: seconds, bytes and FLOPs of a step on one chip.

    `guessed`: XLA has no estimate for one of them, and its time is that of its FLOPs or bytes at `KERNEL_SHARE` of the
    chip's rates.
    """

    part: str
    backward: bool
    kind: str
    seconds: float
    bytes: int
    flops: int
    guessed: bool


def part_of(scope: str) -> str:
    """The part of the model that an operation is of."""
    return next((part for part, pattern in _PARTS if re.search(pattern, scope)), "the rest")


def kernel_seconds(x: Operation, chip: Chip) -> float:
    """Of an operation that XLA has no estimate for, at `KERNEL_SHARE` of the roofline."""
    return max(x.flops / chip.flops, x.bytes / chip.memory_bandwidth) / KERNEL_SHARE


def lines(operations: Sequence[Operation], chip: Chip, clock: float) -> list[Line]:
    """Operations by part, pass and kind, those that take longest first."""
    groups: dict[tuple[str, bool, str], list[Operation]] = collections.defaultdict(list)
    for x in operations:
        groups[part_of(x.scope), "transpose(" in x.scope, x.kind].append(x)
    found = [
        Line(
            *key,
            seconds=sum(x.times * (x.cycles / clock or kernel_seconds(x, chip)) for x in group),
            bytes=sum(x.times * x.bytes for x in group),
            flops=sum(x.times * x.flops for x in group),
            guessed=any(not x.cycles for x in group),
        )
        for key, group in groups.items()
    ]
    return sorted(found, key=lambda line: -line.seconds)


def show(found: Sequence[Line], count: int, chip: Chip) -> None:
    """Prints the first lines as a Markdown table, and the share of those left out."""
    total = sum(line.seconds for line in found)
    table = Table(box=box.MARKDOWN)
    for name in ("share", "ms", "part", "pass", "kind", "GB of arrays", "GFLOP", "of the chip's FLOP/s"):
        table.add_column(name, justify="left" if name in ("part", "pass", "kind") else "right", no_wrap=True)
    for line in found[:count]:
        reached = f"{line.flops / line.seconds / chip.flops:.0%}" if line.flops and line.seconds else ""
        table.add_row(
            f"{line.seconds / total:.1%}",
            f"{line.seconds * 1e3:.2f}" + "*" * line.guessed,
            line.part,
            "backward" if line.backward else "forward",
            line.kind,
            f"{line.bytes / 1e9:.2f}",
            f"{line.flops / 1e9:,.1f}" if line.flops else "",
            reached,
        )
    rest = sum(line.seconds for line in found[count:])
    table.add_row(f"{rest / total:.1%}", f"{rest * 1e3:.2f}", f"{len(found[count:])} more", "", "", "", "", "")
    Console(width=160).print(table)
