"""Files with a vocabulary as tokenizers of the library `tokenizers`."""

import collections
import json
from typing import Any

from etils import epath
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mux_jax.data.tokenizer_config import ANY, BYTE_LEVEL, LETTERS, NAMES, WORDPIECE, TokenizerConfig
from mux_jax.errors import InputError
from mux_jax.progress import say

_TO_JSON = "AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)"


def read_backend(file: epath.Path, config: TokenizerConfig) -> Tokenizer:
    """The tokenizer in a file, with what `config` says of letters and spaces.

    Raises:
      InputError: not a tokenizer, or one that is not read here.
    """
    if file.suffix == ".model":
        raise InputError(
            f"{file}: a SentencePiece model, which is not read here; `transformers` makes a tokenizer.json of it: "
            f"{_TO_JSON}"
        )
    if file.name == "vocab.json":
        return _from_merges(file, config)
    return (_from_json if file.suffix == ".json" else _from_vocabulary)(file, config)


def _from_json(file: epath.Path, config: TokenizerConfig) -> Tokenizer:
    try:
        text = file.read_bytes().decode("utf-8-sig")
        backend = Tokenizer.from_str(text)
    except Exception as e:  # `tokenizers` raises bare Exception for every malformed file
        raise InputError(f"{file}: not a tokenizer.json: {e}") from e
    for token in json.loads(text).get("added_tokens") or []:
        check_id(backend, token["content"], token["id"], file)
    backend.no_padding()
    backend.no_truncation()

    normalizer = backend.normalizer
    if isinstance(normalizer, normalizers.BertNormalizer):
        own = {key: getattr(normalizer, name) for key, name in LETTERS.items()}
    else:
        own = {"do_lower_case": normalizer is not None and normalizer.normalize_str("A") == "a"}
    differ = [key for key in own if config.letters.get(key, own[key]) != own[key]]
    if differ:
        counts = config.file if config.is_lettered else file
        say(f"{file} and {config.file} differ in {', '.join(differ)}; {counts} counts, as for {config.kind}")
    if differ and config.is_lettered:
        backend.normalizer = _normalizer(own | config.letters)
        backend = Tokenizer.from_str(backend.to_str())  # which normalises the added tokens, too
    splitter = backend.pre_tokenizer
    prefix_space = config.prefix_space
    if isinstance(splitter, pre_tokenizers.ByteLevel) and prefix_space not in (None, splitter.add_prefix_space):
        say(f"{file} and {config.file} differ in add_prefix_space; {config.file} counts, as for {config.kind}")
        splitter.add_prefix_space = prefix_space
        backend.pre_tokenizer = splitter
    return backend


def _from_vocabulary(file: epath.Path, config: TokenizerConfig) -> Tokenizer:
    if config.kind == "BertJapaneseTokenizer":
        raise InputError(f"{config.file}: finds words by a dictionary, which is not here; give a tokenizer.json")
    _check_kind(file, config, (*WORDPIECE, *ANY), "BERT's WordPiece")
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
    unk = config.special["unk_token"].content if "unk_token" in config.special else config.names.get("unk", "[UNK]")
    unk = next((word for word in (unk, *NAMES["unk"]) if word in words), unk)
    return wordpiece({word: i for i, word in enumerate(words)}, unk, letters)


def _from_merges(file: epath.Path, config: TokenizerConfig) -> Tokenizer:
    """Byte-level BPE, as RoBERTa's from before there was a tokenizer.json."""
    _check_kind(file, config, BYTE_LEVEL, "RoBERTa's byte-level BPE")
    merges = file.parent / "merges.txt"
    try:
        lines = merges.read_bytes().decode("utf-8-sig").split("\n")
        pairs = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
        backend = Tokenizer(models.BPE(json.loads(file.read_bytes()), pairs))
    except Exception as e:  # `tokenizers` raises bare Exception for what does not fit together
        raise InputError(f"{file} with {merges.name}: not a vocabulary with its merges: {e}") from e
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(config.prefix_space))
    backend.decoder = decoders.ByteLevel()
    return backend


def _check_kind(file: epath.Path, config: TokenizerConfig, kinds: tuple[str, ...], what: str) -> None:
    """Raises `InputError` if the class is none of these: it makes other ids of the same vocabulary."""
    if not {config.kind, config.kind.removesuffix("Fast")} & set(kinds):
        raise InputError(
            f"{file}: read as {what}, which {config.kind} does not make; name the right tokenizer_class in "
            f"{config.file.name}, or give a tokenizer.json, which `transformers` makes of most: {_TO_JSON}"
        )


def check_id(backend: Tokenizer, word: str, i: int, file: epath.Path) -> None:
    """Raises `InputError` if a token has not the id that a file gives it."""
    found = backend.token_to_id(word)
    if found != i:
        raise InputError(f"{file}: {word!r} has the id {i}, but {found} by the rest of the vocabulary; number it so")


def wordpiece(vocabulary: dict[str, int], unk: str, letters: dict[str, Any]) -> Tokenizer:
    """BERT's normalisation, splitting and WordPiece model over a vocabulary."""
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token=unk, max_input_chars_per_word=100))
    backend.normalizer = _normalizer(letters)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def _normalizer(letters: dict[str, Any]) -> normalizers.Normalizer:
    """BERT's. What `letters` do not say: capitals go, accents go with them, Chinese characters stand alone."""
    return normalizers.BertNormalizer(**{LETTERS[key]: value for key, value in letters.items()})


def put_ends(backend: Tokenizer, cls: str, sep: str, roberta: bool = False) -> None:
    """Puts [CLS] and [SEP] around a text; a pair has one [SEP] in its middle, in RoBERTa's family two."""
    kind: Any = processors.RobertaProcessing if roberta else processors.BertProcessing
    backend.post_processor = kind((sep, backend.token_to_id(sep)), (cls, backend.token_to_id(cls)))
