"""Pre-trains a multiplexed language model: priming, then masked LM or replaced-token detection.

python launch/pretrain.py --config=configs/mux_electra.py
python launch/pretrain.py --config=configs/mux_bert.py:size=base,width=5 --workdir=DIR --config.rows=256

The same command continues a run that was stopped.
"""

from absl import flags

from mux_jax import command_line

_CONFIG = command_line.define_config("configs/mux_electra.py:size=base,width=5")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; default: runs/NAME, NAME from the configuration.")


def main() -> None:
    from mux_jax.training.loop import train  # slow to import: after the flags are checked

    config = _CONFIG.value
    train(config, _WORKDIR.value or f"runs/{config.name}")


if __name__ == "__main__":
    command_line.run(main, _CONFIG)
