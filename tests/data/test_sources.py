"""Sources read what they say they read, and name the place of what they cannot read."""

import gzip
import json
import os
import shutil
import sys

import pytest
import tensorflow_datasets as tfds
from etils import epath

from mux_jax import configuration
from mux_jax.data import formats, pydocs
from mux_jax.data.sources import TextFiles, open_sources
from mux_jax.errors import InputError
from tests.tfds_folder import write_prepared


def read(source):
    return [text for text, _ in source.documents()]


def files(pattern, field="text"):
    return read(TextFiles(str(pattern), field))


def test_txt_documents_are_separated_by_empty_lines(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n\n\nthree\n")
    with gzip.open(tmp_path / "b.txt.gz", "wt") as f:
        f.write("four\n")
    assert files(tmp_path / "*.txt*") == ["one\ntwo", "three", "four"]
    assert files(f"{tmp_path}/b.txt.gz,{tmp_path}/a.txt") == ["four", "one\ntwo", "three"]


def test_folders_are_searched_with_two_stars(tmp_path):
    (tmp_path / "x" / "y").mkdir(parents=True)
    (tmp_path / "x" / "y" / "a.txt").write_text("deep")
    assert files(f"{tmp_path}/**/*.txt") == ["deep"]


def test_jsonl_and_its_gzip(tmp_path):
    lines = "".join(json.dumps({"body": text}) + "\n" for text in ("one", "two\nlines", " "))
    (tmp_path / "a.jsonl").write_text(lines)
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as f:
        f.write(lines)
    assert files(tmp_path / "*.jsonl*", "body") == ["one", "two\nlines"] * 2


def test_a_byte_order_mark_is_no_text(tmp_path, bucket):
    for folder in (tmp_path, bucket):
        (folder / "a.jsonl").write_bytes('\ufeff{"text": "one"}\n{"text": "two"}\n'.encode())
        (folder / "a.jsonl.gz").write_bytes(gzip.compress('\ufeff{"text": "one"}\r\n{"text": "two"}'.encode()))
        (folder / "a.txt").write_bytes("\ufeffone\n\ntwo\n".encode())
        for name in ("a.jsonl", "a.jsonl.gz", "a.txt"):
            assert files(folder / name) == ["one", "two"], name
        (folder / "a.txt").write_bytes("\ufeffone\n\n".encode() + b"tw\xff\n")
        with pytest.raises(InputError, match="a.txt: not UTF-8 at byte 10"):
            files(folder / "a.txt")


def test_a_name_is_found_whatever_is_in_it(tmp_path, bucket):
    for folder in (tmp_path, bucket):
        names = ["a[1].txt", "b,c.txt", "d*?.txt", "e,[f].txt", "1.txt"]
        for name in names:
            (folder / name).write_text(name, encoding="utf-8")
        for name in names:
            assert files(folder / name) == [name]
        several = TextFiles([f"{folder}/{name}" for name in names], "text")
        assert read(several) == names
        assert files(f"{folder}/a[1].txt, {folder}/1.txt") == ["a[1].txt", "1.txt"]
        assert files(f"{folder}/[1e]*.txt") == ["1.txt", "e,[f].txt"]
        assert read(TextFiles((f"{folder}/[a-b]*.txt",), "text")) == ["a[1].txt", "b,c.txt"]
        with pytest.raises(InputError, match="no file matches '.*none,1.txt'"):
            TextFiles([f"{folder}/none,1.txt"], "text")


def test_lines_end_in_pretraining_text_as_they_do_in_examples(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\rone\r\n\r\ntwo\n")
    assert files(tmp_path / "a.txt") == ["one\rone", "two"]


@pytest.mark.extra
def test_parquet_with_text_as_people_have_it(tmp_path, bucket):
    import pyarrow.parquet

    text = pyarrow.array(["one", None, "one", "two"])
    kinds = [pyarrow.string_view(), pyarrow.large_string()]
    kinds += [pyarrow.dictionary(pyarrow.int8(), kind) for kind in (pyarrow.string(), pyarrow.large_string())]
    for folder in (tmp_path, bucket):
        for kind in kinds:
            with (folder / "a.parquet").open("wb") as f:
                pyarrow.parquet.write_table(pyarrow.table({"text": text.cast(kind)}), f)
            assert files(folder / "a.parquet") == ["one", "one", "two"], kind
            assert [r.fields["text"] for r in formats.read(epath.Path(folder / "a.parquet"))] == text.to_pylist(), kind
    table = pyarrow.table([text, text], names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "b.parquet")
    with pytest.raises(InputError, match="b.parquet: two columns are called 'text'"):
        files(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="b.parquet: two columns are called 'text'"):
        list(formats.read(epath.Path(tmp_path / "b.parquet")))


@pytest.mark.extra
def test_parquet(tmp_path):
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": ["one", None, "two"], "id": [1, 2, 3]}), tmp_path / "a.parquet")
    assert files(tmp_path / "a.parquet") == ["one", "two"]
    with pytest.raises(InputError, match="no column 'body'.*there are: 'text', 'id'"):
        files(tmp_path / "a.parquet", "body")
    with pytest.raises(InputError, match="is of type int64, not string"):
        files(tmp_path / "a.parquet", "id")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match="b.parquet: cannot be read"):
        files(tmp_path / "b.parquet")


def test_a_long_document_is_cut_to_bound_memory(tmp_path):
    (tmp_path / "a.txt").write_text(("x" * 999 + "\n") * 2500)
    assert max(map(len, files(tmp_path / "a.txt"))) <= 1_000_000
    (tmp_path / "a.txt").write_text("é" * 2_500_000)  # one line, cut within characters of two bytes
    documents = files(tmp_path / "a.txt")
    assert "".join(documents).replace("\n", "") == "é" * 2_500_000 and max(map(len, documents)) <= 1_000_000
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x" * 2_500_000}))
    assert [len(text) for text in files(tmp_path / "a.jsonl")] == [1_000_000, 1_000_000, 500_000]


def test_progress_goes_from_0_to_1(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n" * 50_000)
    done = [d for _, d in TextFiles(str(tmp_path / "a.txt"), "text").documents()]
    assert done == sorted(done) and done[0] < 0.5 and done[-1] == 1.0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"a.txt: empty file \(offset 0\)"),
        ("a.txt", b"\n \n", "a.txt: no text in the file"),
        ("a.txt", b"fine\nbad \xff\n", "a.txt: not UTF-8 at byte 9"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "a.jsonl:2: not JSON"),
        ("a.jsonl", b'{"text": "x"}\n{"body": "y"}\n', "a.jsonl:2: no text in field 'text'"),
        ("a.jsonl", b"[1]\n", "a.jsonl:1: not JSON lines but a JSON array; write each object on a line"),
        ("a.jsonl", b'[\n{"text": "x"}\n]', "a.jsonl:1: not JSON lines but a JSON array"),
        ("a.jsonl", b'{"text": "x", "text": "y"}\n', "a.jsonl:1: two fields are called 'text'"),
        ("a.jsonl", '{"text": "x"}\n'.encode("utf-16"), "a.jsonl: UTF-16, not UTF-8"),
        ("a.txt.gz", gzip.compress("one".encode("utf-16"), mtime=0), "a.txt.gz: UTF-16, not UTF-8"),
        ("a.txt", b"one\rtwo\r", "a.txt: carriage returns and no line feed"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "a.jsonl:1: .* half of a surrogate pair"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl:1: not JSON"),
        ("a.txt", b"x" * 1_000_001 + b"\xc3", "a.txt: not UTF-8 at byte 1000001"),
        ("a.txt.gz", b"not gzip", "a.txt.gz: cannot be read"),
        ("a.txt.gz", gzip.compress(b"some text" * 1000, mtime=0)[:40], "a.txt.gz: cannot be read"),
        ("a.csv", b"x", "must end in .txt, .jsonl, .parquet"),
    ],
)
def test_bad_files_are_named_with_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        files(tmp_path / name)


