"""Known answers of `transformers`: a tiny random checkpoint of each family and head, with inputs and outputs.

    python -m tests.checkpoints.families                 prints the largest difference of each
    python -m tests.checkpoints.families FOLDER          makes them anew there, by `transformers` and PyTorch

Weights are float16, outputs float32 of the same weights. `io.npz` has `tokens` int[B, L], `mask` bool[B, L],
`types` int[B, L] where the family has types, and `output`, which is 0 at padding.
"""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np

import mux_jax
from mux_jax.models.encoder import split_layers
from mux_jax.models.model import MuxModel

FOLDER = Path(__file__).parents[1] / "fixtures" / "families"
LENGTHS = (40, 29, 12, 5)  # of the texts; the last two are pairs where there are types
SHAPES = ("scanned", "unrolled", "split")

_SIZES = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12)
_BERT = _SIZES | dict(vocab_size=24, max_position_embeddings=48)
_ROBERTA = _BERT | dict(type_vocab_size=1, layer_norm_eps=1e-5)
_MODERN = _BERT | dict(
    num_hidden_layers=5, local_attention=8, pad_token_id=1, bos_token_id=0, eos_token_id=2, cls_token_id=0,
    sep_token_id=2,
)  # fmt: skip
# The class of the configuration, which is how the names of the others begin, and its fields.
CONFIGS = {
    "bert": ("Bert", _BERT),
    "electra": ("Electra", _BERT | dict(embedding_size=8)),
    "electra_projected": ("Electra", _BERT | dict(embedding_size=4)),
    "distilbert": ("DistilBert", dict(dim=8, n_layers=2, n_heads=2, hidden_dim=12, vocab_size=24,
                                      max_position_embeddings=48)),
    "roberta": ("Roberta", _ROBERTA),
    "xlm_roberta": ("XLMRoberta", _ROBERTA),
    "camembert": ("Camembert", _ROBERTA),
    "mpnet": ("MPNet", _BERT),
    "modernbert": ("ModernBert", _MODERN),
    "modernbert_mean": ("ModernBert", _MODERN | dict(classifier_pooling="mean")),
}  # fmt: skip
# How the name of the class ends, and how many labels it has.
HEADS = {
    "none": ("Model", 2),
    "mlm": ("ForMaskedLM", 2),
    "sequence": ("ForSequenceClassification", 3),
    "one_logit": ("ForSequenceClassification", 1),
    "token": ("ForTokenClassification", 3),
    "rtd": ("ForPreTraining", 2),
}
_LEFT_OUT = {"electra_projected_mlm"}  # which goes to the size of the embeddings


def cases():
    """The names of all."""
    for config in CONFIGS:
        for head in HEADS:
            name = f"{config}_{head}"
            if (head == "rtd" and not config.startswith("electra")) or name in _LEFT_OUT:
                continue
            if config != "modernbert_mean" or head in ("sequence", "one_logit"):
                yield name, CONFIGS[config], HEADS[head]


def make(folder: Path) -> None:
    """Writes the checkpoints and their answers."""
    import torch
    import transformers

    for i, (name, (prefix, fields), (end, labels)) in enumerate(cases()):
        torch.manual_seed(i)
        config = getattr(transformers, f"{prefix}Config")(**fields, num_labels=labels)
        model = getattr(transformers, prefix + end)(config).eval()
        for parameter in model.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))  # biases and norms, too
        model.half().save_pretrained(folder / name)
        pad = config.pad_token_id
        tokens = np.random.default_rng(i).integers(3, 24, (len(LENGTHS), max(LENGTHS)))
        mask = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
        inputs = {"tokens": np.where(mask, tokens, pad), "mask": mask}
        if getattr(config, "type_vocab_size", 0) > 1:
            second = (np.arange(len(LENGTHS)) > 1)[:, None] & (np.arange(max(LENGTHS)) >= 3)
            inputs["types"] = (mask & second).astype(np.int32)
        names = {"tokens": "input_ids", "mask": "attention_mask", "types": "token_type_ids"}
        # Read again, as half() has rounded the frequencies of rotary positions, too.
        model = type(model).from_pretrained(folder / name, dtype=torch.float32).eval()
        with torch.no_grad():
            given = {names[key]: torch.from_numpy(value.astype(np.int64)) for key, value in inputs.items()}
            out = model(**given)
        output = next(value for value in out.values() if value is not None).numpy()
        if output.shape[:2] == mask.shape:
            output = output * mask.reshape(*mask.shape, *[1] * (output.ndim - 2))
        np.savez_compressed(folder / name / "io.npz", output=output, **inputs)


def difference(folder: Path, shape: str) -> float:
    """The largest difference of our output from theirs, by a model in one of `SHAPES`."""
    model, params = mux_jax.load_pretrained(str(folder))
    config = dataclasses.replace(model.config, dtype="float32", scan_layers=shape == "scanned")
    model = MuxModel(config, split_layers=shape == "split")
    if shape == "split":
        params = split_layers(params)
    io = np.load(folder / "io.npz")
    types = io["types"] if "types" in io else None

    def run(length: int) -> np.ndarray:
        """The output on rows of this length, of the texts that they hold."""
        held = [i for i, n in enumerate(LENGTHS) if n <= length]
        parts = [None if x is None else x[held, None, :length] for x in (io["tokens"], io["mask"], types)]
        return held, np.asarray(jax.jit(model.apply)({"params": params}, *parts))[:, 0]

    worst = 0.0
    for length in (max(LENGTHS), 16):  # rows of several lengths
        held, found = run(length)
        expected, mask = io["output"][held], io["mask"][held, :length]
        if expected.shape[:2] == (len(held), max(LENGTHS)):
            expected = expected[:, :length]
            found = found * mask.reshape(*mask.shape, *[1] * (found.ndim - 2))
        worst = max(worst, float(np.abs(found - expected).max()))
    return worst


def main() -> None:
    if sys.argv[1:]:
        make(Path(sys.argv[1]))
        return
    print(f"| {'family and head':28} | {' | '.join(SHAPES)} |")
    for name, *_ in cases():
        print(f"| {name:28} | {' | '.join(f'{difference(FOLDER / name, shape):.1e}' for shape in SHAPES)} |")


if __name__ == "__main__":
    main()
