"""Fine-tuning on a task: one label or several of sentences or pairs, tags of words, or regression.

    python launch/finetune.py --config=configs/finetune.py --config.init_from=runs/mux_electra_tiny_n2
    python launch/finetune.py --config=configs/finetune.py:task=sst2,data=FOLDER --config.init_from=MODEL --workdir=DIR

Arguments: task (cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli, ner, pos, custom; docstrings and
code, which need no download), data (a folder with the files train and dev in the format in which the
task is distributed; without it the data come from TensorFlow Datasets), width (default: as in the
model to start from, 1 for an ordinary one). The default task, which of eight packages a docstring is
from, takes minutes on two cores after a run of configs/mux_electra.py or configs/mux_bert.py.
"""

from mux_jax import configuration


def get_config(argument=None):
    arguments = configuration.parse_arguments(argument, task="docstrings", data="", width=0)
    return configuration.finetuning(**arguments)
