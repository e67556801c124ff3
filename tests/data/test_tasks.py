"""Tasks are read from the formats in which they are distributed, and bad files are named with their line."""

import json

import ml_collections
import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath

from mux_jax.data import builtin, formats
from mux_jax.data.examples import read, read_unlabelled
from mux_jax.data.metrics import OF_KIND
from mux_jax.data.tasks import TASKS, get_task
from mux_jax.errors import InputError
from tests.tfds_folder import write_prepared


def write(folder, files):
    for name, text in files.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def examples(folder, task, **data):
    fields = dict(task=task, folder=str(folder), tfds_dir="", kind="sequence", text_columns="text", delimiter="")
    data = ml_collections.ConfigDict(fields | dict(label_column="label", metric="", labels="") | data)
    found = get_task(data)
    return read(found, data, ("train", *found.dev))


GLUE = {
    "cola": ('x1\t1\t\tGood "one.\nx2\t0\t*\tBad it.\n', ['Good "one.', "Bad it."], ["1", "0"]),
    "sst2": ("sentence\tlabel\nfine \t1\ndull \t0\n", ["fine ", "dull "], ["1", "0"]),
    "mrpc": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\ta\tb\n0\t7\t8\tc\td\n",
        [("a", "b"), ("c", "d")],
        ["1", "0"],
    ),
    "stsb": ("index\tsentence1\tsentence2\tscore\n0\ta\tb\t4.5\n1\tc\td\t0\n", [("a", "b"), ("c", "d")], [4.5, 0.0]),
    "qqp": ("id\tquestion1\tquestion2\tis_duplicate\n0\ta\tb\t0\n1\tc\td\t1\n", [("a", "b"), ("c", "d")], ["0", "1"]),
    "mnli": (
        "index\tsentence1\tsentence2\tgold_label\n0\ta\tb\tneutral\n1\tc\td\tentailment\n",
        [("a", "b"), ("c", "d")],
        ["neutral", "entailment"],
    ),
    "qnli": ("index\tquestion\tsentence\tlabel\n0\ta\tb\tx\n1\tc\td\ty\n", [("a", "b"), ("c", "d")], ["x", "y"]),
    "rte": ("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tx\n1\tc\td\ty\n", [("a", "b"), ("c", "d")], ["x", "y"]),
    "wnli": ("index\tsentence1\tsentence2\tlabel\n0\ta\tb\t0\n1\tc\td\t1\n", [("a", "b"), ("c", "d")], ["0", "1"]),
}


@pytest.mark.parametrize("task", GLUE)
def test_glue_as_distributed(task, tmp_path):
    text, texts, labels = GLUE[task]
    write(tmp_path, {f"{split}.tsv": text for split in ("train", *TASKS[task].dev)})
    for found in examples(tmp_path, task).values():
        assert [e.text for e in found] == texts
        assert [e.label for e in found] == labels
    assert all(task.metric in OF_KIND[task.kind] for task in TASKS.values())


def test_conll_2003_and_files_with_a_lone_tab_between_sentences(tmp_path):
    conll = "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\nPeter NNP B-NP B-PER\n"
    write(tmp_path, {"train.txt": conll, "valid.txt": "word\tB-LOC\n\t\nother\tO\n"})
    found = examples(tmp_path, "ner")
    assert [(e.text, e.label) for e in found["train"]] == [(["EU", "rejects"], ["B-ORG", "O"]), (["Peter"], ["B-PER"])]
    assert [e.text for e in found["dev"]] == [["word"], ["other"]]
    assert found["train"][1].where.endswith("train.txt:6")


def test_conllu_takes_words_and_leaves_ranges_and_empty_nodes(tmp_path):
    row = "{}\t{}\t_\t{}\t_\t_\t_\t_\t_\t_\n"
    text = "# text = x\n" + "".join(
        row.format(*x) for x in [("1-2", "du", "_"), ("1", "de", "ADP"), ("2", "le", "DET"), ("2.1", "e", "X")]
    )
    write(tmp_path, {"train.conllu": text, "dev.conllu": text + "\n"})
    assert [(e.text, e.label) for e in examples(tmp_path, "pos")["dev"]] == [(["de", "le"], ["ADP", "DET"])]


def test_ones_own_files(tmp_path):
    write(
        tmp_path, {"train.csv": 'a,b,c\n"x, y",2,pos\n"two\nlines",3,neg\n', "dev.jsonl": json.dumps(dict(a="z", c=1))}
    )
    found = examples(tmp_path, "custom", text_columns="a", label_column="c")
    assert [(e.text, e.label) for e in found["train"]] == [("x, y", "pos"), ("two\nlines", "neg")]
    assert [(e.text, e.label) for e in found["dev"]] == [("z", "1")]


