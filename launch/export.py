"""Writes a fine-tuned model as a program of another runtime."""

import argparse

from mux_jax import command_line


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Writes a fine-tuned model of any width as a program for ONNX Runtime, OpenVINO or XLA, with its "
        "tokenizer and labels, compared with the model before DIR appears. launch/predict.py and launch/evaluate.py "
        "take DIR as --model.",
    )
    parser.add_argument("--model", required=True, help="a fine-tuned run, a Hugging Face folder, an id of the hub")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="the folder to make")
    parser.add_argument("--format", required=True, metavar="F", help="onnx, openvino or stablehlo")
    parser.add_argument("--int8", action="store_true", help="products of 8 bits; faster, and a little less exact")
    parser.add_argument("--calibrate", default="", metavar="FILE", help="texts, without labels, that int8 is fitted on")
    parser.add_argument("--text_columns", default="", metavar="A[,B]", help="default: the columns of the task, or text")
    parser.add_argument("--lengths", default="", metavar="L,...", help="that rows may have; default: the model's")
    parser.add_argument("--tokenizer", default="", metavar="FILE", help="of a MODEL that has none")
    arguments = vars(parser.parse_args())
    lengths = arguments.pop("lengths")
    if not all(part.isdigit() for part in filter(None, lengths.split(","))):
        parser.error(f"--lengths={lengths} must be numbers, separated by commas")

    from mux_jax.inference.export import export  # slow to import: after the arguments are checked

    export(**arguments, lengths=[int(part) for part in lengths.split(",") if part])


if __name__ == "__main__":
    command_line.guard(main)
