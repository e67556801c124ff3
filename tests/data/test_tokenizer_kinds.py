"""Tokenizers of every kind give the ids, the frames and the token types that `transformers` gives.

The files are made here as a family's are; the tests marked `extra` compare them with `AutoTokenizer` token by token,
and read what it writes itself.
"""

import json

import pytest
from etils import epath
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from mux_jax.data.encoding import Encoder
from mux_jax.data.tokenizer import load_tokenizer, save_tokenizer
from mux_jax.errors import InputError
from tests.data.test_tokenizer_files import STRANGE, write

TEXTS = ["Hello world, a café by the sea.", "hello Hello worlds 12 342 naïve 漢字 漢", "the letter of the river"] * 5
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
NAMED = dict(cls_token="<s>", pad_token="<pad>", sep_token="</s>", unk_token="<unk>", mask_token="<mask>")
MODERN = dict(cls_token="[CLS]", pad_token="[PAD]", sep_token="[SEP]", unk_token="[UNK]", mask_token="[MASK]")


def byte_level(special=ROBERTA, prefix_space=False):
    """Byte-level BPE without a frame."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def roberta(prefix_space=False):
    tokenizer = byte_level(prefix_space=prefix_space)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, prefix_space)
    return tokenizer.to_str()


def modern():
    tokenizer = byte_level([*MODERN.values(), "<|padding|>"])
    tokenizer.normalizer = normalizers.NFC()
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", ends
    )
    return tokenizer.to_str()


def unigram(special=(*ROBERTA[:4],)):
    """SentencePiece, as XLM-R's and CamemBERT's are."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=90, special_tokens=list(special), unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens([*special, AddedToken("<mask>", lstrip=True, special=True)])
    ends = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", ends)
    written = json.loads(tokenizer.to_str())
    pieces = written["model"]["vocab"]  # which has <mask> last, as a converted SentencePiece model has
    written["model"]["vocab"] = [*pieces, ["<mask>", 0.0]]
    return json.dumps(written)


def mpnet_words():
    words = [*ROBERTA[:4], "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789.,!"]
    return [*words, "hello", "world", "##s", "##a", "cafe", "漢", "字", "<mask>"]


def mpnet():
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(mpnet_words())}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    tokenizer.add_special_tokens([*ROBERTA[:4], "[UNK]", AddedToken("<mask>", lstrip=True, special=True)])
    return tokenizer.to_str()


def merges(folder):
    """The files of a RoBERTa from before there was a tokenizer.json."""
    folder.mkdir()
    byte_level().model.save(str(folder))
    return dict(vocab__json=(folder / "vocab.json").read_text(), merges__txt=(folder / "merges.txt").read_text())


CAMEMBERT = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"]
# The files of a folder, made when they are needed.
FOLDERS = {
    "roberta": lambda _: dict(config__json={"model_type": "roberta"}, tokenizer__json=roberta()),
    "roberta with a space before the first word": lambda _: dict(
        config__json={"model_type": "roberta"},
        tokenizer__json=roberta(),
        tokenizer_config__json={"tokenizer_class": "RobertaTokenizerFast", "add_prefix_space": True},
        special_tokens_map__json=NAMED | {"mask_token": {"content": "<mask>", "lstrip": True}},
    ),
    "roberta whose tokenizer.json alone has the space": lambda _: dict(
        config__json={"model_type": "roberta"}, tokenizer__json=roberta(prefix_space=True)
    ),
    "roberta of vocab.json and merges.txt": lambda folder: dict(
        config__json={"model_type": "roberta"}, **merges(folder)
    ),
    "a class that takes tokenizer.json as it is": lambda _: dict(
        config__json={"model_type": "roberta"},
        tokenizer__json=roberta(prefix_space=True),
        tokenizer_config__json=NAMED | {"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": False},
    ),
    "modernbert": lambda _: dict(
        config__json={"model_type": "modernbert"},
        tokenizer__json=modern(),
        tokenizer_config__json=MODERN
        | {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]},
    ),
    "xlm-roberta": lambda _: dict(
        config__json={"model_type": "xlm-roberta"},
        tokenizer__json=unigram(),
        tokenizer_config__json=NAMED | {"tokenizer_class": "XLMRobertaTokenizer", "bos_token": "<s>"},
    ),
    "camembert": lambda _: dict(config__json={"model_type": "camembert"}, tokenizer__json=unigram(CAMEMBERT)),
    "mpnet": lambda _: dict(
        config__json={"model_type": "mpnet"},
        tokenizer__json=mpnet(),
        tokenizer_config__json=NAMED | {"tokenizer_class": "MPNetTokenizer", "unk_token": "[UNK]"},
    ),
    "mpnet of vocab.txt": lambda _: dict(
        config__json={"model_type": "mpnet"},
        vocab__txt="\n".join(mpnet_words()) + "\n",
        tokenizer_config__json={"do_lower_case": True},
    ),
}


