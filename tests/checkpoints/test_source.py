"""Models are found wherever they are, converted both ways, and start runs."""

import json
import shutil

import huggingface_hub.constants
import pytest
from etils import epath
from huggingface_hub.errors import EntryNotFoundError

import mux_jax
from mux_jax import locks
from mux_jax.checkpoints import hub, runs
from mux_jax.checkpoints.convert import convert, save_model
from mux_jax.checkpoints.runs import Checkpoints
from mux_jax.checkpoints.source import ModelSource, open_model
from mux_jax.data.tokenizer import load_tokenizer
from mux_jax.errors import InputError
from mux_jax.training.loop import train
from tests.checkpoints.folders import assert_identical, shard
from tests.checkpoints.test_parity import FIXTURES
from tests.conftest import init, small_model, small_run

ID = "princeton-nlp/muxbert_small_gaussian_hadamard_index_pos_2"


def fixture(name):
    return next(path for path in FIXTURES if path.name == name)


def copy(file, folder):
    """As the hub gives a file."""
    if not file.exists():
        raise EntryNotFoundError(str(file))
    return shutil.copy(file, folder)


def test_convert_there_and_back_is_exact(plain_bert, tmp_path):
    for source in (fixture("muxelectra_rtd_projected_rsa_n5"), plain_bert[0]):
        native, back = tmp_path / f"{source.name}-native", tmp_path / f"{source.name}-back"
        assert "a checkpoint of mux_jax" in convert(str(source), str(native))
        assert "a Hugging Face folder" in convert(str(native), str(back))
        models = [mux_jax.load_pretrained(str(path)) for path in (source, native, back)]
        for model, params in models[1:]:
            assert model.config == models[0][0].config
            assert_identical(params, models[0][1])
    for file in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
        assert (back / file).read_text() == (plain_bert[0] / file).read_text()
    assert load_tokenizer(str(native)).backend.to_str() == load_tokenizer(str(source)).backend.to_str()


def test_convert_replaces_a_folder_only_when_asked_and_only_when_done(tmp_path, monkeypatch):
    source, target = str(fixture("bert_mlm_n1")), tmp_path / "there"
    convert(source, str(target))
    before = mux_jax.load_pretrained(str(target))[1]
    with pytest.raises(InputError, match="there exists; --overwrite replaces it"):
        convert(source, str(target))

    def fail(*_, **__):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", fail)
        with pytest.raises(OSError):
            convert(source, str(target), overwrite=True)
    assert_identical(mux_jax.load_pretrained(str(target))[1], before)
    convert(str(fixture("muxbert_mlm_binary_rsa_n3")), str(target), overwrite=True)
    assert mux_jax.load_pretrained(str(target))[0].config.width == 3


def test_convert_replaces_only_what_it_wrote(tmp_path):
    source = str(fixture("bert_mlm_n1"))
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("years")
    convert(source, str(tmp_path / "ours"))
    convert(str(tmp_path / "ours"), str(tmp_path / "exported"))
    (tmp_path / "exported" / "notes.md").write_text("mine")
    run = shutil.copytree(tmp_path / "ours", tmp_path / "run")
    (run / "metrics.jsonl").write_text("{}\n")
    for target, message in (
        (theirs, "theirs was not written by convert.py or compress.py; there is thesis.tex; --overwrite replaces only"),
        (tmp_path / "exported", "there is notes.md"),
        (run, "there is metrics.jsonl"),
    ):
        with pytest.raises(InputError, match=message):
            convert(source, str(target), overwrite=True)
    with pytest.raises(InputError, match="ours holds the model to read"):
        convert(str(tmp_path / "ours"), str(tmp_path / "ours"), overwrite=True)
    with pytest.raises(InputError, match="holds the model to read, .*ours; choose another folder"):
        convert(str(tmp_path / "ours"), str(tmp_path), overwrite=True)
    assert (theirs / "thesis.tex").exists() and (tmp_path / "exported" / "notes.md").exists()
    (tmp_path / "exported" / "notes.md").unlink()
    convert(str(tmp_path / "ours"), str(tmp_path / "exported"), overwrite=True)
    with locks.hold(epath.Path(tmp_path / ".exported.lock"), "x"):
        with pytest.raises(InputError, match="exported is being written by another process"):
            convert(str(tmp_path / "ours"), str(tmp_path / "exported"), overwrite=True)
    assert not list(tmp_path.glob("*.partial*")) and not list(tmp_path.glob("*.replaced"))


