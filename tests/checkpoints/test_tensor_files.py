"""Files of tensors are read as people have them: in shards, of all ages and types; damaged ones are named."""

import json
import sys
import tracemalloc
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from mux_jax import load_pretrained
from mux_jax.checkpoints import tensor_files
from mux_jax.data.tokenizer import load_tokenizer
from mux_jax.errors import InputError
from tests.checkpoints.folders import assert_identical, change_tensors, load, ordinary, shard, tensors_of


@pytest.mark.parametrize("size", [0, 4, 100, 5000])
def test_a_truncated_file_is_named(folder, size):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(InputError, match="model.safetensors: truncated"):
        load(folder)


DTYPES = [np.float64, np.float32, np.float16, jnp.bfloat16, np.int64, np.int32]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("parts", [1, 2])
def test_tensors_are_read_from_disks_and_object_stores(dtype, parts, tmp_path, bucket):
    tensors = {
        "a": np.arange(-6, 6).reshape(3, 4).astype(dtype),
        "b.scalar": np.array(7).astype(dtype),
        "c.empty": np.zeros((0, 2), dtype),
        "d": np.arange(5000).astype(dtype),
    }
    for folder in (epath.Path(tmp_path), bucket):
        folder.mkdir(exist_ok=True)
        files = ["model-1.safetensors", "model-2.safetensors"] if parts == 2 else ["model.safetensors"]
        for i, name in enumerate(files):
            (folder / name).write_bytes(safetensors.numpy.save(dict(list(tensors.items())[i::parts])))
        if parts == 2:
            weight_map = {name: files[i % parts] for i, name in enumerate(tensors)}
            (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

        file = tensor_files.find(folder)
        found = tensor_files.read_tensors(file)

        assert tensor_files.names(file) == sorted(found) == sorted(tensors)
        for name, value in tensors.items():
            assert (found[name].shape, found[name].dtype) == (value.shape, value.dtype)
            np.testing.assert_array_equal(found[name].read(), value, strict=True)


def test_a_safetensors_file_stays_on_the_disk_until_a_tensor_is_read(tmp_path):
    file, size = epath.Path(tmp_path / "model.safetensors"), 1 << 22
    safetensors.numpy.save_file({"a": np.ones(size // 4, np.float32), "b": np.zeros(9)}, file)
    tracemalloc.start()
    names, found = tensor_files.names(file), tensor_files.read_tensors(file)
    assert tracemalloc.get_traced_memory()[1] < size // 4
    tracemalloc.stop()
    assert names == ["a", "b"] and found["a"].read().sum() == size // 4


@pytest.mark.parametrize("size", [0, 5000])
def test_a_file_that_is_cut_after_it_was_opened_is_named(size, folder):
    file = folder / "model.safetensors"
    found = tensor_files.read_tensors(file)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(InputError, match="model.safetensors: truncated"):
        for tensor in found.values():
            tensor.read()


@pytest.mark.parametrize("size", [0, 4, 100])
def test_a_truncated_file_in_an_object_store_is_named(size, folder, bucket):
    bucket.mkdir()
    file = bucket / "model.safetensors"
    file.write_bytes((folder / "model.safetensors").read_bytes()[:size])
    for read in (tensor_files.names, tensor_files.read_tensors):
        with pytest.raises(InputError, match="gs://bucket/model.safetensors: truncated"):
            read(file)


@pytest.mark.parametrize(
    "content", [b"", b"\x02\0\0\0", b"\x02" + bytes(7) + b"[]", b"version of something", b"\xff" * 20]
)
def test_what_is_no_safetensors_file_has_no_names(content, tmp_path):
    file = epath.Path(tmp_path / "model.safetensors")
    file.write_bytes(content)
    for read in (tensor_files.names, tensor_files.read_tensors):
        with pytest.raises(InputError, match="model.safetensors: truncated, or not a safetensors file"):
            read(file)


def test_names_are_known_without_what_they_name(folder):
    """From the header of a file that is cut behind it, and from an index whose shards are not there."""
    file = folder / "model.safetensors"
    expected = sorted(tensor_files.read_tensors(file))
    change_tensors(folder, lambda found: [found.update({f"module.{name}": found.pop(name)}) for name in list(found)])
    whole = file.read_bytes()
    file.write_bytes(whole[: 8 + int.from_bytes(whole[:8], "little")])
    assert tensor_files.names(file) == expected
    file.write_bytes(whole)
    for part in shard(folder):
        part.unlink()
    assert tensor_files.names(folder / "model.safetensors.index.json") == expected


def test_parameters_reach_a_cpu_without_a_copy(folder):
    for value in jax.tree.leaves(load(folder)[1]):
        assert jax.device_put(value, jax.devices("cpu")[0]).unsafe_buffer_pointer() == value.ctypes.data


def test_ordinary_bert_files_of_all_ages(tmp_path, capsys):
    """The next-sentence head is left out, LayerNorm's old names and `bert.` are understood, halves widened."""
    folder, _, params = ordinary(tmp_path, head="none")

    def change(found):
        for name in list(found):
            value = found.pop(name)
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            found[f"bert.{name}"] = value.astype(np.float16) if value.dtype == np.float32 else value
        found["cls.seq_relationship.weight"] = np.zeros((2, 32), np.float16)

    change_tensors(folder, change)
    back = load(folder)[1]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.float32(np.float16(b))), back, params)
    printed = capsys.readouterr().out
    assert "not used: cls.seq_relationship.weight" in printed and "float16; read as float32" in printed


@pytest.mark.parametrize("wrapper", ["module.", "model.", "_orig_mod.module.", "auto_model."])
@pytest.mark.parametrize("head", ["none", "mlm"])
def test_what_wraps_a_model_is_taken_off_its_names(wrapper, head, tmp_path):
    folder, config, params = ordinary(tmp_path, head=head)
    change_tensors(folder, lambda found: [found.update({wrapper + name: found.pop(name)}) for name in list(found)])
    back = load(folder)
    assert back[0] == config
    assert_identical(back[1], params)


def test_two_tensors_of_one_name_are_named(tmp_path):
    folder = ordinary(tmp_path)[0]
    name = "bert.embeddings.word_embeddings.weight"
    change_tensors(folder, lambda found: found.update({f"module.{name}": found[name]}))
    with pytest.raises(InputError, match=f"{name} and another tensor are both {name}; keep the one that counts"):
        load(folder)


def test_shards_are_one_model(folder):
    expected = load(folder)[1]
    files = shard(folder)
    assert_identical(load_pretrained(str(folder))[1], expected)
    files[1].unlink()
    with pytest.raises(InputError, match="index.json: there is no model-00002-of-00003.safetensors beside it; fetch"):
        load(folder)


@pytest.mark.parametrize(
    "index", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../b.safetensors"}}', '{"weight_map": [1]}']
)
def test_an_index_that_is_none_is_named(index, folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match="model.safetensors.index.json: not an index of the shards beside it"):
        load(folder)


@pytest.mark.parametrize(
    "file", ["model.safetensors", "pytorch_model.bin", "model-00001-of-00003.safetensors", "config.json", "vocab.txt"]
)
def test_a_pointer_of_git_lfs_is_named_with_the_way_to_the_file(file, folder):
    if "-of-" in file:
        shard(folder)
    elif file == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 440473133\n"
    (folder / file).write_text(pointer)
    with pytest.raises(InputError, match=f"{file}: only a pointer of Git LFS; `git lfs pull` in its folder fetches"):
        load_tokenizer(str(folder)) if file == "vocab.txt" else load(folder)


def test_bfloat16_is_read_and_types_that_are_not_known_are_named(folder, capsys):
    expected = load(folder)[1]
    change_tensors(folder, lambda found: found.update({k: v.astype(jnp.bfloat16) for k, v in found.items()}))
    back = load(folder)[1]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.bfloat16)), back, expected)
    assert "bfloat16; read as float32" in capsys.readouterr().out
    values = {"a": np.zeros(3, np.int8)}
    safetensors.numpy.save_file(values, folder / "model.safetensors")
    with pytest.raises(
        InputError, match="model.safetensors: a is of type I8; save the model with one of these: F64, F32, F16, BF16"
    ):
        load(folder)


