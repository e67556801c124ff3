"""`launch/compile.py`: what it prints, on virtual devices and for a TPU, and what it refuses."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mux_jax import configuration
from mux_jax.errors import InputError
from mux_jax.scaling import report, topologies

ROOT = Path(__file__).parents[2]


def compile_py(*arguments):
    command = [sys.executable, "launch/compile.py", "--config=configs/mux_bert.py", *arguments]
    flags = "--xla_backend_optimization_level=0"
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True)


@pytest.mark.extra  # for its time
def test_a_step_on_virtual_devices_is_described():
    done = compile_py("--topology=cpu:8", "--mesh=data=2,fsdp=4")
    assert done.returncode == 0, done.stderr
    formula, counted = (
        float(x.replace(",", "")) for x in re.findall(r"([\d,.]+) G (?:by formula|as XLA)", done.stdout)
    )
    assert counted == pytest.approx(formula, rel=0.2)  # tiny: much besides the products
    for part in ("parameters", "optimiser", "peak", "all-gather over 4", "all-reduce over"):
        assert part in done.stdout


@pytest.mark.extra
def test_default_rows_that_do_not_divide_are_raised():
    done = compile_py("--topology=cpu:3")
    assert done.returncode == 0, done.stderr
    assert "rows=18: 16, the default, do not divide among the cpu:3 chips" in done.stdout
    assert "training on cpu:3, 18 rows" in done.stdout


@pytest.mark.extra
def test_widths_make_a_table_and_width_1_is_one_of_them():
    done = compile_py("--topology=cpu:1", "--widths=1,2")
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"\| mux_bert_tiny_n[12] training +\| cpu:1 ", done.stdout)) == 2


@pytest.mark.extra
def test_a_tpu_that_is_not_here():
    done = compile_py("--topology=v5e:2x2", "--widths=1,2", "--chips=4,256")
    assert done.returncode == 0, done.stderr
    assert "of 16 GiB" in done.stdout and "MFU" in done.stdout and "instance-tokens/s" in done.stdout
    assert len(re.findall(r"\| mux_bert_tiny_n[12] training +\| v5e x (?:4|256) ", done.stdout)) == 4


@pytest.mark.extra
def test_a_mesh_may_split_an_axis_of_the_slice():
    done = compile_py("--topology=v5p:4x4x4", "--mesh=fsdp=4,tensor=2", "--rows_per_chip=1")
    assert done.returncode == 0, done.stderr
    assert "all-gather over 4" in done.stdout and "all-reduce over 32" in done.stdout


@pytest.mark.extra
def test_what_does_not_fit_gets_status_1_and_advice():
    done = compile_py("--topology=v5e:2x2", "--rows_per_chip=65536")
    assert done.returncode == 1
    assert "--mesh=fsdp" in done.stdout + done.stderr and "remat" in done.stdout + done.stderr


@pytest.mark.extra
def test_other_numbers_of_chips_are_as_if_compiled_for_them():
    config = configuration.pretraining("bert", "tiny", 2)
    config.pretraining.objective = "mlm"
    config.data.sequence_length = 16
    reports = []
    for count in (4, 8):
        config.rows = 2 * count
        reports.append(report.compile_step(f"cpu:{count}", configuration.read(config), "training", {})[0])
    four, eight = reports
    expected = four.on(8)
    assert sum(c.link_bytes for c in expected.collectives) == sum(c.link_bytes for c in eight.collectives)
    for field in ("chips", "rows", "instance_tokens", "flops", "params", "optimizer"):
        assert getattr(expected, field) == getattr(eight, field)
    assert expected.peak == pytest.approx(eight.peak, rel=0.01)
    assert expected.counted_flops == pytest.approx(eight.counted_flops, rel=0.05)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--topology=v9:2x2"], "the kinds are v4, v5e, v5p, v6e and cpu"),
        (["--topology=cpu:8", "--mesh=data=3"], "does not multiply to the 8 devices"),
        (["--topology=cpu:8", "--mesh=rows=3"], "the axes are data, fsdp, tensor"),
        (["--topology=cpu:8", "--config.rows=12"], "rows=12 must be a multiple of 8"),
        (["--topology=cpu:8", "--chips=many"], "--chips=many must be numbers"),
        ([], "--topology=SLICE is needed"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    done = compile_py(*arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_names_of_slices():
    assert topologies.parse("v5e:16x16") == ("v5e", 256)
    assert topologies.parse("v5p:2x2x4") == ("v5p", 16)
    assert topologies.parse("cpu:8") == ("cpu", 8)
    for name in ("v5e", "v5e:", "v5e:2x", "cpu:2x2", "h100:8", "v5e:0x4"):
        with pytest.raises(InputError, match="is not known"):
            topologies.parse(name)
    assert report.parse_mesh("data=-1,fsdp=4") == {"data": -1, "fsdp": 4}
