"""Files of `torch.save`, read without unpickling: equal tensors, and one error for everything else."""

import pickle
import random
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from clips_pipeline.config import ConfigError
from clips_pipeline.interop.torch_archive import load_torch_archive


def equal(file: Path, expected: Any) -> None:
    found = load_torch_archive(file)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor.detach())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_state_dicts_are_read(tmp_path: Path, protocol: int) -> None:
    file = tmp_path / "model.pt"
    module = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Linear(4, 2))
    torch.save(module.state_dict(), file, pickle_protocol=protocol)
    equal(file, module.state_dict())
    shared = torch.arange(12.0)
    tensors = {
        "half": shared.half(),
        "bfloat": shared.bfloat16(),
        "long": torch.arange(3),
        "view": shared[3:9].reshape(2, 3).T,
        "whole": shared,
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "parameter": nn.Parameter(torch.ones(2)),
    }
    torch.save(tensors, file, pickle_protocol=protocol)
    equal(file, tensors)
    # A training checkpoint, with what stands beside the weights.
    torch.save(
        {"epoch": 3, "name": "x", "loss": 0.5, "state_dict": OrderedDict(tensors)}, file, pickle_protocol=protocol
    )
    equal(file, tensors)


class Bomb:
    def __reduce__(self) -> Any:
        return (print, ("boom",))


@pytest.mark.parametrize(
    "content",
    [Bomb(), {"a": Bomb()}, {"state_dict": {}, "args": Bomb()}, [torch.ones(2)], {"a": 3}, {("a", 1): torch.ones(1)}],
)
def test_code_and_other_contents_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any) -> None:
    file = tmp_path / "model.bin"
    torch.save(content, file)
    with pytest.raises(ConfigError, match=r"model\.bin: cannot be read without running code"):
        load_torch_archive(file)
    assert "boom" not in capsys.readouterr().out


def test_older_and_foreign_formats_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    torch.save({"a": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
    for content in (file.read_bytes(), b"", b"text", pickle.dumps(Bomb())):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match="cannot be read without running code"):
            load_torch_archive(file)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(1 << 20))
    with pytest.raises(ConfigError, match=r"data\.pkl is compressed"):
        load_torch_archive(file)


def rewritten(file: Path, edit: Any) -> None:
    """Write the archive again, with its entries changed."""
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, edit(name, content))


def test_damaged_archives_are_one_error(tmp_path: Path) -> None:
    file, intact = tmp_path / "model.bin", tmp_path / "intact.bin"
    torch.save({"a": torch.arange(20.0), "b": torch.ones(3, 4)[1:]}, intact)
    draws, refused = random.Random(0), 0  # noqa: S311
    for _ in range(600):
        file.write_bytes(intact.read_bytes())

        def damaged(name: str, content: bytes) -> bytes:
            changed = bytearray(content)
            if name.endswith("data.pkl"):
                for _ in range(draws.choice([1, 2, 8])):
                    changed[draws.randrange(len(changed))] = draws.randrange(256)
                return bytes(changed[: draws.choice([len(changed), draws.randrange(len(changed))])])
            return content[: draws.choice([len(content), len(content), len(content) // 2])]

        rewritten(file, damaged)
        # Any other error fails the test; numbers may change unseen.
        with suppress(ConfigError):
            load_torch_archive(file)
            continue
        refused += 1
    assert refused > 200


def test_a_tensor_outside_its_storage_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    torch.save({"a": torch.ones(7, 3)}, file)
    rewritten(file, lambda name, content: content.replace(b"K\x07K\x03\x86", b"K\xffK\x03\x86"))
    with pytest.raises(ConfigError, match="a tensor outside its storage"):
        load_torch_archive(file)


def test_storages_that_are_shared_without_end_are_refused(tmp_path: Path) -> None:
    file, shared = tmp_path / "model.bin", torch.ones(10_000)
    torch.save({f"{number}": shared for number in range(3)}, file)
    assert len(load_torch_archive(file)) == 3
    torch.save({f"{number}": shared for number in range(500)}, file)
    with pytest.raises(ConfigError, match="share their storages too often"):
        load_torch_archive(file)


@pytest.mark.parametrize("content", [b"N" * 300_000 + b"(t" * 300_000, b"(" * 300_000 + b"t" * 300_000])
def test_instructions_take_linear_time(tmp_path: Path, content: bytes) -> None:
    # In quadratic time this would take hours.
    file = tmp_path / "model.bin"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + content + b".")
    with pytest.raises(ConfigError, match="no mapping of names to tensors"):
        load_torch_archive(file)


def test_a_name_of_nested_lists_is_refused_at_once(tmp_path: Path) -> None:
    """As a text it would have 2 ** 60 parts."""
    content = b"\x80\x04]q\x00"  # an empty list
    for number in range(60):
        content += b"]q" + bytes([number + 1]) + b"(h" + bytes([number]) + b"h" + bytes([number]) + b"e"
    content += b"\x8c\x01x\x93."  # a text, STACK_GLOBAL, STOP
    file = tmp_path / "model.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/data.pkl", content)
    with pytest.raises(ConfigError, match="a name that is no text"):
        load_torch_archive(file)


def test_what_the_archive_claims_does_not_raise_the_limits(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    torch.save({"a": torch.ones(2)}, file)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/filler", bytes(2**24))
    load_torch_archive(file)
    shared = torch.ones(2**12)
    torch.save({str(number): shared for number in range(1000)}, file)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/filler", bytes(2**24))
    with pytest.raises(ConfigError, match="share their storages too often"):
        load_torch_archive(file)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", b"\x80\x04}.")
        archive.writestr("model/byteorder", bytes(2**24))
    with pytest.raises(ConfigError, match="byteorder is compressed"):
        load_torch_archive(file)
