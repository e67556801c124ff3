"""Where text comes from. A source has a `name`, a `fingerprint()` of what it will read, and
`documents()`, which yields (text, fraction of the source read so far).

`open_sources(config.data)` is the one entry. A new source is a class and a line in `_open`.
"""

import codecs
import gzip
import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from etils import epath

from mux_jax.data.formats import check_names, import_pyarrow, quoted
from mux_jax.data.lines import buffered, objects
from mux_jax.data.pydocs import PythonDocs
from mux_jax.data.sections import SOURCES, Component, TextSection
from mux_jax.errors import InputError
from mux_jax.paths import absolute, find_files

_LONGEST = 1_000_000  # characters of a document held at once; a longer one is cut


class TextFiles:
    """`.txt` (a paragraph a line, an empty line between documents), `.jsonl`, `.parquet`, `.gz`.

    Args:
      patterns: of `paths.find_files`.
      field: of `.jsonl`, column of `.parquet`.

    Raises:
      InputError: a pattern without a file, an empty file, and while reading: bytes that are not
        UTF-8 (file and offset), a line that is not JSON or lacks the field (file and line), a
        table without the column.
    """

    name = "files"
    _READERS = {".txt": "_text", ".jsonl": "_jsonl", ".parquet": "_parquet"}

    def __init__(self, patterns: str | Sequence[str], field: str):
        if not patterns:
            raise InputError("no files to read: data.files (or --texts) takes one or more globs, separated by commas")
        self._field = field
        self.files = find_files(patterns)
        for path in self.files:
            if _suffix(path) not in self._READERS:
                raise InputError(f"{path}: the name must end in {', '.join(self._READERS)} (or .gz after it)")
            if path.stat().length == 0:
                raise InputError(f"{path}: empty file (offset 0)")

    def fingerprint(self) -> str:
        return _fingerprint(self.files, self._field)

    def documents(self) -> Iterator[tuple[str, float]]:
        total = sum(path.stat().length for path in self.files)
        before = 0
        for path in self.files:
            for text, offset in self.read(path):
                yield text, min(1.0, (before + offset) / total)
            before += path.stat().length

    def read(self, path: epath.Path) -> Iterator[tuple[str, int]]:
        """The documents of one of the files, each with the bytes of the file read so far."""
        count = 0
        with path.open("rb") as raw:
            stream: Any = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
            try:
                if path.suffix != ".parquet":
                    stream = buffered(path, stream)
                for text in getattr(self, self._READERS[_suffix(path)])(path, stream):
                    count += 1
                    offset = raw.tell()
                    for i in range(0, len(text), _LONGEST):
                        yield text[i : i + _LONGEST], offset
            except InputError:
                raise
            except (OSError, EOFError, zlib.error, ValueError, RecursionError) as e:
                raise InputError(f"{path}: cannot be read: {e}") from e
        if not count:
            raise InputError(f"{path}: no text in the file")

    def _lines(self, path: epath.Path, stream: Any, limit: int = -1) -> Iterator[str]:
        """The lines, in parts of `limit` bytes if they are longer."""
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        offset = len(codecs.BOM_UTF8) if stream.peek().startswith(codecs.BOM_UTF8) else 0  # of what is no text yet
        while line := stream.readline(limit):
            try:
                text = decoder.decode(line, final=line.endswith(b"\n"))
            except UnicodeDecodeError as e:
                raise InputError(f"{path}: not UTF-8 at byte {offset + e.start}") from e
            yield text
            offset += len(text.encode())
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as e:
            raise InputError(f"{path}: not UTF-8 at byte {offset}") from e

    def _text(self, path: epath.Path, stream: Any) -> Iterator[str]:
        paragraphs, size = [], 0
        for line in self._lines(path, stream, limit=_LONGEST):
            line = line.strip()
            if line:
                paragraphs.append(line)
                size += len(line)
            if paragraphs and (not line or size > _LONGEST):
                yield "\n".join(paragraphs)
                paragraphs, size = [], 0
        if paragraphs:
            yield "\n".join(paragraphs)

    def _jsonl(self, path: epath.Path, stream: Any) -> Iterator[str]:
        for number, record, error in objects(self._lines(path, stream)):
            if error:
                raise InputError(f"{path}:{number}: {error}")
            text = record.get(self._field)
            if not isinstance(text, str):
                raise InputError(f"{path}:{number}: no text in field {self._field!r} (text_field)")
            if any("\ud800" <= c <= "\udfff" for c in text):
                raise InputError(f"{path}:{number}: field {self._field!r} has half of a surrogate pair")
            if text.strip():
                yield text

    def _parquet(self, path: epath.Path, stream: Any) -> Iterator[str]:
        pyarrow = import_pyarrow(path)
        table = pyarrow.parquet.ParquetFile(stream)
        names = table.schema_arrow.names
        check_names(path, names)
        if self._field not in names:
            raise InputError(f"{path}: no column {self._field!r} (text_field); there are: {quoted(names)}")
        kind = table.schema_arrow.field(self._field).type
        values = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
        if values not in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
            raise InputError(f"{path}: column {self._field!r} (text_field) is of type {kind}, not string")
        for batch in table.iter_batches(batch_size=1024, columns=[self._field]):
            for text in batch.column(0).to_pylist():
                if text and text.strip():
                    yield text


