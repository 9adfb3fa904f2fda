"""Why some parts of Composer are not used; and that no part of Composer is replaced at run time.

If one of these tests fails with a later Composer, its part may replace ours.
"""

import math
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from composer import Trainer
from composer.algorithms.progressive_resizing import resize_batch
from composer.callbacks import LRMonitor, NaNMonitor
from composer.core import Time
from composer.loggers import InMemoryLogger
from composer.models import ComposerModel
from composer.optim import CosineAnnealingWithWarmupScheduler
from torch.cuda.amp import common
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from clips_pipeline.config import from_mapping
from clips_pipeline.training.callbacks.divergence import DivergenceMonitor, TrainingDivergedError
from clips_pipeline.training.callbacks.image_schedule import ImageSchedule
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.resume.checkpoint_callback import force_weights_only_loading
from clips_pipeline.training.schedule import warmup_cosine
from clips_pipeline.training.trainer import without_scaler

STEPS, WARMUP, FINAL = 12, 4, 0.25


class Line(ComposerModel):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch * self.weight

    def loss(self, outputs: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        return outputs.square().mean()


def rates(own: bool) -> list[float]:
    """Return the rates of a training whose peak is 1: the rate after update k is that of update k + 1."""
    model, logged = Line(), InMemoryLogger()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule: Any = CosineAnnealingWithWarmupScheduler(f"{WARMUP}ba", alpha_f=FINAL)
    if own:
        schedule = LambdaLR(optimizer, warmup_cosine(STEPS, WARMUP, FINAL))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Composer about itself
        trainer = Trainer(
            model=model,
            train_dataloader=DataLoader(torch.ones(STEPS, 1), batch_size=1),
            max_duration=f"{STEPS}ba",
            optimizers=optimizer,
            schedulers=schedule,
            step_schedulers_every_batch=True,
            callbacks=[LRMonitor()],
            loggers=[logged],
            device="cpu",
            progress_bar=False,
        )
        trainer.fit()
        trainer.close()
    return [value for _, value in logged.data["lr-SGD/group0"]]


def test_composers_schedule_is_one_step_late() -> None:
    ours, theirs = rates(own=True), rates(own=False)
    expected = [warmup_cosine(STEPS, WARMUP, FINAL)(step) for step in range(STEPS + 1)]
    assert ours == expected[1:]
    assert theirs == pytest.approx(expected[:-1], abs=1e-15)
    assert theirs[0] == 0.0  # the second update would have rate 0 too


def test_a_scaler_refuses_the_checkpoint_of_a_machine_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If Composer takes it one day, `without_scaler` can go."""
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "")  # so that it is restored
    force_weights_only_loading()

    def trainer(**options: Any) -> Trainer:
        model = Line()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        data = DataLoader(torch.ones(1, 1), batch_size=1)
        fixed = {"device": "cpu", "progress_bar": False, "load_progress_bar": False, "max_duration": "1ba"}
        return Trainer(model=model, train_dataloader=data, optimizers=optimizer, **fixed, **options)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Composer about itself
        trainer().save_checkpoint(str(tmp_path / "state.pt"))
        # Enabled, as where there is a GPU.
        monkeypatch.setattr(common, "amp_definitely_not_available", lambda: False)
        with pytest.raises(RuntimeError, match="source state dict is empty"):
            trainer(load_path=str(tmp_path / "state.pt"))
        assert trainer(load_path=str(tmp_path / "state.pt"), load_ignore_keys=without_scaler).state.scaler.is_enabled()


class Timestamp:
    batch = Time(7, "ba")


class State:
    """The part of the state that the monitors read."""

    timestamp = Timestamp()

    def __init__(self, loss: float) -> None:
        self.loss, self.total_loss_dict = torch.tensor(loss), {"loss/train/total": loss, "loss/train/caption": 1.0}


def test_composers_nan_monitor_accepts_an_infinite_loss() -> None:
    ours = DivergenceMonitor(lambda: None)
    NaNMonitor().after_loss(State(math.inf), None)
    for loss in (math.inf, math.nan):
        with pytest.raises(TrainingDivergedError, match="step 7: not finite: total; training stopped before saving"):
            ours.batch_end(State(loss), None)
    ours.batch_end(State(1.0), None)


def test_composers_progressive_resizing_samples_the_nearest_pixel() -> None:
    """A checkerboard of single pixels should become gray; by nearest pixels it becomes black or white."""
    side = 64
    board = ((torch.arange(side)[:, None] + torch.arange(side)) % 2).float().expand(1, 3, side, side)
    changes = {"samples": 800, "batch_size": 8, "optimizer": {"warmup_samples": 0}, "progressive": {"first_size": 32}}
    ours = ImageSchedule(from_mapping(TrainConfig, changes, "t"), side, 16).resize(board, 0)
    theirs, _ = resize_batch(board, torch.zeros(1), scale_factor=0.5)
    assert ours.shape == theirs.shape
    assert theirs.unique().tolist() in ([0.0], [1.0])
    assert ((ours - 0.5).abs() < 0.1).all()


HALF = """
import resource, signal, sys, warnings
warnings.simplefilter("ignore")
import torch
from composer.core import State
from composer.devices import DeviceCPU
from composer.utils.checkpoint import save_checkpoint
from tests.unit.training.test_composer_parts import Line

model = Line()
model.big = torch.nn.Parameter(torch.zeros(1_000_000))
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
state = State(rank_zero_seed=0, run_name="run", model=model, optimizers=optimizer, device=DeviceCPU())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))  # a disk with room for a quarter of it
save_checkpoint(state, sys.argv[1])
"""


def test_composers_saver_leaves_a_partial_file_under_the_final_name(tmp_path: Path, repository: Path) -> None:
    """A kill would do the same; a resume would use that file as the latest checkpoint."""
    path = tmp_path / "ba4.pt"
    done = subprocess.run([sys.executable, "-c", HALF, str(path)], cwd=repository, capture_output=True, text=True)
    assert done.returncode != 0
    assert 0 < path.stat().st_size <= 1_000_000, done.stderr
    with pytest.raises(RuntimeError):
        torch.load(path, weights_only=True)


def test_nothing_of_a_library_is_replaced(repository: Path) -> None:
    """No assignment to an attribute of Composer's or torch's modules."""
    replaced = re.compile(r"^\s*(dist|composer|torch|reproducibility)(\.\w+)+ = ")
    files = (repository / "src/clips_pipeline/training").rglob("*.py")
    found = [line for path in files for line in path.read_text().splitlines() if replaced.search(line)]
    assert found == []
