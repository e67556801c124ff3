"""The study of docs/results.md: what multiplexing costs, and what it brings, at the size of a small machine.

    python experiments/study.py --config=experiments/config.py --config.data=DATA --config.init_from=BERT

DATA holds `corpus/*.txt` and the folders of the tasks, `sst2`, `ud_ewt`, `wnut17`, `cola`, in the formats
that launch/finetune.py reads; BERT is an ordinary BERT for the models that do not start from scratch. Every
run is a command of its own with a folder of its own. What is done is not done again: the same command
continues.
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.data = "data"
    config.init_from = ""
    config.widths = "1,2,5"
    # What is made, in this order: backbones and variants, both below.
    config.models = (
        "scratch:bert,scratch:unprimed,scratch:contextual,scratch:electra,"
        "pretrained:bert,pretrained:electra,pretrained:side_by_side"
    )
    config.seed = 0

    # What is done before fine-tuning: priming, pre-training; models that are not primed are pre-trained
    # longer, by as many steps. Or the instances lie side by side in width 1, fine-tuned on the task
    # (launch/compress.py), and learn from it. `base` is the variant whose width 1 a model is compared
    # with: at width 1 some have nothing of their own.
    bert = dict(
        file="mux_bert",
        multiplexer="gaussian",
        compressed=False,
        primed=True,
        pretrained=True,
        tasks="sst2,pos,ner,cola",
        base="bert",
    )
    finetuned = bert | dict(primed=False, pretrained=False, base="finetuned")
    config.variants = dict(
        bert=bert,
        electra=bert | dict(file="mux_electra", base="electra"),
        unprimed=bert | dict(primed=False, tasks="sst2,pos"),
        contextual=bert | dict(multiplexer="contextual", tasks="sst2,pos"),
        finetuned=finetuned,
        side_by_side=finetuned | dict(compressed=True, multiplexer="low_rank_orthogonal"),
    )
    # The two backbones, with fields of the configurations of launch/pretrain.py and launch/finetune.py.
    config.pretrained = dict(
        init=True,  # start from config.init_from
        priming_steps=400,
        pretraining_steps=800,
        pretrain=dict(
            model=dict(scan_layers=False),
            data=dict(sequence_length=64),
            priming=dict(learning_rate=2e-4),
            pretraining=dict(learning_rate=2e-4),
            eval=dict(every=400),
            checkpoint=dict(every=400),
        ),
        finetune=dict(
            model=dict(scan_layers=False, hidden_dropout=0.0, attention_dropout=0.0),
            data=dict(bucket_lengths="16,32,64"),
        ),
        tasks=dict(
            sst2=dict(steps=800, learning_rate=1e-4),
            pos=dict(steps=600, learning_rate=2e-4),
            ner=dict(steps=400, learning_rate=3e-4),
            cola=dict(steps=400, learning_rate=1e-4),
        ),
        taught=dict(  # arguments of launch/compress.py, at all widths
            sst2=dict(steps=4000, learning_rate=1e-4),
            pos=dict(steps=4000, learning_rate=2e-4),
            ner=dict(steps=2000, learning_rate=3e-4),
            cola=dict(steps=2000, learning_rate=1e-4),
        ),
    )
    config.scratch = dict(
        init=False,
        priming_steps=600,
        pretraining_steps=1000,
        pretrain=dict(eval=dict(every=500), checkpoint=dict(every=500)),
        finetune=dict(
            model=dict(scan_layers=False),
            data=dict(sequence_length=64, bucket_lengths="16,32"),
        ),
        tasks=dict(
            sst2=dict(steps=1000, learning_rate=5e-4),
            pos=dict(steps=1000, learning_rate=1e-3),
            ner=dict(steps=500, learning_rate=1e-3),
            cola=dict(steps=500, learning_rate=5e-4),
        ),
    )
    return config
