"""The texts that a model is compressed with: parts that share none, whatever the files, and errors with their line."""

import json
from collections import Counter

import numpy as np
import pytest

from mux_jax.compression import text_parts, texts
from mux_jax.compression.text_parts import Parts, text_key
from mux_jax.compression.texts import read_answers, read_texts, task_texts
from mux_jax.data.sections import TaskSection
from mux_jax.errors import InputError
from tests.conftest import WORDS, small_model
from tests.tasks import sentences, write_sentences, write_words

PARTS = ("learn", "choose", "calibrate", "judge")
CLASSES = small_model(width=1, head="sequence", labels=("fruit", "stone"))
LABELS = small_model(width=1, head="sequence", labels=("fruit", "stone"), multi_label=True)
SCORE = small_model(width=1, head="sequence", labels=("score",))
TAGS = small_model(width=1, head="token", labels=("long", "short"))


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch):
    monkeypatch.setattr(texts, "_LEAST", 2)
    monkeypatch.setattr(texts, "_LEAST_TRAIN", 2)


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def read(*paths, config=CLASSES, columns=("text",), **given):
    return read_texts([str(path) for path in paths], config, columns, **given)


def by_part(found):
    return {part: getattr(found, part) for part in PARTS}


def all_of(found):
    return [text for part in PARTS for text in getattr(found, part)]


def normal(text):
    return " ".join(text.casefold().split())


def test_texts_that_differ_in_case_and_blanks_are_in_one_part_once(tmp_path):
    given = [f"text {i}" for i in range(400)]
    file = write(tmp_path / "a.txt", given)
    other = write(tmp_path / "b.txt", [f" TEXT  {i}\t" for i in range(400)] + ["Text 7"])
    found = read(file, other)
    assert sorted(map(normal, all_of(found))) == sorted(given)
    assert found.read == 801
    assert 260 < len(found.learn) < 340 and 8 < len(found.choose) < 35
    assert 20 < len(found.calibrate) < 60 and 20 < len(found.judge) < 60


def test_neither_the_order_of_files_nor_that_of_records_counts(tmp_path):
    a = write(tmp_path / "a.txt", ["one", "Two", "three", *sentences(50)])
    b = write(tmp_path / "b.txt", ["THREE", "two", "One", *sentences(50, seed=1)])
    c = write(tmp_path / "c.txt", reversed(b.read_text().splitlines()))
    assert by_part(read(a, b)) == by_part(read(b, a)) == by_part(read(c, a))
    for part in by_part(read(a, b)).values():
        assert [text_key(text) for text in part] == sorted(text_key(text) for text in part)


def test_many_texts_are_sampled_in_bounded_memory(tmp_path, monkeypatch, capsys):
    file = write(tmp_path / "a.txt", [f"text {i % 500}" for i in range(1000)])
    whole = by_part(read(file))
    assert "1 file, 1,000 records; 500 distinct texts, of them " in capsys.readouterr().out
    for name in PARTS:
        monkeypatch.setitem(text_parts.MOST, name, 5)
    assert by_part(read(file)) == {name: part[:5] for name, part in whole.items()}  # the smallest hashes
    shown = "over 20 distinct texts, of them 5 to judge, 5 to calibrate, 5 to choose, 5 to learn"
    assert shown in capsys.readouterr().out
    parts = Parts({"learn": 1.0})
    for i in range(1000):
        parts.add(f"text {i}")
        assert len(parts._samples["learn"]._found) <= 10


@pytest.mark.parametrize("name", ["a.txt", "a.tsv", "a.csv", "semicolon.csv", "a.jsonl"])
def test_each_format_gives_the_same_texts(name, tmp_path):
    given = sentences(30)
    lines, delimiter = given, ""
    if name.endswith("sv"):
        delimiter = ";" if name == "semicolon.csv" else ""
        mark = delimiter or {"a.tsv": "\t", "a.csv": ","}[name]
        lines = [f"id{mark}text", *(f"{i}{mark}{text}" for i, text in enumerate(given))]
    elif name.endswith("jsonl"):
        lines = [json.dumps({"text": text}) for text in given]
    found = read(write(tmp_path / name, lines), delimiter=delimiter)
    assert Counter(all_of(found)) == Counter(set(given)) and found.read == 30
    assert found.task.kind == "sequence" and found.task.metric == "accuracy" and found.task.text == ("text",)
    assert found.labelled == [] and found.answers == {}


