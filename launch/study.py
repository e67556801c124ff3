"""Shows what multiplexing costs and brings: pre-trains, fine-tunes and measures models of several widths.

    python launch/study.py --config=configs/study.py --config.data=DATA --config.init=BERT --workdir=runs/study

Hours on two cores. Stop it when you like: the same command continues, and what is done is not done
again. `--report` trains nothing, and writes the table and the pictures of what there is.
"""

from pathlib import Path

from absl import flags

from mux_jax import command_line

_CONFIG = command_line.define_config("configs/study.py")
_WORKDIR = flags.DEFINE_string("workdir", "runs/study", "The folder of the runs and of the results.")
_REPORT = flags.DEFINE_boolean("report", False, "Only measure throughput and write the results of what is done.")


def main() -> None:
    from mux_jax.paths import absolute
    from mux_jax.study import plan, results, runner, throughput  # slow to import: after the flags are checked

    workdir = absolute(_WORKDIR.value)
    models = plan.models(_CONFIG.value, workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    log = workdir / "runs.jsonl"
    if _REPORT.value:
        runner.check(models, log)
    else:
        runner.carry_out(models, Path(__file__).parent, log)
    throughput.measure_models(models, workdir / "throughput.json")
    results.write(models, workdir)


if __name__ == "__main__":
    command_line.run(main, _CONFIG)
