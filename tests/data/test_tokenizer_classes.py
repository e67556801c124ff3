"""What the class of a tokenizer makes of a vocabulary is made here too, or the vocabulary is refused.

The tests marked `extra` ask `transformers` what its classes make.
"""

import contextlib

import pytest

from mux_jax.data.encoding import Encoder
from mux_jax.data.tokenizer import load_tokenizer
from mux_jax.data.tokenizer_config import BYTE_LEVEL, CLASSES, OF_MODELS, TYPED, WORDPIECE
from mux_jax.errors import InputError
from tests.data.test_tokenizer_files import STRANGE, VOCAB, wordpiece_json, write
from tests.data.test_tokenizer_kinds import NAMED, assert_the_same, merges, mpnet_words, roberta

UNTYPED = ("DistilBertTokenizer", "DPRReaderTokenizer", "MPNetTokenizer")
NO_TEXTS = {"CanineTokenizer", "LayoutLMv2Tokenizer", "MarkupLMTokenizer", "TapasTokenizer"}  # or no vocabulary


def class_folder(folder, kind, **said):
    """A vocabulary for a class as its files."""
    name = kind.removesuffix("Fast")
    write(folder, config__json={"model_type": "bert"}, tokenizer_config__json={"tokenizer_class": kind} | said)
    if name in BYTE_LEVEL:
        return write(folder, **merges(folder / "model"))
    return write(folder, vocab__txt="\n".join(mpnet_words()) + "\n" if name == "MPNetTokenizer" else VOCAB)


@pytest.mark.parametrize("kind", [*WORDPIECE, "MobileBertTokenizerFast"])
def test_berts_classes_make_token_types_but_for_three(tmp_path, kind):
    typed = kind not in UNTYPED
    tokenizer = load_tokenizer(str(class_folder(tmp_path / "there", kind, do_lower_case=True)))
    assert tokenizer.token_types == typed
    found = Encoder(tokenizer, 9)([("a", "b")]).types
    assert (found and found[0].tolist()) == ([0, 0, 0, 1, 1] if typed else None)
    written = wordpiece_json().replace('"lowercase":true', '"lowercase":false')
    if kind != "MPNetTokenizer":  # a tokenizer.json is lower-cased as they are told, too
        tokenizer = load_tokenizer(str(write(tmp_path / "there", tokenizer__json=written)))
        assert tokenizer.token_types == typed and "hello" in tokenizer.backend.encode("HELLO").tokens


@pytest.mark.parametrize("family", ["deberta", "deberta-v2", "fnet"])
def test_other_classes_make_token_types_of_a_tokenizer_json(tmp_path, family):
    said = {"tokenizer_class": "FNetTokenizer"} if family == "fnet" else {}
    files = dict(config__json={"model_type": family}, tokenizer__json=wordpiece_json(), tokenizer_config__json=said)
    tokenizer = load_tokenizer(str(write(tmp_path, **files)))
    assert Encoder(tokenizer, 9)([("a", "b")]).types[0].tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("kind", [*BYTE_LEVEL, "BartTokenizerFast"])
def test_robertas_classes_put_two_ends_between_the_texts_of_a_pair(tmp_path, kind):
    for files in ({}, dict(tokenizer__json=roberta(prefix_space=True))):
        folder = tmp_path / f"{len(files)}"
        tokenizer = load_tokenizer(str(write(class_folder(folder, kind), **files)))
        assert tokenizer.backend.encode("a", "b").tokens == ["<s>", "a", "</s>", "</s>", "b", "</s>"]
    said = dict(tokenizer_config__json={"tokenizer_class": kind, "add_prefix_space": True})
    assert load_tokenizer(str(write(folder, **said))).backend.encode("a").tokens == ["<s>", "Ġa", "</s>"]


