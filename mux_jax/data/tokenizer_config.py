"""What stands beside a vocabulary: `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`."""

import dataclasses
import json
from typing import Any

from etils import epath
from tokenizers import AddedToken

from mux_jax.errors import InputError
from mux_jax.progress import say

# What may be said of letters, and what BertNormalizer calls it.
LETTERS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
FLAGS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")  # of an added token

# What the special tokens may be called where no file says it.
NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
_BERT = {field: names[0] for field, names in NAMES.items()}
_ROBERTA = {field: names[1] for field, names in NAMES.items()}
# The classes that make BERT's WordPiece of a vocab.txt. Of those in `_UNTYPED` models see no token types.
_UNTYPED = ("DistilBertTokenizer", "DPRReaderTokenizer", "MPNetTokenizer")
_BERTS = (
    "BertTokenizer",
    "ConvBertTokenizer",
    "DPRContextEncoderTokenizer",
    "DPRQuestionEncoderTokenizer",
    "ElectraTokenizer",
    "LayoutLMTokenizer",
    "LxmertTokenizer",
    "MobileBertTokenizer",
    "SqueezeBertTokenizer",
)
WORDPIECE = _BERTS + _UNTYPED
# The classes that make RoBERTa's byte-level BPE of a vocab.json with its merges.txt.
BYTE_LEVEL = ("RobertaTokenizer", "BartTokenizer", "LongformerTokenizer")
# The classes of `transformers` that make a tokenizer of their own kind out of a vocabulary, with what they call the
# special tokens unless told otherwise. Any other takes a tokenizer.json as it is, and needs to be told.
CLASSES = {
    **dict.fromkeys(WORDPIECE, _BERT),
    "MPNetTokenizer": _ROBERTA | {"unk": "[UNK]"},
    **dict.fromkeys((*BYTE_LEVEL, "XLMRobertaTokenizer", "CamembertTokenizer"), _ROBERTA),
}
TYPED = (*_BERTS, "DebertaTokenizer", "DebertaV2Tokenizer", "FNetTokenizer")  # whose models see token types
# The class for a model whose files name none; any other has BERT's, or RoBERTa's if it has a merges.txt.
OF_MODELS = {
    **dict.fromkeys(("bert", "distilbert", "electra"), "BertTokenizer"),
    **dict.fromkeys(("roberta", "bart", "longformer"), "RobertaTokenizer"),
    "blenderbot": "BlenderbotTokenizer",
    "camembert": "CamembertTokenizer",
    "deberta": "DebertaTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "esm": "EsmTokenizer",
    "funnel": "FunnelTokenizer",
    "gpt2": "GPT2Tokenizer",
    "luke": "LukeTokenizer",
    "mpnet": "MPNetTokenizer",
    "roc_bert": "RoCBertTokenizer",
    "roformer": "RoFormerTokenizer",
    "splinter": "SplinterTokenizer",
    "tapas": "TapasTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
}
_AS_IT_IS = "TokenizersBackend"
ANY = ("PreTrainedTokenizerFast", _AS_IT_IS)  # which say nothing of the kind


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """What the files beside a vocabulary say.

    Attributes:
      file: the `tokenizer_config.json`, whether it is there or not.
      kind: the class of `transformers`, such as BertTokenizer.
      letters: by the names in `LETTERS`, those that are said. `strip_accents` may be None: accents go with capitals.
      prefix_space: whether byte-level BPE puts a space before a text; None: as its tokenizer.json says.
      token_types: whether the texts of a pair are numbered 0 and 1 for the model.
      special: the special tokens by their keys, such as pad_token; those that have no key by themselves.
      added: tokens that the vocabulary may not have, by id.
      added_by: the file that says so.
    """

    file: epath.Path
    kind: str
    letters: dict[str, Any]
    prefix_space: bool | None
    token_types: bool
    special: dict[str, AddedToken]
    added: dict[int, AddedToken]
    added_by: epath.Path

    @property
    def names(self) -> dict[str, str]:
        """What the class calls the special tokens unless told otherwise; nothing if it must be told."""
        return CLASSES.get(self.kind.removesuffix("Fast"), {})

    @property
    def is_roberta(self) -> bool:
        """Whether the class puts two [SEP] between the texts of a pair."""
        return self.names.get("cls") == _ROBERTA["cls"]

    @property
    def is_lettered(self) -> bool:
        """Whether the class does what `letters` say; others do what `tokenizer.json` says."""
        return self.kind.removesuffix("Fast") in WORDPIECE


