"""What a step takes on devices that are not here: compiled for them, measured in its program."""

import collections
import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, SingleDeviceSharding
from rich import box
from rich.console import Console
from rich.table import Table

from mux_jax.benchmark.measure import memory
from mux_jax.configuration import PretrainConfig
from mux_jax.errors import InputError, TrainingError
from mux_jax.parallel.mesh import AXES, check_rows, make_mesh
from mux_jax.progress import say
from mux_jax.scaling import breakdown, program, steps, topologies
from mux_jax.scaling.topologies import Chip

_PRODUCT = 8192  # a plain product of this size is taken to reach 90 % of a chip's rate: that tells the clock


@dataclasses.dataclass(frozen=True)
class Report:
    """A step on a slice. Bytes are of one chip, FLOPs of all, by formula and as XLA counts them in the program
    before it optimises; times in seconds, None where nothing tells them."""

    topology: str
    name: str
    chip: Chip | None
    chips: int
    rows: int
    instance_tokens: int
    params: int
    optimizer: int
    peak: int
    flops: int
    counted_flops: float
    compute: float | None
    communication: float | None
    collectives: list[program.Collective]
    spent: list[breakdown.Line]
    compile_seconds: float

    @property
    def seconds(self) -> float | None:
        """Of a step, if none of the communication is hidden behind the rest."""
        return None if self.compute is None or self.communication is None else self.compute + self.communication

    @property
    def mfu(self) -> float | None:
        """Model FLOP/s over what the chips could do."""
        return self.flops / self.chips / self.seconds / self.chip.flops if self.seconds and self.chip else None

    def on(self, chips: int) -> "Report":
        """The same step, with as many rows a chip, on another number of chips of a mesh that splits rows alone.

        Nothing but the exchange changes: the program of a chip is the same.
        """
        factor = chips / self.chips
        exchange = [dataclasses.replace(c, devices=chips) for c in self.collectives]
        return dataclasses.replace(
            self,
            topology=f"{topologies.parse(self.topology)[0]} x {chips}",
            chips=chips,
            rows=int(self.rows * factor),
            instance_tokens=int(self.instance_tokens * factor),
            flops=int(self.flops * factor),
            counted_flops=self.counted_flops * factor,
            communication=_exchange_seconds(exchange, self.chip),
            collectives=exchange,
        )

    @property
    def fits(self) -> bool:
        return self.chip is None or self.peak <= self.chip.memory


def compile_step(topology: str, config: PretrainConfig, what: str, mesh_sizes: dict[str, int]) -> tuple[Report, Mesh]:
    """Compiles the real step of a configuration for a slice.

    Args:
      config: of pre-training; `what`: training or inference (sequence classification of two classes).

    Raises:
      InputError: an unknown topology, a mesh or rows that do not fit it.
      TrainingError: a program that the compiler refuses, for memory mostly.
    """
    devices = topologies.devices(topology)
    mesh = make_mesh(**dataclasses.asdict(config.mesh) | mesh_sizes, devices=devices)
    on_cpu = devices[0].platform == "cpu"
    if config.model.dtype == "auto":
        dtype = "float32" if on_cpu else "bfloat16"
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype=dtype))
    if config.model.attention == "auto" and not on_cpu:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, attention="fused"))
    check_rows(mesh, config.rows, config.grad_accumulation_steps)
    say(f"compiling for {topology}: " + ", ".join(f"{axis} {mesh.shape[axis]}" for axis in AXES))
    build = steps.training if what == "training" else steps.inference
    function, arguments, count = build(config, mesh)
    start = time.monotonic()
    try:
        compiled = function.compile_for(*arguments)
    except jax.errors.JaxRuntimeError as e:
        reason = next((line for line in str(e).splitlines() if "hbm" in line.lower()), str(e).splitlines()[0])
        raise TrainingError(f"{topology}: {reason.strip()}; {advice(config, mesh)}") from e
    seconds = time.monotonic() - start
    try:
        hlo = compiled.as_text()
    except jax.errors.JaxRuntimeError as e:
        raise InputError("the program cannot be read: this JAX needs another libtpu; pip install 'jax[tpu]'") from e
    found = program.collectives(hlo)
    chip = None if on_cpu else topologies.CHIPS[topologies.parse(topology)[0]]
    spent = breakdown.lines(program.operations(hlo), chip, _clock(devices[0], chip)) if chip else []
    state = arguments[0]
    report = Report(
        topology=topology,
        name=f"{config.name} {what}",
        chip=chip,
        chips=mesh.devices.size,
        rows=config.rows,
        instance_tokens=config.rows * config.model.width * config.data.sequence_length,
        params=_shard_bytes(state.params if what == "training" else state),
        optimizer=_shard_bytes(state.opt_state) if what == "training" else 0,
        peak=memory(compiled) + compiled.memory_analysis().generated_code_size_in_bytes,
        flops=count,
        counted_flops=steps.count_flops(build, config),
        compute=sum(line.seconds for line in spent) if chip else None,
        communication=_exchange_seconds(found, chip),
        collectives=found,
        spent=spent,
        compile_seconds=seconds,
    )
    return report, mesh


