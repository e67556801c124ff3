"""Makes a multiplexed model out of an ordinary encoder, by least squares on text."""

import argparse

from mux_jax import command_line


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Shares an ordinary encoder out among the N instances of a row: each layer is fitted, by least "
        "squares on text, to compute for each instance what it computes for one, and gradient steps towards the "
        "same states follow. The result is a folder to fine-tune or to pre-train from, by --config.init_from, which "
        "learns far sooner than from the BERT itself. It keeps the classifier of a fine-tuned model, and does its "
        "task at once.",
    )
    parser.add_argument(
        "--model", required=True, metavar="MODEL", help="a Hugging Face folder, an id of its hub, a run"
    )
    parser.add_argument("--width", required=True, type=int, metavar="N", help="instances of a row")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="the folder to write")
    parser.add_argument(
        "--texts",
        metavar="GLOB",
        help="text: .txt, .jsonl, .parquet (default: what --model was fine-tuned on; if it was not, the documentation "
        "of the Python installation)",
    )
    parser.add_argument("--sequences", type=int, default=512, help="drawn from the text to fit on (512)")
    parser.add_argument("--length", type=int, default=64, help="tokens of a sequence (64)")
    parser.add_argument("--steps", type=int, default=500, help="of gradient descent after that, on 16 rows each (500)")
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=["auto", "float32", "bfloat16"],
        help="of their matrix products (auto: bfloat16 on TPU and GPU, float32 on CPU)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the draw of text, and of weights that are not fitted (0)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace DIR if this program or convert.py wrote it")
    arguments = parser.parse_args()

    from mux_jax import compress  # slow to import: after the arguments are checked
    from mux_jax.data.sources import TextFiles

    given = vars(arguments)
    source = given.pop("texts")
    compress(source=TextFiles(source, "text") if source else None, **given)


if __name__ == "__main__":
    command_line.guard(main)
