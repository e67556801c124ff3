"""Files of words as people have them: white space that separates nothing, comments, sentences without tags."""

import pytest
from etils import epath

from mux_jax.data import conll, formats

NBSP, IDEOGRAPHIC = "\u00a0", "\u3000"


def read(tmp_path, text, name="in.conll", **options):
    path = epath.Path(tmp_path / name)
    path.write_bytes(text.encode())
    return list(formats.read(path, **options))


def fields(records):
    return [(r.fields["words"], r.fields.get("tags")) for r in records]


@pytest.mark.parametrize("separator", [" ", "\t", "  ", " \t "])
@pytest.mark.parametrize(
    "word", [f"10{NBSP}000", NBSP, IDEOGRAPHIC, f"{NBSP}x{NBSP}", "\x1c", "a\x85b", "a\u2028b", "a\rb"]
)
def test_only_spaces_and_tabs_separate_columns(tmp_path, separator, word):
    lines = [separator.join(columns) for columns in (("a", "x", "O"), (word, "x", "NUM"))]
    assert fields(read(tmp_path, "\n".join(lines) + "\n")) == [(["a", word], ["O", "NUM"])]
    tabs = "\t".join(["{}", "{}", "_", "{}", *"______"]) + "\n"
    assert fields(read(tmp_path, tabs.format(1, word, "NUM"), "in.conllu")) == [([word], ["NUM"])]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a\tO\n\tO\nb\tO\n\nc\tO\n", "line 2 has an empty word"),
        ("a\tO\n  \tO\n\nc\tO\n", "line 2 has an empty word"),
        ("a\tx\tO\nb\tx\t\n\nc\tx\tO\n", "line 2 has an empty tag"),
        ("a\tO\nb\t\n\nc\tO\n", "line 2 has no word and tag: 1 columns, and 2 or more are needed"),
        ("a\nb O\n\nc O\n", "line 1 has no word and tag"),
    ],
)
def test_a_line_without_a_word_or_a_tag_says_which(tmp_path, text, error):
    bad, good = read(tmp_path, text)
    assert error in bad.error and bad.where.endswith("in.conll:1") and good.fields["words"] == ["c"]


@pytest.mark.parametrize(
    ("text", "words", "note"),
    [
        # As MultiCoNER has it: a comment with a tab in a file with spaces.
        (
            "# id 7\tdomain=en\nEU _ _ B-ORG\n# _ _ O\n\n# id 8\tdomain=en\nUS _ _ B-ORG\n",
            [["EU", "#"], ["US"]],
            "2 lines left out as comments, the first is line 1",
        ),
        (
            "# O\n1 O\n\n# text = of two lines\n# id = 2\nEU B-ORG\n",
            [["#", "1"], ["EU"]],
            "2 lines left out as comments, the first is line 4",
        ),
        (
            "# text = a b\nEU\tB-ORG\n#\tO\n\n#\tO\nUS\tB-ORG\n",
            [["EU", "#"], ["US"]],
            "2 lines left out as comments, the first is line 1",
        ),
        (
            "# a comment\nEU\nrejects\n#\n\n# another\n\nUS\n",
            [["EU", "rejects", "#"], ["US"]],
            "2 lines left out as comments, the first is line 1",
        ),
        ("#hashtag O\n1 O\n", [["#hashtag", "1"]], ""),
    ],
)
def test_comments_before_sentences_are_left_out_and_counted(tmp_path, text, words, note):
    notes = []
    assert [r.fields["words"] for r in read(tmp_path, text, on_note=notes.append)] == words
    assert [found.partition(": ")[2] for found in notes] == [note] * bool(note)


def test_words_without_tags_are_sentences_without_tags(tmp_path):
    assert fields(read(tmp_path, "EU\nrejects \n\n\n \t\nPeter\n")) == [(["EU", "rejects"], None), (["Peter"], None)]


TAGGED = "-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\nPeter NNP B-PER\n"
LABELS = ("O", "B-ORG", "B-PER")


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (TAGGED, 2),
        (TAGGED.replace(" ", "\t"), 2),
        (TAGGED.replace("B-", "Y-"), 2),  # tags of another model
        ("EU\nrejects\n\nPeter\n", 2),
        ("EU NNP B-ORG\nrejects VBZ O\nPeter NNP B-PER\n", 1),
    ],
)
def test_txt_for_a_model_of_tags_may_be_conll(tmp_path, text, sentences):
    notes = []
    found = read(tmp_path, text, "in.txt", words=True, labels=LABELS, on_note=notes.append)
    assert [word for record in found for word in record.fields["words"]] == ["EU", "rejects", "Peter"]
    assert len(found) == sentences
    assert len(notes) == 1 and notes[0].endswith("in.txt: a word a line, as in CoNLL")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"EU rejects\n\n \nPeter{NBSP}Pan\n", [["EU", "rejects"], [f"Peter{NBSP}Pan"]]),
        ("EU rejects it\nPeter sings\n\nEU\n", [["EU", "rejects", "it"], ["Peter", "sings"], ["EU"]]),
        ("# a heading\nPeter sings\n", [["#", "a", "heading"], ["Peter", "sings"]]),
        ("EU\nPeter\n", [["EU"], ["Peter"]]),
    ],
)
def test_txt_for_a_model_of_tags_has_a_sentence_a_line_otherwise(tmp_path, text, words):
    notes = []
    found = read(tmp_path, text, "in.txt", words=True, labels=LABELS, on_note=notes.append)
    assert [record.fields["words"] for record in found] == words and not notes


def test_a_broken_line_of_a_tagged_txt_is_an_error_of_its_sentence(tmp_path):
    found = read(tmp_path, TAGGED.replace("rejects VBZ O", "rejects"), "in.txt", words=True, labels=LABELS)
    assert [bool(record.error) for record in found] == [True, False] and "line 4 has no word and tag" in found[0].error


def test_words_are_read_from_object_stores(bucket):
    (bucket / "in.conll").write_bytes("# id 1\n\ufeff O\nb X\n".encode())
    assert fields(formats.read(bucket / "in.conll")) == [(["\ufeff", "b"], ["O", "X"])]


def test_the_first_lines_tell_how_a_file_is_laid_out(tmp_path, monkeypatch):
    monkeypatch.setattr(conll, "_SAMPLE", 2)
    assert fields(read(tmp_path, "a O\nb O\n\n# O\nc X\n")) == [(["a", "b"], ["O", "O"]), (["#", "c"], ["O", "X"])]
