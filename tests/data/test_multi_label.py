"""Several labels a text, or none: in lists, as names in a column of a table, or as columns of 0 and 1."""

import json

import pytest

from mux_jax import configuration
from mux_jax.data.examples import read
from mux_jax.data.task_data import load_task
from mux_jax.data.tasks import get_task
from mux_jax.data.vocabulary import train_tokenizer
from mux_jax.errors import InputError
from tests.conftest import WORDS


def section(folder, **fields):
    config = configuration.finetuning("custom", str(folder), 0)
    config.data.update(kind="multi_label", **fields)
    return configuration.read(config).data


def write(folder, name, text):
    for split in ("train", "dev"):
        (folder / name.replace("train", split)).write_text(text)


def labels_of(folder, name, text, **fields):
    write(folder, name, text)
    data = section(folder, **fields)
    return [example.label for example in read(get_task(data), data, ("train",))["train"]]


def load(folder, of_model=None, **fields):
    return load_task(section(folder, **fields), train_tokenizer([" ".join(WORDS)] * 20, 150), of_model)


def lines(*values):
    return "".join(json.dumps({"text": "time", "label": value}) + "\n" for value in values)


def test_lists_hold_names_or_numbers_that_have_names(tmp_path):
    assert labels_of(tmp_path, "train.jsonl", lines(["b", "a"], [], [3])) == [["b", "a"], [], ["3"]]
    numbers = lines([0, 2], [1.0], [], ["c"])
    assert labels_of(tmp_path, "train.jsonl", numbers, labels="a,b,c") == [["a", "c"], ["b"], [], ["c"]]


def test_names_in_a_table_have_commas_between_them_and_blanks_that_do_not_count(tmp_path):
    expected = [["toxic", "mild insult"], [], ["toxic"]]
    table = 'text,label\ntime,"toxic , mild insult"\ntime,\ntime,toxic\n'
    assert labels_of(tmp_path, "train.csv", table) == expected
    (tmp_path / "train.csv").unlink()
    table = "text\tlabel\ntime\ttoxic,mild insult\ntime\t \ntime\ttoxic\n"
    assert labels_of(tmp_path, "train.tsv", table) == expected


def test_columns_of_0_and_1_are_the_labels_in_their_order(tmp_path, capsys):
    table = "id,text,toxic,obscene,insult\n1,time,0,1,0\n2,river,1.0,0.0,1.0\n3,stone,FALSE,false,False\n4,x,true,1,0\n"
    fields = dict(label_column="toxic,obscene,insult")
    expected = [["obscene"], ["toxic", "insult"], [], ["toxic", "obscene"]]
    assert labels_of(tmp_path, "train.csv", table, **fields) == expected
    assert load(tmp_path, **fields).labels == ("toxic", "obscene", "insult")
    (tmp_path / "train.csv").unlink()
    rows = lines(0, 1).replace('"label"', '"a"').replace("}", ', "b": true}')
    assert labels_of(tmp_path, "train.jsonl", rows, label_column="b,a") == [["b"], ["b", "a"]]


@pytest.mark.extra
def test_parquet_holds_lists_names_or_columns(tmp_path):
    import pyarrow
    import pyarrow.parquet

    columns = {"text": ["a", "b"], "list": [["x", "y"], []], "names": ["x, y", ""], "x": [True, False], "y": [1.0, 0]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "train.parquet")
    for label_column in ("list", "names", "x,y"):
        data = section(tmp_path, label_column=label_column)
        found = read(get_task(data), data, ("train",))["train"]
        assert [example.label for example in found] == [["x", "y"], []], label_column