def advice(config: PretrainConfig, mesh: Mesh) -> str:
    """What to change when a step does not fit."""
    ideas = []
    if mesh.shape["data"] > 1:
        ideas.append("split parameters (--mesh=fsdp=...)")
    if not config.model.remat:
        ideas.append("recompute layers (--config.model.remat=True)")
    ideas.append("do with fewer rows at a time (--config.grad_accumulation_steps=2, or a smaller --config.rows)")
    return "to make it fit: " + "; ".join(ideas)


def _shard_bytes(tree: Any) -> int:
    """Bytes of one device's share."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _exchange_seconds(exchange: list[program.Collective], chip: Chip | None) -> float | None:
    """All of it by rings, over half of a chip's links: a small slice, without those that wrap around, has no more."""
    return sum(c.link_bytes for c in exchange) / (chip.link_bandwidth / 2) if chip else None


def _clock(device: jax.Device, chip: Chip) -> float:
    """Cycles a second, by the cycles that XLA gives a plain product."""
    n = _PRODUCT
    operand = jax.ShapeDtypeStruct((n, n), jnp.bfloat16, sharding=SingleDeviceSharding(device))
    product = jax.jit(jnp.matmul).lower(operand, operand).compile()
    return program.cycles(product.as_text() or "") * 0.9 * chip.flops / (2 * n**3)


def show(report: Report, advice_if_not: str) -> None:
    """Prints what one chip holds and does, and how the chips communicate."""
    others = report.peak - report.params - report.optimizer
    memory = f" of {report.chip.memory / 2**30:.0f} GiB" if report.chip else ""
    say(f"{report.name} on {report.topology}, {report.rows} rows, compiled in {report.compile_seconds:.0f} s")
    say(
        f"  a chip holds: parameters {_gib(report.params)}, optimiser {_gib(report.optimizer)}, activations, "
        f"gradients and the rest {_gib(others)}: peak {_gib(report.peak)}{memory}"
    )
    say(
        f"  FLOPs of a step: {report.flops / 1e9:,.1f} G by formula, {report.counted_flops / 1e9:,.1f} G as XLA "
        f"counts; {report.flops / report.chips / 1e9:,.1f} G a chip"
    )
    if report.seconds and report.communication is not None and report.mfu is not None:
        say(
            f"  estimated step: {report.seconds * 1e3:.1f} ms, {report.communication / report.seconds:.0%} of it "
            f"communication if none is hidden; MFU {report.mfu:.0%}; "
            f"{report.instance_tokens / report.seconds:,.0f} instance-tokens/s"
        )
        if kernels := sum(line.seconds for line in report.spent if line.guessed):
            share = breakdown.KERNEL_SHARE
            other = [
                f"{report.mfu * report.seconds / (report.seconds + kernels * (share / x - 1)):.0%} at {x:.0%}"
                for x in (1.0, 0.25)
            ]
            say(
                f"  of it kernels, which XLA does not estimate: {kernels * 1e3:.1f} ms at {share:.0%} of the chip's "
                f"FLOP/s or bytes/s; MFU would be {' and '.join(other)}"
            )
    totals: dict[tuple[str, int], collections.Counter] = collections.defaultdict(collections.Counter)
    for c in report.collectives:
        totals[c.kind, c.devices].update(operations=c.times, bytes=c.times * c.bytes, sent=int(c.link_bytes))
    for (kind, devices), total in sorted(totals.items()):
        say(
            f"  {kind} over {devices}: {total['operations']} a step, {total['bytes'] / 1e6:,.1f} MB of arrays, "
            f"{total['sent'] / 1e6:,.1f} MB sent by each chip"
        )
    if not totals:
        say("  no communication")
    if not report.fits:
        say(f"  DOES NOT FIT; {advice_if_not}")


