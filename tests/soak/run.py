"""A run of the soak test: a folder with the inputs of a case, the processes of its command, and what is checked."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from cases import CASES, KINDS, records

ROOT = Path(__file__).resolve().parents[2]
TIMINGS = ("wall_seconds", "peak_memory_bytes", "instance_tokens_per_second")
UGLY = re.compile("Traceback|Exception ignored|Fatal Python error|terminate called|core dumped")
STARTING = re.compile("<frozen site>|Fatal Python error: init")  # Python itself, before a program's first line
PARAMETERS = """
import hashlib, sys, jax, numpy, mux_jax
digest = hashlib.blake2b(digest_size=8)
for path, value in jax.tree.leaves_with_path(mux_jax.load_pretrained(sys.argv[1])[1]):
    digest.update(jax.tree_util.keystr(path).encode() + numpy.asarray(value).tobytes())
print(digest.hexdigest())
"""


class Failure(Exception):
    """What the programs did wrong in a run."""


class Skipped(Exception):
    """Why a run cannot be disturbed as it should."""


def digest(value: Any) -> str:
    """Of bytes, or of what JSON can hold."""
    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
    return hashlib.blake2b(data).hexdigest()[:32]


class Process(subprocess.Popen):
    """A Python process in a group of its own, as a terminal starts it; what it prints goes to files."""

    def __init__(self, log: Path, *arguments: str | Path, **options: Any):
        self.name, self._files = log.name, (Path(f"{log}.stdout"), Path(f"{log}.stderr"))
        with self._files[0].open("w") as out, self._files[1].open("w") as err:
            super().__init__([sys.executable, *arguments], stdout=out, stderr=err, start_new_session=True, **options)

    def printed(self) -> tuple[str, str]:
        """On stdout and on stderr."""
        return self._files[0].read_text(errors="replace"), self._files[1].read_text(errors="replace")

    def ends_in(self, seconds: float) -> bool:
        """Waits so long at most."""
        try:
            return self.wait(seconds) is not None
        except subprocess.TimeoutExpired:
            return False

    def send(self, number: int) -> None:
        """Sends a signal to the group, unless the process has ended."""
        if self.poll() is None:
            os.killpg(self.pid, number)


class Run:
    """A folder with the inputs of a case, and the processes of its command."""

    def __init__(self, folder: Path, workdir: Path, name: str, reference: dict[str, Any]):
        """reference: of the case, an entry of the log."""
        self.folder, self.workdir, self.name, self.reference = folder, workdir, name, reference
        self.case, self.limit = CASES[name], 60 + 8 * reference["usual"]
        self.trains = self.case.kind in KINDS[:2]
        self.disk, self.output = folder / "disk", folder / self.case.output
        self.processes: list[Process] = []
        self.when = ""  # or how: the disturbance, for the log
        self.close()
        shutil.rmtree(folder, ignore_errors=True)
        self.disk.mkdir(parents=True)
        self.write_inputs()

    def close(self) -> None:
        """Ends what still runs. What was on the small disk stays in the folder."""
        for process in self.processes:
            process.send(signal.SIGKILL)
            process.wait()
        if self.disk.is_mount():
            shutil.copytree(self.disk, self.folder / "kept", dirs_exist_ok=True)
            subprocess.run(["umount", self.disk], check=True)
            self.disk.rmdir()
            (self.folder / "kept").rename(self.disk)

    def mount(self, size: int, *options: str) -> None:
        """Makes the disk a small one, of so many bytes."""
        command = ["mount", "-t", "tmpfs", "-o", ",".join((f"size={size}", *options)), "tmpfs", str(self.disk)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            raise Skipped("no tmpfs can be mounted")

    def write_inputs(self) -> None:
        for file in map(self.folder.joinpath, self.case.files):
            file.parent.mkdir(exist_ok=True)
            file.write_text("".join(records(file)))
        if self.case.model:
            made = self.workdir / "references" / self.case.model / CASES[self.case.model].output
            shutil.rmtree(self.folder / "model", ignore_errors=True)
            shutil.copytree(made, self.folder / "model")

    def write_output(self) -> None:
        """What the reference has written."""
        shutil.copytree(self.workdir / "references" / self.name / "disk", self.disk, dirs_exist_ok=True)

    def start(self) -> Process:
        """Starts the command; where it wants to be told, it may replace its output."""
        program, *arguments = (word.replace("ROOT", str(ROOT)) for word in self.case.command.split())
        overwrite = ["--overwrite"] * (self.output.exists() and not self.trains)
        return self._python(f"process-{len(self.processes) + 1}", ROOT / "launch" / program, *arguments, *overwrite)

    def _python(self, log: str, *arguments: str | Path) -> Process:
        environment = os.environ | {"MUX_JAX_CACHE": str(self.workdir / "cache"), "PYTHONPATH": str(ROOT)}
        environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "HF_HUB_OFFLINE": "1"}
        self.processes.append(Process(self.folder / log, *arguments, cwd=self.folder, env=environment))
        return self.processes[-1]

    def finish(self, process: Process, sent: int = 0) -> int:
        """Waits for the end, which must be a good one: a result, lines of error, or the signal that was `sent`."""
        if not process.ends_in(self.limit):
            raise Failure(f"{process.name} hangs: no end in {self.limit:.0f} s")
        status, (out, err) = process.returncode, process.printed()
        if sent == signal.SIGKILL and status == -sent:
            return status
        ugly, lines = UGLY.search(out + err), err.strip().splitlines()
        if ugly and not (sent and STARTING.search(err)):
            raise Failure(f"{process.name} prints {ugly[0]!r} (exit status {status})")
        result = self.output / "result.json" if self.trains else self.output
        if status == 0 and not result.exists() and not (sent and "stopped" in out):
            raise Failure(f"{process.name}: exit status 0, but no result")
        if status not in (0, 1, 2) and not (sent and status in (-sent, 128 + sent)):
            raise Failure(f"{process.name}: exit status {status}")
        few = len(lines) < 4 and all(line.startswith("error:") for line in lines)
        if status > 0 and not (few and (lines or sent)):
            raise Failure(f"{process.name}: exit status {status}, but stderr is not a few lines that begin with error:")
        return status

    def result(self) -> dict[str, str]:
        """Digests of all that two equal runs have in common."""
        if self.output.is_file():
            return {"file": digest(self.output.read_bytes())}
        if not (self.output / "checkpoints").exists():
            return {path.name: digest(path.read_bytes()) for path in sorted(self.output.iterdir())}
        loader = self._python("load_pretrained", "-c", PARAMETERS, self.output)
        if not loader.ends_in(self.limit) or loader.returncode:
            raise Failure("load_pretrained does not read the output")
        found: dict[str, Any] = {"parameters": loader.printed()[0].split()[-1]}
        found["tokenizer"] = (self.output / "tokenizer.json").read_text()
        if self.trains:
            figures = json.loads((self.output / "result.json").read_text())
            rows = map(json.loads, (self.output / "metrics.jsonl").read_text().splitlines())
            found["figures"] = {name: value for name, value in figures.items() if name not in TIMINGS}
            found["held out"] = [row for row in rows if any(name.startswith("heldout_") for name in row)]
        return {name: digest(value) for name, value in found.items()}

    def difference(self) -> str:
        """In what the result differs from the reference's; empty: in nothing."""
        found, expected = self.result(), self.reference["result"]
        return ", ".join(name for name in expected | found if found.get(name) != expected.get(name))

    def checkpoints(self) -> list[Path]:
        """Of a training run, the oldest first."""
        found = (self.output / "checkpoints").glob("*") if self.trains else ()
        return sorted((path for path in found if path.name.isdigit()), key=lambda path: int(path.name))

    def check_whole(self, earlier: bool) -> None:
        """What has its final name is whole; where there was an output earlier there still is one."""
        if earlier and not (self.checkpoints() if self.trains else self.output.exists()):
            raise Failure("what was there before is lost")
        for checkpoint in self.checkpoints():
            for file, expected in json.loads((checkpoint / "digests.json").read_text()).items():
                if digest((checkpoint / file).read_bytes()) != expected:
                    raise Failure(f"checkpoint {checkpoint.name} is not whole: {file}")
        for file in self.output.glob("*.json"):
            try:
                json.loads(file.read_text())
            except ValueError as e:
                raise Failure(f"{file.name} is not whole: {e}") from e
        if not self.trains and self.output.exists() and self.difference():
            raise Failure(f"an output that is not whole: {self.difference()}")
