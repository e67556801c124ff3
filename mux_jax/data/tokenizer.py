"""WordPiece by `tokenizers`: a given vocabulary, or one trained on the source."""

import collections
import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from etils import epath
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from mux_jax.errors import InputError
from mux_jax.files import check_fetched
from mux_jax.progress import say

_FILES = ("tokenizer.json", "vocab.txt")  # in the order of preference
_NAMES = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """The ids of the tokens that a model treats apart."""

    pad: int
    unk: int
    cls: int
    sep: int
    mask: int


BERT_TOKENS = SpecialTokens(pad=0, unk=100, cls=101, sep=102, mask=103)  # of bert-base-uncased, 30,522 tokens


def special_tokens(tokenizer: Tokenizer, where: str = "the tokenizer") -> SpecialTokens:
    """The special tokens' ids.

    Raises:
      InputError: naming those that the vocabulary lacks.
    """
    ids = {field: tokenizer.token_to_id(token) for field, token in _NAMES.items()}
    missing = [_NAMES[field] for field, i in ids.items() if i is None]
    if missing:
        raise InputError(f"{where}: the vocabulary lacks {', '.join(missing)}")
    return SpecialTokens(**{field: i for field, i in ids.items() if i is not None})


def has_tokenizer(folder: epath.Path) -> bool:
    """Whether `load_tokenizer` finds a tokenizer in a folder."""
    return any((folder / name).exists() for name in _FILES)


def load_tokenizer(path: str) -> Tokenizer:
    """Loads a `tokenizer.json`, a `vocab.txt`, or the folder that holds one.

    A `vocab.txt` does not say whether it is lower-cased or without accents, but a `tokenizer_config.json`
    beside it does. Without that a vocabulary with no capital letter is taken to be, and that is printed. A
    tokenizer without [CLS] and [SEP] around a text gets them, which is printed too.

    Raises:
      InputError: no such file, not a tokenizer, or special tokens missing.
    """
    given = epath.Path(path).expanduser()
    candidates = [given / name for name in _FILES] if given.is_dir() else [given]
    file = next((f for f in candidates if f.exists()), None)
    if file is None:
        raise InputError(f"data.tokenizer: no file {' or '.join(map(str, candidates))}")
    check_fetched(file)
    if file.suffix == ".json":
        try:
            tokenizer = Tokenizer.from_str(file.read_text())
        except Exception as e:  # `tokenizers` raises bare Exception for every malformed file
            raise InputError(f"{file}: not a tokenizer.json: {e}") from e
        tokenizer.no_padding()
        tokenizer.no_truncation()
    else:
        try:
            words = file.read_bytes().decode("utf-8").replace("\r\n", "\n").rstrip("\n").split("\n")
        except (OSError, UnicodeDecodeError) as e:
            raise InputError(f"{file}: cannot be read: {e}") from e
        vocabulary = {word: i for i, word in enumerate(words)}
        if len(vocabulary) != len(words):
            raise InputError(f"{file}: {len(words) - len(vocabulary)} tokens appear more than once")
        said = _said(file.parent / "tokenizer_config.json")
        lowercase = said.get("do_lower_case")
        if lowercase is None:
            lowercase = not any(word != word.lower() for word in words if not word.startswith("["))
            say(f"{file}: taken to be {'lower-cased' if lowercase else 'cased'}")
        split_chinese = said.get("tokenize_chinese_chars") is not False
        tokenizer = _wordpiece(vocabulary, lowercase, said.get("strip_accents"), split_chinese)
    special = special_tokens(tokenizer, str(file))
    if tokenizer.encode("").ids != [special.cls, special.sep]:
        say(f"{file}: puts no [CLS] and [SEP] around a text; they are put there")
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", special.sep), ("[CLS]", special.cls))
    return tokenizer


def _said(file: epath.Path) -> dict[str, Any]:
    """What a `tokenizer_config.json` says; nothing if it is not there."""
    try:
        said = json.loads(file.read_text()) if file.exists() else {}
    except ValueError as e:
        raise InputError(f"{file}: not a tokenizer's configuration: {e}") from e
    if not isinstance(said, dict):
        raise InputError(f"{file}: not a tokenizer's configuration: no object")
    return said


def save_tokenizer(
    tokenizer: Tokenizer, folder: epath.Path, for_transformers: bool = False, token_types: bool = True
) -> None:
    """Writes `tokenizer.json` and, for `transformers`, the other files that it reads.

    `token_types`: whether it shall number the texts of a pair 0 and 1.
    """
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    if not for_transformers:
        return
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word, _ in vocabulary))
    lowercase = getattr(tokenizer.normalizer, "lowercase", False)
    # As BertTokenizer it would make a normaliser of its own out of do_lower_case.
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": bool(lowercase)}
    described |= {f"{field}_token": token for field, token in _NAMES.items()}
    inputs = ["input_ids", "token_type_ids", "attention_mask"] if token_types else ["input_ids", "attention_mask"]
    described["model_input_names"] = inputs
    (folder / "tokenizer_config.json").write_text(json.dumps(described, indent=2) + "\n")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Trains a lower-cased WordPiece vocabulary of at most `vocab_size` tokens on `texts`.

    The same texts give the same vocabulary. `tokenizers` alone does not see to that: it numbers the
    continuing letters (##a) in the order of a hash table, and breaks ties between merges by number.
    Here they are numbered first, in alphabetical order.
    """
    texts = list(texts)
    tokenizer = _wordpiece({"[UNK]": 0}, lowercase=True)
    counts: collections.Counter[str] = collections.Counter()
    for text in texts:
        counts.update(text)
    letters: collections.Counter[str] = collections.Counter()
    for character, count in counts.items():
        for letter in tokenizer.normalizer.normalize_str(character).strip():
            letters[letter] += count
    common = sorted(letters, key=lambda c: (-letters[c], c))[: min(1000, vocab_size // 4)]
    alphabet = sorted(common)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        special_tokens=[*_NAMES.values(), *(f"##{c}" for c in alphabet if c.isalnum())],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wordpiece(tokenizer.get_vocab(), lowercase=True)


def _wordpiece(
    vocabulary: dict[str, int], lowercase: bool, strip_accents: bool | None = None, split_chinese: bool = True
) -> Tokenizer:
    """BERT's normalisation, splitting and WordPiece model over a vocabulary. Accents go with capitals if None."""
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=split_chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    if {"[CLS]", "[SEP]"} <= vocabulary.keys():
        ends = (("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
        tokenizer.post_processor = processors.BertProcessing(*ends)
    return tokenizer
