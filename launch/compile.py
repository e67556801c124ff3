"""Compiles the step of a run for devices that are not here, and says what it would take there.

python launch/compile.py --config=configs/mux_bert.py:size=base,width=5 --topology=v5e:16x16
python launch/compile.py --config=configs/mux_bert.py:size=large --topology=v5e:4x4 --mesh=fsdp=4 --config.rows=1024

TPUs need libtpu (pip install -e .[tpu]), cpu:8 nothing. Exit status 1: it does not fit.
"""

import sys

from absl import flags
from ml_collections import config_flags

from mux_jax import command_line

_CONFIG = command_line.define_config("configs/mux_bert.py:size=base,width=5")
_TOPOLOGY = flags.DEFINE_list("topology", None, "Slices, such as v5e:16x16 or cpu:8; several give a table.")
_WIDTHS = flags.DEFINE_list("widths", None, "Widths instead of the configuration's, for a table.")
_MESH = flags.DEFINE_string("mesh", "", "How to split, as in data=-1,fsdp=4; default: config.mesh.")
_WHAT = flags.DEFINE_enum("what", "training", ("training", "inference"), "Which step.")
_CHIPS = flags.DEFINE_list("chips", [], "For a table: other numbers of chips, the exchange by formula.")
_ROWS = flags.DEFINE_integer("rows_per_chip", 0, "Rows for each chip instead of config.rows of all.", lower_bound=0)
_OPERATIONS = flags.DEFINE_integer("operations", 0, "How many lines of what a step spends its time on.", lower_bound=0)


def main() -> None:
    from mux_jax import configuration
    from mux_jax.errors import InputError
    from mux_jax.scaling import topologies  # sets what JAX reads first

    if not _TOPOLOGY.value:
        raise InputError("--topology=SLICE is needed, such as v5e:16x16 or cpu:8")
    if configuration.is_finetuning(_CONFIG.value):
        raise InputError("--config must be one of pre-training, such as configs/mux_bert.py")
    topologies.configure_environment(_TOPOLOGY.value)

    from mux_jax.scaling import report

    configs = []
    for width in _WIDTHS.value or [_CONFIG.value.model.width]:
        if not str(width).isdigit() or not int(width):
            raise InputError(f"--widths={','.join(_WIDTHS.value)} must be numbers from 1 on")
        config = _CONFIG.value.copy_and_resolve_references()
        config.model.width = int(width)
        config.stages = (
            configuration.stages(configuration.read(config))[-1][0],
        )  # whose step it is; width 1 is not primed
        config.name = f"{config.name.rpartition('_n')[0]}_n{width}"
        configs.append(configuration.resolve(config, None))
    for count in _CHIPS.value:
        if not count.isdigit() or not int(count):
            raise InputError(f"--chips={','.join(_CHIPS.value)} must be numbers from 1 on")
    chips = [int(count) for count in _CHIPS.value]
    mesh, given = report.parse_mesh(_MESH.value), "rows" in config_flags.get_override_values(flags.FLAGS["config"])
    fits = report.run(_TOPOLOGY.value, configs, _WHAT.value, mesh, _ROWS.value, chips, given, _OPERATIONS.value)
    sys.exit(0 if fits else 1)


if __name__ == "__main__":
    command_line.run(main, _CONFIG)
