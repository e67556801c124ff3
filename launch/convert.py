"""Converts checkpoints: Hugging Face's to ours, and ours to Hugging Face's."""

import argparse

from mux_jax import command_line


def main() -> None:
    parser = argparse.ArgumentParser(
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s --model MODEL --output DIR [--tokenizer FILE] [--overwrite]",
        description="Converts released MUX-PLMs and ordinary encoders to checkpoints of mux_jax, and those back.",
        epilog="The direction follows from MODEL. mux_jax.load_pretrained reads both kinds.",
        add_help=False,
    )
    parser.add_argument(
        "--model", required=True, help="a Hugging Face folder, an id of its hub, or the folder of a run"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="the folder to write")
    parser.add_argument("--tokenizer", default="", metavar="FILE", help="vocab.txt or tokenizer.json, if not MODEL's")
    parser.add_argument("--overwrite", action="store_true", help="replace DIR if this program or compress.py wrote it")
    parser.add_argument("--help", action="help", help="show this")
    arguments = parser.parse_args()

    from mux_jax.checkpoints.convert import convert  # slow to import: after the arguments are checked

    print(convert(arguments.model, arguments.output, arguments.tokenizer, arguments.overwrite))


if __name__ == "__main__":
    command_line.guard(main)
