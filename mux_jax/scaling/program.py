"""What a compiled program says of itself: its collectives and its operations with their time, read from its HLO."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s64": 8, "u64": 8, "f64": 8}
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
_CALLED = re.compile(r"(body|condition|calls|to_apply|branch_computations|called_computations)=(\{[^}]*\}|%?[\w.\-]+)")
_KERNELS = ("tpu_custom_call",)  # of Pallas: XLA does not know how long they take
# By what is inside an operation; the first that fits. Else it is a copy if it moves alone, or elementwise.
KINDS: dict[str, tuple[str, ...]] = {
    "kernel": ("custom-call",),
    "product": ("dot", "convolution"),
    "gather or scatter": ("gather", "scatter"),
    "sort": ("sort",),
    "reduction": ("reduce", "reduce-window"),
}
_MOVES = {"copy", "transpose", "bitcast", "reshape", "slice", "concatenate", "pad", "parameter", "fusion", "constant"}
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective operation: its `kind`, the `shapes` of its results (dtype, sizes), how many devices take part,
    and how often a step does it."""

    kind: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    devices: int
    times: int

    @property
    def bytes(self) -> int:
        """Of the whole array, once: what is reduced, or what has been gathered."""
        size = sum(_size(dtype, shape) for dtype, shape in self.shapes)
        return size * self.devices if self.kind == "reduce-scatter" else size

    @property
    def link_bytes(self) -> float:
        """Bytes that each device sends in a step, by a ring."""
        share = (self.devices - 1) / self.devices
        return self.times * self.bytes * share * (2 if self.kind == "all-reduce" else 1)


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    shapes: tuple[tuple[str, tuple[int, ...], str], ...]
    opcode: str
    operands: tuple[str, ...]
    inside: str  # what stands between the parentheses
    rest: str

    @property
    def called(self) -> list[str]:
        """The computations that it calls."""
        return [c for _, group in _CALLED.findall(self.rest) for c in re.findall(r"[\w.\-]+", group)]