def read_config(folder: epath.Path) -> TokenizerConfig:
    """Reads the files in a folder that are there.

    Raises:
      InputError: a file that is not as tokenizers write it.
    """
    file, added_by = folder / "tokenizer_config.json", folder / "added_tokens.json"
    said = _read(file)
    letters = {key: said[key] for key in LETTERS if said.get(key) is not None or key == "strip_accents" in said}
    for key, value in letters.items():
        if not isinstance(value, bool | None):
            raise InputError(f"{file}: {key} is {value!r}; it must be true or false")
    if said.get("split_special_tokens"):
        say(f"{file}: split_special_tokens is not followed; [SEP] in a text is the special token")
    kind = _kind(folder, said)
    name = kind.removesuffix("Fast")
    prefix_space = bool(said.get("add_prefix_space")) if name in BYTE_LEVEL else None
    inputs = said.get("model_input_names")
    token_types = "token_type_ids" in inputs if isinstance(inputs, list) else name in TYPED

    special = _special(file, said)
    if "added_tokens_decoder" in said:
        added_by = file
    else:  # of an older version, which has other files
        special |= _special(folder / "special_tokens_map.json", _read(folder / "special_tokens_map.json"))
    names = {token.content for token in special.values()}
    try:
        if added_by == file:
            added = {int(i): _token(file, token) for i, token in said["added_tokens_decoder"].items()}
        else:
            added = {int(i): AddedToken(token, special=token in names) for token, i in _read(added_by).items()}
    except (AttributeError, TypeError, ValueError) as e:
        raise InputError(f"{added_by}: not tokens with their ids: {e}") from e
    added = dict(sorted(added.items()))
    return TokenizerConfig(file, kind, letters, prefix_space, token_types, special, added, added_by)


def _kind(folder: epath.Path, said: dict[str, Any]) -> str:
    """The class that `AutoTokenizer` would take; BERT's where nothing tells."""
    if "word_tokenizer_type" in said:
        return "BertJapaneseTokenizer"
    model = _read(folder / "config.json")
    family = str(model.get("model_type"))
    if family == "modernbert":  # some say another, and mean this
        return _AS_IT_IS
    usual = "RobertaTokenizer" if (folder / "merges.txt").exists() else "BertTokenizer"
    return str(said.get("tokenizer_class") or model.get("tokenizer_class") or OF_MODELS.get(family, usual))


def _read(file: epath.Path) -> dict[str, Any]:
    """What a JSON file says; nothing if it is not there."""
    try:
        said = json.loads(file.read_bytes()) if file.exists() else {}
    except (OSError, ValueError) as e:
        raise InputError(f"{file}: not a tokenizer's configuration: {e}") from e
    if not isinstance(said, dict):
        raise InputError(f"{file}: not a tokenizer's configuration: no object")
    return said


def _special(file: epath.Path, said: dict[str, Any]) -> dict[str, AddedToken]:
    named = {key: value for key, value in said.items() if key.endswith("_token") and isinstance(value, str | dict)}
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = said.get(key) or []
        if not isinstance(more, list | dict):
            raise InputError(f"{file}: {key} is {more!r}; it must be a list of tokens")
        named |= more if isinstance(more, dict) else {str(token): token for token in more}
    return {key: _token(file, value, special=True) for key, value in named.items()}


def _token(file: epath.Path, value: Any, special: bool = False) -> AddedToken:
    """A token that a file holds as its text, or as an object with flags."""
    try:
        flags = {"content": value} if isinstance(value, str) else {k: v for k, v in value.items() if k in FLAGS}
        return AddedToken(**flags | {"special": special or flags.get("special", False)})
    except (AttributeError, TypeError) as e:
        raise InputError(f"{file}: not a token: {value!r}") from e