@pytest.mark.parametrize(
    ("task", "files", "message"),
    [
        ("sst2", {"train.tsv": "sentence\tlabel\nfine\n"}, r"train.tsv:2: 1 columns, not 2: 'sentence', 'label'"),
        (
            "sst2",
            {"train.tsv": "text\tlabel\nfine\t1\n"},
            "train.tsv: no column 'sentence'; there are: 'text', 'label'",
        ),
        ("sst2", {"train.tsv": ""}, "train.tsv: empty file"),
        ("sst2", {"train.csv": "\ufeff"}, "train.csv: no column 'sentence'; there are: none"),
        ("sst2", {"train.tsv": "sentence\tlabel\n"}, "train.tsv: no examples in the file"),
        ("sst2", {"train.tsv": b"sentence\tlabel\nfine\t1\nf\xff\t1\n"}, "train.tsv:3: not UTF-8"),
        ("sst2", {"train.tsv": "sentence\tlabel\nfine\t\n"}, "train.tsv:2: no label in column 'label'"),
        ("sst2", {}, "no file for the split 'train'; it may be called train.tsv"),
        ("stsb", {"train.tsv": "sentence1\tsentence2\tscore\na\tb\tc\n"}, "train.tsv:2: score='c' is not a number"),
        ("ner", {"train.conll": "word\tO\nalone\n"}, "train.conll:1: line 2 has no word and tag"),
        ("custom", {"train.csv": '"a"b,text\n1,2\n'}, "train.csv:1: ',' expected after '\"'"),
        ("custom", {"train.jsonl": '{"text": "a"}\nnot json\n'}, "no column 'label'; there are: 'text'"),
        ("custom", {"train.jsonl": '{"text": "a", "label": "b"}\nno\n'}, "train.jsonl:2: not JSON"),
        ("custom", {"train.jsonl": '{"text": "a", "label": "b"}\n{"text": 3, "label": "b"}'}, ":2: no text in column"),
        (
            "custom",
            {"train.jsonl": '{"text": ["a", "b"], "label": "c"}'},
            r":1: no text in column 'text', but \['a', 'b'\]",
        ),
        ("custom", {"train.jsonl": '{"text": "a", "label": NaN}'}, "train.jsonl:1: no label in column 'label'"),
        ("custom", {"train.jsonl": '{"text": "a", "label": null}'}, "train.jsonl:1: no label in column 'label'"),
        ("custom", {"train.jsonl": '{"text": "a", "label": " "}'}, "train.jsonl:1: no label in column 'label'"),
        (
            "custom",
            {"train.jsonl": '{"text": "a", "label": ["pos", "film"]}'},
            r"train.jsonl:1: label \['pos', 'film'\] is not a text, a whole number or a boolean in column 'label'",
        ),
        ("custom", {"train.jsonl": '{"text": "a", "label": {"x": 1}}'}, "train.jsonl:1: label {'x': 1} is not a text"),
        ("custom", {"train.jsonl": '{"text": "a", "label": 0.5}'}, "train.jsonl:1: label 0.5 is not a text"),
        ("custom", {"train.jsonl": '{"text": "a", "label": Infinity}'}, "train.jsonl:1: label inf is not a text"),
        (
            "stsb",
            {"train.jsonl": '{"sentence1": "a", "sentence2": "b", "score": true}'},
            "train.jsonl:1: score=True is not a number",
        ),
        (
            "ner",
            {"train.jsonl": '{"words": ["a", "b"], "tags": ["O", null]}'},
            "train.jsonl:1, word 2: no label in column 'tags'",
        ),
        (
            "ner",
            {"train.jsonl": '{"words": ["a", "b"], "tags": ["O", ["B"]]}'},
            r"train.jsonl:1, word 2: label \['B'\] is not a text",
        ),
        ("ner", {"train.jsonl": '{"words": ["hello", 2], "tags": ["O", "O"]}'}, ":1: no text in column 'words', but 2"),
    ],
)
def test_bad_files_are_named_with_their_line(task, files, message, tmp_path):
    write(tmp_path, files)
    with pytest.raises(InputError, match=message):
        examples(tmp_path, task)


