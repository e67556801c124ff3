"""Devices that need not be here: TPU slices by name, through libtpu, and virtual CPU devices."""

import dataclasses
import os
import re

import jax
from jax.experimental import topologies

from mux_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Chip:
    """What the maker says of a chip, on the system architecture pages of Cloud TPU.

    Attributes:
      memory: bytes.
      memory_bandwidth: bytes/s.
      flops: FLOP/s in bfloat16.
      link_bandwidth: bytes/s that it can send over all its links together; the pages give twice that, for both
        directions.
    """

    memory: float
    memory_bandwidth: float
    flops: float
    link_bandwidth: float


CHIPS = {
    "v4": Chip(32 * 2**30, 1228e9, 275e12, 300e9),
    "v5e": Chip(16 * 2**30, 819e9, 197e12, 200e9),
    "v5p": Chip(95 * 2**30, 2765e9, 459e12, 600e9),
    "v6e": Chip(32 * 2**30, 1640e9, 918e12, 400e9),
}
_EXAMPLES = "v4:2x2x1, v5e:16x16, v5p:2x2x1, v6e:4x4, cpu:8"


def parse(topology: str) -> tuple[str, int]:
    """The kind of chip and how many: ("v5e", 256) of "v5e:16x16", ("cpu", 8) of "cpu:8".

    Raises:
      InputError: a name that is not of this form, or a kind that is not known.
    """
    kind, _, shape = topology.partition(":")
    if kind not in (*CHIPS, "cpu") or not re.fullmatch(r"[1-9]\d*" + r"(x[1-9]\d*)*" * (kind != "cpu"), shape):
        raise InputError(
            f"--topology={topology} is not known; the kinds are {', '.join(CHIPS)} and cpu, as in {_EXAMPLES}"
        )
    count = 1
    for size in shape.split("x"):
        count *= int(size)
    return kind, count


def configure_environment(names: list[str]) -> None:
    """Sets what JAX and libtpu read when they are first used; call it before.

    Raises:
      InputError: as `parse`.
    """
    virtual = max((count for kind, count in map(parse, names) if kind == "cpu"), default=1)
    jax.config.update("jax_num_cpu_devices", virtual)
    jax.config.update("jax_platforms", "cpu")  # no TPU is looked for here
    jax.config.update("jax_enable_compilation_cache", False)  # nothing is read from it without a device
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "true"  # there is no device to share
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")


def devices(topology: str) -> list[jax.Device]:
    """The devices of a slice; programs can be compiled for them, not run.

    Raises:
      InputError: an unknown kind, a shape that the kind does not have, libtpu missing.
    """
    kind, count = parse(topology)
    if kind == "cpu":
        return jax.devices("cpu")[:count]
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except (RuntimeError, ValueError) as e:
        if "not installed" in str(e):
            raise InputError(f"--topology={topology} needs libtpu: pip install 'jax[tpu]'") from e
        raise InputError(f"--topology={topology}: {str(e).splitlines()[0]}") from e
