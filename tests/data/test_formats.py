"""Files as people's programs write them. Quotes that are never closed cost their own line and no other."""

import csv
import io
import random

import pytest
from etils import epath

from mux_jax.data import formats
from mux_jax.errors import InputError


def read(tmp_path, text, columns=(), name="in.csv", **options):
    path = epath.Path(tmp_path / name)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(formats.read(path, columns, **options))


def fields(records):
    return [record.error.partition(":")[0] or tuple(record.fields.values()) for record in records]


def test_an_open_quote_ends_with_its_line(tmp_path):
    lines = ["id,text", '1,"fine, and', "well", 'so"', '2,"open', "3,good", '4,"a, b"', "5,good"]
    records = read(tmp_path, "\n".join(lines) + "\n")
    assert fields(records) == [
        ("1", "fine, and\nwell\nso"),
        "an open quote",
        ("3", "good"),
        ("4", "a, b"),
        ("5", "good"),
    ]
    assert records[1].where.endswith("in.csv:5") and records[2].where.endswith("in.csv:6")


def test_an_open_quote_before_the_end_of_the_file(tmp_path):
    records = read(tmp_path, 'id,text\n1,"open\n' + "".join(f"{i},good\n" for i in range(2, 2000)))
    assert fields(records)[:2] == ["an open quote", ("2", "good")] and len(records) == 1999


def test_a_row_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "_LONGEST_ROW", 100)
    records = read(tmp_path, 'id,text\n1,"open\n' + "".join(f"{i},good\n" for i in range(2, 2000)))
    assert "longer than 100 characters" in records[0].error and len(records) == 1999
    records = read(tmp_path, "id,text\n1," + "x" * 200 + "\n2,good\n")
    assert ["longer than 100" in records[0].error, *fields(records)[1:]] == [True, ("2", "good")]


def test_a_quote_that_another_rows_quote_closes_is_found_by_its_columns(tmp_path):
    records = read(tmp_path, 'a,b,c\n1,"open,2\n3,4,5\n6,"\n8,9,10\n')
    assert fields(records) == ["an open quote", ("3", "4", "5"), "an open quote", ("8", "9", "10")]
    assert [record.where.rpartition(":")[2] for record in records] == ["2", "3", "4", "5"]


@pytest.mark.parametrize("header", [True, False])
def test_whole_tables_are_read_as_the_csv_module_reads_them(tmp_path, header):
    rng = random.Random(0)
    rows = [["".join(rng.choices('ab,"\n\r é', k=rng.randrange(8))) for _ in range(3)] for _ in range(300)]
    rows = [["x", "y", "z"]] + [row for row in rows if any(row)]
    stream = io.StringIO()
    csv.writer(stream).writerows(rows)
    records = read(tmp_path, stream.getvalue(), () if header else ("x", "y", "z"))
    assert [list(r.fields.values()) for r in records] == (rows[1:] if header else rows)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n"])
def test_a_carriage_return_alone_ends_no_line(tmp_path, end):
    texts = {
        "in.txt": ["one\rone", "two"],
        "in.tsv": ["text", "one\rone", "two"],
        "in.csv": ["text", '"one\rone"', "two"],
        "in.jsonl": ['{"text": \r"one\\rone"}', '{"text": "two"}'],
        "in.conll": ["one\rone O", "", "two O"],
    }
    for name, lines in texts.items():
        records = read(tmp_path, end.join(lines) + end, name=name)
        assert [next(iter(r.fields.values())) for r in records] in (["one\rone", "two"], [["one\rone"], ["two"]]), name
    records = read(tmp_path, f"text{end}a\rb{end}c{end}")
    assert fields(records) == ["a carriage return outside of quotes", ("c",)]


@pytest.mark.parametrize("name", ["in.txt", "in.tsv", "in.csv", "in.jsonl", "in.conll", "in.conllu"])
def test_files_that_are_no_lines_of_utf_8_are_named_for_what_they_are(tmp_path, name):
    with pytest.raises(InputError, match=f"{name}: carriage returns and no line feed.*; convert it: tr"):
        read(tmp_path, "text\rone\rtwo\r", name=name)
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        with pytest.raises(InputError, match=f"{name}: UTF-16, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8"):
            read(tmp_path, "text\none\n".encode(encoding), name=name)
        with pytest.raises(InputError, match="UTF-16"):
            formats.find_columns(epath.Path(tmp_path / name), ("text",))
    assert read(tmp_path, "one O\r", name="in.conll")[0].fields == {"words": ["one"], "tags": ["O"]}