def test_words_and_tags_of_jsonl_may_have_other_names(tmp_path):
    row = json.dumps(dict(tokens=["Ada", "wrote"], ner_tags=["B-PER", "O"])) + "\n"
    write(tmp_path, {"train.jsonl": row, "dev.jsonl": row})
    found = examples(tmp_path, "custom", kind="token", text_columns="tokens", label_column="ner_tags")["train"]
    assert [(e.text, e.label) for e in found] == [(["Ada", "wrote"], ["B-PER", "O"])]
    with pytest.raises(InputError, match="no text in column 'words'"):
        examples(tmp_path, "custom", kind="token")


def test_tables_of_a_task_have_the_delimiter_that_is_given(tmp_path):
    write(tmp_path, {"train.csv": 'text; label\n"a, b";pos\nc;neg\n', "dev.jsonl": '{"text": "d", " label": "pos"}\n'})
    fields = dict(label_column=" label", text_columns="text")
    found = examples(tmp_path, "custom", delimiter=";", **fields)
    assert [(e.text, e.label) for e in found["train"] + found["dev"]] == [("a, b", "pos"), ("c", "neg"), ("d", "pos")]
    with pytest.raises(InputError, match="there are: 'text; label'; if the delimiter is ';': .* or data.delimiter"):
        examples(tmp_path, "custom", **fields)
    with pytest.raises(InputError, match="data.delimiter=';;' cannot be a delimiter"):
        examples(tmp_path, "custom", delimiter=";;", **fields)
    write(tmp_path, {"new.csv": "sentence;x\na;b\n"})
    assert read_unlabelled(TASKS["sst2"], str(tmp_path / "new.csv"), delimiter=";") == ["a"]


def test_names_of_columns_are_as_they_are_written(tmp_path):
    rows = json.dumps({" a": "x", "b\u00a0": "y", "label": "z"}) + "\n"
    write(tmp_path, {"train.jsonl": rows, "dev.jsonl": rows})
    assert examples(tmp_path, "custom", text_columns=" a,b\u00a0")["train"][0].text == ("x", "y")
    with pytest.raises(InputError, match="no column 'a'; there are: ' a', 'b\\\\xa0', 'label'"):
        examples(tmp_path, "custom", text_columns="a")


def test_files_to_train_on_have_tags_and_say_how_many_comments_they_had(tmp_path, capsys):
    tagged = "# id 1\tdomain=en\nEU B-ORG\n10\u00a0000 O\n"
    write(tmp_path, {"train.txt": tagged, "dev.conll": "EU\nrejects\n\nit\n"})
    with pytest.raises(InputError, match="dev.conll:1: words, and no tags in column 'tags'"):
        examples(tmp_path, "ner")
    assert "train.txt: 1 lines left out as comments, the first is line 1" in capsys.readouterr().out
    write(tmp_path, {"dev.conll": tagged})
    assert examples(tmp_path, "ner")["train"][0].text == ["EU", "10\u00a0000"]


@pytest.mark.parametrize("text", ["a O\nb O\n\nc O\n", "a\nb\n\nc\n", "a b\n\nc\n"])
def test_unlabelled_words_are_in_files_as_prediction_reads_them(tmp_path, text):
    write(tmp_path, {"in.txt": text})
    assert read_unlabelled(TASKS["ner"], str(tmp_path / "in.txt"), ("O", "B-PER")) == ["a b", "c"]


def test_broken_lines_of_qqp_are_left_out_and_counted(tmp_path, capsys):
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    good, broken = "0\t1\t2\tWhy?\tHow?\t0\n2\t5\t6\tWho?\tWhose?\t1\n", "1\t3\t4\n"
    write(tmp_path, {"train.tsv": header + broken + 50 * good, "dev.tsv": header + good})
    found = examples(tmp_path, "qqp")["train"]
    assert [(e.text, e.label) for e in found] == [(("Why?", "How?"), "0"), (("Who?", "Whose?"), "1")] * 50
    assert "train.tsv: 1 broken lines left out, the first is" in capsys.readouterr().out
    write(tmp_path, {"train.tsv": header + 2 * broken + 50 * good})
    with pytest.raises(InputError, match="train.tsv: 2 broken lines, the first is .*train.tsv:2; more than 1%"):
        examples(tmp_path, "qqp")


def test_unknown_tasks_and_folders(tmp_path):
    with pytest.raises(InputError, match="task='sst' does not exist; there are: cola, sst2"):
        examples(tmp_path, "sst")
    with pytest.raises(InputError, match="no such folder"):
        examples(tmp_path / "nothing", "sst2")
    with pytest.raises(InputError, match="data.kind='words' does not exist"):
        examples(tmp_path, "custom", kind="words")
    with pytest.raises(InputError, match="data.text_columns='a,b,c': a task of kind sequence has at most 2"):
        examples(tmp_path, "custom", text_columns="a,b,c")