def collectives(hlo: str) -> list[Collective]:
    """The collectives of a step, those in a loop with the number of its turns."""
    computations, times, _ = _read(hlo)
    found = []
    for computation, instructions in computations.items():
        for x in instructions:
            kind = x.opcode.removesuffix("-start")
            if kind in _COLLECTIVES and times[computation]:
                shapes = [(dtype, shape) for dtype, shape, _ in x.shapes]
                if x.opcode.endswith("-start") and kind != "all-reduce":  # (operands, results, ...)
                    shapes = shapes[len(x.operands) : 2 * len(x.operands)]
                found.append(Collective(kind, tuple(shapes), _group_size(x.rest), times[computation]))
    return [c for c in found if c.devices > 1]


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation of a step, with all that is fused into it.

    Attributes:
      scope: where the model's code makes it, such as `jvp(MuxModel.encode)/encoder/layers/attention/query/dot_general`.
      kind: a name in `KINDS`, `copy` or `elementwise`.
      times: how often a step does it.
      cycles: each time, as XLA's TPU compiler estimates; 0 where it has no estimate.
      bytes: of the operands and results; of an array of which a loop takes a slice each time, all.
      flops: of matrix products, each time.
    """

    scope: str
    kind: str
    times: int
    cycles: int
    bytes: int
    flops: int


def cycles(hlo: str) -> int:
    """The cycles of a step that XLA itself estimates for its operations, communication left out; 0 but on TPU."""
    return sum(x.times * x.cycles for x in operations(hlo))


def operations(hlo: str) -> list[Operation]:
    """The operations of a step that take time, in no order; not the insides of fused ones, and not collectives."""
    computations, times, fused = _read(hlo)
    shapes = {x.name: x.shapes for instructions in computations.values() for x in instructions}
    found = []
    for name, instructions in computations.items():
        for x in instructions if times[name] and name not in fused else ():
            estimate = re.search(r'"estimated_cycles":"(\d+)"', x.rest)
            kernel = _group(r'custom_call_target="([^"]*)"', x.rest) if x.opcode == "custom-call" else ""
            if not estimate and kernel not in _KERNELS:
                continue  # a parameter, a tuple, a collective: no time of its own
            arrays = [shape for operand in x.operands for shape in shapes.get(operand, ())] + list(x.shapes)
            inside = list(_inside(x, computations))
            scope = re.search(r'op_name="([^"]*)"', x.rest)
            found.append(
                Operation(
                    scope=scope[1] if scope else "",
                    kind=_kind(inside),
                    times=times[name],
                    cycles=int(estimate[1]) if estimate else 0,
                    bytes=sum(_size(dtype, sizes) for dtype, sizes, _ in arrays),
                    flops=sum(_product_flops(y, shapes) for y in inside) + _kernel_flops(x),
                )
            )
    return found


def _inside(x: _Instruction, computations: dict[str, list[_Instruction]]) -> Iterator[_Instruction]:
    """An instruction and all that is fused into it."""
    yield x
    for name in x.called if x.opcode == "fusion" else ():
        for y in computations.get(name, ()):
            yield from _inside(y, computations)


def _kind(inside: list[_Instruction]) -> str:
    opcodes = {x.opcode for x in inside}
    named = (kind for kind, of in KINDS.items() if opcodes & set(of))
    return next(named, "copy" if opcodes <= _MOVES else "elementwise")


def _kernel_flops(x: _Instruction) -> int:
    """What a kernel says of itself."""
    found = re.search(r'"cost_estimate":\{"flops":"(\d+)"', x.rest)
    return int(found[1]) if found else 0


def _product_flops(x: _Instruction, shapes: dict[str, tuple]) -> int:
    """FLOPs of a matrix product. TPUs write them as convolutions, in which batches and heads are windows."""
    if x.opcode not in ("dot", "convolution"):
        return 0
    left, out = shapes[x.operands[0]][0][1], x.shapes[0][1]
    if x.opcode == "dot":
        axes = [int(i) for i in _group(r"lhs_contracting_dims=\{([\d,]*)\}", x.rest).split(",") if i]
        return 2 * math.prod(out) * math.prod(left[i] for i in axes)
    labels = re.search(r"dim_labels=(\w+)_\w+->(\w+)", x.rest)
    assert labels, x.rest
    window = re.search(r"window=\{([^}]*)\}", x.rest)
    fields = dict(field.split("=") for field in window[1].split()) if window else {}
    products = out[labels[2].index("b")] * out[labels[2].index("f")] * left[labels[1].index("f")]
    for i, size in enumerate(fields.get("size", "").split("x") if fields else ()):

        def of(name: str, default: str, i: int = i) -> str:
            return fields[name].split("x")[i] if name in fields else default

        before = int(of("pad", "0_0").split("_")[0])
        stride, dilation, spread = (int(of(name, "1")) for name in ("stride", "lhs_dilate", "rhs_dilate"))
        place_OW = np.arange(out[labels[2].index(str(i))])[:, None] * stride + np.arange(int(size)) * spread - before
        last = (left[labels[1].index(str(i))] - 1) * dilation
        products *= int(((place_OW >= 0) & (place_OW <= last) & (place_OW % dilation == 0)).sum())
    return 2 * products


def _read(hlo: str) -> tuple[dict[str, list[_Instruction]], collections.Counter, set[str]]:
    """The computations; how often each runs in a step; those that are the insides of an operation."""
    computations: dict[str, list[_Instruction]] = {}
    entry = name = ""
    for line in hlo.splitlines():
        if line.endswith("{") and not line.startswith(" ") and "(" in line:
            name = _group(r"%?([\w.\-]+) \(", line)
            computations[name] = []
            if line.startswith("ENTRY"):
                entry = name
        elif found := _INSTRUCTION.match(line):
            inside, _, rest = found[4].partition(")")
            shapes = tuple((s[1], _sizes(s[2]), s[3] or "") for s in _SHAPE.finditer(found[2]))
            operands = tuple(re.findall(r"%([\w.\-]+)", inside))
            computations[name].append(_Instruction(found[1], shapes, found[3], operands, inside, rest))

    times: collections.Counter[str] = collections.Counter()
    fused: set[str] = set()
    waiting = [(entry, 1)]
    while waiting:
        name, count = waiting.pop()
        times[name] += count
        for x in computations[name]:
            turns = 1
            if x.opcode == "while":
                turns = _turns(computations[_group(r"condition=%?([\w.\-]+)", x.rest)])
            for callee in (c for c in x.called if c in computations):
                if x.opcode not in ("while", "conditional", "call", "async-start"):
                    fused.add(callee)
                waiting.append((callee, count * turns))
    return computations, times, fused


def _group(pattern: str, text: str) -> str:
    """What the first group of a pattern matches, which must be there."""
    found = re.search(pattern, text)
    assert found, (pattern, text)
    return found[1]


def _turns(condition: list[_Instruction]) -> int:
    """How often a loop runs: XLA's counters go from 0 to the constant in their condition."""
    return max((int(x.inside) for x in condition if x.opcode == "constant" and x.inside.isdigit()), default=1)


def _group_size(rest: str) -> int:
    """How many devices take part, from any of the three ways in which XLA writes groups."""
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found[2]))
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(found[1])
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(found[1].split(","))
    return 2 if "source_target_pairs" in rest else 1


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * _BYTES.get(dtype, 4)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",") if n)
