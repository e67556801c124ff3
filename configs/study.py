"""The study of docs/results.md: what multiplexing costs, and what it brings, at the size of a small machine.

    python launch/study.py --config=configs/study.py --config.data=DATA --config.init=BERT --workdir=runs/study

DATA holds `corpus/*.txt` and the folders of the tasks, `sst2`, `ud_ewt`, `wnut17`, `cola`, in the formats
that launch/finetune.py reads; BERT is an ordinary BERT for the warm start. Every run is a command of its
own with a folder of its own. What is done is not done again: the same command continues.
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.data = "data"
    config.init = ""
    config.widths = "1,2,5"
    # What is made, in this order: backbones and variants, both below.
    config.models = (
        "scratch:bert,scratch:unprimed,scratch:contextual,scratch:electra,warm:bert,warm:electra,warm:shared"
    )
    config.seed = 0

    # What is done before fine-tuning: priming, pre-training; models that are not primed are pre-trained
    # longer, by as many steps. Or the instances share out width 1, fine-tuned on the task
    # (launch/warm_start.py), and learn from it. `base` is the variant whose width 1 a model is compared
    # with: at width 1 some have nothing of their own.
    bert = dict(
        file="mux_bert",
        multiplexer="gaussian",
        shared=False,
        primed=True,
        pretrained=True,
        tasks="sst2,pos,ner,cola",
        base="bert",
    )
    direct = bert | dict(primed=False, pretrained=False, base="direct")
    config.variants = dict(
        bert=bert,
        electra=bert | dict(file="mux_electra", base="electra"),
        unprimed=bert | dict(primed=False, tasks="sst2,pos"),
        contextual=bert | dict(multiplexer="contextual", tasks="sst2,pos"),
        direct=direct,
        shared=direct | dict(shared=True, multiplexer="low_rank_orthogonal"),
    )
    # The two backbones, with flags of launch/pretrain.py and launch/finetune.py.
    config.warm = dict(
        init=True,  # start from config.init
        share="--steps=0 --sequences=2048 --length=32",  # of launch/warm_start.py
        priming_steps=400,
        pretraining_steps=800,
        pretrain="--config.model.scan_layers=False --config.data.sequence_length=64"
        " --config.priming.learning_rate=2e-4 --config.pretraining.learning_rate=2e-4"
        " --config.eval.every=400 --config.checkpoint.every=400",
        finetune="--config.model.scan_layers=False --config.data.lengths=16,32,64"
        " --config.model.hidden_dropout=0.0 --config.model.attention_dropout=0.0",
        tasks=dict(
            sst2=dict(steps=800, learning_rate="1e-4"),
            pos=dict(steps=600, learning_rate="2e-4"),
            ner=dict(steps=400, learning_rate="3e-4"),
            cola=dict(steps=400, learning_rate="1e-4"),
        ),
        taught=dict(sst2=800, pos=300, ner=150, cola=200),  # steps, times N, of instances that learn from width 1
    )
    config.scratch = dict(
        init=False,
        priming_steps=600,
        pretraining_steps=1000,
        pretrain="--config.eval.every=500 --config.checkpoint.every=500",
        finetune="--config.model.scan_layers=False --config.data.sequence_length=64 --config.data.lengths=16,32",
        tasks=dict(
            sst2=dict(steps=1000, learning_rate="5e-4"),
            pos=dict(steps=1000, learning_rate="1e-3"),
            ner=dict(steps=500, learning_rate="1e-3"),
            cola=dict(steps=500, learning_rate="5e-4"),
        ),
    )
    return config
