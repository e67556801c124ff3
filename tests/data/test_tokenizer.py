import json

import pytest

from mux_jax.data.tokenizer import load_tokenizer
from mux_jax.data.vocabulary import train_tokenizer
from mux_jax.errors import InputError
from tests.conftest import WORDS

_VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "wor", "##ld", "!"]


def test_training_is_deterministic_and_has_the_special_tokens():
    texts = [" ".join(WORDS)] * 20
    a, b = (train_tokenizer(texts, 100).backend for _ in range(2))
    assert a.to_str() == b.to_str()
    assert train_tokenizer(texts, 100).special.mask == a.token_to_id("[MASK]")
    assert a.get_vocab_size() <= 100
    assert a.decode(a.encode("River LIGHT", add_special_tokens=False).ids) == "river light"
    found = a.encode("[SEP][MASK] [mask]", add_special_tokens=False).tokens
    assert found[:2] == ["[SEP]", "[MASK]"] and "[MASK]" not in found[2:]
    pair = a.encode("river", "light").tokens
    assert pair[0] == "[CLS]" and pair[-1] == "[SEP]" and pair.count("[SEP]") == 2


def test_training_is_deterministic_with_signs_that_are_no_letters():
    texts = ["x😀 x🎈 x™ x° x→ x• हिन्दी की 5€ 3½ x🚀x x☺x"] * 5
    vocabularies = [train_tokenizer(texts, 200).backend.get_vocab() for _ in range(4)]
    assert all(vocabulary == vocabularies[0] for vocabulary in vocabularies)


def test_vocab_txt_and_its_folder(tmp_path, capsys):
    (tmp_path / "vocab.txt").write_text("\n".join(_VOCAB))
    for path in (tmp_path, tmp_path / "vocab.txt"):
        tokenizer = load_tokenizer(str(path)).backend
        assert tokenizer.encode("Hello world!", add_special_tokens=False).tokens == ["hello", "wor", "##ld", "!"]
    assert "lower-cased" in capsys.readouterr().out
    (tmp_path / "vocab.txt").write_text("\n".join([*_VOCAB, "Hello"]))
    assert load_tokenizer(str(tmp_path)).backend.encode("Hello", add_special_tokens=False).tokens == ["Hello"]


def test_what_stands_beside_a_vocab_txt_says_how_it_splits(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*_VOCAB, "schön", "schon", "漢字"]))
    for said, tokens in (
        ({"do_lower_case": True}, ["schon", "[UNK]", "[UNK]"]),
        ({"do_lower_case": True, "strip_accents": False, "tokenize_chinese_chars": False}, ["schön", "漢字"]),
    ):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
        assert load_tokenizer(str(tmp_path)).backend.encode("Schön 漢字", add_special_tokens=False).tokens == tokens
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(InputError, match="tokenizer_config.json: not a tokenizer's configuration"):
        load_tokenizer(str(tmp_path))


def test_vocab_txt_with_the_line_ends_of_windows(tmp_path):
    (tmp_path / "vocab.txt").write_bytes("".join(f"{word}\r\n" for word in _VOCAB).encode())
    assert load_tokenizer(str(tmp_path)).backend.get_vocab() == {word: i for i, word in enumerate(_VOCAB)}


def test_tokenizer_json(tmp_path):
    trained = train_tokenizer([" ".join(WORDS)] * 20, 100).backend
    trained.enable_padding()
    trained.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(str(tmp_path)).backend.encode("river").ids == trained.encode("river").ids


def test_the_ends_are_put_where_a_tokenizer_json_leaves_them_out(tmp_path, capsys):
    trained = train_tokenizer([" ".join(WORDS)] * 20, 100).backend
    wanted = trained.encode("river").ids
    trained.post_processor = None
    trained.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(str(tmp_path)).backend.encode("river").ids == wanted != trained.encode("river").ids
    assert "puts no [CLS] and [SEP] around a text" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.txt", "[PAD]\n[UNK]\nhello\n", r"lacks \[CLS\], \[SEP\]; if"),
        ("tokenizer.json", "{", "not a tokenizer.json"),
    ],
)
def test_bad_vocabularies_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        load_tokenizer(str(tmp_path / name))


def test_a_missing_vocabulary_is_refused(tmp_path):
    with pytest.raises(InputError, match="no file"):
        load_tokenizer(str(tmp_path))
