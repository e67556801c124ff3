"""What is tried: of each means the largest model that is as fast as asked for."""

from mux_jax.compression.request import Request
from mux_jax.compression.shape import MEANS, Shape, families, reduced
from mux_jax.compression.speed import Speeds
from mux_jax.errors import InputError
from mux_jax.models.config import ModelConfig
from mux_jax.progress import say

_MARGIN = 1.05  # what is looked for over what is asked for: measured again, a speed is some percent off


def find_shapes(request: Request, full: ModelConfig, speeds: Speeds, dtype: str) -> dict[str, Shape]:
    """The candidates by name: the shape asked for, or one of each means, found by measuring in a dtype.

    Raises:
      InputError: none is as fast as asked for, with the fastest.
    """
    shape, wanted = request.shape(full), request.speedup
    if shape:
        return {shape.name(full): shape}
    found, fastest = {}, 1.0
    by = MEANS if request.by == "auto" else (request.by,)
    for sizes in (sizes for means in by for sizes in families(full, means)):
        configs = [reduced(full, shape) for shape in sizes]
        config, factor = speeds.find_size(full, configs, _MARGIN * wanted, dtype)
        shape, fastest = sizes[configs.index(config)], max(fastest, factor)
        say(f"{shape.name(full)}: {factor:.1f} times as fast" + ("" if factor >= wanted else "; left out"))
        if factor >= wanted:
            found[shape.name(full)] = shape
    if not found:
        raise InputError(f"--speedup={wanted:g} is out of reach: {fastest:.1f} is the most that was measured")
    return found