@pytest.mark.extra
def test_pytorch_files_are_read_without_running_code(folder):
    import torch

    expected = load(folder)[1]
    state = {name: torch.from_numpy(value.copy()) for name, value in tensors_of(folder).items()}
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    torch.save(state, file)
    assert_identical(load(folder)[1], expected)
    assert tensor_files.names(file) == sorted(state)
    torch.save({name: value.to(torch.bfloat16) for name, value in state.items()}, file)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.bfloat16)), load(folder)[1], expected)
    torch.save(state, file)
    whole = file.read_bytes()
    for size in (0, 10, 10000, len(whole) - 10):
        file.write_bytes(whole[:size])
        with pytest.raises(InputError, match="pytorch_model.bin: truncated"):
            load(folder)
    torch.save({"a": epath.Path}, file)
    with pytest.raises(InputError, match="not a file of tensors alone"):
        load(folder)
    torch.save({"a": torch.zeros(3).to(torch.float8_e4m3fn)}, file)
    with pytest.raises(InputError, match="a is of type float8_e4m3fn; save the model with one of these: float64, flo"):
        load(folder)
    torch.save({name: torch.nn.Parameter(value) for name, value in state.items() if value.is_floating_point()}, file)
    assert_identical(load(folder)[1], expected)


def test_a_pytorch_file_asks_for_a_pytorch_that_reads_it_safely(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__="2.5.1+cpu"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="PyTorch 2.5.1.cpu can be made to run what such a file holds .*'torch>=2.6'"):
        load_pretrained(str(folder))


def test_a_pytorch_file_asks_for_pytorch(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="pytorch_model.bin: PyTorch is needed to read it: pip install 'torch>=2.6'"):
        load(folder)
