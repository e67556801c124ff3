"""Pre-trains a multiplexed language model: priming, then masked LM or replaced-token detection.

python launch/pretrain.py --config=configs/mux_electra.py
python launch/pretrain.py --config=configs/mux_bert.py:size=base,width=5 --workdir=DIR --config.rows=256

The same command continues a run that was stopped.
"""

from mux_jax import command_line

if __name__ == "__main__":
    command_line.train_program("configs/mux_electra.py:size=base,width=5")
