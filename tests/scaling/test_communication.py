"""What devices say to each other in a training step: gradients, split parameters, and nothing else."""

import math

import jax
import pytest

from mux_jax import configuration
from mux_jax.parallel.mesh import make_mesh
from mux_jax.scaling import program, steps

ROWS, LENGTH = 8, 24


def step_on(*shape):
    """(collectives of a MUX-BERT step on a mesh, its parameters' shapes)."""
    config = configuration.pretraining("bert", "tiny", 3, scan_layers=True)
    config.pretraining.objective = "mlm"
    config.model.update(dtype="float32", max_position_embeddings=32)
    config.rows, config.data.sequence_length = ROWS, LENGTH
    step, arguments, _ = steps.training(configuration.read(config), make_mesh(*shape))
    return program.collectives(step.compile_for(*arguments).as_text()), arguments[0].params


def moved(collectives, *kinds):
    """Bytes a step, by kind."""
    return sum(c.times * c.bytes for c in collectives if c.kind in kinds)


def shapes_of(collectives, *kinds):
    """The shapes of arrays of more than a few numbers, without axes of 1, as often as a step moves them."""
    return [
        tuple(n for n in shape if n > 1)
        for c in collectives
        if c.kind in kinds
        for _, shape in c.shapes * c.times
        if math.prod(shape) > 100
    ]


def gradient_bytes(params):
    learned = params | {"multiplexer": {}}  # Gaussian keys are fixed
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(learned))


def test_on_a_data_mesh_gradients_are_reduced_once_and_nothing_else_moves():
    collectives, params = step_on(8, 1, 1)
    assert {c.kind for c in collectives} == {"all-reduce"}
    assert {c.devices for c in collectives} == {8}
    # The table is read by the embeddings and by two heads; its gradient is one.
    assert shapes_of(collectives, "all-reduce").count(params["embeddings"]["word"].shape) == 1
    # Of the position embeddings only those of the row's length have a gradient; the demultiplexer's
    # is summed for each of the heads that it serves.
    assert 0.97 < moved(collectives, "all-reduce") / gradient_bytes(params) < 1.03


def test_on_an_fsdp_mesh_each_parameter_is_gathered_once_a_pass_and_no_activation_is():
    collectives, params = step_on(1, 8, 1)
    size = gradient_bytes(params)
    allowed = {tuple(n for n in x.shape if n > 1) for x in jax.tree.leaves(params)}
    allowed |= {x.shape[1:] for x in jax.tree.leaves(params["encoder"])}  # of one layer
    allowed |= {shape[::-1] for shape in allowed} | {(LENGTH, params["embeddings"]["position"].shape[1])}
    gathered = shapes_of(collectives, "all-gather")
    assert set(gathered) <= allowed
    assert gathered.count(params["embeddings"]["word"].shape) == 1
    assert moved(collectives, "all-gather") < 2 * size
    assert set(shapes_of(collectives, "all-reduce", "reduce-scatter")) <= allowed
    assert moved(collectives, "all-reduce", "reduce-scatter") < 1.03 * size
    assert not shapes_of(collectives, "all-to-all", "collective-permute")


@pytest.mark.parametrize(
    "line, kind, devices, size",
    [
        ("%a = f32[8,4]{1,0} all-reduce(%x), replica_groups={{0,1},{2,3}}, to_apply=%add", "all-reduce", 2, 128),
        ("%a = bf16[8,4]{1,0} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}", "all-gather", 4, 64),
        ("%a = (f32[2]{0}, f32[8]{0}) all-gather-start(%x), replica_groups=[1,4]<=[4]", "all-gather", 4, 32),
        (
            "%a = f32[2]{0} reduce-scatter(%x), replica_groups=mesh['a'=2,'b'=4], device_ids=([2,4]T(1,0)) {'b'}",
            "reduce-scatter",
            4,
            32,
        ),
    ],
)
def test_collectives_are_read_in_all_spellings(line, kind, devices, size):
    hlo = f"ENTRY %main (x: f32[2]) -> f32[2] {{\n  %x = f32[2]{{0}} parameter(0)\n  {line}\n}}\n"
    [found] = program.collectives(hlo)
    assert (found.kind, found.devices, found.bytes, found.times) == (kind, devices, size, 1)


def test_what_a_loop_does_counts_as_often_as_it_turns():
    def f(x):
        def turn(x, _):
            return jax.lax.psum(x, "i") / 8, None

        return jax.lax.scan(turn, x, length=5)[0]

    mesh = jax.make_mesh((8,), ("i",))
    spec = jax.sharding.PartitionSpec("i")
    mapped = jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    x = jax.ShapeDtypeStruct((8, 16), jax.numpy.float32, sharding=jax.sharding.NamedSharding(mesh, spec))
    [found] = program.collectives(jax.jit(mapped).lower(x).compile().as_text())
    assert (found.kind, found.times, found.bytes) == ("all-reduce", 5, 64)
    assert found.link_bytes == 5 * 64 * 2 * 7 / 8
