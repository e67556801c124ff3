"""The device mesh and the one table that maps logical axes to it."""

import math
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mux_jax.errors import InputError

AXES = ("data", "fsdp", "tensor")

# Logical axis (as modules name them) -> mesh axes. `rows` is the batch of an activation; the
# others are axes of parameters.
RULES = (
    ("rows", ("data", "fsdp")),
    ("vocab", "tensor"),
    ("heads", "tensor"),
    ("mlp", "tensor"),
    ("embed", "fsdp"),
    ("norm", None),
    ("layers", None),
)


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices; an axis of -1 takes the devices that the others leave.

    Raises:
      InputError: sizes that do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor]
    known = math.prod(s for s in sizes if s != -1)
    if any(s < 1 and s != -1 for s in sizes) or sizes.count(-1) > 1:
        raise InputError(f"mesh: data={data}, fsdp={fsdp}, tensor={tensor} must be positive, and one of them may be -1")
    if -1 in sizes:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        shape = " x ".join(f"{a}={s}" for a, s in zip(AXES, (data, fsdp, tensor)))
        raise InputError(f"mesh: {shape} does not multiply to the {len(devices)} devices")
    types = (jax.sharding.AxisType.Auto,) * len(AXES)
    # Neighbours in the slice where its shape allows it; an axis of the mesh may split one of the slice's.
    arranged = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(arranged, AXES, axis_types=types)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows split over the data axes."""
    return NamedSharding(mesh, PartitionSpec(dict(RULES)["rows"]))


def local_rows(mesh: Mesh, rows: int) -> np.ndarray:
    """Which rows of a global batch of `rows` the devices of this host hold, ascending."""
    parts = batch_sharding(mesh).addressable_devices_indices_map((rows,))
    return np.unique(np.concatenate([np.arange(rows)[part] for part in parts.values()]))


def param_shardings(mesh: Mesh, boxed: Any) -> Any:
    """The sharding of every parameter, from the logical names that the modules gave its axes.

    An axis that its mesh axis does not divide (a vocabulary of 30522 over 4) is not split.
    """
    table = dict(RULES)

    def sharding(x: Any, logical: PartitionSpec) -> NamedSharding:
        axes = [table[name] if name else None for name in logical]
        axes = [a if a and size % mesh.shape[a] == 0 else None for a, size in zip(axes, x.shape)]
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map(sharding, nn.meta.unbox(boxed), nn.get_partition_spec(boxed))


def rows_multiple(mesh: Mesh) -> int:
    """The devices that rows are split over; a batch has a multiple of it."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_rows(mesh: Mesh, rows: int, grad_accumulation_steps: int = 1) -> None:
    """Raises `InputError` if a batch does not split evenly over the data axes and the accumulated parts."""
    parts = rows_multiple(mesh) * grad_accumulation_steps
    if rows % parts:
        raise InputError(
            f"rows={rows} must be a multiple of {parts}: data={mesh.shape['data']} x "
            f"fsdp={mesh.shape['fsdp']} devices x grad_accumulation_steps={grad_accumulation_steps}"
        )


def to_device(batch: Any, mesh: Mesh, rows: int) -> Any:
    """This host's rows, which `local_rows` names, as its part of a global batch of `rows`."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, x, (rows, *x.shape[1:])),
        batch,
    )


def split_batch(batch: Any, mesh: Mesh) -> Any:
    """A batch that every host has whole, split over the devices."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda part: x[part]), batch)
