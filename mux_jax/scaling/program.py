"""What a compiled program says of itself: its collectives and the time of its operations, read from its HLO."""

import collections
import dataclasses
import math
import re

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s64": 8, "u64": 8, "f64": 8}
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
_CALLED = re.compile(r"(body|condition|calls|to_apply|branch_computations|called_computations)=(\{[^}]*\}|%?[\w.\-]+)")
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


def cycles(hlo: str) -> int:
    """The cycles of a step that XLA itself estimates for its operations, communication left out; 0 but on TPU."""
    computations, times, fused = _read(hlo)
    return sum(
        times[name] * int(found[1])
        for name, instructions in computations.items()
        if name not in fused
        for x in instructions
        if (found := re.search(r'"estimated_cycles":"(\d+)"', x.rest))
    )


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
