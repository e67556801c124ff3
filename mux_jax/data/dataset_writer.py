"""Text files to a TensorFlow Datasets folder in ArrayRecord format, by an Apache Beam pipeline.

The pipeline is TFDS's own: it shuffles by a hash of each document's place, chooses the number of
shards, writes them and describes them. Beam's runner decides where. TensorFlow is not needed.
"""

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core.writer import ExampleWriter

from mux_jax import locks, pipelines
from mux_jax.data.sources import TextFiles
from mux_jax.errors import InputError
from mux_jax.files import remove
from mux_jax.interrupts import undone


def write_dataset(
    source: TextFiles, name: str, output: str, shards: int | None = None, beam_options: Sequence[str] = ()
) -> tfds.core.DatasetInfo:
    """Writes the documents of `source` to OUTPUT/NAME/1.0.0: split `train`, feature `text`.

    Runs on this machine unless the Beam options name another runner. The folder appears when it
    is whole. Without `shards` they are of 64 MiB to 1 GiB.

    Raises:
      InputError: a bad name or number of shards, a destination that exists, Beam options that
        Beam refuses, no Beam; while reading, what `TextFiles` raises.
    """
    options = pipelines.check_options(beam_options, "preparing a data set")
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise InputError(f"name {name!r}: a data set's name is of lower-case letters, digits and _, a letter first")
    if shards is not None and shards < 1:
        raise InputError(f"shards={shards} must be at least 1")
    builder = _TextBuilder(source, name, output)
    if builder.data_path.exists():
        raise InputError(f"{builder.data_path} exists; choose another name or output, or remove it")

    download = tfds.download.DownloadConfig(beam_options=options, num_shards=shards, try_download_gcs=False)
    folder = epath.Path(builder.data_path.parent)
    folder.mkdir(parents=True, exist_ok=True)

    def entries() -> set[epath.Path]:
        return set(folder.iterdir()) if folder.exists() else set()  # object stores have no empty folders

    there = entries()

    def undo() -> None:
        for path in entries() - there:
            remove(path)  # the incomplete one

    with (
        locks.hold(folder / ".lock", str(folder)),
        undone(undo),
        tempfile.TemporaryDirectory() as empty,  # TFDS makes a folder for downloads, and there are none
        pipelines.input_errors(),
    ):
        builder.download_and_prepare(download_dir=empty, download_config=download)
    return builder.info


class _TextBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]  # is TFDS's
    """What TFDS asks of a data set: its name and version, its features, and its examples by split."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, source: TextFiles, name: str, folder: str):
        self.name = name
        self._source = source
        super().__init__(data_dir=os.path.expanduser(folder), file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Any:
        import apache_beam as beam

        files = [(i, os.fspath(path)) for i, path in enumerate(self._source.files)]
        return beam.Create(files) | beam.FlatMap(_examples, self._source.read)

    def _example_writer(self) -> ExampleWriter:
        return _ShardWriter(self.info.file_format)


def _examples(
    file: tuple[int, str], read: Callable[[epath.Path], Iterator[tuple[str, int]]]
) -> Iterator[tuple[str, dict[str, str]]]:
    """The documents of a file under keys that no other document has."""
    number, path = file
    for i, (text, _) in enumerate(read(epath.Path(path))):
        yield f"{number}:{i}", {"text": text}


class _ShardWriter(ExampleWriter):
    """Writes a shard; to an object store by way of the local disk, as ArrayRecord's writer needs a file."""

    def write(self, path: os.PathLike[str] | str, examples: Iterable[tuple[Any, bytes]]) -> None:
        if "://" not in os.fspath(path):
            super().write(path, examples)
            return
        with tempfile.TemporaryDirectory() as folder:
            shard = epath.Path(folder) / "shard"
            super().write(shard, examples)
            shard.copy(path)
