"""Weights of others: which files are read, and which refused."""

import random
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from clips_pipeline.config import ConfigError
from clips_pipeline.interop.foreign_weights import check_weights_file, find_weights_file, load_weights_file


def test_both_forms_are_read_alike(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    state = {"a": shared, "b": shared.reshape(2, 3).T}
    save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, tmp_path / "model.safetensors")
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "model.pt")
    for name in ("model.safetensors", "model.pt"):
        found = load_weights_file(tmp_path / name, "key")
        assert {name: tensor.tolist() for name, tensor in found.items()} == {
            name: tensor.tolist() for name, tensor in state.items()
        }
        assert all(tensor.is_contiguous() for tensor in found.values())


def test_safetensors_and_open_clips_names_are_preferred(tmp_path: Path) -> None:
    names = ["open_clip_model.safetensors", "model.safetensors", "a.safetensors", "open_clip_pytorch_model.bin", "a.pt"]
    for name in reversed(names):
        (tmp_path / name).touch()
    for name in names:
        assert find_weights_file(tmp_path, "key").name == name
        (tmp_path / name).unlink()
    (tmp_path / "weights.npz").touch()
    with pytest.raises(ConfigError, match=r"key: .* contains no weights"):
        find_weights_file(tmp_path, "key")
    with pytest.raises(ConfigError, match=r"key: .*weights\.npz is no file of weights that can be read"):
        check_weights_file(tmp_path / "weights.npz", "key")
    with pytest.raises(ConfigError, match=r"key: .*other\.bin does not exist"):
        check_weights_file(tmp_path / "other.bin", "key")
    (tmp_path / "other.bin").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=r"key: .*other\.bin: cannot be read without running code"):
        load_weights_file(tmp_path / "other.bin", "key")


def test_damaged_files_are_one_error(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(20), "b": torch.ones(3, 4)}, file)
    intact, draws, refused = file.read_bytes(), random.Random(0), 0  # noqa: S311
    headers = [b'{"a":{"dtype":"XX","shape":[1],"data_offsets":[0,8]}}', b"[" * 10_000, b'{"__metadata__":{"a":5}}']
    cases = [len(head).to_bytes(8, "little") + head + bytes(8) for head in headers] + [b"\xff" * 8 + b"{}", b""]
    for _ in range(300):
        content = bytearray(intact)
        for _ in range(draws.choice([1, 3, 20])):
            content[draws.randrange(len(content))] = draws.randrange(256)
        cases.append(bytes(content[: draws.choice([len(content), draws.randrange(len(content))])]))
    for content in cases:
        file.write_bytes(content)
        # Any other error fails the test; numbers of tensors may change unseen.
        with suppress(ConfigError):
            load_weights_file(file, "key")
            continue
        refused += 1
    assert refused > 100
