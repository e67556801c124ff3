"""Predicts on a file with a fine-tuned model, one row of output for each of input."""

import argparse

from mux_jax import command_line


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Writes a model's predictions, or embeddings, for every record of a file, in its order.",
        epilog="FILE of texts: .txt (a text a line; for tags also CoNLL), .tsv, .csv, .jsonl, .parquet, .conll, "
        ".conllu. Output: .jsonl (label or labels, probabilities; score; words, tags; embedding), .tsv, .parquet, "
        ".npy. All records are checked first. The output appears when it is whole.",
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="a run, a folder or an id of the hub")
    parser.add_argument("--texts", required=True, metavar="FILE")
    parser.add_argument("--output", required=True, metavar="FILE")
    parser.add_argument("--text_columns", default="", metavar="A[,B]", help="default: the columns of the task, or text")
    parser.add_argument(
        "--delimiter", default="", metavar="C", help="of .csv and .tsv: a character such as ';', or tab (comma, tab)"
    )
    parser.add_argument("--keep", default="", metavar="A[,B]", help="columns of FILE that come first in the output")
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
    arguments = parser.parse_args()

    from mux_jax.data.formats import parse_delimiter
    from mux_jax.inference.files import check_input, check_output, predict_file  # slow: after the arguments
    from mux_jax.inference.predictor import Predictor

    wanted = tuple(name for name in arguments.text_columns.split(",") if name)
    keep = tuple(dict.fromkeys(name for name in arguments.keep.split(",") if name))
    delimiter = parse_delimiter(arguments.delimiter, "--delimiter")
    if not 0 <= arguments.max_errors <= 1:
        parser.error(f"--max_errors={arguments.max_errors} must be from 0 to 1")
    output = check_output(arguments.output, arguments.texts, arguments.overwrite)
    # The model, slow to load, says which columns if none are wanted.
    check_input(arguments.texts, (), wanted, delimiter, keep)
    options = ("rows", "ensemble", "stride", "threshold", "defer", "dtype")
    predictor = Predictor(arguments.model, **{name: getattr(arguments, name) for name in options})
    source, columns = check_input(arguments.texts, predictor.text_columns, wanted, delimiter)
    max_errors = arguments.max_errors if arguments.on_error == "skip" else 0.0
    more = {name: getattr(arguments, name) for name in ("spans", "keep_model", "prompt", "dimensions")}
    more |= dict(delimiter=delimiter, keep=keep)
    predict_file(predictor, source, columns, output, max_errors, arguments.overwrite, **more)


if __name__ == "__main__":
    command_line.guard(main)
