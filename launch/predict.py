"""Predicts with a fine-tuned model, one row of output for each of input: a file, or many, here or on a cluster."""

import argparse

from mux_jax import command_line


def main() -> None:
    parser = argparse.ArgumentParser(
        usage="%(prog)s --model DIR --texts FILES --output OUT [options] [-- BEAM_OPTIONS]",
        description="Writes a model's predictions, or embeddings, for every record of a file, in its order.",
        epilog="FILES: .txt (a text a line; for tags also CoNLL), .tsv, .csv, .jsonl, .parquet, .conll, .conllu. "
        "OUT: .jsonl (label or labels, probabilities; score; words, tags; embedding), .tsv, .parquet, .npy; or a "
        "folder, with a file for each. All records of a file are checked first. An output appears when it is whole; "
        "the same command goes on with those that are not. docs/bulk.md has Beam, Ray and Spark.",
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="a run, a folder or an id of the hub")
    parser.add_argument("--texts", required=True, metavar="FILES", help="a file; or globs with commas between")
    parser.add_argument("--output", required=True, metavar="OUT", help="a file; of several files a folder")
    parser.add_argument("--format", choices=("jsonl", "tsv", "parquet", "npy"), help="of a folder (that of the input)")
    parser.add_argument("--text_columns", default="", metavar="A[,B]", help="default: the columns of the task, or text")
    parser.add_argument(
        "--delimiter", default="", metavar="C", help="of .csv and .tsv: a character such as ';', or tab (comma, tab)"
    )
    parser.add_argument("--keep", default="", metavar="A[,B]", help="columns of the input that come first")
    parser.add_argument("--spans", action="store_true", help="of words with tags, with their places in the text, too")
    parser.add_argument("--on_error", choices=("stop", "skip"), default="stop", help="what a bad record does (stop)")
    parser.add_argument("--max_errors", type=float, default=0.01, metavar="PART", help="with --on_error=skip (0.01)")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it holds predictions")
    parser.add_argument("--rows", type=int, default=32, help="multiplexed rows of a batch (32)")
    parser.add_argument("--ensemble", type=int, default=1, metavar="K", help="slots for each text, up to the width (1)")
    parser.add_argument("--stride", type=int, default=0, metavar="N", help="windows of long texts share N tokens (0)")
    parser.add_argument("--threshold", type=float, default=0.5, metavar="P", help="of each of several labels (0.5)")
    parser.add_argument("--defer", default="off", metavar="HOW", help="to a full model: auto, a share, agreement=X")
    parser.add_argument("--prompt", metavar="NAME", help="of an embedding model: what is put before each text")
    parser.add_argument("--dimensions", type=int, metavar="D", help="of embeddings: the first ones alone (all)")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of products (auto)")
    parser.add_argument("--keep_model", action="store_true", help="a column: which model answered")
    parser.add_argument("beam_options", nargs="*", metavar="BEAM_OPTIONS", help="such as --runner=DataflowRunner")
    arguments = parser.parse_args()

    from mux_jax.bulk.command import predict  # slow to import: after the arguments are checked

    predict(arguments)


if __name__ == "__main__":
    command_line.guard(main)
