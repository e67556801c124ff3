"""How fast the means are over the full model: measured in turns here, or by the compiler's estimate for a TPU.

    python -m experiments.superposition.speeds --model=RUN --out=FILE
    python -m experiments.superposition.speeds --model=RUN --out=FILE --topology=v5e:2x2

Models have random weights. The first way takes the task's dev texts, float32 and bfloat16, each model at its best
number of rows. The second (libtpu, no TPU) compiles as many texts for all, in bfloat16, in rows of 64 tokens.
"""

import argparse
import dataclasses
import json

from experiments.superposition.means import MEANS, Means
from mux_jax import configuration
from mux_jax.compression.shape import reduced
from mux_jax.files import write_atomically
from mux_jax.models.config import ModelConfig, ModelSettings
from mux_jax.paths import absolute
from mux_jax.progress import say

_TEXTS, _LENGTH = 7_680, 64  # on all chips of the slice: rows of 1, 2 and 5 texts all divide among 4 chips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="RUN", help="the full model, fine-tuned on a task")
    parser.add_argument("--out", required=True, metavar="FILE", help="to write, .json")
    parser.add_argument("--topology", default="", metavar="SLICE", help="estimate for this slice, such as v5e:2x2")
    given = parser.parse_args()
    if not absolute(given.out).parent.is_dir():
        parser.error(f"--out={given.out}: no such folder")
    if given.topology:
        from mux_jax.scaling import topologies  # sets what JAX reads first

        topologies.configure_environment([given.topology])
    found = estimated(given.model, given.topology) if given.topology else measured(given.model)
    write_atomically(absolute(given.out), json.dumps(found, indent=2) + "\n")
    say(json.dumps(found, indent=2))


def configs(full: ModelConfig) -> dict[str, ModelConfig]:
    """The models to time, by name. Texts held apart are as fast as those side by side, primed keys as others."""
    timed = {name: means for name, means in MEANS.items() if not means.hard and not means.primed}
    return {"full": full} | {name: _config(means, full) for name, means in timed.items()}


def _config(means: Means, full: ModelConfig) -> ModelConfig:
    if means.keys == "gaussian":
        return dataclasses.replace(full, width=means.width, multiplexer="gaussian", demultiplexer="rsa")
    return reduced(full, means.shape(full))


def measured(model: str) -> dict[str, dict[str, dict[str, float]]]:
    """Throughputs by dtype and name: texts a second, rows, factor over the full model."""
    from mux_jax.checkpoints.source import open_model
    from mux_jax.compression.request import Request
    from mux_jax.compression.speed import Speeds
    from mux_jax.data.encoding import Encoder

    found, request = open_model(model), Request(model=model, speedup=5.0)
    texts = request.read(found, request.section(found))
    tokenizer, lengths = found.tokenizer(), found.bucket_lengths()
    speeds = Speeds(Encoder(tokenizer, lengths[-1])(texts.judge), lengths, tokenizer.special.pad)
    by_dtype = speeds.measure(configs(found.config), ["float32", "bfloat16"])
    return {
        dtype: {name: dataclasses.asdict(throughput) for name, throughput in by_name.items()}
        for dtype, by_name in by_dtype.items()
    }


def estimated(model: str, topology: str) -> dict[str, dict[str, dict[str, float]]]:
    """As `measured`, by the estimate of `launch/compile.py`."""
    from mux_jax.checkpoints.source import open_model
    from mux_jax.scaling import report

    rates, rows = {}, {}
    for name, config in configs(open_model(model).config).items():
        run = configuration.read(configuration.pretraining("bert", "tiny", config.width))
        known = {field.name for field in dataclasses.fields(ModelSettings)} - {"options"}
        settings = {key: getattr(config, key) for key in known} | dict(config.options)
        run.model = ModelSettings.from_flat(settings | {"dtype": "bfloat16"})
        run.name, run.rows = name, _TEXTS // config.width
        run.data.sequence_length, run.data.vocab_size = _LENGTH, config.vocab_size
        found, _ = report.compile_step(topology, run, "inference", {})
        rates[name], rows[name] = _TEXTS / found.seconds, run.rows
    figures = {
        name: {"texts_per_second": rate, "rows": rows[name], "factor": rate / rates["full"]}
        for name, rate in rates.items()
    }
    return {f"bfloat16 on {topology}": figures}


if __name__ == "__main__":
    main()
