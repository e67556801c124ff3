"""WordPiece by `tokenizers`: a given vocabulary, read as `transformers` reads it, or one trained on the source."""

import collections
import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from etils import epath
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from mux_jax.data.tokenizer_config import FLAGS, LETTERS, TokenizerConfig, read_config
from mux_jax.errors import InputError
from mux_jax.files import check_fetched
from mux_jax.progress import say

_FILES = ("tokenizer.json", "vocab.txt")  # in the order of preference
# What the special tokens may be called: as in BERT, or as in models of many languages.
_NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """The ids of the tokens that a model treats apart."""

    pad: int
    unk: int
    cls: int
    sep: int
    mask: int


BERT_TOKENS = SpecialTokens(pad=0, unk=100, cls=101, sep=102, mask=103)  # of bert-base-uncased, 30,522 tokens


def special_tokens(tokenizer: Tokenizer) -> SpecialTokens:
    """The special tokens' ids.

    Raises:
      InputError: naming those that the vocabulary lacks.
    """
    return SpecialTokens(**{field: i for field, (_, i) in _named(tokenizer).items()})


def _named(tokenizer: Tokenizer, where: str = "the tokenizer") -> dict[str, tuple[str, int]]:
    """The special tokens: what the vocabulary calls each, and its id."""
    found: dict[str, tuple[str, int]] = {}
    for field, names in _NAMES.items():
        for name in names:
            i = tokenizer.token_to_id(name)
            if i is not None:
                found.setdefault(field, (name, i))
    missing = [names[0] for field, names in _NAMES.items() if field not in found]
    if missing:
        raise InputError(f"{where}: the vocabulary lacks {', '.join(missing)}")
    return found


def num_ids(tokenizer: Tokenizer) -> int:
    """One more than the largest id. That is the number of tokens, unless ids are left out."""
    return max(tokenizer.get_vocab().values()) + 1


def has_tokenizer(folder: epath.Path) -> bool:
    """Whether `load_tokenizer` finds a tokenizer in a folder."""
    return any((folder / name).exists() for name in _FILES)


def load_tokenizer(path: str) -> Tokenizer:
    """Loads a `tokenizer.json`, a `vocab.txt`, or the folder that holds one.

    A text gets the ids that it gets from `AutoTokenizer` of `transformers` in the folder of a BERT or ELECTRA. So the
    files beside the vocabulary count: `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`. Where
    two files differ, a line says which counts. A special token written in a text, such as [SEP], is that token.

    Where this differs from `transformers`, it does so on purpose:
    - A `vocab.txt` of which no file says whether it is lower-cased is taken to be if no token has a capital letter,
      and that is printed. `transformers` always lower-cases then.
    - A `tokenizer.json` decides all that `tokenizer_config.json` does not contradict. `BertTokenizer` takes nothing
      from it but the vocabulary and the added tokens, and lower-cases unless told otherwise.
    - [CLS] and [SEP] are put around a text, and special tokens found in it, even if a `tokenizer.json` says neither.
    - All of `additional_special_tokens` are special tokens, in whichever file they stand.
    - A special token that is missing, one of another name than in `_NAMES`, or an id that is not the one that the
      rest of the vocabulary leaves is an error. `transformers` goes on with the next free id.

    Raises:
      InputError: no such file, not a tokenizer, special tokens missing, or files that contradict each other.
    """
    given = epath.Path(path).expanduser()
    candidates = [given / name for name in _FILES] if given.is_dir() else [given]
    file = next((f for f in candidates if f.exists()), None)
    if file is None:
        raise InputError(f"data.tokenizer: no file {' or '.join(map(str, candidates))}")
    check_fetched(file)
    config = read_config(file.parent)
    tokenizer = (_from_json if file.suffix == ".json" else _from_vocabulary)(file, config)
    _add_tokens(tokenizer, file, config)
    special = special_tokens(tokenizer)
    if tokenizer.encode("").ids != [special.cls, special.sep]:
        if file.suffix == ".json":
            say(f"{file}: puts no [CLS] and [SEP] around a text; they are put there")
        _put_ends(tokenizer)
    return tokenizer


