"""Fine-tunes a pre-trained model on a task, and scores it over compositions of rows.

python launch/finetune.py --config=configs/finetune.py --config.init_from=runs/mux_electra_tiny_n2
python launch/finetune.py --config=configs/finetune.py:task=sst2,data=FOLDER --config.init_from=MODEL --workdir=DIR

The same command continues a run that was stopped.
"""

from mux_jax import command_line

if __name__ == "__main__":
    command_line.train_program("configs/finetune.py:task=sst2,data=FOLDER")