@pytest.mark.extra  # for its time
def test_embedded_tasks_have_real_labels_and_splits_that_do_not_meet():
    for task, labels in (("docstrings", {"jax", "numpy"}), ("code", {"keyword", "operator", "name"})):
        found = examples("", task)
        flat = {label for e in found["train"] for label in (e.label if task == "code" else [e.label])}
        assert labels <= flat and len(found["dev"]) > 100
        assert not {str(e.text) for e in found["train"]} & {str(e.text) for e in found["dev"]}
        assert all(len(e.text) == len(e.label) for e in found["dev"] if task == "code")


def test_packages_are_found_where_they_are_imported_from(tmp_path, monkeypatch):
    (tmp_path / "somewhere" / "mypackage").mkdir(parents=True)
    (tmp_path / "somewhere" / "mypackage" / "__init__.py").write_text(f'"""{"A docstring of some length. " * 3}"""')
    monkeypatch.syspath_prepend(tmp_path / "somewhere")  # as `pip install --user` has a folder of its own
    monkeypatch.setattr(builtin, "_PACKAGES", ("mypackage", "notinstalled"))
    found = builtin.docstrings()
    assert [package for split in found.values() for _, package, _ in split] == ["mypackage"]


def write_labels(folder, values, split="train"):
    rows = [json.dumps(dict(sentence1="a", sentence2="b", gold_label=value)) + "\n" for value in values]
    write(folder, {f"{split}.jsonl": "".join(rows)})


def pairs(folder, **data):
    found = examples(folder, "custom", text_columns="sentence1,sentence2", label_column="gold_label", **data)
    return [e.label for e in found["train"]]


def test_booleans_and_whole_numbers_are_labels_by_their_text_and_1_is_1_0(tmp_path):
    write_labels(tmp_path, [True, False, 1, 1.0, "1", 0, -2, "pos", "1.0", "3.5"])
    write_labels(tmp_path, [1], "dev")
    assert pairs(tmp_path) == ["True", "False", "1", "1", "1", "0", "-2", "pos", "1.0", "3.5"]


def test_pairs_without_agreement_are_left_out_and_counted(tmp_path, capsys):
    write_labels(tmp_path, ["entailment", "-", "neutral", "-", "contradiction"])
    write_labels(tmp_path, ["-", "neutral"], "dev")
    assert pairs(tmp_path) == ["entailment", "neutral", "contradiction"]
    out = capsys.readouterr().out
    assert "train.jsonl: 2 examples left out, on whose label annotators did not agree" in out
    assert "dev.jsonl: 1 examples left out" in out
    write_labels(tmp_path, [0, -1, 2, 1])
    assert pairs(tmp_path, labels="entailment,neutral,contradiction") == ["entailment", "contradiction", "neutral"]
    write_labels(tmp_path, ["+", "-", "neutral"])  # a class of another task
    assert pairs(tmp_path) == ["+", "-", "neutral"]


def test_numbers_are_labels_by_the_names_that_are_given(tmp_path):
    rows = json.dumps(dict(words=["Ada", "met", "Al"], tags=[1, 0, "B-PER"])) + "\n"
    write(tmp_path, {"train.jsonl": rows, "dev.jsonl": rows})
    fields = dict(kind="token")
    assert examples(tmp_path, "custom", **fields, labels="O,B-PER")["dev"][0].label == ["B-PER", "O", "B-PER"]
    write(tmp_path, {"dev.conll": "Ada 1\nmet 0\n"})
    (tmp_path / "dev.jsonl").unlink()
    assert examples(tmp_path, "custom", **fields, labels="O,B-PER")["dev"][0].label == ["B-PER", "O"]
    write(tmp_path, {"dev.conll": "Ada 1\nmet 2\n"})
    with pytest.raises(InputError, match="dev.conll:1, word 2: label 2 has no name, as 0 to 1 have, in column 'tags'"):
        examples(tmp_path, "custom", **fields, labels="O,B-PER")
    write_labels(tmp_path, [1, 2, 5])
    write_labels(tmp_path, [1], "dev")
    assert pairs(tmp_path, labels="1,2,3,4,5") == ["1", "2", "5"]  # names that are numbers