def test_convert_refuses_an_electra_lm_of_two_sizes_and_leaves_nothing(tmp_path):
    model, params = init(small_model(architecture="electra", width=1, embedding_size=16))
    target = epath.Path(tmp_path / "run")
    save_model(target, model.config, params, None, "", overwrite=False, task=None)
    with pytest.raises(
        InputError,
        match="run: the head of ElectraForMaskedLM goes from hidden_size=32 to embedding_size=16; only equal sizes",
    ):
        convert(str(target), str(tmp_path / "there"))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_exported_model_pads_with_its_tokenizers_token(tmp_path):
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    (tmp_path / "vocab.txt").write_text("\n".join(names))
    convert(str(fixture("bert_mlm_n1")), str(tmp_path / "native"), tokenizer=str(tmp_path / "vocab.txt"))
    convert(str(tmp_path / "native"), str(tmp_path / "exported"))
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["pad_token_id"] == 1
    described = json.loads((tmp_path / "exported" / "tokenizer_config.json").read_text())
    assert [described[f"{field}_token"] for field in ("cls", "pad", "sep", "unk", "mask")] == names


def test_a_token_without_an_embedding_is_refused(plain_bert):
    folder, _ = plain_bert
    (folder / "tokenizer_config.json").unlink()
    found = open_model(str(folder))
    size = found.tokenizer().backend.get_vocab_size()
    assert found.config.vocab_size == size + 3
    (folder / "added_tokens.json").write_text(json.dumps({f"<{i}>": size + i for i in range(3)}))
    assert open_model(str(folder)).tokenizer().backend.encode("<2>").ids[1] == size + 2
    (folder / "added_tokens.json").write_text(json.dumps({f"<{i}>": size + i for i in range(4)}))
    with pytest.raises(
        InputError, match=f"has {size + 4} tokens, .* {size + 3}; the last one, '<3>', has no embedding"
    ):
        open_model(str(folder)).tokenizer()


def test_convert_takes_a_vocabulary_that_fits(plain_bert, tmp_path, capsys):
    source = str(fixture("muxbert_mlm_binary_rsa_n3"))
    convert(source, str(tmp_path / "bare"))
    assert "--tokenizer=FILE adds one" in capsys.readouterr().out
    convert(source, str(tmp_path / "with"), tokenizer=str(plain_bert[0] / "vocab.txt"))
    assert (tmp_path / "with" / "tokenizer.json").exists()
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(160))])
    )
    with pytest.raises(InputError, match="the tokenizer has 165 tokens, the model's vocabulary 160"):
        convert(source, str(tmp_path / "large"), tokenizer=str(tmp_path / "vocab.txt"))


