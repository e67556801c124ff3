"""What the soak test runs: commands of the programs on tiny models, and the text they read."""

import dataclasses
import json
import random
from pathlib import Path

KINDS = ("pre-training", "fine-tuning", "prediction", "conversion")
WORDS = "river stone light garden letter winter silver window paper music ocean village bridge forest engine".split()
RECORDS = {"text": 300, "train": 60, "dev": 20, "texts": 200}  # of the file with this stem
PRETRAIN = """
    --config.rows=8 --config.model.hidden_size=16 --config.model.embedding_size=16 --config.model.intermediate_size=32
    --config.model.num_attention_heads=2 --config.model.num_hidden_layers=1 --config.model.max_position_embeddings=32
    --config.data.source=files --config.data.files=text.jsonl --config.data.cache_dir=disk/cache
    --config.data.sequence_length=16 --config.data.vocab_size=120 --config.data.heldout_fraction=0.2
    --config.priming.steps=10 --config.priming.warmup_steps=2 --config.pretraining.steps=10
    --config.pretraining.warmup_steps=2 --config.eval.every=8 --config.eval.batches=2 --config.log_every=4
    --config.checkpoint.every=4 --config.checkpoint.keep=3 --workdir=disk/out"""
FINETUNE = """
    --config.init_from=model --config.rows=4 --config.data.sequence_length=24 --config.data.bucket_lengths=8,16,24
    --config.finetuning.steps=8 --config.finetuning.warmup_steps=2 --config.finetuning.learning_rate=1e-3
    --config.eval.every=2 --config.log_every=2 --config.num_compositions=2 --config.checkpoint.every=2
    --config.checkpoint.keep=10 --workdir=disk/out"""


@dataclasses.dataclass(frozen=True)
class Case:
    """A command: the files of text it reads, the case whose output is its `model`, and what it writes on the disk.

    ROOT in it is the folder of the project.
    """

    kind: str
    command: str
    files: tuple[str, ...] = ()
    model: str = ""
    output: str = "disk/out"


CASES: dict[str, Case] = {}
for name in ("mux_bert", "mux_electra"):
    command = f"pretrain.py --config=ROOT/configs/{name}.py {PRETRAIN}"
    CASES[f"pretrain {name}"] = Case("pre-training", command, ("text.jsonl",))
for name in ("csv", "jsonl"):
    command = f"finetune.py --config=ROOT/configs/finetune.py:task=custom,data={name} {FINETUNE}"
    files = (f"{name}/train.{name}", f"{name}/dev.{name}")
    CASES[f"finetune {name}"] = Case("fine-tuning", command, files, "pretrain mux_bert")
for name, output in (("csv", "disk/out.jsonl"), ("jsonl", "disk/out.tsv"), ("txt", "disk/out.jsonl")):
    command = f"predict.py --model=model --texts=texts.{name} --output={output}"
    CASES[f"predict {name}"] = Case("prediction", command, (f"texts.{name}",), "finetune csv", output)
for name, model in (("convert", "finetune csv"), ("convert back", "convert")):
    CASES[name] = Case("conversion", "convert.py --model=model --output=disk/out", (), model)


def records(file: Path) -> list[str]:
    """The lines that belong in a file of text, by its name."""
    rng = random.Random(file.stem)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 25))) for _ in range(RECORDS[file.stem])]
    rows = [{"label": "stone" if "stone" in text else "fruit", "text": text} for text in texts]
    if file.suffix == ".csv":
        return ["label,text\n", *('{label},"{text}"\n'.format(**row) for row in rows)]
    return [(json.dumps(row) if file.suffix == ".jsonl" else row["text"]) + "\n" for row in rows]
