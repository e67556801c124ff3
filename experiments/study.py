"""Shows what multiplexing costs and brings: pre-trains, fine-tunes and measures models of several widths.

    python experiments/study.py --config=experiments/config.py --config.data=DATA --config.init_from=BERT

Hours on two cores. Stop it when you like: the same command continues, and what is done is not done
again. `--report` trains nothing, and writes the table and the pictures of what there is.
"""

import sys
from pathlib import Path

from absl import flags

from mux_jax import command_line

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # this is a program; its neighbours are imported as `experiments`

_CONFIG = command_line.define_config("experiments/config.py")
_WORKDIR = flags.DEFINE_string("workdir", "runs/study", "The folder of the runs and of the results.")
_REPORT = flags.DEFINE_boolean("report", False, "Only measure throughput and write the results of what is done.")


def main() -> None:
    from experiments import plan, results, runner, throughput  # slow to import: after the flags are checked
    from mux_jax import locks
    from mux_jax.paths import absolute

    workdir = absolute(_WORKDIR.value)
    models = plan.models(_CONFIG.value, workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    log = workdir / "runs.jsonl"
    with locks.hold(workdir / ".lock", f"workdir {workdir}"):
        if _REPORT.value:
            runner.check(models, log)
        else:
            runner.run_all(models, ROOT / "launch", log)
        throughput.measure_models(models, workdir / "throughput.json")
        results.write(models, workdir)


if __name__ == "__main__":
    command_line.run(main, _CONFIG)
