"""Makes a fine-tuned encoder cheaper, by the means that is best for its texts and this machine."""

import argparse

from mux_jax import command_line


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Makes a model that is S times as fast as MODEL and learns to answer as it does, from texts without "
        "labels: narrower, with fewer layers, or with several texts a row. A few of these are tried for a short time, and "
        "the best is trained. DIR gets the model and report.md: what it costs, what it brings. The same command continues.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--model", required=True, metavar="MODEL", help="a fine-tuned run, a Hugging Face folder, an id of the hub")
    add("--workdir", required=True, metavar="DIR", help="the folder to make")
    texts = parser.add_argument_group("texts: by default those that MODEL, a run, was fine-tuned on")
    add = texts.add_argument
    add("--texts", action="append", metavar="FILE", help="your own, a file or glob, as often as needed; see predict.py")
    add("--labelled", metavar="FILE", help="some with labels, to score on")
    add("--answers", metavar="FILE", help="texts with another model's probabilities, to learn from instead of MODEL")
    add("--task", metavar="NAME", help="a task of launch/finetune.py, with its files train and dev in --data")
    add("--data", metavar="FOLDER")
    add("--text_columns", metavar="A[,B]", help="default: the columns of the task, or text")
    add("--delimiter", metavar="C", help="of .csv and .tsv: a character such as ';', or tab")
    add("--tokenizer", metavar="FILE", help="of a MODEL that has none")
    means = parser.add_argument_group("what to make: a speed, or a shape")
    add = means.add_argument
    add("--speedup", type=float, metavar="S", help="times as fast as MODEL, measured on these texts")
    add("--by", default="auto", help="the means: layers, hidden, both, width, or auto, which tries all")
    add("--layers", type=int, metavar="K", help="layers")
    add("--hidden", type=int, metavar="D", help="dimensions of a state: narrower")
    add("--width", type=int, metavar="N", help="texts a row: multiplexed")
    add("--share", type=float, default=1.0, metavar="X", help="a text's dimensions in a row over D / N")
    add = parser.add_argument
    add("--minutes", type=float, default=60.0, metavar="M", help="the most that answers, trials and learning take")
    add("--steps", type=int, metavar="K", help="of learning; default: as many as the time allows")
    add("--learning_rate", type=float, metavar="R", help="default: the best of a few, in short trials")
    add("--seed", type=int, default=0, help="of everything that is drawn")
    given = vars(parser.parse_args())

    from mux_jax import compress  # slow to import: after the arguments are checked

    compress(**given | {"texts": tuple(given.get("texts", ()))})


if __name__ == "__main__":
    command_line.guard(main, resumable=True)