@pytest.fixture(params=FOLDERS)
def folder(request, tmp_path):
    return write(tmp_path / "there", **FOLDERS[request.param](tmp_path / "model"))


def test_a_pair_has_the_frame_of_its_family(folder):
    tokenizer = load_tokenizer(str(folder))
    special, names = tokenizer.special, tokenizer.names
    assert tokenizer.backend.encode("").ids == [special.cls, special.sep]
    middle = 1 if "modernbert" in (folder / "config.json").read_text() else 2
    ids = tokenizer.backend.encode("", "").ids
    assert ids == [special.cls, *[special.sep] * (middle + 1)] and not tokenizer.token_types
    assert Encoder(tokenizer, 16)([("a", "b")]).types is None
    assert tokenizer.backend.token_to_id(names["pad"]) == special.pad and special.mask is not None


def test_what_is_saved_is_read_back(folder, tmp_path):
    tokenizer = load_tokenizer(str(folder))
    (tmp_path / "saved").mkdir()
    save_tokenizer(tokenizer, epath.Path(tmp_path / "saved"), for_transformers=True)
    read = load_tokenizer(str(tmp_path / "saved"))
    assert read.backend.to_str() == tokenizer.backend.to_str()
    assert (read.names, read.token_types) == (tokenizer.names, tokenizer.token_types)


def test_words_are_found_at_their_first_pieces_whatever_the_kind(folder):
    tokenizer = load_tokenizer(str(folder))
    words = ["hello", "worlds", "café", "naïve"]
    encoded = Encoder(tokenizer, 64)([words])
    given = tokenizer.backend.encode(words, is_pretokenized=True)
    assert encoded.ids[0].tolist() == given.ids
    assert encoded.places[0].tolist() == [given.word_ids.index(i) for i in range(len(words))]
    assert tokenizer.marks_words == (given.ids == tokenizer.backend.encode(" ".join(words)).ids)


def test_token_types_are_made_where_the_files_or_the_class_say_so(tmp_path):
    vocabulary = "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"])
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    for said, types in (
        ({}, True),
        ({"tokenizer_class": "ElectraTokenizerFast"}, True),
        ({"tokenizer_class": "DistilBertTokenizer"}, False),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, False),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": inputs}, True),
        ({"tokenizer_class": "BertTokenizer", "model_input_names": inputs[::2]}, False),
    ):
        write(tmp_path, vocab__txt=vocabulary, tokenizer_config__json={"do_lower_case": True} | said)
        tokenizer = load_tokenizer(str(tmp_path))
        assert tokenizer.token_types == types, said
        encode = Encoder(tokenizer, 6)
        found = encode([("a", "b"), ("a b a b", "b")])
        wanted = [[0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1]] if types else None
        assert wanted == (found.types and [x.tolist() for x in found.types])
        assert encode(["a b"]).types is None


