"""Weights of others: which files are read, which refused, and the command that converts them."""

import random
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from clips_pipeline.config import ConfigError
from clips_pipeline.interop.foreign_weights import check_weights_file, find_weights_file, load_weights_file


def test_the_command_in_the_message_converts_a_training_checkpoint(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    state = {"module.a": shared, "module.b": shared.reshape(2, 3).T}
    file = tmp_path / "it's a model.pt"
    torch.save({"epoch": 3, "state_dict": state}, file)
    with pytest.raises(ConfigError, match="no safetensors file") as error:
        check_weights_file(file, "key")
    words = shlex.split(str(error.value).partition("may damage: ")[2])
    assert words[0] == "python"
    subprocess.run([sys.executable, *words[1:]], check=True, timeout=120)
    found = load_file(file.with_suffix(".safetensors"))
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        name.removeprefix("module."): tensor.tolist() for name, tensor in state.items()
    }


def test_open_clips_names_are_preferred(tmp_path: Path) -> None:
    for name in ("a.safetensors", "model.safetensors", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
        (tmp_path / name).touch()
    for name in ("open_clip_model.safetensors", "model.safetensors", "a.safetensors"):
        assert find_weights_file(tmp_path, "key").name == name
        (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=r"open_clip_pytorch_model\.bin is no safetensors file"):
        find_weights_file(tmp_path, "key")


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
