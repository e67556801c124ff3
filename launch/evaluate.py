"""Scores a fine-tuned model on a task over compositions of rows.

python launch/evaluate.py --config=configs/finetune.py:task=sst2,data=FOLDER --model=RUN --config.ensemble=2
python launch/evaluate.py --config=configs/finetune.py:task=sst2,data=FOLDER --model=MODEL --workdir=DIR
python launch/evaluate.py --config=configs/finetune.py:task=sst2,data=FOLDER --model=RUN --split=test
python launch/evaluate.py --config=configs/finetune.py:task=sst2,data=FOLDER --model=RUN --submission=DIR
python launch/evaluate.py --config=configs/finetune.py:task=sst2,data=FOLDER --model=CHEAPER --defer=auto

The first scores the run in RUN and writes to RUN/evaluation_ensemble_2; the second scores another
model and writes to DIR. The third scores on the file `test` in FOLDER; the fourth predicts on it, where
it has no labels, and writes DIR/SST-2.tsv as GLUE takes it; the fifth lets the full model answer what
a cheaper one is not sure of. Row lengths are the model's own, products in bfloat16 where the device has
them, unless --config.data.bucket_lengths, --config.data.sequence_length or --config.model.dtype are given.
"""

from absl import flags
from ml_collections import config_flags

from mux_jax import command_line
from mux_jax.errors import InputError

_CONFIG = command_line.define_config("configs/finetune.py:task=sst2,data=FOLDER")
_MODEL = flags.DEFINE_string("model", None, "A fine-tuned run, a Hugging Face folder or an id of its hub.")
_WORKDIR = flags.DEFINE_string("workdir", "", "The folder for the result; default: evaluation_ensemble_K in the run.")
_COMPARE = flags.DEFINE_list("compare", [], "Folders with other results, for the plot of scores against width.")

_SPLIT = flags.DEFINE_enum("split", "dev", ("dev", "test"), "What to score on: a file in the folder, or TFDS's split.")
_TEXTS = flags.DEFINE_string("texts", "", "A labelled file in the task's format to score on in place of a split.")
_DEFER = flags.DEFINE_string(
    "defer", "off", "Which examples the full model of a cheaper one answers: auto, a share, agreement=X, off."
)
_SUBMISSION = flags.DEFINE_string(
    "submission", "", "Instead of scoring: the folder for predictions on GLUE's test set, as the benchmark takes them."
)


def main() -> None:
    if not _MODEL.value:
        raise InputError("--model=MODEL is needed: a fine-tuned run, a Hugging Face folder or an id of its hub")
    if _SUBMISSION.value and (_TEXTS.value or _WORKDIR.value or _COMPARE.value or _DEFER.value != "off"):
        raise InputError("--submission=DIR scores nothing: leave out --texts, --workdir, --compare and --defer")
    from mux_jax.inference.evaluation import evaluate, write_submission  # slow to import: after the flags are checked

    given = config_flags.get_override_values(flags.FLAGS["config"])
    if _SUBMISSION.value:
        return write_submission(_CONFIG.value, _MODEL.value, _SUBMISSION.value, given)
    options = dict(split=_SPLIT.value, texts=_TEXTS.value, defer=_DEFER.value)
    evaluate(_CONFIG.value, _MODEL.value, _WORKDIR.value, _COMPARE.value, given, **options)


if __name__ == "__main__":
    command_line.run(main, _CONFIG)