def _from_json(file: epath.Path, config: TokenizerConfig) -> Tokenizer:
    try:
        text = file.read_bytes().decode("utf-8-sig")
        tokenizer = Tokenizer.from_str(text)
    except Exception as e:  # `tokenizers` raises bare Exception for every malformed file
        raise InputError(f"{file}: not a tokenizer.json: {e}") from e
    for token in json.loads(text).get("added_tokens") or []:
        _check_id(tokenizer, token["content"], token["id"], file)
    tokenizer.no_padding()
    tokenizer.no_truncation()

    normalizer = tokenizer.normalizer
    if isinstance(normalizer, normalizers.BertNormalizer):
        own = {key: getattr(normalizer, name) for key, name in LETTERS.items()}
    else:
        own = {"do_lower_case": normalizer is not None and normalizer.normalize_str("A") == "a"}
    differ = [key for key in own if config.letters.get(key, own[key]) != own[key]]
    if differ:
        counts = config.file if config.is_bert else file
        say(f"{file} and {config.file} differ in {', '.join(differ)}; {counts} counts, as for {config.kind}")
    if differ and config.is_bert:
        tokenizer.normalizer = _normalizer(own | config.letters)
        tokenizer = Tokenizer.from_str(tokenizer.to_str())  # which normalises the added tokens, too
    return tokenizer


def _from_vocabulary(file: epath.Path, config: TokenizerConfig) -> Tokenizer:
    if config.kind == "BertJapaneseTokenizer":
        raise InputError(f"{config.file}: finds words by a dictionary, which is not here; give a tokenizer.json")
    try:
        words = [line.rstrip() for line in file.read_bytes().decode("utf-8-sig").rstrip().split("\n")]
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{file}: cannot be read: {e}") from e
    twice = [word for word, count in collections.Counter(words).items() if word and count > 1]
    if twice:
        say(f"{file}: on more than one line, the last of which counts: {', '.join(twice[:5])}")
    letters = dict(config.letters)
    if "do_lower_case" not in letters:
        letters["do_lower_case"] = all(word == word.lower() for word in words if not word.startswith("["))
        say(f"{file}: taken to be {'lower-cased' if letters['do_lower_case'] else 'cased'}")
    return _wordpiece({word: i for i, word in enumerate(words)}, letters)


def _add_tokens(tokenizer: Tokenizer, file: epath.Path, config: TokenizerConfig) -> None:
    """Adds the tokens that stand beside a vocabulary, and lets special ones be found in texts."""
    own = _added_tokens(tokenizer) if config.added_by != config.file else set()
    tokenizer.add_tokens([token for token in config.added.values() if token.content not in own])
    for i, token in config.added.items():
        _check_id(tokenizer, token.content, i, config.added_by)
    named = _named(tokenizer, str(file)).items()
    special = {f"{field}_token": AddedToken(name, special=True) for field, (name, _) in named}
    for key, token in special.items():
        said = config.special.get(key, token).content
        if said != token.content:
            raise InputError(
                f"{file}: {key} is {said!r} in a file beside it, but the vocabulary has {token.content!r}, which would "
                "be taken for it; make them agree"
            )
    own = _added_tokens(tokenizer)
    tokenizer.add_special_tokens([t for t in (special | config.special).values() if t.content not in own])
    vocabulary = tokenizer.get_vocab()
    count = collections.Counter(vocabulary.values())
    shared = [repr(word) for word, i in vocabulary.items() if count[i] > 1]
    if shared:
        raise InputError(f"{file}: {', '.join(shared[:5])} have the same id; no id below an added token's may be free")


def _added_tokens(tokenizer: Tokenizer) -> set[str]:
    """The added tokens; one that is added again loses its flags."""
    return {token.content for token in tokenizer.get_added_tokens_decoder().values()}


