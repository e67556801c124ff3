"""Tokenizers of any kind, read as `transformers` reads them: WordPiece, byte-level BPE, Unigram."""

import collections
import dataclasses
import functools
import json
from collections.abc import Container
from typing import Any

from etils import epath
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from mux_jax.data.tokenizer_backends import check_id, put_ends, read_backend
from mux_jax.data.tokenizer_config import FLAGS, LETTERS, NAMES, TokenizerConfig, read_config
from mux_jax.errors import InputError
from mux_jax.files import check_fetched
from mux_jax.progress import say

_SENTENCEPIECE = ("sentencepiece.bpe.model", "spiece.model", "sentencepiece.model")  # which are refused
OLD_FILES = ("vocab.json", "merges.txt", *_SENTENCEPIECE)  # of models that have no newer ones
_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", *_SENTENCEPIECE)  # in the order of preference


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """The ids of the tokens that a model treats apart.

    Attributes:
      pad: fills rows.
      cls: begins a text.
      sep: ends a text.
      unk: stands for what the vocabulary does not have; None: it has all bytes.
      mask: stands for a token to predict; None: the model was not made to.
    """

    pad: int
    cls: int
    sep: int
    unk: int | None = None
    mask: int | None = None

    @property
    def ids(self) -> list[int]:
        """Those that there are."""
        return [i for i in dataclasses.astuple(self) if i is not None]


BERT_TOKENS = SpecialTokens(pad=0, unk=100, cls=101, sep=102, mask=103)  # of bert-base-uncased, 30,522 tokens


@dataclasses.dataclass(frozen=True)
class ModelTokenizer:
    """A tokenizer, with what a model must know of it.

    Attributes:
      backend: makes ids of texts, with [CLS] and [SEP] around them, whatever they are called.
      names: what the vocabulary calls the special tokens, by the fields of `SpecialTokens`.
      token_types: whether it numbers the texts of a pair 0 and 1 for the model; else all tokens are of type 0.
    """

    backend: Tokenizer
    names: dict[str, str]
    token_types: bool

    @functools.cached_property
    def special(self) -> SpecialTokens:
        """The special tokens' ids."""
        ids: dict[str, Any] = {field: self.backend.token_to_id(name) for field, name in self.names.items()}
        return SpecialTokens(**ids)

    @property
    def marks_words(self) -> bool:
        """Whether the words of a list get the ids that they have in a text; not so in byte-level BPE by default."""
        words = self.backend.encode(["a", "a"], is_pretokenized=True, add_special_tokens=False)
        return words.ids[-1:] == self.backend.encode("a a", add_special_tokens=False).ids[-1:]

    @property
    def num_ids(self) -> int:
        """One more than the largest id. That is the number of tokens, unless ids are left out."""
        return max(self.backend.get_vocab().values()) + 1


def has_tokenizer(folder: epath.Path) -> bool:
    """Whether `load_tokenizer` finds a tokenizer in a folder."""
    return any((folder / name).exists() for name in _FILES)


def load_tokenizer(path: str) -> ModelTokenizer:
    """Loads a `tokenizer.json`, a `vocab.txt`, a `vocab.json` with its `merges.txt`, or the folder that holds one.

    A text gets the ids that it gets from `AutoTokenizer` of `transformers`. So the files beside the vocabulary count:
    `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`, and `config.json` for the model's family.
    Where two files differ, a line says which counts. A special token written in a text, such as [SEP], is that token.

    Where this differs from `transformers`, it does so on purpose:
    - A `vocab.txt` of which no file says whether it is lower-cased is taken to be if no token has a capital letter,
      and that is printed. `transformers` always lower-cases then.
    - A `tokenizer.json` decides all that `tokenizer_config.json` does not contradict. Classes of `transformers` for one
      family take nothing from it but the vocabulary and the added tokens; `BertTokenizer` lower-cases unless told
      otherwise.
    - [CLS] and [SEP] are put around a text, and special tokens found in it, even if a `tokenizer.json` says neither.
    - All of `additional_special_tokens` are special tokens, in whichever file they stand.
    - A special token that a file names and the vocabulary lacks, or an id that is not the one that the rest of the
      vocabulary leaves, is an error. `transformers` goes on with the next free id.

    Raises:
      InputError: no such file, not a tokenizer, special tokens missing, or files that contradict each other.
    """
    given = epath.Path(path).expanduser()
    candidates = [given / name for name in _FILES] if given.is_dir() else [given]
    file = next((f for f in candidates if f.exists()), None)
    if file is None:
        raise InputError(f"data.tokenizer: no file {' or '.join(map(str, candidates[:3]))}")
    check_fetched(file)
    config = read_config(file.parent)
    backend = read_backend(file, config)
    _add_tokens(backend, config)
    ends = backend.encode("").tokens
    names = _names(backend.get_vocab(), ends, file, config)
    _mark_special(backend, names, file, config)
    if ends != [names["cls"], names["sep"]]:
        if file.name != "vocab.json" and file.suffix == ".json":
            say(f"{file}: puts no {names['cls']} and {names['sep']} around a text; they are put there")
        put_ends(backend, names["cls"], names["sep"], config.is_roberta)
    return ModelTokenizer(backend, names, config.token_types)


