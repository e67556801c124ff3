"""Functions compiled for each shape that they meet, with a mesh and the axis rules in force."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh

from mux_jax.parallel.mesh import RULES


class CompiledByShape:
    """A function jitted with the mesh and the axis rules in force, compiled for each shape it meets.

    What is not compiled yet is compiled at its first call; `compile_for` does it before.
    """

    def __init__(self, function: Callable, mesh: Mesh, **jit_options: Any):
        self._jitted, self._mesh = jax.jit(function, **jit_options), mesh
        self._compiled: dict[Any, jax.stages.Compiled] = {}

    def compile_for(self, *args: Any) -> jax.stages.Compiled:
        """Compiles for arguments of these shapes, if that was not done before."""
        key = self._key(args)
        if key not in self._compiled:
            self._compiled[key] = self.lower(*args).compile()
        return self._compiled[key]

    def lower(self, *args: Any) -> jax.stages.Lowered:
        """The program for arguments of these shapes, not compiled yet."""
        with jax.set_mesh(self._mesh), nn.logical_axis_rules(RULES):
            return self._jitted.lower(*args)

    def __call__(self, *args: Any) -> Any:
        return self.compile_for(*args)(*args)

    @staticmethod
    def _key(args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shapes of all but the first argument: parameters and states keep theirs."""
        return tuple((x.shape, x.dtype) for x in jax.tree.leaves(args[1:]))
