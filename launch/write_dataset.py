"""Writes text of any size as a data set for --config.data.source=tfds, on this machine or a cluster."""

import argparse

from mux_jax import command_line


def main() -> None:
    parser = argparse.ArgumentParser(
        usage="%(prog)s --texts GLOBS --name NAME --output DIR [options] [-- BEAM_OPTIONS]",
        description="Writes text files as a TensorFlow Datasets folder in ArrayRecord format, by Apache Beam.",
        epilog="Needs pip install 'mux_jax[beam]'. docs/data.md has commands for Dataflow and Flink.",
    )
    parser.add_argument(
        "--texts", required=True, metavar="GLOBS", help="globs with commas between: .txt, .jsonl, .parquet, .gz"
    )
    parser.add_argument("--name", required=True, help="of the data set, such as books")
    parser.add_argument("--output", required=True, metavar="DIR", help="the data set is written to DIR/NAME/1.0.0")
    parser.add_argument("--text_field", default="text", metavar="FIELD", help="of .jsonl and .parquet (text)")
    parser.add_argument(
        "--shards", type=int, metavar="N", help="number of files (so many that each has 64 MiB or more)"
    )
    parser.add_argument("beam_options", nargs="*", metavar="BEAM_OPTIONS", help="such as --runner=DataflowRunner")
    arguments = parser.parse_args()

    from mux_jax.data.dataset_writer import write_dataset  # slow to import: after the arguments are checked
    from mux_jax.data.sources import TextFiles

    source = TextFiles(arguments.texts, arguments.text_field)
    info = write_dataset(source, arguments.name, arguments.output, arguments.shards, arguments.beam_options)
    split = info.splits["train"]
    print(f"{info.data_dir}: {split.num_examples:,} documents, {split.num_bytes:,} bytes; shards: {split.num_shards}")
    print(
        f"--config.data.source=tfds --config.data.tfds_name={arguments.name} --config.data.tfds_dir={arguments.output}"
    )


if __name__ == "__main__":
    command_line.guard(main)
