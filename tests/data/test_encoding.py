"""Texts and pairs get their frame; words are found at their first pieces."""

from mux_jax.data.encoding import Encoder
from mux_jax.data.tokenizer import load_tokenizer


def encoder(tmp_path, length, stride=0):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "wor", "##ld", "big"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    return Encoder(load_tokenizer(str(tmp_path)), length, stride)


def test_texts_and_pairs(tmp_path):
    encode = encoder(tmp_path, 6)
    found = encode(["hello world", "", "hello " * 9])
    assert [ids.tolist() for ids in found.ids] == [[2, 5, 6, 7, 3], [2, 3], [2, 5, 5, 5, 5, 3]]
    assert (found.places, found.truncated) == (None, 1)
    assert [ids.tolist() for ids in encode([("hello", "big")]).ids] == [[2, 5, 3, 8, 3]]
    cut = encode([("big " * 5, "hello")])  # the longer one gives way
    assert cut.ids[0].tolist() == [2, 8, 8, 3, 5, 3] and cut.truncated == 1
    assert encode([]).ids == []


def test_words_are_at_their_first_pieces(tmp_path):
    found = encoder(tmp_path, 6)([["hello", "world", "big"], ["big", "\u200b", "hello"], ["big"] * 5])
    assert found.ids[0].tolist() == [2, 5, 6, 7, 8, 3]
    assert [places.tolist() for places in found.places] == [[1, 2, 4], [1, -1, 2], [1, 2, 3, 4, -1]]
    assert found.truncated == 1


def test_a_word_that_is_a_special_token_has_its_place(tmp_path):
    found = encoder(tmp_path, 8)([["hello", "[SEP]", "[sep]", "big"]])
    assert found.ids[0].tolist() == [2, 5, 3, 1, 1, 1, 8, 3]
    assert found.places[0].tolist() == [1, 2, 3, 6]


def test_long_texts_have_windows_that_share_tokens(tmp_path):
    encode = encoder(tmp_path, 6, stride=2)
    found = encode(["big big hello hello world world", "big"])
    assert [ids.tolist() for ids in found.ids] == [
        [2, 8, 8, 5, 5, 3],
        [2, 5, 5, 6, 7, 3],
        [2, 6, 7, 6, 7, 3],
        [2, 8, 3],
    ]
    assert (found.windows, found.truncated) == ([3, 1], 0)


def test_a_word_belongs_to_the_window_in_which_it_is_farthest_from_the_edges(tmp_path):
    found = encoder(tmp_path, 8, stride=4)([["\u200b", *["big"] * 5, "\u200b", "world", "big", "big"], ["big"]])
    long = [ids.tolist() for ids in found.ids[:3]]
    assert long == [[2, 8, 8, 8, 8, 8, 6, 3], [2, 8, 8, 8, 6, 7, 8, 3], [2, 8, 6, 7, 8, 8, 3]]
    assert found.windows == [3, 1]
    assert [places.tolist() for places in found.places] == [[-1, 1, 2, 3, 4], [3, -1, 4], [4, 5], [1]]