@pytest.mark.parametrize(
    ("name", "text", "fields", "message"),
    [
        ("train.jsonl", lines(["a"], ["a", ["b"]]), {}, r"train.jsonl:2: label \['b'\] is not a text, .*'label'"),
        ("train.jsonl", lines(["a", "b", "a"]), {}, "train.jsonl:1: label 'a' twice in column 'label'"),
        ("train.jsonl", lines([0, 1, 0]), {}, "label '0' twice; for a 0 or 1 a label, name a column for each in"),
        ("train.jsonl", lines(["a, b"]), {}, "label 'a, b' holds a comma, which stands between labels in tables"),
        ("train.jsonl", lines(["a"], None), {}, "train.jsonl:2: None is no list of labels, and no text with commas"),
        ("train.jsonl", lines(["a", " "]), {}, "train.jsonl:1: no label in column 'label'"),
        ("train.jsonl", lines([0, 5]), {"labels": "a,b"}, "train.jsonl:1: label 5 has no name, as 0 to 1 have"),
        ("train.csv", 'text,label\nx,"a,,b"\n', {}, "train.csv:2: no label in column 'label'"),
        (
            "train.csv",
            "text,label\nx,\"['a', 'b']\"\n",
            {},
            "train.csv:2: .* is a list as text; write names with commas",
        ),
        (
            "train.csv",
            "text,a,b\nx,0,1\nx,0,2\n",
            {"label_column": "a,b"},
            "train.csv:3: '2' is not 0 or 1.*column 'b'",
        ),
        ("train.csv", "text,a,b\nx,,1\n", {"label_column": "a,b"}, "train.csv:2: '' is not 0 or 1.*in column 'a'"),
        ("train.csv", "text,a,b\nx,0,1\n", {"label_column": "a,c"}, "train.csv: no column 'c'; there are: 'text', 'a'"),
        ("train.csv", "text,a,b\nx,0,1\n", {"label_column": "a,a"}, "label_column='a,a' must name each column once"),
        ("train.csv", "text,a,b\nx,0,1\n", {"label_column": "a,"}, "label_column='a,' must name each column once"),
        (
            "train.csv",
            "text,a,b\nx,0,1\n",
            {"label_column": "a,b", "labels": "b,a"},
            "data.labels='b,a': the labels are the columns 'a,b'",
        ),
    ],
)
def test_bad_labels_are_named_with_their_line(name, text, fields, message, tmp_path):
    with pytest.raises(InputError, match=message):
        labels_of(tmp_path, name, text, **fields)


def test_labels_are_known_before_training_and_rare_ones_are_printed(tmp_path, capsys):
    write(tmp_path, "train.jsonl", lines(["b"], ["a", "b"], []))
    assert load(tmp_path).labels == ("a", "b")
    assert load(tmp_path, labels="b,a,c").labels == ("b", "a", "c")
    assert "data.labels: no example to train on has 'c'" in capsys.readouterr().out
    (tmp_path / "dev.jsonl").write_text(lines([], ["c"]))
    with pytest.raises(InputError, match="dev.jsonl:2: label 'c' is not among those trained on: 'a', 'b'"):
        load(tmp_path)
    write(tmp_path, "train.jsonl", lines(["a"], []))
    with pytest.raises(InputError, match="the training data has the label 'a' and no other; two are the least"):
        load(tmp_path)
    write(tmp_path, "train.jsonl", lines(["a"], ["b"]))
    load(tmp_path)
    assert "has exactly one label; data.kind=sequence is for tasks" in capsys.readouterr().out


def test_columns_must_be_the_labels_of_the_model_that_is_evaluated(tmp_path, capsys):
    write(tmp_path, "train.csv", "text,a,b\ntime,1,0\nriver,1,0\n")
    assert load(tmp_path, label_column="a,b").labels == ("a", "b")
    assert "data.label_column: no example to train on has 'b'" in capsys.readouterr().out
    found = load(tmp_path, of_model=("b", "a"), label_column="a,b")
    assert found.labels == ("b", "a") and found.splits["dev"].examples[0].label == ["a"]
    with pytest.raises(InputError, match="label_column='a,b' must name the labels of the model: 'a', 'b', 'c'"):
        load(tmp_path, of_model=("a", "b", "c"), label_column="a,b")