def test_special_tokens_are_those_that_files_name(tmp_path):
    words = ["<p>", "<c>", "<e>", "[CLS]", "[PAD]", "[SEP]", "[MASK]", "a"]
    vocabulary = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="a"))
    vocabulary.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    vocabulary.post_processor = processors.TemplateProcessing(
        "<c> $A <e>", "<c> $A <e> $B <e>", [("<c>", 1), ("<e>", 2)]
    )
    as_it_is = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for said in (
        dict(pad_token="<p>", cls_token="<c>", sep_token="<e>"),
        dict(pad_token={"content": "<p>"}, bos_token="<c>", eos_token="<e>"),
        dict(pad_token="<p>"),  # the others are those that it puts around a text
    ):
        write(tmp_path, tokenizer__json=vocabulary.to_str(), tokenizer_config__json=as_it_is | said)
        tokenizer = load_tokenizer(str(tmp_path))
        assert tokenizer.names == {"pad": "<p>", "cls": "<c>", "sep": "<e>"}
        assert tokenizer.special.ids == [0, 1, 2] and tokenizer.special.mask is None
    (tmp_path / "tokenizer_config.json").unlink()  # nothing says what they are called
    assert load_tokenizer(str(tmp_path)).names == {"pad": "[PAD]", "cls": "<c>", "sep": "<e>", "mask": "[MASK]"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (dict(sentencepiece__bpe__model="x"), r"a SentencePiece model, .*AutoTokenizer.from_pretrained\(MODEL\)"),
        (
            dict(vocab__json={"<s>": 0}, config__json={"model_type": "roberta"}),
            "vocab.json with merges.txt: not a vocabulary with its merges",
        ),
        (
            dict(vocab__json={"<s>": 0, "a": 1}, merges__txt="#version: 0.2\na b\n"),
            "vocab.json with merges.txt: not a vocabulary with its merges",
        ),
        (
            dict(vocab__json={"<s>": 0, "</s>": 1, "a": 2}, merges__txt=""),
            "lacks <pad>; if it is called otherwise, let tokenizer_config.json say so: pad_token",
        ),
        (
            dict(tokenizer__json=roberta(), tokenizer_config__json=NAMED | {"pad_token": "</s>"}),
            "'</s>' is padding and the end of a text; give pad_token a token of its own",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, files, message):
    with pytest.raises(InputError, match=message) as raised:
        load_tokenizer(str(write(tmp_path, **files)))
    assert "\n" not in str(raised.value)


def assert_the_same(ours, theirs):
    """Ids of texts, pairs and words; special tokens; token types; what is left of pairs that are cut."""
    assert ours.backend.get_vocab() == theirs.get_vocab()
    special = {field: getattr(theirs, f"{field}_token") for field in ours.names}
    assert special == ours.names
    assert ours.token_types == ("token_type_ids" in theirs.model_input_names)
    assert (theirs.padding_side, theirs.truncation_side) == ("right", "right")
    cut = Encoder(ours, 12)
    for text, other in zip(STRANGE, [*STRANGE[3:], "a", "b", "c"]):
        assert ours.backend.encode(text).ids == theirs(text)["input_ids"], text
        pair = text[:60], other[:60]  # `tokenizers` makes all combinations of what is cut off
        assert cut([pair]).ids[0].tolist() == theirs(*pair, truncation=True, max_length=12)["input_ids"], pair
        words = [text, other, "x"]
        found = theirs(words, is_split_into_words=True)
        assert ours.backend.encode(words, is_pretokenized=True).ids == found["input_ids"], words
        places = [found.word_ids().index(i) if i in found.word_ids() else -1 for i in range(3)]
        assert Encoder(ours, 12000)([words]).places[0].tolist() == places, words


@pytest.mark.extra
def test_ids_are_those_of_transformers(folder, tmp_path):
    import transformers

    ours = load_tokenizer(str(folder))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert_the_same(ours, theirs)
    exported = write(tmp_path / "exported", config__json=(folder / "config.json").read_text())
    save_tokenizer(ours, epath.Path(exported), for_transformers=True)
    assert_the_same(ours, transformers.AutoTokenizer.from_pretrained(exported))
    theirs.save_pretrained(tmp_path / "resaved")
    (tmp_path / "resaved" / "config.json").write_text((folder / "config.json").read_text())
    assert_the_same(load_tokenizer(str(tmp_path / "resaved")), theirs)
