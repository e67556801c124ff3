"""Looks inside multiplexed models: states, attention, how well the instances are kept apart."""

import argparse

from mux_jax import command_line


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measures activation norms and attention entropy by layer, the cosine similarity of the states of "
        "different slots, and retrieval accuracy by slot and position, and draws each for all models in one picture.",
    )
    parser.add_argument("--model", required=True, nargs="+", metavar="DIR", help="runs, folders or ids of the hub")
    parser.add_argument(
        "--texts", metavar="GLOB", help=".txt, .jsonl, .parquet (default: the documentation of the Python installation)"
    )
    parser.add_argument("--workdir", metavar="DIR", default="runs/analysis", help="(runs/analysis)")
    parser.add_argument("--length", type=int, default=64, help="tokens of an instance (64)")
    parser.add_argument("--rows", type=int, default=64, help="multiplexed rows that figures are means over (64)")
    arguments = parser.parse_args()

    from mux_jax import analyze  # slow to import: after the arguments are checked
    from mux_jax.data.pydocs import PythonDocs
    from mux_jax.data.sources import TextFiles

    source = TextFiles(arguments.texts, "text") if arguments.texts else PythonDocs()
    analyze(arguments.model, source, arguments.length, arguments.rows, arguments.workdir)


if __name__ == "__main__":
    command_line.guard(main)