def test_a_glob_without_a_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no file matches"):
        TextFiles(str(tmp_path / "*.txt"), "text")


def test_the_fingerprint_follows_the_files(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    before = TextFiles(str(path), "text").fingerprint()
    assert before == TextFiles(str(path), "text").fingerprint()
    path.write_text("two")  # as long, and as new as a clock may say
    os.utime(path, (0, 0))
    assert before != TextFiles(str(path), "text").fingerprint()
    path.write_text("one")
    moved = path.rename(tmp_path / "moved.txt")
    assert before == TextFiles(str(moved), "text").fingerprint()
    assert before != TextFiles(str(moved.rename(tmp_path / "moved.jsonl")), "text").fingerprint()  # read in another way


def test_text_of_tfds_that_was_prepared_again_is_other_text(prepared):
    [(_, before)] = open_sources(tfds_config(prepared))
    known = before.fingerprint()
    assert known == open_sources(tfds_config(prepared))[0][1].fingerprint()
    shutil.rmtree(prepared / "mini")
    features = {"text": tfds.features.Text(), "title": tfds.features.Text()}
    records = [{"text": f"Document {i} " + "long " * 40, "title": "t"} for i in range(5)]
    write_prepared(prepared / "mini" / "en" / "1.0.0", features, {"train": records})
    [(_, after)] = open_sources(tfds_config(prepared))
    assert read(after)[0].startswith("Document 0") and after.fingerprint() != known


def test_globs_in_an_object_store_cross_folders_with_two_stars(bucket):
    for name in ("a.txt", "deep/b.txt", "deep/er/c.txt", "deep/d.md"):
        (bucket / "text" / name).parent.mkdir(parents=True, exist_ok=True)
        (bucket / "text" / name).write_text(f"this is {name}")
    found = TextFiles(f"{bucket}/text/**/*.txt", "text")
    assert [str(path) for path in found.files] == [
        f"{bucket}/text/{name}" for name in ("a.txt", "deep/b.txt", "deep/er/c.txt")
    ]
    assert read(found) == [f"this is {name}" for name in ("a.txt", "deep/b.txt", "deep/er/c.txt")]
    assert [str(path) for path in TextFiles(f"{bucket}/text/*.txt", "text").files] == [f"{bucket}/text/a.txt"]


@pytest.fixture
def prepared(tmp_path):
    """A data set of five documents."""
    features = {"text": tfds.features.Text(), "title": tfds.features.Text()}
    records = [{"text": f"document {i} " + "long " * 40, "title": "t"} for i in range(5)]
    write_prepared(tmp_path / "mini" / "en" / "1.0.0", features, {"train": records})
    return tmp_path


def tfds_config(prepared, **changes):
    data = configuration.pretraining("bert", "tiny", 2).data
    data.update(dict(source="tfds", tfds_name="mini/en", tfds_dir=str(prepared)) | changes)
    return data


@pytest.mark.parametrize("given", ["huggingface:Some/my-set/en", "huggingface:Some__my-set/en"])
def test_hugging_face_names_are_found_where_tfds_puts_them(prepared, given):
    (prepared / "mini").rename(prepared / "some__my_set")
    assert open_sources(tfds_config(prepared, tfds_name=given))


@pytest.mark.parametrize("name", ["mini/en", "mini/en/1.0.0", "mini"])
def test_prepared_tfds_is_read_without_tensorflow(prepared, name):
    [(weight, source)] = open_sources(tfds_config(prepared, tfds_name=name))
    documents = read(source)
    assert weight == 1 and len(documents) == 5 and documents[3].startswith("document 3 long")
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(tfds_name="lm1b"), "tfds build lm1b --data_dir=.* --file_format=array_record"),
        (dict(tfds_name="huggingface:some/set"), "tfds build huggingface:some__set"),
        (dict(tfds_split="test"), "there are: train"),
        (dict(text_field="body"), "no feature 'body'.*text, title"),
        (dict(tfds_name=""), "tfds_name is empty"),
    ],
)
def test_unprepared_tfds_gets_an_instruction(prepared, changes, message):
    with pytest.raises(InputError, match=message):
        open_sources(tfds_config(prepared, **changes))