@pytest.fixture
def cached_hub(tmp_path, monkeypatch):
    """The hub's cache, offline, with two commits of a model, `main` and `v1`; returns their names and folders."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    cached = tmp_path / "hub" / f"models--{ID.replace('/', '--')}"
    (cached / "refs").mkdir(parents=True)
    commits = {}
    for name, commit, source in (
        ("main", "0", "muxbert_mlm_gaussian_prefix_n3"),
        ("v1", "1", "muxbert_mlm_binary_rsa_n3"),
    ):
        commits[name] = commit * 40, fixture(source)
        shutil.copytree(fixture(source), cached / "snapshots" / (commit * 40))
        (cached / "refs" / name).write_text(commit * 40)
    return commits


def test_a_hub_id_resolves_from_the_cache_at_a_revision(cached_hub, capsys):
    for named, (commit, source) in {
        ID: cached_hub["main"],
        f"hf://{ID}": cached_hub["main"],
        f"{ID}@v1": cached_hub["v1"],
        f"{ID}@{'1' * 40}": cached_hub["v1"],
    }.items():
        found = open_model(named)
        assert found.address == f"hf://{ID}@{commit}" and open_model(found.address).folder == found.folder
        assert f"{ID}@{commit}: from the cache of the Hugging Face hub" in capsys.readouterr().out
        assert_identical(mux_jax.load_pretrained(named)[1], mux_jax.load_pretrained(str(source))[1])
    with pytest.raises(InputError, match="index_pos_5: no such folder, and not found on the Hugging Face hub"):
        mux_jax.load_pretrained(ID.replace("_2", "_5"))
    with pytest.raises(InputError, match="_2@v9: no such folder, and not found"):
        mux_jax.load_pretrained(f"{ID}@v9")


def test_what_looks_like_a_folder_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(hub, "fetch", never)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for path in ("runs/typo", "models/typo", "./typo", "/models/typo", "~/typo", "a/b/c"):
        with pytest.raises(InputError, match="no model there: neither a run"):
            mux_jax.load_pretrained(path)
    with pytest.raises(InputError, match="hf://runs/typo is the model of that name on the hub"):
        mux_jax.load_pretrained("runs/typo")
    for path in ("hf://", "hf://a/../b"):
        with pytest.raises(InputError, match="an id of the hub is hf://OWNER/NAME"):
            mux_jax.load_pretrained(path)
    for path in ("hf://models/typo", "bert-base-uncased"):
        with pytest.raises(AssertionError, match="the hub was asked"):
            mux_jax.load_pretrained(path)


@pytest.mark.extra  # for its time
def test_a_run_remembers_the_commit_it_started_from(cached_hub, plain_bert, text_file, tmp_path, one_device):
    config = small_run("bert", text_file, tmp_path)
    config.init_from, config.data.tokenizer = ID, str(plain_bert[0])
    config.data.sequence_length, config.stages = 12, ("pretraining",)
    config.pretraining.steps = 2
    found = open_model(ID)
    config.model.width = found.config.width
    train(config, str(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["init_from"] == f"hf://{ID}@{'0' * 40}"
    refs = tmp_path / "hub" / f"models--{ID.replace('/', '--')}" / "refs"
    (refs / "main").write_text("1" * 40)  # the hub has moved on
    with pytest.raises(InputError, match="init_from: .*@000.* there, .*@111.* now"):
        train(config, str(tmp_path / "run"))
    config.init_from = f"{ID}@{'0' * 40}"
    train(config, str(tmp_path / "run"))
    described = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps(described | {"init_from": ID}))  # as it was written before
    train(config, str(tmp_path / "run"))


def test_a_tokenizer_that_the_cache_lacks_is_fetched_if_there_is_a_network(plain_bert, tmp_path, monkeypatch):
    cached = epath.Path(tmp_path / "0123")
    cached.mkdir()
    for file in (hub.CONFIG, hub.WEIGHTS[0]):
        shutil.copy(plain_bert[0] / file, cached)

    def fail(*_, **__):
        raise OSError("no network")

    def download(_, file, revision):
        assert revision == cached.name  # that of the weights
        return copy(plain_bert[0] / file, cached)

    monkeypatch.setattr(hub, "_cached", lambda _: cached)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    assert open_model("owner/bert").find_tokenizer() is None
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert open_model("owner/bert").tokenizer().backend.to_str() == load_tokenizer(str(plain_bert[0])).backend.to_str()


def test_all_files_are_of_the_commit_of_the_first(plain_bert, tmp_path, monkeypatch, capsys):
    asked = []

    def download(_, file, revision):
        asked.append((file, revision))
        folder = epath.Path(tmp_path / "4567")
        folder.mkdir(exist_ok=True)
        return copy(plain_bert[0] / file, folder)

    monkeypatch.setattr(hub, "_cached", lambda _: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert open_model("owner/bert@v1").address == "hf://owner/bert@4567"
    assert asked[0] == ("config.json", "v1") and {revision for _, revision in asked[1:]} == {"4567"}
    assert "owner/bert@4567: fetched from the Hugging Face hub to" in capsys.readouterr().out


def test_the_released_vocabulary_is_that_of_multiplexed_models_and_the_baselines(plain_bert, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "fetch_released_vocabulary", lambda: plain_bert[0])

    def found(name, width):
        config = small_model(width=width, vocab_size=30522)
        return ModelSource(epath.Path(tmp_path / name), config, None, None, None)

    for model in found("m", 2), found("bert_base_1", 1), found("models--princeton-nlp--electra_base_1/snapshots/0", 1):
        assert model.tokenizer().backend.get_vocab() == load_tokenizer(str(plain_bert[0])).backend.get_vocab()
    with pytest.raises(InputError, match="m has no tokenizer; .*--tokenizer=FILE in converting and compressing, "):
        found("m", 1).tokenizer()


def test_a_tokenizer_with_another_vocabulary_is_refused_whatever_the_program(plain_bert, tmp_path):
    folder, _ = plain_bert
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word"]) + "\n")
    with pytest.raises(InputError, match="^the tokenizer .*vocab.txt has another vocabulary than .*"):
        open_model(str(folder)).tokenizer(str(tmp_path / "vocab.txt"))


def test_what_is_no_model_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(InputError, match="no model there: neither a run .* nor a Hugging Face folder"):
            mux_jax.load_pretrained(str(path))


def test_shards_on_the_hub_are_fetched_too(plain_bert, tmp_path, monkeypatch):
    folder, theirs = plain_bert
    shard(folder)
    asked = []

    def download(_, file, revision):
        if not (folder / file).exists():
            raise EntryNotFoundError(file)
        asked.append(file)
        cached = epath.Path(tmp_path / "89ab")
        cached.mkdir(exist_ok=True)
        return shutil.copy(folder / file, cached)

    monkeypatch.setattr(hub, "_cached", lambda _: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert_identical(mux_jax.load_pretrained("owner/bert")[1], theirs)
    assert asked[:5] == ["config.json", "model.safetensors.index.json"] + [
        f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)
    ]
    cached = epath.Path(tmp_path / "89ab")
    (cached / asked[3]).unlink()  # as after a download that was stopped
    monkeypatch.setattr(hub, "_cached", lambda _: cached)
    assert_identical(mux_jax.load_pretrained("owner/bert")[1], theirs)


def test_weights_that_make_no_model_are_named(plain_bert):
    folder = plain_bert[0]
    (folder / "model.safetensors").rename(folder / "tf_model.h5")
    for name in ("adapter_model.safetensors", "training_args.bin"):
        (folder / name).write_bytes(b"")
    message = "adapter_model.safetensors, tf_model.h5 there is not read: save the model with `transformers`"
    with pytest.raises(InputError, match=f"no model there: .*; {message}"):
        mux_jax.load_pretrained(str(folder))
    (folder / "tf_model.h5").rename(folder / "model.safetensors")
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match="no model there: .*; model.safetensors is there, but no config.json"):
        mux_jax.load_pretrained(str(folder))


def test_a_checkpoint_of_another_format_is_one_line(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(runs, "FORMAT", 99)
        convert(str(fixture("bert_mlm_n1")), str(tmp_path / "native"))
    with pytest.raises(InputError) as refused:
        mux_jax.load_pretrained(str(tmp_path / "native"))
    assert "checkpoints/0: written by another version of mux_jax (format 99; this version reads 1)" in str(
        refused.value
    )