@pytest.mark.parametrize(
    ("family", "kind", "named"),
    [
        ("bert", "HerbertTokenizerFast", "HerbertTokenizerFast"),
        ("roberta", "GPT2Tokenizer", "GPT2Tokenizer"),
        ("roberta", "BlenderbotTokenizer", "BlenderbotTokenizer"),
        ("roberta", "PreTrainedTokenizerFast", "PreTrainedTokenizerFast"),
        ("blenderbot", "", "BlenderbotTokenizer"),
        ("bert", "", "BertTokenizer"),
    ],
)
def test_merges_of_another_class_than_robertas_are_refused(tmp_path, family, kind, named):
    folder = write(tmp_path / "there", config__json={"model_type": family}, **merges(tmp_path / "model"))
    if kind:
        write(folder, tokenizer_config__json={"tokenizer_class": kind})
    message = rf"vocab.json: read as RoBERTa's .*, which {named} does not make; .*AutoTokenizer.from_pretrained"
    with pytest.raises(InputError, match=message) as raised:
        load_tokenizer(str(folder))
    assert "\n" not in str(raised.value)
    (folder / "merges.txt").unlink()
    with pytest.raises(InputError, match=message):
        load_tokenizer(str(folder))


@pytest.mark.parametrize(
    ("family", "kind", "named"),
    [
        ("funnel", "", "FunnelTokenizer"),
        ("bert", "FunnelTokenizerFast", "FunnelTokenizerFast"),
        ("bert", "SplinterTokenizer", "SplinterTokenizer"),
        ("roberta", "BertweetTokenizer", "BertweetTokenizer"),
        ("roberta", "", "RobertaTokenizer"),
    ],
)
def test_a_vocab_txt_of_another_class_than_berts_is_refused(tmp_path, family, kind, named):
    said = {"do_lower_case": True} | ({"tokenizer_class": kind} if kind else {})
    write(tmp_path, config__json={"model_type": family}, vocab__txt=VOCAB, tokenizer_config__json=said)
    with pytest.raises(InputError, match=f"vocab.txt: read as BERT's WordPiece, which {named} does not") as raised:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["", "PreTrainedTokenizerFast", "TokenizersBackend"])
def test_a_vocab_txt_of_no_class_is_berts(tmp_path, kind):
    said = {"do_lower_case": True} | ({"tokenizer_class": kind} if kind else {})
    write(tmp_path, vocab__txt=VOCAB, tokenizer_config__json=said)
    assert load_tokenizer(str(tmp_path)).backend.encode("HELLO").tokens == ["[CLS]", "hello", "[SEP]"]


@pytest.mark.extra
@pytest.mark.parametrize("kind", [f"{name}{fast}" for name in WORDPIECE + BYTE_LEVEL for fast in ("", "Fast")])
def test_classes_give_the_ids_of_transformers(tmp_path, kind):
    import transformers

    folder = class_folder(tmp_path / "there", kind, do_lower_case=True)
    ours, theirs = load_tokenizer(str(folder)), transformers.AutoTokenizer.from_pretrained(folder)
    assert_the_same(ours, theirs)
    if ours.token_types:
        assert Encoder(ours, 9)([("a", "b")]).types[0].tolist() == theirs("a", "b")["token_type_ids"]


@pytest.mark.extra
def test_the_tables_of_classes_are_those_of_transformers():
    import transformers
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    alike = {"DistilBertTokenizer": "BertTokenizer"}
    for family, name in OF_MODELS.items():
        assert name == alike.get(TOKENIZER_MAPPING_NAMES[family], TOKENIZER_MAPPING_NAMES[family]), family
    typed = set()
    for name in {*dir(transformers), *CLASSES, *TYPED}:
        if name.endswith("Tokenizer"):
            with contextlib.suppress(AttributeError, ImportError):  # some need libraries that are not here
                if "token_type_ids" in getattr(transformers, name).model_input_names:
                    typed.add(name)
    assert typed - NO_TEXTS == set(TYPED)


@pytest.mark.extra
@pytest.mark.parametrize("kind", ["HerbertTokenizer", "BlenderbotTokenizer"])
def test_the_tokenizer_json_that_transformers_makes_of_other_merges_is_read(tmp_path, kind):
    import transformers

    said = NAMED | {"tokenizer_class": kind, "add_prefix_space": True}
    folder = write(tmp_path / "there", tokenizer_config__json=said, **merges(tmp_path / "model"))
    theirs = getattr(transformers, kind).from_pretrained(folder)
    theirs.save_pretrained(tmp_path / "made")
    ours = load_tokenizer(str(tmp_path / "made"))
    for text in STRANGE:
        found = ours.backend.encode(text, add_special_tokens=False).ids
        assert found == theirs(text, add_special_tokens=False)["input_ids"], text