def test_a_mixture_normalises_its_weights(prepared, text_file):
    data = tfds_config(prepared, source="mixture")
    data.mixture.wikipedia.update(tfds_name="mini/en", tfds_dir=str(prepared), weight=3.0)
    data.mixture.books.update(files=str(text_file), weight=1.0)
    assert sorted((weight, source.name) for weight, source in open_sources(data)) == [(0.25, "files"), (0.75, "tfds")]
    data.mixture.wikipedia.weight = 0.0
    assert [source.name for _, source in open_sources(data)] == ["files"]


def test_an_unknown_source_is_refused():
    data = configuration.pretraining("bert", "tiny", 2).data
    data.source = "web"
    with pytest.raises(InputError, match="there are: pydocs, files, tfds, mixture"):
        open_sources(data)


def test_python_docs_are_parsed_and_never_executed(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        '"""A module about the careful reading of   documentation.\n\n    Second paragraph."""\n'
        "raise SystemExit('executed')\n"
        'def f():\n    """Short."""\n'
        'class C:\n    """A class whose docstring is long enough to be kept."""\n'
    )
    assert pydocs.docstrings(str(path)) == [
        "A module about the careful reading of documentation.\nSecond paragraph.",
        "A class whose docstring is long enough to be kept.",
    ]
    path.write_text("def broken(:\n")
    assert pydocs.docstrings(str(path)) == []


def test_topics_of_pydoc_are_documents():
    import pydoc_data.topics

    assert len(pydocs.docstrings(pydoc_data.topics.__file__)) > 50


def test_python_docs_drop_exact_duplicates(tmp_path, monkeypatch):
    text = '"""The same documentation stands in both of these two files."""\n'
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(text)
    paths = {"stdlib": str(tmp_path), "purelib": str(tmp_path), "platlib": str(tmp_path)}
    monkeypatch.setattr(pydocs.sysconfig, "get_paths", lambda: paths)
    source = pydocs.PythonDocs()
    next(source.documents())  # left in its midst: the next reader begins anew
    assert read(source) == read(source) == ["The same documentation stands in both of these two files."]
