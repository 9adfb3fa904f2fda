"""Shards and models for tests of `embed` and `recaption`."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tests.small_model import small_model
from tests.unit.data.samples import record, write_shard

from clips_pipeline.batch_inference.inputs import Inputs, InputTask, Item, other_inputs
from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.data.shards.records import SampleFields, Skip
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.data.storage.files import Storage, StorageConfig
from clips_pipeline.interop.folder import save_model
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.text.tokenizers.train_vocabulary import train_wordpiece

HERE = Storage(StorageConfig(), {})
FIELDS = SampleFields(needed=False)


def make_model(folder: Path, method: str = "clips", seed: int = 0) -> Path:
    """Write the folder of a small untrained model."""
    train_wordpiece(["web 1 2 3 4 5 6 7 8 9", "Long one. And more.", "a red square"], 120, folder / "tokenizer")
    torch.manual_seed(seed)
    config = small_model()
    captioner = None
    if method != "clip":
        captioner = replace(config.captioner, queries=9, inputs="queries" if method == "clips" else "tokens")  # type: ignore[type-var]
    model = ClipsModel(replace(config, captioner=captioner))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return save_model(model, folder / "tokenizer", ImageConfig(size=32).to_mapping(), folder / method)


def make_shards(folder: Path, shards: int = 3, samples: int = 5) -> Path:
    """Write tar shards; each sample has a human caption, too."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(shards):
        first = number * samples
        records = (record(at, captions=(f"human {at}",)) for at in range(first, first + samples))
        write_shard(folder / f"{number:05d}.tar", records, f"{number:05d}.tar")
    return folder


def inputs_of(data: Path | str) -> Inputs:
    """Return the inputs at an address."""
    cache = ShardCache(Path(str(data)) / ".cache", HERE)
    return other_inputs(str(data), FIELDS, HERE, "embed.data", "test", cache)


@dataclass(frozen=True)
class StuckTask:
    """A task that touches a file and waits, the first time; a test kills its process there."""

    task: InputTask
    flag: Path

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def samples(self) -> int | None:
        return self.task.samples

    def items(self) -> Iterator[Item | Skip]:
        for place, item in enumerate(self.task.items()):
            if place == 2 and not self.flag.exists():
                self.flag.touch()
                time.sleep(120)
            yield item


def kill_at(flag: Path, function: Callable[..., None], *arguments: Any) -> None:
    """Run a function in a process of its own, and kill it when the flag exists."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    deadline = time.monotonic() + 100
    while not flag.exists() and time.monotonic() < deadline and process.is_alive():
        time.sleep(0.05)
    assert flag.exists()
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
