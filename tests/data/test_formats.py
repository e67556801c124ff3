"""Tables as people's programs write them: quotes that are never closed cost their own line and no other."""

import csv
import io
import random

import pytest
from etils import epath

from mux_jax.data import formats


def read(tmp_path, text, columns=()):
    path = epath.Path(tmp_path / "in.csv")
    path.write_bytes(text.encode())
    return list(formats.read(path, columns))


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
