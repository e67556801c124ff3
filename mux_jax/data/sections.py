"""What a configuration says of data: the sections `data` of pre-training and of fine-tuning."""

import dataclasses

from mux_jax.data.rows import BUCKET_LENGTHS
from mux_jax.fields import described

SOURCES = ("pydocs", "files", "tfds")
_FILES = "globs, separated by commas, or a list of them in a file: books/*.txt.gz,news.jsonl"


@dataclasses.dataclass(kw_only=True)
class Component:
    """One source of a mixture."""

    weight: float = described(1.0, "how many of the sequences are from here, over the sum of all weights", at_least=0)
    source: str = described("files", "where the text is", one_of=SOURCES)
    files: str | tuple[str, ...] = described("", _FILES)
    tfds_name: str = described("", "data set of source=tfds, such as wikipedia/20230601.en")
    tfds_split: str = described("train", "its split")
    tfds_dir: str = described("", "its folder; empty: ~/tensorflow_datasets")
    text_field: str = described("text", "field of .jsonl, column of .parquet, feature of TFDS")


def _paper() -> dict[str, Component]:
    return {
        "wikipedia": Component(weight=0.8, source="tfds", tfds_name="wikipedia/20230601.en"),
        "books": Component(weight=0.2, files="books/*.txt"),
    }


@dataclasses.dataclass(kw_only=True)
class TextSection:
    """Text to pre-train on."""

    source: str = described("", "where the text is; empty: nowhere yet", one_of=("", *SOURCES, "mixture"))
    files: str | tuple[str, ...] = described("", f"of source=files: {_FILES}")
    tfds_name: str = described("", "data set of source=tfds, such as wikipedia/20230601.en")
    tfds_split: str = described("train", "its split")
    tfds_dir: str = described("", "its folder; empty: ~/tensorflow_datasets")
    text_field: str = described("text", "field of .jsonl, column of .parquet, feature of TFDS")
    mixture: dict[str, Component] = described(_paper, "of source=mixture: sections of these fields, each with a weight")
    tokenizer: str = described("", "a tokenizer.json, a vocab.txt or their folder; empty: trained on the source")
    vocab_size: int = described(30522, "tokens of a trained vocabulary", at_least=100)
    sequence_length: int = described(512, "tokens of an instance, prefix included", at_least=8)
    heldout_fraction: float = described(0.005, "documents that are only evaluated on", above=0, below=1)
    cache_dir: str = described("", "where packed text is kept; empty: MUX_JAX_CACHE, or ~/.cache/mux_jax")
    workers: int = described(
        -1, "processes that load data; -1: 4 on hosts of 16 cores and more, else none", at_least=-1
    )


@dataclasses.dataclass(kw_only=True)
class TaskSection:
    """Examples of a task."""

    task: str = described("docstrings", "a name in TASKS, or custom")
    folder: str = described("", "folder with files train and dev; empty: TensorFlow Datasets")
    tfds_dir: str = described("", "folder of TensorFlow Datasets; empty: ~/tensorflow_datasets")
    unlabelled: str = described("", "file of texts that the teacher labels; empty: training texts joined at random")
    kind: str = described("sequence", "of task=custom: sequence, multi_label, regression, token or embedding")
    text_columns: str = described(
        "text",
        "of task=custom: the column of the text, or two of a pair: premise,hypothesis; of embeddings two or three",
    )
    label_column: str = described(
        "label", "of task=custom: the column of the label; of multi_label also one of 0 and 1 a label: toxic,insult"
    )
    labels: str = described(
        "",
        "the classes in order, such as O,B-PER,I-PER, also names of labels 0, 1, 2; empty: those of the training data",
    )
    delimiter: str = described("", "of .csv and .tsv: a character such as ;, or tab; empty: a comma, a tab")
    metric: str = described("", "of task=custom: what it is judged by; empty: the first one of its kind")
    tokenizer: str = described("", "a tokenizer.json, a vocab.txt or their folder, for a model that has none")
    sequence_length: int = described(128, "tokens of the longest text; longer texts are cut", at_least=8)
    bucket_lengths: str = described(
        ",".join(map(str, BUCKET_LENGTHS)), "lengths of rows: each is as long as the smallest that holds its texts"
    )
    workers: int = described(0, "processes that load data; -1: 4 on hosts of 16 cores and more", at_least=-1)
