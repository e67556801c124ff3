"""What the documentation names exists: files, programs, flags, fields of configurations, extras, targets of links.

It reads Markdown, notebooks, the docstrings of configurations and programs, and the comments at the top of shell
programs; not CHANGELOG.md, which names what is gone. `mux-jax NAME` is `launch/NAME.py`. A value in capitals (FOLDER)
or braces is the reader's, and not looked up.
"""

import ast
import functools
import itertools
import json
import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from mux_jax.errors import InputError
from mux_jax.models.demultiplexers import DEMULTIPLEXERS
from mux_jax.models.multiplexers import MULTIPLEXERS

ROOT = Path(__file__).parents[1]
GLOBS = (
    "*.md",
    "docs/**/*.md",
    "tests/fixtures/*.md",
    "experiments/*.*",
    "configs/*.*",
    "launch/*.*",
    "notebooks/*.ipynb",
)
KINDS = (".md", ".py", ".sh", ".sbatch", ".ipynb")
FILES = [
    path for glob in GLOBS for path in sorted(ROOT.glob(glob)) if path.suffix in KINDS and path.stem != "CHANGELOG"
]
PROGRAM = re.compile(r"(launch|experiments)/\w+\.(py|sh|sbatch)")
FILE = re.compile(r"(?<![\w/.~$-])(?:mux_jax|launch|configs|experiments|tests|docs)/[\w/.*-]*")
EXTRAS = re.compile(r"(?<!\w)(?:\.|mux_jax)\[([\w,]+)\]")
SECTION = r"(?:data|eval|checkpoint|mesh|optimizer|priming|pretraining|finetuning)\."
FIELD = re.compile(rf"(?:config\.|(?={SECTION}))((?!.*\b(?:json|py)$)[\w.]+)(?:=.*)?")
CONFIG = re.compile(r'get_config\("([^"{}]+)"')
LINK = re.compile(r'(?:\]\(|src=")([^)"\s#]*)#?([\w-]*)[)"]')
FLAGS_OF_OTHERS = {"--beam_pipeline_options", "--requeue"}  # which docs/ names without their programs


def read(path: Path) -> str:
    """A file as text; a notebook as Markdown."""
    text = path.read_text()
    if path.suffix != ".ipynb":
        return text
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(f"```\n{source}\n```" if kind == "code" else source for kind, source in cells)