def show_table(reports: Sequence[Report]) -> None:
    """Prints a Markdown row for each."""
    table = Table(box=box.MARKDOWN)
    for name in ("step", "slice", "rows", "GiB a chip", "fits", "ms a step", "communication", "MFU"):
        table.add_column(name, justify="left" if name in ("step", "slice") else "right", no_wrap=True)
    table.add_column("instance-tokens/s", justify="right", no_wrap=True)
    for r in reports:
        cells = [r.name, r.topology, str(r.rows), f"{r.peak / 2**30:.1f}", "yes" if r.fits else "no"]
        if r.seconds is not None and r.communication is not None:
            cells += [f"{r.seconds * 1e3:.1f}", f"{r.communication / r.seconds:.0%}", f"{r.mfu:.0%}"]
            cells.append(f"{r.instance_tokens / r.seconds:,.0f}")
        table.add_row(*cells)
    Console(width=160).print(table)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def run(
    names: list[str],
    configs: list[PretrainConfig],
    what: str,
    mesh_sizes: dict[str, int],
    rows_per_chip: int,
    chips: list[int],
    rows_given: bool,
    operations: int,
) -> bool:
    """What `launch/compile.py` does; whether everything fits.

    operations: how many lines to show of what a step spends its time on.

    Rows that were not given, but are the configuration's default, are raised to what the chips divide.
    """
    reports = []
    for config in configs:
        for name in names:
            config = dataclasses.replace(config)
            if rows_per_chip:
                config.rows = rows_per_chip * topologies.parse(name)[1]
            elif not rows_given and config.rows % (parts := topologies.parse(name)[1] * config.grad_accumulation_steps):
                least = -(-config.rows // parts) * parts
                say(f"rows={least}: {config.rows}, the default, do not divide among the {name} chips")
                config.rows = least
            report, mesh = compile_step(name, config, what, mesh_sizes)
            show(report, advice(config, mesh))
            if operations and report.chip:
                breakdown.show(report.spent, operations, report.chip)
            if chips and any(mesh.shape[axis] > 1 for axis in ("fsdp", "tensor")):
                raise InputError("--chips is for meshes that split rows alone, such as --mesh=data=-1")
            reports += [report.on(count) for count in chips] or [report]
    if len(reports) > 1:
        show_table(reports)
    return all(report.fits for report in reports)


def parse_mesh(text: str) -> dict[str, int]:
    """{"data": -1, "fsdp": 4} of "data=-1,fsdp=4".

    Raises:
      InputError: an axis that a mesh does not have, or a size that is no number.
    """
    sizes = {}
    for part in filter(None, text.split(",")):
        axis, _, size = part.partition("=")
        if axis not in AXES or not size.lstrip("-").isdigit():
            raise InputError(f"--mesh={text}: must be as in data=-1,fsdp=4,tensor=1; the axes are {', '.join(AXES)}")
        sizes[axis] = int(size)
    return sizes
