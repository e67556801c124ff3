"""Packing loses no token, splits stably, and leaves nothing half-written."""

import errno
import multiprocessing
import os
import re
import shutil
import socket

import numpy as np
import pytest
from etils import epath

from mux_jax import locks
from mux_jax.data import caches, packing
from mux_jax.data.vocabulary import train_tokenizer
from mux_jax.errors import InputError
from tests.conftest import WORDS


class Texts:
    name = "texts"

    def __init__(self, texts):
        self.texts = texts

    def fingerprint(self):
        return str(len(self.texts))

    def documents(self):
        for i, text in enumerate(self.texts):
            yield text, (i + 1) / len(self.texts)


TEXTS = [" ".join(WORDS[(i // 24 ** (j % 2) + i * j) % 24] for j in range(9)) for i in range(300)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 120)


def build(tokenizer, folder, texts=TEXTS, length=16, heldout=0.2):
    return packing.cached_tokens(Texts(texts), tokenizer, length, heldout, folder)


def stream(folder, split, length=16):
    packed = packing.PackedTokens(folder, split)
    return np.concatenate([packed[i][1:] for i in range(len(packed))])


def test_packed_sequences_hold_the_documents_in_order(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "_CHUNK", 500)  # many chunks: rows cross their borders
    folder = build(tokenizer, tmp_path)
    special = tokenizer.special
    for split in packing.SPLITS:
        packed = packing.PackedTokens(folder, split)
        assert all(packed[i][0] == special.cls and packed[i].dtype == np.int32 for i in range(len(packed)))
        text = tokenizer.backend.decode(stream(folder, split).tolist(), skip_special_tokens=False)
        documents = [d.strip() for d in text.split("[SEP]")][:-1]  # the last one may be cut
        of_split = iter(TEXTS)
        assert documents and all(d in of_split for d in documents)  # a subsequence, in order
    total = sum(len(tokenizer.backend.encode(t, add_special_tokens=False).ids) + 1 for t in TEXTS)
    kept = sum(len(stream(folder, split)) for split in packing.SPLITS)
    assert total - 2 * 15 < kept <= total


def test_the_split_does_not_depend_on_what_stands_around(tokenizer, tmp_path):
    def heldout(texts):
        text = tokenizer.backend.decode(
            stream(build(tokenizer, tmp_path, texts), "heldout").tolist(), skip_special_tokens=False
        )
        return set(d.strip() for d in text.split("[SEP]")[:-1])

    all_texts, fewer = heldout(TEXTS), heldout(TEXTS[100:])
    assert fewer <= all_texts and len(fewer) > 20


def test_a_second_call_finds_the_first_ones_result(tokenizer, tmp_path):
    folder = build(tokenizer, tmp_path)
    stamp = (folder / "train.bin").stat().st_mtime_ns
    assert build(tokenizer, tmp_path) == folder
    assert (folder / "train.bin").stat().st_mtime_ns == stamp
    assert build(tokenizer, tmp_path, length=17) != folder
    assert build(tokenizer, tmp_path, texts=TEXTS[1:]) != folder


class Interrupted(Texts):
    def __init__(self, texts, error):
        super().__init__(texts)
        self.error = error

    def documents(self):
        yield from list(super().documents())[:-1]
        raise self.error


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (OSError(errno.ENOSPC, "No space left on device"), InputError, "no space left in .*cache_dir"),
    ],
)
def test_an_interrupted_build_leaves_nothing(tokenizer, tmp_path, error, raised, message):
    with pytest.raises(raised, match=message):
        packing.cached_tokens(Interrupted(TEXTS, error), tokenizer, 16, 0.2, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_leavings_of_a_killed_build_are_swept_and_those_of_other_hosts_stay(tokenizer, tmp_path):
    folder = build(tokenizer, tmp_path)
    shutil.rmtree(folder)
    host = re.sub(r"\W", "_", socket.gethostname())
    stale, elsewhere = (tmp_path / f"{folder.name}.building-{name}-999999999" for name in (host, f"{host}_2"))
    for half in (stale, elsewhere):
        half.mkdir()
        (half / "train.bin").write_bytes(b"half")
    assert build(tokenizer, tmp_path) == folder
    assert not stale.exists() and elsewhere.exists()


def test_a_build_that_is_under_way_is_waited_for(tokenizer, tmp_path, monkeypatch, capsys):
    folder = build(tokenizer, tmp_path)
    other = folder.rename(tmp_path / "other")
    lock = locks.acquire(epath.Path(tmp_path / f"{folder.name}.lock"))

    def finish(_):
        other.rename(folder)
        lock.release()

    monkeypatch.setattr("time.sleep", finish)
    assert build(tokenizer, tmp_path) == folder
    output = capsys.readouterr().out
    assert f"{folder.name} is being made by process {os.getpid()} on" in output and output.count("tokenising") == 1


def test_a_cache_in_an_object_store_is_refused():
    with pytest.raises(InputError, match="data.cache_dir=gs://bucket/cache must be a folder of this machine"):
        packing.cache_folder("gs://bucket/cache")


def _build_in_process(folder, queue):
    tokenizer = packing.cached_tokenizer([(1.0, Texts(TEXTS))], 120, folder)
    queue.put((tokenizer.backend.to_str(), str(build(tokenizer, folder))))


def test_two_processes_at_once_do_no_harm(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_build_in_process, args=(tmp_path, queue)) for _ in range(2)]
    for p in processes:
        p.start()
    results = {queue.get(timeout=120) for _ in processes}
    for p in processes:
        p.join()
    assert [p.exitcode for p in processes] == [0, 0]
    assert len(results) == 1 and len(list(tmp_path.iterdir())) == 2


def test_too_little_text_is_refused(tokenizer, tmp_path):
    with pytest.raises(InputError, match="too little text"):
        build(tokenizer, tmp_path, texts=TEXTS[:2])
    assert list(tmp_path.iterdir()) == []


def test_a_cache_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        packing.cache_folder(str(tmp_path / "file" / "cache"))
    assert packing.cache_folder(str(tmp_path / "cache")).is_dir()
    assert (tmp_path / "cache").is_dir()


def test_a_damaged_cache_is_refused(tokenizer, tmp_path):
    folder = build(tokenizer, tmp_path)
    content = (folder / "train.bin").read_bytes()
    (folder / "train.bin").write_bytes(content[:-2])
    with pytest.raises(InputError, match="train.bin is damaged"):
        packing.PackedTokens(folder, "train")


def test_a_trained_vocabulary_is_cached(tmp_path):
    sources = [(1.0, Texts(TEXTS))]
    first = packing.cached_tokenizer(sources, 110, tmp_path)
    assert packing.cached_tokenizer(sources, 110, tmp_path).backend.to_str() == first.backend.to_str()
    assert len(list(tmp_path.iterdir())) == 1


def test_caches_are_shown_and_cleared_but_for_what_is_being_made(tokenizer, tmp_path, capsys):
    one, other = build(tokenizer, tmp_path), build(tokenizer, tmp_path, length=17)
    half = other.rename(tmp_path / f"{other.name}.building-elsewhere-1")
    (tmp_path / "compiled" / "host").mkdir(parents=True)
    (tmp_path / "thesis.tex").write_text("years")
    caches.show_caches(str(tmp_path))
    shown = capsys.readouterr().out
    assert "sequences of" in " ".join(shown.split()) and "compiled programs" in shown
    with locks.hold(epath.Path(tmp_path / f"{other.name}.lock"), "x"):
        caches.clear_caches(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {half.name, "thesis.tex"}
    assert f"{half.name} is being made; it stays" in capsys.readouterr().out
    caches.clear_caches(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"] and not one.exists()