def code(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Lines of code with their numbers: of blocks, docstrings and comments, and in prose what is between backticks."""
    fenced = path.suffix not in (".md", ".ipynb")
    if path.suffix == ".py":
        text = text.partition('"""')[2].partition('"""')[0]
    elif fenced:
        text = re.sub("^#", "", re.match("(#.*\n)*", text)[0], flags=re.M)
    # A line that a backslash continues is one, followed by empty ones.
    text = re.sub(r"(.*\\\n)+.*", lambda match: match[0].replace("\\\n", "") + "\n" * match[0].count("\n"), text)
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        else:
            yield from ((number, span) for span in ([line] if fenced else re.findall("`([^`]+)`", line)))


def commands(line: str) -> Iterator[tuple[str, list[str]]]:
    """The commands of a line: our program, or "" where there is none of ours, and the words that come after it."""
    line = re.sub(r"mux-jax (?=\w)(\w+)", r"launch/\1.py", line).lstrip("!")
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # an apostrophe in prose
        words = line.split()
    program, after = "", []
    for word in [*words, ";"]:
        if PROGRAM.fullmatch(word) or not word.strip(";&|"):
            yield program, after
            program, after = word.strip(";&|"), []
        elif " " in word:  # a command that another program is given
            yield from commands(word)
        else:
            after.append(word.strip("[]()`'\".,;:"))


@functools.cache
def flags_of(program: str) -> set[str]:
    """The flags that a program defines, itself or by functions of `command_line`; shell programs have pretrain.py's."""
    shared = ast.parse((ROOT / "mux_jax/command_line.py").read_text()).body
    functions = {node.name: node for node in shared if isinstance(node, ast.FunctionDef)}
    file = program if program.endswith(".py") else "launch/pretrain.py"
    found, todo = {"--help"}, [ast.parse((ROOT / file).read_text())]
    while todo:
        for call in (node for node in ast.walk(todo.pop()) if isinstance(node, ast.Call)):
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            if name in functions:
                todo.append(functions.pop(name))
            elif name == "add_argument" or name.startswith("DEFINE_"):
                names = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                found |= {f"--{names[0]}"} if name.startswith("DEFINE_") else set(names)
    return found


@functools.cache
def get_config(text: str) -> ConfigDict:
    """What `--config=FILE:arguments` gives, without the arguments whose value is in capitals or braces."""
    file, _, arguments = text.partition(":")
    given = [item for item in arguments.split(",") if item and not re.match("[A-Z{]", item.partition("=")[2])]
    return runpy.run_path(str(ROOT / file))["get_config"](*[",".join(given)] if given else [])


@functools.cache
def all_configs() -> list[ConfigDict]:
    """One of each kind, and of each variant, whose options no other has."""
    variants = [f"multiplexer={name}" for name in MULTIPLEXERS] + [f"demultiplexer={name}" for name in DEMULTIPLEXERS]
    files = ["configs/mux_electra.py", "configs/finetune.py", "experiments/config.py"]
    return [get_config(text) for text in files + [f"configs/mux_bert.py:{variant}" for variant in variants]]


def has(config: Any, field: str) -> bool:
    """Whether a configuration has a field; a name in capitals stands for any."""
    name, _, rest = field.partition(".")
    known = isinstance(config, ConfigDict) and name in config
    return name.isupper() or (known and (not rest or has(config[name], rest)))


def wrong_flags(program: str, words: list[str]) -> Iterator[str]:
    """The flags among `words` that the program, or its configuration, does not have; of no program, that none has."""
    programs = [program] if program else [*map(str, ROOT.glob("launch/*.py")), "experiments/study.py"]
    known, configs = FLAGS_OF_OTHERS.union(*map(flags_of, programs)), all_configs()
    flags = [word.partition("=") for word in itertools.takewhile("--".__ne__, words) if word.startswith("--")]
    for name, _, value in sorted(flags, key=lambda flag: flag[0] != "--config"):
        flag, _, field = name.partition(".")
        if flag not in known:
            yield f"no flag {flag} in {program or 'any program'}"
        elif field and configs and not any(has(config, field) for config in configs):
            yield f"no field {field}"
        elif name == "--config" and ".py" in value:
            try:  # a file that is not here is one of the reader's own
                configs = [get_config(value)] if (ROOT / value.partition(":")[0]).exists() else []
            except InputError as e:
                yield f"{name}={value}: {e}"


def wrong(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """What a text names that does not exist, with the line."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for number, line in code(path, text):
        files = [file.rstrip(".") for file in FILE.findall(line) if not Path(file).stem.isupper()]
        yield from ((number, f"no file {file}") for file in files if not any(ROOT.glob(file)))
        names = [name for names in EXTRAS.findall(line) for name in names.split(",")]
        yield from ((number, f"no extra {name}") for name in names if name not in extras)
        if (field := FIELD.fullmatch(line)) and not any(has(config, field[1]) for config in all_configs()):
            yield number, f"no field {field[1]}"
        for config in CONFIG.findall(line):
            try:
                get_config(config)
            except (InputError, OSError) as e:
                yield number, f"get_config({config}): {e}"
        for program, words in commands(line):
            if (ROOT / program).is_file() or (not program and (path.suffix == ".py" or line.startswith("--"))):
                yield from ((number, thing) for thing in wrong_flags(program, words))
    prose = re.sub("```.*?```", lambda match: "\n" * match[0].count("\n"), text, flags=re.S)
    for number, line in enumerate(prose.splitlines() if path.suffix in (".md", ".ipynb") else (), 1):
        for file, heading in LINK.findall(line):
            target = path.parent / file if file else path
            if not re.match(r"\w+:", file) and not (target.exists() and (not heading or heading in headings(target))):
                yield number, f"no link target {file}#{heading}"


def headings(path: Path) -> list[str]:
    """The headings of a Markdown file as links name them."""
    titles = re.findall("^#+ (.*)", path.read_text(), re.M)
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_names_exists(path):
    found = [f"{path.relative_to(ROOT)}:{number}: {thing}" for number, thing in wrong(path, read(path))]
    assert not found, "\n".join(found)


def test_what_does_not_exist_is_found():
    text = """
`launch/pretrane.py` with `config.model.widht` and `--wrkdir`, see [here](nowhere.md) and [there](README.md#no-such)

```
pip install -e .[trane] && X=1 python launch/pretrain.py --config=configs/mux_bert.py:width=N \\
    --config.rowz=8 --workdirs=DIR --config.rows=8
gcloud ssh --command='bash launch/host.sh --config=configs/mux_bert.py:sizes=tiny --workdir=DIR' --zone=z
python launch/predict.py --model MODEL --textes FILE && python launch/no.py
mux-jax serve --modell DIR
config = mux_jax.get_config("configs/mux_bert.py:with=5")
```
"""
    found = list(wrong(ROOT / "made_up.md", text))
    assert [number for number, _ in found] == [2, 2, 2, 5, 5, 5, 7, 8, 8, 9, 10, 2, 2]
    names = "pretrane.py widht --wrkdir trane rowz --workdirs sizes "
    names += "launch/no.py --textes --modell with=5 nowhere.md README.md#no-such"
    assert all(name in thing for name, (_, thing) in zip(names.split(), found, strict=True)), found
