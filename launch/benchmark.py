"""Measures throughput: multiplexed models against our own width 1, the machine's limit, and PyTorch."""

import argparse

from mux_jax import command_line


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Times forward passes (inference) or training steps (train) of randomly initialised models, in "
        "turns, against width 1, the FLOPs, the best plain matrix product and, where torch and transformers are "
        "installed, BERT in PyTorch. embed times whole models beside sentence-transformers, serving a server.",
    )
    parser.add_argument("kind", choices=("inference", "train", "embed", "serving"))
    parser.add_argument(
        "--size", default="base", choices=("tiny", "small", "base", "large"), help="of the models (base)"
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="inference: of the layers and dimensions of this model instead; embed: models that embed --texts, A,B; "
        "serving: what is served",
    )
    parser.add_argument("--length", type=int, default=128, help="tokens of an instance (128)")
    parser.add_argument("--rows", type=int, default=0, help="muxed rows of a batch (8 on CPU, else 256)")
    parser.add_argument("--widths", default="1,2,5,10", help="(1,2,5,10)")
    parser.add_argument(
        "--layers",
        default="",
        metavar="A[,B]",
        help="inference: also width 1 with so many layers, the plain way to be faster",
    )
    parser.add_argument("--multiplexer", default="gaussian", metavar="A[,B]", help="(gaussian)")
    parser.add_argument("--task", default="", help="sequence, token (sequence); train: priming, mlm (priming,mlm)")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="(auto)")
    parser.add_argument(
        "--runtimes",
        default="",
        metavar="A[,B]",
        help="inference: also our exports, and BERT of transformers, in xla_float32, xla_bfloat16, onnx, onnx_int8, "
        "openvino, openvino_bfloat16, openvino_int8",
    )
    parser.add_argument("--repeats", type=int, default=10, help="turns (10)")
    parser.add_argument("--texts", metavar="FILE", help="inference end to end on the texts of a file's column `text`")
    parser.add_argument("--json", metavar="FILE", dest="json_file", help="write the rows as a list of objects")
    arguments = parser.parse_args()

    from mux_jax.benchmark.command import run  # slow to import: after the arguments are checked

    run(**vars(arguments))


if __name__ == "__main__":
    command_line.guard(main)