@pytest.mark.extra
def test_a_column_of_parquet_with_gaps_has_no_label_there(tmp_path):
    import pyarrow
    import pyarrow.parquet

    for labels, line, message in (
        ([1.0, float("nan")], 2, "no label in column 'label'"),
        ([1, None], 2, "no label in column 'label'"),
        ([b"pos", b"neg"], 1, "label b'pos' is not a text"),
    ):
        pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": labels}), tmp_path / "train.parquet")
        with pytest.raises(InputError, match=f"train.parquet:{line}: {message}"):
            examples(tmp_path, "custom")


@pytest.mark.extra
def test_parquet_and_txt(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "n": [1, 2]}), tmp_path / "x.parquet")
    assert [r.fields for r in formats.read(epath.Path(tmp_path / "x.parquet"))] == [
        {"text": "a", "n": 1},
        {"text": "b", "n": 2},
    ]
    write(tmp_path, {"x.txt": "one\n\nthree"})
    assert [r.fields["text"] for r in formats.read(epath.Path(tmp_path / "x.txt"))] == ["one", "", "three"]


def test_tfds_gives_labels_by_name(tmp_path):
    label = tfds.features.ClassLabel(names=["negative", "positive"])
    records = [{"sentence": "good", "label": 1, "idx": 0}, {"sentence": "bad", "label": 0, "idx": 1}]
    splits = {"train": records, "validation": records[:1]}
    features = {"sentence": tfds.features.Text(), "label": label, "idx": np.int32}
    write_prepared(tmp_path / "glue" / "sst2" / "2.0.0", features, splits)
    found = examples("", "sst2", tfds_dir=str(tmp_path))
    assert [(e.text, e.label) for e in found["train"]] == [("good", "positive"), ("bad", "negative")]
    assert len(found["dev"]) == 1 and found["dev"][0].where == "glue/sst2:validation:0"

    splits["validation"] = [records[0] | {"label": -1}]
    write_prepared(tmp_path / "other" / "glue" / "sst2" / "2.0.0", features, splits)
    with pytest.raises(InputError, match="glue/sst2:validation:0: label -1 has no name, as 0 to 1 have, in feature"):
        examples("", "sst2", tfds_dir=str(tmp_path / "other"))

    tags = tfds.features.ClassLabel(names=["O", "B-PER"])
    features = {"tokens": tfds.features.Sequence(tfds.features.Text()), "ner": tfds.features.Sequence(tags)}
    records = [{"tokens": ["Ada", "wrote"], "ner": [1, 0]}]
    write_prepared(tmp_path / "conll2003" / "conll2003" / "1.0.0", features, {"train": records, "dev": records})
    found = examples("", "ner", tfds_dir=str(tmp_path))
    assert [(e.text, e.label) for e in found["dev"]] == [(["Ada", "wrote"], ["B-PER", "O"])]

    features = {"tokens": tfds.features.Sequence(tfds.features.Text()), "upos": tfds.features.Sequence(tags)}
    records = [{"tokens": ["Ada", "wrote"], "upos": [1, 0]}]
    folder = tmp_path / "universal_dependencies" / "en_ewt" / "1.0.1"
    write_prepared(folder, features, {"train": records, "dev": records})
    assert examples("", "pos", tfds_dir=str(tmp_path))["dev"][0].where == "universal_dependencies/en_ewt:dev:0"

    features = {"sentence1": tfds.features.Text(), "sentence2": tfds.features.Text(), "label": np.float32}
    records = [{"sentence1": "a", "sentence2": "b", "label": 2.5}]
    write_prepared(tmp_path / "glue" / "stsb" / "2.0.0", features, {"train": records, "validation": records})
    assert [(e.text, e.label) for e in examples("", "stsb", tfds_dir=str(tmp_path))["dev"]] == [(("a", "b"), 2.5)]
    with pytest.raises(InputError, match="tfds build glue/rte"):
        examples("", "rte", tfds_dir=str(tmp_path))


def test_words_must_have_their_tags(tmp_path):
    for words, tags, message in (
        ([], [], "zero words"),
        (["a"], ["O", "O"], "1 words and 2 tags"),
        (["a"], None, "tags"),
    ):
        rows = [dict(words=["x"], tags=["O"]), dict(words=words, tags=tags)]
        write(tmp_path, {"train.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})
        with pytest.raises(InputError, match=rf"train.jsonl:2: .*{message}"):
            examples(tmp_path, "ner")


def test_unlabelled_words_must_be_text(tmp_path):
    write(tmp_path, {"texts.jsonl": '{"words": ["a", "b"]}\n{"words": ["a", 2]}\n'})
    with pytest.raises(InputError, match="texts.jsonl:2: no text in column 'words', but 2"):
        read_unlabelled(TASKS["ner"], str(tmp_path / "texts.jsonl"))
