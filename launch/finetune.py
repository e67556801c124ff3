"""Fine-tunes a pre-trained model on a task, and scores it over compositions of rows.

python launch/finetune.py --config=configs/finetune.py --config.init=runs/mux_electra_tiny_n2
python launch/finetune.py --config=configs/finetune.py:task=sst2,data=FOLDER --config.init=MODEL --workdir=DIR

The same command continues a run that was stopped.
"""

from absl import flags

from mux_jax import command_line

_CONFIG = command_line.define_config("configs/finetune.py:task=sst2,data=FOLDER")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; default: runs/NAME, NAME from the configuration.")


def main() -> None:
    from mux_jax.training.loop import train  # slow to import: after the flags are checked

    config = _CONFIG.value
    train(config, _WORKDIR.value or f"runs/{config.name}")


if __name__ == "__main__":
    command_line.run(main, _CONFIG)