def _names(vocabulary: Container[str], ends: list[str], file: epath.Path, config: TokenizerConfig) -> dict[str, str]:
    """What the special tokens are called, those that there are.

    Files say it, or their class does. Where no file does, a tokenizer.json shows what it puts around a text, `ends`;
    the other tokens are found by the names in `NAMES`.
    """
    said = {key: token.content for key, token in config.special.items()}
    told, names = any(f"{field}_token" in said for field in NAMES), {}
    for field, known in NAMES.items():
        name = said.get(f"{field}_token")
        if name is not None and name not in vocabulary:
            raise InputError(f"{file}: lacks {name!r}, which a file beside it names as {field}_token; make them agree")
        possible = [name or config.names.get(field), *([] if told else known)]
        found = next((name for name in possible if name in vocabulary), None)
        if found is not None:
            names[field] = found
    if len(ends) == 2 and not (told and config.names):
        names |= dict(zip(("cls", "sep"), ends))
    for field, key in (("cls", "bos_token"), ("sep", "eos_token")):
        if field not in names and said.get(key) in vocabulary:
            names[field] = said[key]
    missing = [field for field in ("pad", "cls", "sep") if field not in names]
    if missing:
        raise InputError(
            f"{file}: the vocabulary lacks {', '.join(config.names.get(x, NAMES[x][0]) for x in missing)}; if it is "
            f"called otherwise, let tokenizer_config.json say so: {', '.join(f'{x}_token' for x in missing)}"
        )
    if names["pad"] in (names["cls"], names["sep"]):
        raise InputError(
            f"{file}: {names['pad']!r} is padding and the end of a text; give pad_token a token of its own"
        )
    return names


def _add_tokens(backend: Tokenizer, config: TokenizerConfig) -> None:
    """Adds the tokens that stand beside a vocabulary."""
    own = _added_tokens(backend) if config.added_by != config.file else set()
    backend.add_tokens([token for token in config.added.values() if token.content not in own])
    for i, token in config.added.items():
        check_id(backend, token.content, i, config.added_by)


def _mark_special(backend: Tokenizer, names: dict[str, str], file: epath.Path, config: TokenizerConfig) -> None:
    """Lets special tokens be found in texts, adds further ones, and checks that no two tokens have one id."""
    special = {f"{field}_token": AddedToken(name, special=True) for field, name in names.items()}
    own = _added_tokens(backend)
    backend.add_special_tokens([t for t in (special | config.special).values() if t.content not in own])
    vocabulary = backend.get_vocab()
    count = collections.Counter(vocabulary.values())
    shared = [repr(word) for word, i in vocabulary.items() if count[i] > 1]
    if shared:
        raise InputError(f"{file}: {', '.join(shared[:5])} have the same id; no id below an added token's may be free")


def _added_tokens(backend: Tokenizer) -> set[str]:
    """The added tokens; one that is added again loses its flags."""
    return {token.content for token in backend.get_added_tokens_decoder().values()}


def tokenizer_files(tokenizer: ModelTokenizer) -> dict[str, str]:
    """The files that keep a tokenizer, by name: all that `load_tokenizer` needs, and `transformers`."""
    backend = tokenizer.backend
    described: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}  # which takes tokenizer.json as it is
    if isinstance(backend.normalizer, normalizers.BertNormalizer):
        described |= {key: getattr(backend.normalizer, name) for key, name in LETTERS.items()}
    if isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        described["add_prefix_space"] = backend.pre_tokenizer.add_prefix_space
    described |= {f"{field}_token": name for field, name in tokenizer.names.items()}
    added = backend.get_added_tokens_decoder()
    described["added_tokens_decoder"] = {i: {f: getattr(token, f) for f in FLAGS} for i, token in added.items()}
    types = ["token_type_ids"] if tokenizer.token_types else []
    described["model_input_names"] = ["input_ids", *types, "attention_mask"]
    return {"tokenizer.json": backend.to_str(), "tokenizer_config.json": json.dumps(described, indent=2) + "\n"}


def save_tokenizer(tokenizer: ModelTokenizer, folder: epath.Path, for_transformers: bool = False) -> None:
    """Writes the files of a tokenizer; of WordPiece for `transformers` the `vocab.txt` too."""
    for name, text in tokenizer_files(tokenizer).items():
        (folder / name).write_text(text, encoding="utf-8")
    if for_transformers and isinstance(tokenizer.backend.model, models.WordPiece):
        words = {i: word for word, i in tokenizer.backend.get_vocab(with_added_tokens=False).items()}
        (folder / "vocab.txt").write_text(
            "".join(f"{words.get(i, '')}\n" for i in range(max(words) + 1)), encoding="utf-8"
        )
