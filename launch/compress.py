"""Makes a fine-tuned encoder cheaper, by the means that is best for its texts and this machine."""

import argparse

from mux_jax import command_line


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Makes a model that is S times as fast as MODEL and answers as it does, from texts without "
        "labels: narrower, with fewer layers, or with several texts a row. Some are tried for a short time, and the "
        "best learns on. DIR gets the model and report.md: what it costs, what it brings. The same command continues.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--model", required=True, help="a fine-tuned run, a Hugging Face folder, an id of the hub")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="the folder to make")
    texts = parser.add_argument_group("texts (default: what MODEL, a run, was fine-tuned on)")
    texts.add_argument("--texts", action="append", metavar="FILE", help="yours: a file or glob, as often as needed")
    texts.add_argument("--labelled", metavar="FILE", help="some with labels, to score on")
    texts.add_argument("--answers", metavar="FILE", help="texts with another model's probabilities, to learn from")
    texts.add_argument("--task", metavar="NAME", help="a task of launch/finetune.py, whose files are in --data")
    texts.add_argument("--data", metavar="FOLDER")
    texts.add_argument("--text_columns", metavar="A[,B]", help="default: the columns of the task, or text")
    texts.add_argument("--delimiter", metavar="C", help="of .csv and .tsv: a character such as ';', or tab")
    texts.add_argument("--tokenizer", metavar="FILE", help="of a MODEL that has none")
    means = parser.add_argument_group("what to make: a speed or a shape")
    means.add_argument("--speedup", type=float, metavar="S", help="times as fast as MODEL, measured on these texts")
    means.add_argument("--by", metavar="MEANS", help="layers, hidden, both, width; auto: the best of them (auto)")
    means.add_argument("--layers", type=int, metavar="K", help="so many layers")
    means.add_argument("--hidden", type=int, metavar="D", help="dimensions of a state: narrower")
    means.add_argument("--width", type=int, metavar="N", help="texts a row: multiplexed")
    means.add_argument("--share", type=float, metavar="X", help="a text's dimensions in a row over D / N (1)")
    parser.add_argument("--minutes", type=float, metavar="M", help="for answers, trials and learning, as planned (50)")
    parser.add_argument("--steps", type=int, metavar="K", help="of learning; default: as many as there is time for")
    parser.add_argument("--learning_rate", type=float, metavar="R", help="default: the best of a few, in trials")
    parser.add_argument(
        "--defer",
        metavar="HOW",
        help="what DIR is to leave to MODEL when asked to: a share of the texts, agreement=X, off (agreement=0.99)",
    )
    parser.add_argument("--standalone", action="store_true", help="put a copy of MODEL into DIR, for that")
    parser.add_argument("--int8", action="store_true", help="both models in int8, too, as programs of OpenVINO")
    parser.add_argument("--dtype", metavar="T", help="of products, of what is timed: float32, bfloat16 (auto)")
    parser.add_argument("--seed", type=int, help="of everything that is drawn (0)")
    given = vars(parser.parse_args())

    from mux_jax import compress  # slow to import: after the arguments are checked

    compress(**given | {"texts": tuple(given.get("texts", ()))})


if __name__ == "__main__":
    command_line.guard(main, resumable=True)
