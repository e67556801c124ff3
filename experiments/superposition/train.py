"""One run of the study: a model of some means learns from the full one, is scored, and leaves a small result.

    python -m experiments.superposition.train --model=RUN --means=side_by_side_5 --answers=FOLDER --workdir=DIR

All means learn from the same texts and answers, of which each sees as many, at the best of three learning rates by
short trials. The steps are those of `launch/compress.py`; the sizes are given, and nothing is left to the clock.
"""

import argparse
import contextlib
import json
import subprocess
from pathlib import Path
from typing import Any

import jax

from experiments.superposition.hard import apart
from experiments.superposition.look import Look
from experiments.superposition.means import Means, find
from experiments.superposition.start import gaussian_start
from mux_jax.checkpoints.source import open_model
from mux_jax.compression import learning
from mux_jax.compression.compress import Compression
from mux_jax.compression.frames import Frames
from mux_jax.compression.model_answers import ModelAnswers
from mux_jax.compression.outcome import outcome
from mux_jax.compression.plan import TEXTS_A_STEP, Candidate, Plan
from mux_jax.compression.request import Request
from mux_jax.compression.shape import reduced
from mux_jax.files import write_atomically
from mux_jax.paths import absolute
from mux_jax.progress import say

RATES = (1e-4, 3e-4, 1e-3)
TRIAL_STEPS, POOL = 200, 65_536  # texts to learn from, joined ones included


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="RUN", help="the full model, fine-tuned on a task")
    parser.add_argument("--means", required=True, metavar="NAME", help="a name in means.py")
    parser.add_argument("--answers", required=True, metavar="FOLDER", help="for the full model's answers, of all runs")
    parser.add_argument("--workdir", required=True, metavar="DIR")
    parser.add_argument("--corpus", default="", metavar="GLOB", help="text files to prime on")
    parser.add_argument("--steps", type=int, default=1600, help=f"of {TEXTS_A_STEP} texts (1600)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = vars(parser.parse_args())
    train(**arguments)


def train(model: str, means: str, answers: str, workdir: str, corpus: str, steps: int, seed: int) -> dict[str, Any]:
    """Makes and scores a model, or finds that it was done; returns what `result.json` holds."""
    how, folder = find(means), absolute(workdir)
    if (folder / "study.json").exists():
        return dict(json.loads((folder / "study.json").read_text()))
    (folder / "trials").mkdir(parents=True, exist_ok=True)
    absolute(answers).mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        Path(folder, "answers").symlink_to(Path(absolute(answers)), target_is_directory=True)
    found = open_model(model)
    shape = how.shape(found.config)
    request = Request(
        model=model,
        layers=shape.layers,
        hidden=shape.hidden,
        width=shape.width,
        share=shape.share,
        seed=seed,
        dtype="float32",
    )
    section = request.section(found)
    tokenizer = found.tokenizer()
    work = Compression(request, found, tokenizer, section, request.read(found, section), folder)
    candidate = Candidate(means, shape, 1.0, learning.count_parameters(reduced(found.config, shape)))
    lessons, _ = work.lessons(Plan((candidate,), 1.0, POOL, TRIAL_STEPS, 0.0))
    if how.keys == "gaussian" and not (folder / "starts" / means).exists():
        gaussian_start(found, how, tokenizer, folder / "starts" / means, corpus, seed)
    with apart(_frames(how, found.config)):
        trials = {
            rate: _figures(work.learn(folder / "trials" / f"{rate:g}", candidate, rate, TRIAL_STEPS, lessons, True))
            for rate in RATES
        }
        best = min(trials, key=lambda rate: trials[rate]["teacher_loss"])
        say(f"{means}: the best learning rate is {best:g}")
        done = work.learn(folder, candidate, best, steps, lessons)
        made = open_model(str(folder))
        params = made.params(work.mesh)
        theirs, ours = (
            ModelAnswers(source, weights, work.encoder, work.pad_id, work.dtype)
            for source, weights in ((found, work.params), (made, params))
        )
        judged, _ = outcome(theirs, ours, None, work.texts, seed)
        start = open_model(str(folder / "starts" / means)).params(work.mesh)
        inside = Look(made, start, params, work).result() if made.config.width > 1 else None
    result = {
        "means": means,
        "model": found.address,
        "seed": seed,
        "steps": steps,
        "texts_seen": steps * learning.texts_of_a_step(shape.width),
        "learning_rate": best,
        "trials": {f"{rate:g}": figures for rate, figures in trials.items()},
        "seconds": done["wall_seconds"],
        "judged": judged,
        "inside": inside,
        "machine": f"{jax.devices()[0].device_kind}, jax {jax.__version__}",
        "commit": _commit(),
        "command": f"python -m experiments.superposition.train --model={model} --means={means} --answers={answers} "
        f"--workdir={workdir}" + (f" --corpus={corpus}" if corpus else "") + f" --steps={steps} --seed={seed}",
    }
    write_atomically(folder / "study.json", json.dumps(result, indent=2, default=float) + "\n")
    say(
        json.dumps(
            {k: v for k, v in result.items() if k in ("means", "learning_rate", "judged", "inside")}, default=float
        )
    )
    return result


def _frames(how: Means, full: Any) -> Frames | None:
    """The frames of texts that are kept apart; None where they are not."""
    shape = how.shape(full)
    return Frames(shape.width, shape.text_dimensions, shape.hidden) if how.hard else None


def _figures(done: dict[str, Any]) -> dict[str, float]:
    return {name: done["stages"]["finetuning"][name] for name in ("teacher_loss", "agreement")}


def _commit() -> str:
    root = Path(__file__).parents[2]
    found = subprocess.run(["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip()


if __name__ == "__main__":
    main()