@pytest.mark.extra
def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    shares = [{"fruit": 0.25, "stone": 0.75}] * 30
    table = pyarrow.table(
        {
            "body": [f"text {i}" for i in range(30)],
            "probabilities": pyarrow.array([list(p.items()) for p in shares], pyarrow.map_("string", "double")),
        }
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    assert len(all_of(read(tmp_path / "a.parquet", wanted=("body",)))) == 30
    found = read_answers(str(tmp_path / "a.parquet"), CLASSES, ("text",), ("body",))
    np.testing.assert_allclose(found.answers["learn"], np.log([[0.25, 0.75]] * len(found.learn)), rtol=1e-6)
    flat = table.drop_columns("probabilities").append_column("probability_fruit", [[0.25] * 30])
    parquet.write_table(flat.append_column("probability_stone", [[0.75] * 30]), tmp_path / "b.parquet")
    again = read_answers(str(tmp_path / "b.parquet"), CLASSES, ("text",), ("body",))
    np.testing.assert_array_equal(again.answers["learn"], found.answers["learn"])


def test_a_file_that_two_globs_match_is_read_once(tmp_path):
    file = write(tmp_path / "a.txt", sentences(20))
    write(tmp_path / "b.txt", sentences(10, seed=1))
    assert read(tmp_path / "*.txt", file, tmp_path / "b.*").read == 30
    with pytest.raises(InputError, match=r"no file matches '.*nothing\*'"):
        read(file, tmp_path / "nothing*")


def test_bad_records_are_named_with_file_and_line(tmp_path):
    good = write(tmp_path / "a.txt", sentences(20))
    for name, lines, wrong in [
        ("b.jsonl", ['{"text": "a"}', '{"text": 3}'], r"b.jsonl:2: no text in column 'text', but 3"),
        ("b.tsv", ["text\tx", "a\tb", "a"], r"b.tsv:3: 1 columns, not 2"),
        ("b.csv", ["body,x", "a,b"], r"b.csv: no column 'text'; there are: 'body', 'x'; --text_columns names"),
        ("b.doc", ["a"], r"b.doc: the name must end in .txt"),
    ]:
        with pytest.raises(InputError, match=wrong):
            read(good, write(tmp_path / name, lines))
    (tmp_path / "b.txt").write_bytes(b"a\ncaf\xe9\n")
    with pytest.raises(InputError, match=r"b.txt:2: not UTF-8"):
        read(good, tmp_path / "b.txt")


def test_an_empty_text_is_a_text_as_in_prediction(tmp_path):
    assert sorted(all_of(read(write(tmp_path / "a.txt", ["a", "", "b", " "])))) == ["", "a", "b"]


def test_too_few_texts(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "_LEAST", 3)
    file = write(tmp_path / "a.txt", ["a", "A", "b"])
    message = r"--texts: 3 records; 2 distinct texts, case and blanks aside; at least 3 are needed"
    with pytest.raises(InputError, match=message):
        read(file)
    monkeypatch.undo()
    file = write(tmp_path / "a.txt", map(str, range(999)))
    with pytest.raises(InputError, match="999 distinct texts, .* at least 1,000 are needed"):
        read(file)


def test_pairs(tmp_path):
    rows = [("a b", "c"), ("a", "b c"), ("A", "B  c"), ("a", "c"), ("ab", "c"), ("a", "bc")]
    file = write(tmp_path / "a.tsv", ["premise\tclaim", *("\t".join(row) for row in rows)])
    found = read(file, columns=("premise", "claim"))
    assert sorted(all_of(found)) == [("A", "B  c"), ("a", "bc"), ("a", "c"), ("a b", "c"), ("ab", "c")]
    assert by_part(read(file, wanted=("premise", "claim"))) == by_part(found)
    single = write(tmp_path / "b.txt", ["a"])
    with pytest.raises(InputError, match=r"a.tsv has pairs of texts, in 'premise', 'claim', and .*b.txt has single"):
        read(single, file, columns=("premise", "claim"))
    with pytest.raises(InputError, match="--text_columns=a,b,c: 3 columns; a pair of texts is in two"):
        read(file, wanted=("a", "b", "c"))


def test_words(tmp_path):
    conll = write(tmp_path / "a.conll", ["one\tO", "two\tO", "", "One two\tO", ""])
    plain = write(tmp_path / "b.txt", ["three four", "ONE TWO"])
    lists = write(tmp_path / "c.jsonl", ['{"words": ["five"]}', '{"words": ["one two"]}', '{"words": "six  seven"}'])
    found = read(conll, plain, lists, config=TAGS, columns=("words",))
    assert sorted(all_of(found)) == [["ONE", "TWO"], ["One two"], ["five"], ["six", "seven"], ["three", "four"]]
    assert found.task.kind == "token" and found.task.label == "tags"
    with pytest.raises(InputError, match=r"d.jsonl:2: a sentence of zero words"):
        read(write(tmp_path / "d.jsonl", ['{"words": ["a"]}', '{"words": " "}']), config=TAGS, columns=("words",))
    with pytest.raises(InputError, match="--text_columns=a,b: 2 columns; a list of words is in one"):
        read(lists, config=TAGS, wanted=("a", "b"))


def test_labelled_texts_are_in_no_part(tmp_path, capsys):
    file = write(tmp_path / "a.txt", ["a", "B  c", "d", "d", "e"])
    labelled = write(tmp_path / "gold.csv", ["label,text", "stone,b c", "fruit,d", "fruit,f"])
    found = read(file, labelled=str(labelled))
    assert sorted(all_of(found)) == ["a", "e"]
    assert [(e.text, e.label) for e in found.labelled] == [("b c", "stone"), ("d", "fruit"), ("f", "fruit")]
    assert "5 records, 3 of them in " in capsys.readouterr().out


@pytest.mark.parametrize(
    "config, line, label, bad, wrong",
    [
        (CLASSES, '{"text": "x", "label": %s}', "stone", "wood", "label 'wood' is not among those of the model: "),
        (LABELS, '{"text": "x", "label": %s}', ["stone"], ["wood"], "label 'wood' is not among those of the model"),
        (SCORE, '{"text": "x", "label": %s}', 1.5, "high", "label='high' is not a number"),
        (TAGS, '{"words": ["x"], "tags": %s}', ["long"], ["tall"], "label 'tall' is not among those of the model"),
    ],
)
def test_labels_are_those_of_the_model(config, line, label, bad, wrong, tmp_path):
    file = write(tmp_path / "a.txt", ["a", "b"])
    gold = write(tmp_path / "gold.jsonl", [line % json.dumps(label)])
    columns = ("words",) if config is TAGS else ("text",)
    assert read(file, config=config, columns=columns, labelled=str(gold)).labelled[0].label == label
    write(gold, [line % json.dumps(label), line % json.dumps(bad)])
    with pytest.raises(InputError, match=rf"gold.jsonl:2: {wrong}"):
        read(file, config=config, columns=columns, labelled=str(gold))


def test_a_model_is_judged_by_its_own_metric(tmp_path):
    file = write(tmp_path / "a.txt", ["a", "b"])
    assert read(file).task.metric == "accuracy" and read(file, metric="matthews").task.metric == "matthews"
    rows = write(tmp_path / "a.csv", ["text,fruit,stone", "a,1,0", "b,0,1"])
    assert answers(rows).task.metric == "accuracy" and answers(rows, metric="f1").task.metric == "f1"


def test_labelled_words_of_conll(tmp_path):
    file, gold = write(tmp_path / "a.txt", ["a b", "c d", "e"]), write(tmp_path / "gold.txt", ["C\tlong", "D\tshort"])
    found = read(file, config=TAGS, columns=("words",), labelled=str(gold))
    assert sorted(all_of(found)) == [["a", "b"], ["e"]] and found.labelled[0].label == ["long", "short"]


def task(folder, kind="sequence", **fields):
    return TaskSection(task="custom", folder=str(folder), kind=kind, **fields)


def test_a_task_is_judged_on_its_dev_split(tmp_path, capsys):
    folder = write_sentences(tmp_path / "task", train=300, dev=20)
    dev = {normal(line.split("\t")[0]) for line in (folder / "dev.tsv").read_text().splitlines()[1:]}
    rows = (folder / "train.tsv").read_text().splitlines()[1:]
    rows = [row for row in rows if normal(row.split("\t")[0]) not in dev]
    again = sorted(dev)[-1]
    write(folder / "train.tsv", ["text\tlabel", *rows, f"{again.upper()}\tfruit", f"{again}\tstone"])
    found = task_texts(task(folder), CLASSES)
    assert set(found.judge) == dev and len(found.judge) == len(dev)
    assert [e.where.rpartition(":")[2] for e in found.labelled] == [str(i) for i in range(2, 22)]
    rest = [*found.learn, *found.choose, *found.calibrate]
    assert sorted(rest) == sorted({row.split("\t")[0] for row in rows})
    assert len(found.learn) > 200 and 2 < len(found.choose) < 40 and 10 < len(found.calibrate) < 60
    assert found.read == len(rows) + 22 and found.task.kind == "sequence"
    assert "custom: 2 training examples left out, whose texts are in dev, too" in capsys.readouterr().out


def test_a_task_of_words(tmp_path):
    found = task_texts(task(write_words(tmp_path / "task"), "token"), TAGS)
    assert all(isinstance(text, list) and set(text) <= set(WORDS) for text in all_of(found))
    assert {tag for example in found.labelled for tag in example.label} == {"long", "short"}


def test_a_task_must_fit_the_model(tmp_path, monkeypatch):
    folder = write_sentences(tmp_path / "task")
    with pytest.raises(InputError, match="--model: its head is 'token'; task=custom is a sequence task"):
        task_texts(task(folder), TAGS)
    with pytest.raises(InputError, match="--model: its labels are 'score'; the task is sequence"):
        task_texts(task(folder), SCORE)
    others = small_model(width=1, head="sequence", labels=("fruit", "wood"))
    with pytest.raises(InputError, match=r"tsv:\d+: label 'stone' is not among those of the model: 'fruit', 'wood'$"):
        task_texts(task(folder), others)
    monkeypatch.setattr(texts, "_LEAST_TRAIN", 500)
    with pytest.raises(
        InputError, match=r"task=custom: 40 training examples; \d\d distinct .* at least 500 are needed"
    ):
        task_texts(task(folder), CLASSES)


def answers(path, config=CLASSES, **given):
    return read_answers(str(path), config, ("text",), **given)


FRUIT = [0.25, 1.0, 0.0, 0.5]  # the probability of each text in turn


@pytest.mark.parametrize("form", ["labels.csv", "prefixed.tsv", "labels.jsonl", "mapping.jsonl"])
def test_answers_of_another_model_belong_to_their_texts(form, tmp_path):
    given = {f"text {i}": FRUIT[i % 4] for i in range(200)}
    kind, suffix = form.split(".")
    if suffix == "jsonl":
        rows = [({"text": text}, {"stone": 1 - p, "fruit": p}) for text, p in given.items()]
        lines = [json.dumps(row | ({"probabilities": p} if kind == "mapping" else p)) for row, p in rows]
    else:
        mark, prefix = ("\t", "probability_") if suffix == "tsv" else (",", "")
        lines = [mark.join((f"{prefix}stone", "text", f"{prefix}fruit"))]
        lines += [mark.join((str(1 - p), text, str(p))) for text, p in given.items()]
    found = answers(write(tmp_path / form, lines))
    assert sorted(all_of(found)) == sorted(given) and set(found.answers) == set(PARTS)
    for name, part in by_part(found).items():
        p_TC = np.array([[given[text], 1 - given[text]] for text in part])
        assert found.answers[name].dtype == np.float32
        np.testing.assert_allclose(found.answers[name], np.log(np.maximum(p_TC, 1e-6)), rtol=1e-6)


def test_a_delimiter_is_of_tables_alone(tmp_path):
    table = write(tmp_path / "a.csv", ["text;fruit;stone", "a;1;0", "b;0;1"])
    lines = write(
        tmp_path / "b.jsonl", ['{"text": "c", "fruit": 1, "stone": 0}', '{"text": "d", "fruit": 1, "stone": 0}']
    )
    assert sorted(all_of(read(table, lines, delimiter=";"))) == ["a", "b", "c", "d"]
    assert sorted(all_of(answers(table, delimiter=";"))) == ["a", "b"]
    assert sorted(all_of(answers(lines, delimiter=";"))) == ["c", "d"]


def answer(path, config=CLASSES, **fields):
    """The logits of one answer, whatever the part of its text."""
    rows = [{"text": f"text {i}"} | fields for i in range(20)]
    found = answers(write(path / "a.jsonl", map(json.dumps, rows)), config)
    return found.answers["learn"][0]


def test_answers_with_several_labels_a_text_and_of_regressions(tmp_path):
    several = answer(tmp_path, LABELS, probabilities={"fruit": 0.9, "stone": 1.0})
    np.testing.assert_allclose(several, [np.log(9), np.log(1e6)], rtol=1e-5)
    none = answer(tmp_path, LABELS, probabilities={"fruit": 0, "stone": 0.5})
    np.testing.assert_allclose(none, [-np.log(1e6), 0.0], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(answer(tmp_path, SCORE, score=-2.5), np.float32([-2.5]))


def test_of_two_answers_for_a_text_the_first_counts(tmp_path):
    lines = ["text,fruit,stone", *(f"text {i},1,0" for i in range(200)), *(f"text {i},0,1" for i in range(200))]
    found = answers(write(tmp_path / "a.csv", lines))
    assert len(found.learn) == len(found.answers["learn"]) > 100 and found.read == 400
    assert (found.answers["learn"][:, 0] == 0).all()


@pytest.mark.parametrize(
    "config, fields, wrong",
    [
        (CLASSES, {"fruit": 0.5, "stone": 0.6}, "probabilities sum to 1.1000; they must sum to 1, within 0.001"),
        (CLASSES, {"fruit": 1.5, "stone": -0.5}, "probability 1.5 of 'fruit' is no number from 0 to 1"),
        (CLASSES, {"fruit": "nan", "stone": 0.5}, "probability 'nan' of 'fruit' is no number from 0 to 1"),
        (CLASSES, {"fruit": 0.0, "stone": True}, "probability True of 'stone' is no number from 0 to 1"),
        (CLASSES, {"fruit": 1.0}, "no probability of label 'stone'; each needs one: 'fruit', 'stone'"),
        (LABELS, {"fruit": 0.4, "stone": None}, "probability None of 'stone' is no number from 0 to 1"),
    ],
)
@pytest.mark.parametrize("mapped", [False, True])
def test_bad_probabilities_are_named_with_file_and_line(mapped, config, fields, wrong, tmp_path):
    rows = [{"fruit": 0.3, "stone": 0.7}, fields]
    rows = [{"probabilities": row} if mapped else row for row in rows]
    file = write(tmp_path / "a.jsonl", [json.dumps({"text": "x"} | row) for row in rows])
    with pytest.raises(InputError, match=f"a.jsonl:2: {wrong}"):
        answers(file, config)


@pytest.mark.parametrize(
    "config, fields, wrong",
    [
        (CLASSES, {"probabilities": {"fruit": 1, "stone": 0, "wood": 0}}, "label 'wood' is not among those of the mo"),
        (LABELS, {"probability_fruit": 1, "probability_stone": 1, "probability_wood": 1}, "label 'wood' is not among"),
        (CLASSES, {"probabilities": 0.5}, "probabilities=0.5 do not map labels to numbers"),
        (CLASSES, {"probabilities": None}, "no probability of label 'fruit'"),
        (SCORE, {"score": "high"}, "score='high' is not a finite number"),
        (SCORE, {"score": 1e300}, r"score=1e\+300 is not a finite number"),
    ],
)
def test_other_bad_answers_are_named_with_file_and_line(config, fields, wrong, tmp_path):
    with pytest.raises(InputError, match=f"a.jsonl:1: {wrong}"):
        answer(tmp_path, config, **fields)


def test_probabilities_may_be_rounded(tmp_path):
    assert answer(tmp_path, fruit=0.3335, stone=0.667).shape == (2,)


def test_files_without_answers(tmp_path):
    table = write(tmp_path / "a.csv", ["text,fruit", "a,1"])
    with pytest.raises(InputError, match="no column 'stone'; there are: 'text', 'fruit'; --answers reads a column for"):
        answers(table)
    with pytest.raises(InputError, match="no column 'score'; .*; --answers reads the column `score`"):
        answers(table, SCORE)
    with pytest.raises(InputError, match=r"a.csv: --model tags words; answers are of models that classify whole"):
        answers(table, TAGS)
    with pytest.raises(InputError, match=r"a.txt: the name must end in .tsv, .csv, .jsonl, .parquet"):
        answers(write(tmp_path / "a.txt", ["a"]))
    with pytest.raises(InputError, match=r"b.csv: no column 'body'; .*; --text_columns names"):
        answers(write(tmp_path / "b.csv", ["text,fruit,stone", "a,1,0"]), wanted=("body",))
    with pytest.raises(InputError, match=r"b.csv: 1 records; 1 distinct texts, .* at least 2 are needed"):
        answers(tmp_path / "b.csv")