class Tfds:
    """A prepared TensorFlow Datasets folder in ArrayRecord format, read without TensorFlow."""

    name = "tfds"

    def __init__(self, name: str, split: str, feature: str, data_dir: str):
        self._builder = open_tfds(name, split, (feature,), data_dir)
        self._split, self._feature = split, feature

    def fingerprint(self) -> str:
        info = self._builder.info
        return _fingerprint(info.splits[self._split].filepaths, info.full_name, self._split, self._feature)

    def documents(self) -> Iterator[tuple[str, float]]:
        examples = self._builder.as_data_source(self._split)
        for i in range(len(examples)):
            text = examples[i][self._feature].decode("utf-8")
            if text.strip():
                yield text, (i + 1) / len(examples)


def open_tfds(name: str, split: str, features: tuple[str, ...], data_dir: str) -> Any:
    """The builder of a prepared data set that has this split and these features.

    Raises:
      InputError: what is not there, with what is; a format that needs TensorFlow.
    """
    # The import is slow and prints; only those who use TFDS pay for it.
    import tensorflow_datasets as tfds

    if not name:
        raise InputError("data.tfds_name is empty; give a data set such as wikipedia/20230601.en")
    root = absolute(data_dir or "~/tensorflow_datasets")
    folder = _prepared(root, name)
    if folder is None:
        raise InputError(
            f"data set {name!r} is not prepared in {root} (data.tfds_dir). On a machine with TensorFlow: "
            f"tfds build {_build_name(name)} --data_dir={root} --file_format=array_record"
        )
    builder = tfds.builder_from_directory(folder)
    info = builder.info
    wanted = [("split", split, info.splits), *(("feature", feature, info.features) for feature in features)]
    for kind, value, there in wanted:
        if value not in there:
            raise InputError(f"{folder}: no {kind} {value!r}; there are: {', '.join(sorted(there))}")
    if info.file_format.value != "array_record":
        raise InputError(
            f"{folder} is in {info.file_format.value} format, which needs TensorFlow; "
            "prepare it again with --file_format=array_record"
        )
    return builder


def open_sources(data: TextSection) -> list[tuple[float, Any]]:
    """Opens what `config.data` names: a list of (weight, source), one unless it is a mixture.

    Raises:
      InputError: a source that does not exist or cannot be read.
    """
    if not data.source:
        raise InputError(
            "data.source is empty; say where the text is: --config.data.source=files "
            "--config.data.files='books/*.txt', or source=tfds, mixture, or pydocs, the documentation of Python"
        )
    if data.source != "mixture":
        return [(1.0, _open(data.source, data))]
    sources = []
    for name, part in data.mixture.items():
        if part.weight < 0:
            raise InputError(f"data.mixture.{name}.weight={part.weight} must not be negative")
        if part.weight:
            sources.append((float(part.weight), _open(part.source, part)))
    if not sources:
        raise InputError("data.mixture: every weight is 0; give at least one source a weight")
    total = sum(weight for weight, _ in sources)
    return [(weight / total, source) for weight, source in sources]


def _open(kind: str, data: TextSection | Component) -> Any:
    if kind == "pydocs":
        return PythonDocs()
    if kind == "files":
        return TextFiles(data.files, data.text_field)
    if kind == "tfds":
        return Tfds(data.tfds_name, data.tfds_split, data.text_field, data.tfds_dir)
    raise InputError(f"data.source={kind!r} does not exist; there are: {', '.join(SOURCES)}, mixture")


def _suffix(path: epath.Path) -> str:
    """The suffix that tells the format: `.txt` of both `a.txt` and `a.txt.gz`."""
    return epath.Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def _fingerprint(files: Iterable[epath.Path], *rest: str) -> str:
    """A digest of what files hold and of what kind they are, in their order; of an object store, of what it says.

    Where they are does not matter.
    """

    def digest(path: epath.Path) -> Any:
        if "://" in str(path):
            found = path.stat()
            return str(path), found.length, found.mtime
        with open(path, "rb") as f:
            return _suffix(path), path.suffix, hashlib.file_digest(f, "blake2b").hexdigest()

    with ThreadPoolExecutor() as pool:  # digests are made outside of Python's lock
        digests = list(pool.map(digest, files))
    return hashlib.blake2b(repr((digests, rest)).encode(), digest_size=16).hexdigest()


def _build_name(name: str) -> str:
    """How `tfds build` wants a name: huggingface:OWNER__NAME for huggingface:OWNER/NAME."""
    return name.replace("/", "__", 1) if name.startswith("huggingface:") and "__" not in name else name


def _prepared(root: epath.Path, name: str) -> epath.Path | None:
    """The newest version folder of a prepared data set, or None."""
    if name.startswith("huggingface:"):  # TFDS keeps OWNER/NAME as owner__name
        from tensorflow_datasets.core.utils.conversion_utils import to_tfds_name

        owner, _, rest = name.removeprefix("huggingface:").replace("__", "/").partition("/")
        data_set, slash, config = rest.partition("/")
        name = to_tfds_name(f"{owner}/{data_set}" if data_set else owner) + slash + config
    folder = root / name
    if not folder.exists():
        return None
    infos = list(folder.glob("dataset_info.json")) + list(folder.glob("*/dataset_info.json"))
    if not infos:
        configs = sorted({p.parent.parent.name for p in folder.glob("*/*/dataset_info.json")})
        if len(configs) > 1:
            raise InputError(f"data.tfds_name={name!r} needs a config: one of {', '.join(configs)}")
        infos = list(folder.glob("*/*/dataset_info.json"))
    versions = [p.parent for p in infos]
    return max(versions, key=lambda p: [int(n) if n.isdigit() else 0 for n in p.name.split(".")], default=None)