def _check_id(tokenizer: Tokenizer, word: str, i: int, file: epath.Path) -> None:
    found = tokenizer.token_to_id(word)
    if found != i:
        raise InputError(f"{file}: {word!r} has the id {i}, but {found} by the rest of the vocabulary; number it so")


def save_tokenizer(
    tokenizer: Tokenizer, folder: epath.Path, for_transformers: bool = False, token_types: bool = True
) -> None:
    """Writes `tokenizer.json` and, for `transformers`, the other files that it reads.

    `token_types`: whether it shall number the texts of a pair 0 and 1.
    """
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    if not for_transformers:
        return
    names = {field: name for field, (name, _) in _named(tokenizer).items()}
    normalizer = tokenizer.normalizer
    described: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}  # which takes tokenizer.json as it is
    if isinstance(normalizer, normalizers.BertNormalizer):
        described |= {key: getattr(normalizer, name) for key, name in LETTERS.items()}
    described |= {f"{field}_token": name for field, name in names.items()}
    added = tokenizer.get_added_tokens_decoder()
    described["added_tokens_decoder"] = {i: {f: getattr(token, f) for f in FLAGS} for i, token in added.items()}
    inputs = ["input_ids", "token_type_ids", "attention_mask"] if token_types else ["input_ids", "attention_mask"]
    described["model_input_names"] = inputs
    (folder / "tokenizer_config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    if isinstance(tokenizer.model, models.WordPiece):
        words = {i: word for word, i in tokenizer.get_vocab(with_added_tokens=False).items()}
        (folder / "vocab.txt").write_text(
            "".join(f"{words.get(i, '')}\n" for i in range(max(words) + 1)), encoding="utf-8"
        )


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Trains a lower-cased WordPiece vocabulary of at most `vocab_size` tokens on `texts`.

    The same texts give the same vocabulary. `tokenizers` alone does not see to that: it numbers the
    continuing letters (##a) in the order of a hash table, and breaks ties between merges by number.
    Here they are numbered first, in alphabetical order.
    """
    texts = list(texts)
    tokenizer = _wordpiece({"[UNK]": 0}, {})
    counts: collections.Counter[str] = collections.Counter()
    for text in texts:
        counts.update(text)
    letters: collections.Counter[str] = collections.Counter()
    for character, count in counts.items():
        for letter in tokenizer.normalizer.normalize_str(character).strip():
            letters[letter] += count
    common = sorted(letters, key=lambda c: (-letters[c], c))[: min(1000, vocab_size // 4)]
    alphabet = sorted(common)
    inner = [c for c in alphabet if len(tokenizer.pre_tokenizer.pre_tokenize_str(f"a{c}")) == 1]  # all but punctuation
    names = [known[0] for known in _NAMES.values()]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        special_tokens=[*names, *(f"##{c}" for c in inner)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer = _wordpiece(tokenizer.get_vocab(), {})
    tokenizer.add_special_tokens(names)
    _put_ends(tokenizer)
    return tokenizer


def _wordpiece(vocabulary: dict[str, int], letters: dict[str, Any]) -> Tokenizer:
    """BERT's normalisation, splitting and WordPiece model over a vocabulary."""
    unk = next((name for name in _NAMES["unk"] if name in vocabulary), "[UNK]")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unk, max_input_chars_per_word=100))
    tokenizer.normalizer = _normalizer(letters)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _normalizer(letters: dict[str, Any]) -> normalizers.Normalizer:
    """BERT's. What `letters` do not say: capitals go, accents go with them, Chinese characters stand alone."""
    return normalizers.BertNormalizer(**{LETTERS[key]: value for key, value in letters.items()})


def _put_ends(tokenizer: Tokenizer) -> None:
    """Puts [CLS] and [SEP] around a text."""
    named = _named(tokenizer)
    tokenizer.post_processor = processors.BertProcessing(named["sep"], named["cls"])