def test_what_is_not_utf_8_is_named_in_headers_too(tmp_path):
    windows = "größe;text\n1;a\n2;é\n".encode("cp1252")
    with pytest.raises(InputError, match="in.csv:1: not UTF-8; convert the file, as by: iconv -f CP1252 -t UTF-8"):
        read(tmp_path, windows, delimiter=";")
    with pytest.raises(InputError, match="in.csv: not UTF-8"):
        formats.find_columns(epath.Path(tmp_path / "in.csv"), ("größe",), delimiter=";")
    assert [r.error[:9] for r in read(tmp_path, "text\na\né\n".encode("cp1252"))] == ["", "not UTF-8"]
    assert read(tmp_path, '{"text": "\\ud83d"}', name="in.jsonl")[0].error == "half of a surrogate pair"


def test_a_json_array_is_named(tmp_path):
    error = "not JSON lines but a JSON array; write each object on a line: jq -c '.[]' FILE"
    for text in ('[{"text": "a"},\n{"text": "b"}]', '[\n  {"text": "a"}\n]\n', '[{"text": "a"}]'):
        assert read(tmp_path, text, name="in.jsonl")[0].error == error
    with pytest.raises(InputError, match="in.jsonl:1: not JSON lines but a JSON array"):
        formats.find_columns(epath.Path(tmp_path / "in.jsonl"), ("text",))


def test_columns_of_one_name_are_refused(tmp_path):
    for name, text in (("in.csv", "a,b,a\n1,2,3\n"), ("in.tsv", "a\tb\ta\n1\t2\t3\n")):
        with pytest.raises(InputError, match=f"{name}:1: two columns are called 'a'"):
            read(tmp_path, text, name=name)
        with pytest.raises(InputError, match=f"{name}: two columns are called 'a'"):
            formats.find_columns(epath.Path(tmp_path / name), ("b",))
    [record] = read(tmp_path, '{"a": 1, "b": {"c": 2, "c": 3}}', name="in.jsonl")
    assert record.error == "two fields are called 'c'"
    assert fields(read(tmp_path, "a,b,,\n1,2,,\n")) == [("1", "2", "")]  # columns that Excel adds


def test_blanks_in_the_names_of_columns_are_seen(tmp_path):
    assert [r.error for r in read(tmp_path, "text, label\na\n")] == ["1 columns, not 2: 'text', ' label'"]
    with pytest.raises(InputError, match=r"no column 'label'; there are: 'text', ' label', '\\xa0'$"):
        (tmp_path / "in.csv").write_text("text, label,\u00a0\n", encoding="utf-8")
        formats.find_columns(epath.Path(tmp_path / "in.csv"), ("text", "label"))
    assert formats.find_columns(epath.Path(tmp_path / "in.csv"), ("text", " label")) == ("text", " label")


def test_empty_lines_before_a_header_are_no_header(tmp_path):
    for name, text in (("in.csv", "\n\na,b\n1,2\n"), ("in.tsv", "\n\r\na\tb\n1\t2\n")):
        assert [r.fields for r in read(tmp_path, text, name=name)] == [{"a": "1", "b": "2"}]
        assert formats.find_columns(epath.Path(tmp_path / name), ("b",)) == ("b",)


def test_tables_have_other_delimiters(tmp_path):
    excel = '\ufefftext;label\r\n"Preis: 3,50; ""teuer""\r\nsagt er";neg\r\nGut, sehr gut;pos\r\n'
    rows = [('Preis: 3,50; "teuer"\r\nsagt er', "neg"), ("Gut, sehr gut", "pos")]
    assert fields(read(tmp_path, excel, delimiter=";")) == rows
    assert fields(read(tmp_path, 'a|b\n"c"|d\n', name="in.tsv", delimiter="|")) == [('"c"', "d")]
    assert fields(read(tmp_path, 'a\tb\n"c\td"\te\n', delimiter="\t")) == [("c\td", "e")]
    with pytest.raises(InputError, match="in.jsonl has no delimiter ';'; files in .tsv, .csv have"):
        read(tmp_path, "{}", name="in.jsonl", delimiter=";")


def test_a_delimiter_is_a_character_or_the_word_tab():
    assert [formats.parse_delimiter(given, "--delimiter") for given in ("", ";", "|", "tab", "\t")] == [
        "",
        ";",
        "|",
        "\t",
        "\t",
    ]
    for given in ('"', "\n", "\r", "\\t", ";;", "comma"):
        with pytest.raises(
            InputError, match="--delimiter=.* cannot be a delimiter; give one character, .*or the word tab"
        ):
            formats.parse_delimiter(given, "--delimiter")


@pytest.mark.parametrize(
    ("name", "header", "shown"),
    [("in.csv", "text;label", "';'"), ("in.csv", "text\tlabel", "tab"), ("in.tsv", "a,b", "','")],
)
def test_a_header_of_one_column_suggests_another_delimiter(tmp_path, name, header, shown):
    (tmp_path / name).write_text(header + "\n", encoding="utf-8")
    with pytest.raises(
        InputError, match=f"no column 'x'; .*; if the delimiter is {shown}: --delimiter={shown}, or data"
    ):
        formats.find_columns(epath.Path(tmp_path / name), ("x",))
