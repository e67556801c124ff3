"""Scores a fine-tuned model on a task over compositions of rows.

python launch/evaluate.py --config=configs/finetune.py:task=sst2,data=FOLDER --workdir=RUN --config.ensemble=2
python launch/evaluate.py --config=configs/finetune.py:task=sst2,data=FOLDER --config.init=MODEL --workdir=DIR

The first scores the run in RUN and writes to RUN/evaluation_ensemble_2; the second scores another
model and writes to DIR. Row lengths and dtype are the model's own unless --config.data.lengths,
--config.data.sequence_length or --config.model.dtype are given.
"""

from absl import flags
from ml_collections import config_flags

from mux_jax import command_line
from mux_jax.errors import InputError

_CONFIG = command_line.define_config("configs/finetune.py:task=sst2,data=FOLDER")
_WORKDIR = flags.DEFINE_string("workdir", None, "A fine-tuned run, or the folder for the result if init is given.")
_COMPARE = flags.DEFINE_list("compare", [], "Folders with other results, for the plot of scores against width.")


def main() -> None:
    config = _CONFIG.value
    if config.init and not _WORKDIR.value:
        raise InputError("--config.init needs --workdir=DIR, the folder for its result")
    from mux_jax.training.finetuning import evaluate  # slow to import: after the flags are checked

    given = config_flags.get_override_values(flags.FLAGS["config"])
    evaluate(config, _WORKDIR.value or f"runs/{config.name}", _COMPARE.value, given)


if __name__ == "__main__":
    command_line.run(main, _CONFIG)
