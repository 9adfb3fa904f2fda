"""What a training does on a machine with GPUs that is not there: their number, and a forward pass."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.unit.models.test_exactness import batch, build
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.cuda.amp import common
from torch.utils._python_dispatch import TorchDispatchMode

from clips_pipeline.config import ConfigError
from clips_pipeline.data.images import transforms
from clips_pipeline.data.loading.batch import ClipsBatch
from clips_pipeline.evaluation.inference.embed import device_of_rank, pick_device
from clips_pipeline.losses.total import LossWeights
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.precision import halve_stream
from clips_pipeline.models.rows import attention
from clips_pipeline.models.rows.layout import step_layout
from clips_pipeline.training.composer_model import ComposerClips
from clips_pipeline.training.training_run import uses_gpu


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs, as far as PyTorch's questions go."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize(("device", "ranks", "expected"), [("cpu", 4, False), ("auto", 2, True), ("gpu", 1, True)])
def test_a_gpu_is_used_where_each_rank_has_one(
    gpus: None, monkeypatch: pytest.MonkeyPatch, device: str, ranks: int, expected: bool
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert uses_gpu(device) is expected


@pytest.mark.parametrize("device", ["auto", "gpu"])
def test_more_ranks_than_gpus_are_refused(gpus: None, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match=r"train.launch.processes: 3 ranks .* 2 GPU\(s\).*at most one rank per GPU"):
        uses_gpu(device)


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for choose in (pick_device, lambda found: device_of_rank(found, 0)):
        with pytest.raises(ConfigError, match="torch finds no GPU; set it to 'auto' or 'cpu'"):
            choose(name)


class _Attention(TorchDispatchMode):
    """Collects the operators that attend, and the precision of their queries."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, torch.dtype]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "attention" in function.name():
            self.seen.append((function.name(), args[0].dtype))
        return function(*args, **(kwargs or {}))


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Tensors without data that say that they are on a GPU, and autocast for it. An operator with tensors of both raises."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 15) or torch.cuda.is_available():
        pytest.skip("needs torch 2.15, and no GPU")
    monkeypatch.setattr(common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(attention, "_new_enough", lambda _: True)
    transforms._by_channel.cache_clear()
    yield FakeTensorMode()
    transforms._by_channel.cache_clear()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("reads", ["queries", "tokens"])
@pytest.mark.parametrize("padding", ["attend", "mask"])
def test_a_forward_pass_under_autocast_attends_in_bfloat16_by_flash_and_has_losses_in_float32(
    fake_gpu: FakeTensorMode, padding: str, reads: str, chunk: int | None, stream: bool
) -> None:
    config = build(padding).config
    assert config.captioner is not None
    config = dataclasses.replace(config, captioner=dataclasses.replace(config.captioner, inputs=reads))
    _, *real = batch(size=5)
    layout = step_layout(config, *real, chunk=chunk)
    with fake_gpu:
        with torch.device("cuda:0"):
            clips = ClipsModel(config)
        halve_stream(clips, stream)
        model = ComposerClips(clips, LossWeights(), transforms.ImageConfig(size=32), chunk)
        ids = [fake_gpu.from_tensor(tensor) for tensor in real]
        layout = dataclasses.replace(layout, numbers=fake_gpu.from_tensor(layout.numbers))
        images, colors = torch.empty(5, 3, 32, 32, dtype=torch.uint8), torch.zeros(5, 9)
        found = ClipsBatch(images, *ids, [""] * 5, {}, layout, colors)
        with _Attention() as attended, torch.autocast("cuda", torch.bfloat16):
            output = model(found)
            losses = model.loss(output, found)
    flash = [dtype for name, dtype in attended.seen if name == "aten::_flash_attention_forward"]
    assert flash
    assert {dtype for _, dtype in attended.seen} == {torch.bfloat16}
    assert {(loss.dtype, loss.device.type) for loss in losses.values()} == {(torch.float32, "cuda")}
    assert output.image_BE.dtype == torch.float32
