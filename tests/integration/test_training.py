"""Trainings in real ranks: resume, number of ranks, failures and stops."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.integration.conftest import SpecOf, losses

from clips_pipeline.config import ConfigError
from clips_pipeline.interop.folder import load_model_folder
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.training.events.event_log import read_all
from clips_pipeline.training.launch.launcher import TrainingFailedError, launch
from clips_pipeline.training.run_spec import RunSpec

pytestmark = pytest.mark.slow  # every launch imports Composer in a new process

OPTIONS: list[dict[str, Any]] = [
    {"model": {"patch_dropout": 0.5}, "progressive": {"first_size": 32, "until": 0.9}, "freeze": ["vision"]},
    {"method": "mixture", "ema": {"half_life_batches": 2}, "optimizer": {"clip_norm": 0.5}},
    {"method": "coca", "freeze": ["text"]},
    {"method": "clip", "model": {"patch_dropout": 0.25}},
]
# tests/drills/test_kill_resume.py kills and resumes these.
SIGMOID = {"loss": {"contrastive": "sigmoid"}, "captions": {"positives": 2}, "optimizer": {"name": "muon"}}
CAPTIONING = {"method": "captioning", "model": {"image_tokens_kept": 0.35}, "optimizer": {"name": "lamb"}}


def weights(spec: RunSpec) -> dict[str, torch.Tensor]:
    return load_file(Path(spec.model_folder) / "model.safetensors")


def ignore(event: dict[str, Any]) -> None:
    """Do nothing: the events are read after the launch."""


def test_one_process_trains_evaluates_and_exports(spec_of: SpecOf) -> None:
    spec = spec_of()
    seen: list[dict[str, Any]] = []
    outcome = launch(spec, seen.append)
    assert outcome.finished
    assert outcome.step == 9
    assert 0.0 <= outcome.metrics["mean_recall@1"] <= 1.0
    kinds = [event["kind"] for event in seen]
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    assert kinds.count("step") == 9
    assert all(0.0 <= event["data_wait_fraction"] <= 1.0 for event in seen if event["kind"] == "step")
    curve = losses(spec)
    assert curve[9] < curve[1]
    assert load_model_folder(Path(spec.model_folder)).model.config.vision.image_size == 64


def test_a_training_ended_by_ctrl_c_resumes_to_the_same_weights(spec_of: SpecOf) -> None:
    """This interrupt saves a checkpoint first; kills have drills of their own."""
    changes: dict[str, Any] = {"samples": 40 * 8, "every": {"checkpoint": 1_000}}
    whole = spec_of("whole", **changes)
    launch(whole, ignore)

    killed = spec_of("killed", **changes)

    def interrupt_after_step_5(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(killed, interrupt_after_step_5)
    assert not Path(killed.model_folder).exists()
    launch(killed, ignore)
    starts = [event for event in read_all(killed.events) if event["kind"] == "start"]
    (interrupted,) = [event for event in read_all(killed.events) if event["kind"] == "interrupted"]
    assert starts[1]["resumed_from"] == str(killed.checkpoints / f"ba{interrupted['step']}")
    expected, found = weights(whole), weights(killed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_resuming_reads_only_what_is_left(spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Composer must let the dataset continue, instead of loading again what was trained before."""
    from clips_pipeline.data.shards.reader import ShardSet
    from clips_pipeline.training.events.event_log import EventWriter
    from clips_pipeline.training.launch.heartbeat import HeartbeatWriter
    from clips_pipeline.training.launch.interrupt import Interrupt
    from clips_pipeline.training.trainer import train

    spec = spec_of(every={"checkpoint": 1})

    def stop(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] == 3:
            spec.stop_flag.touch()

    done = launch(spec, stop).step
    spec.stop_flag.unlink()
    read: list[tuple[int, int]] = []
    plain = ShardSet.read

    def counting(self: ShardSet, shard: int, row: int) -> Any:
        if self.entries[shard].path.startswith("train/"):
            read.append((shard, row))
        return plain(self, shard, row)

    monkeypatch.setattr(ShardSet, "read", counting)
    with EventWriter(spec.events) as writer, HeartbeatWriter(Path(spec.run_folder), 0, 1, 1.0) as heartbeat:
        train(spec, writer, heartbeat, Interrupt())
    assert 3 <= done < 9
    # An epoch of 48 samples is six batches of eight; the run is nine.
    assert len(read) == (9 - done) * 8


def test_one_rank_resumes_as_two_and_two_as_one(spec_of: SpecOf) -> None:
    whole = spec_of("whole")
    launch(whole, ignore)
    for name, first, then in (("grows", 1, 2), ("shrinks", 2, 1)):
        spec = spec_of(name, launch={"processes": first})

        def stop(event: dict[str, Any], flag: Path = spec.stop_flag) -> None:
            if event["kind"] == "step" and event["step"] == 4:
                flag.touch()

        assert not launch(spec, stop).finished
        assert launch(spec_of(name, launch={"processes": then}), ignore).finished
        alone, changed = losses(whole), losses(spec)
        assert changed.keys() == alone.keys()
        for step, value in alone.items():
            assert changed[step] == pytest.approx(value, rel=2e-4), f"{name}, step {step}"


@pytest.mark.parametrize(
    "options", [{}, *OPTIONS[:3], SIGMOID, CAPTIONING], ids=lambda options: "-".join(options) or "none"
)
def test_two_ranks_equal_one_process(spec_of: SpecOf, options: dict[str, Any]) -> None:
    one, two = spec_of("one", **options), spec_of("two", **options, launch={"processes": 2})
    launch(one, ignore)
    launch(two, ignore)
    alone, together = losses(one), losses(two)
    assert alone.keys() == together.keys()
    for step, value in alone.items():
        assert together[step] == pytest.approx(value, rel=2e-4), f"step {step}"


def test_divergence_stops_with_step_and_last_good_checkpoint(spec_of: SpecOf) -> None:
    spec = spec_of(optimizer={"peak_lr": 1e30, "warmup_samples": 32})
    with pytest.raises(TrainingFailedError, match=r"step \d+: not finite: .*last good checkpoint is|no checkpoint yet"):
        launch(spec, ignore)
    assert not Path(spec.model_folder).exists()


def test_the_trainer_is_closed_when_a_step_raises(spec_of: SpecOf) -> None:
    """Otherwise the stall monitor would continue to warn, and the loader workers would stay."""
    from clips_pipeline.training.callbacks.data_wait import DataWaitMonitor
    from clips_pipeline.training.callbacks.divergence import TrainingDivergedError
    from clips_pipeline.training.events.event_log import EventWriter
    from clips_pipeline.training.launch.heartbeat import HeartbeatWriter
    from clips_pipeline.training.launch.interrupt import Interrupt
    from clips_pipeline.training.trainer import train

    closed: list[DataWaitMonitor] = []
    plain = DataWaitMonitor.close

    def noted(self: DataWaitMonitor, *arguments: Any) -> None:
        closed.append(self)
        plain(self, *arguments)

    spec = spec_of(optimizer={"peak_lr": 1e30, "warmup_samples": 16})
    with (
        pytest.MonkeyPatch.context() as patched,
        EventWriter(spec.events) as writer,
        HeartbeatWriter(Path(spec.run_folder), 0, 1, 1.0) as heartbeat,
    ):
        patched.setattr(DataWaitMonitor, "close", noted)
        with pytest.raises(TrainingDivergedError):
            train(spec, writer, heartbeat, Interrupt())
        assert len(closed) == 1


def test_a_stop_request_ends_the_run_and_the_same_spec_resumes(spec_of: SpecOf) -> None:
    spec = spec_of()

    def stop(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] == 3:
            spec.stop_flag.touch()

    outcome = launch(spec, stop)
    assert not outcome.finished
    assert 3 <= outcome.step < 9
    assert launch(spec, ignore).finished


def test_a_finished_training_is_not_repeated(spec_of: SpecOf) -> None:
    spec = spec_of()
    launch(spec, ignore)
    before = weights(spec)
    (Path(spec.model_folder) / "model.safetensors").unlink()
    outcome = launch(spec, ignore)
    assert outcome.finished
    assert set(losses(spec)) == set(range(1, 10))
    assert all(torch.equal(before[name], value) for name, value in weights(spec).items())


def test_ema_and_clipping_run(spec_of: SpecOf) -> None:
    spec = spec_of(ema={"half_life_batches": 2}, optimizer={"clip_norm": 1.0, "warmup_samples": 16})
    assert launch(spec, ignore).finished


def test_micro_batches_are_refused_with_a_remedy() -> None:
    from clips_pipeline.data.loading.batch import ClipsBatch
    from clips_pipeline.training.trainer import _whole_batch

    ids = torch.zeros(4, 8, dtype=torch.int64)
    batch = ClipsBatch(torch.zeros(4, 3, 16, 16, dtype=torch.uint8), ids, ids, ids, ["a", "b", "c", "d"], {})
    assert _whole_batch(batch, 4) == [batch]
    with pytest.raises(ConfigError, match=r"shrink the contrastive loss's negatives; set train\.launch\.chunk_size"):
        _whole_batch(batch, 2)


@pytest.mark.parametrize("options", OPTIONS, ids="-".join)
def test_with_every_option_a_resumed_training_ends_with_the_same_weights(
    spec_of: SpecOf, options: dict[str, Any]
) -> None:
    whole, stopped = spec_of("whole", **options), spec_of("stopped", **options)
    launch(whole, ignore)

    def stop(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] == 4:
            stopped.stop_flag.touch()

    assert not launch(stopped, stop).finished
    assert launch(stopped, ignore).finished
    expected, found = weights(whole), weights(stopped)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert any(name.startswith("captioner.") for name in found) == (options.get("method", "clips") in ("clips", "coca"))
    torch.manual_seed(whole.train.seed)
    begun = ClipsModel(load_model_folder(Path(whole.model_folder)).model.config).state_dict()
    for name in found:
        frozen = name.split(".")[0] in options.get("freeze", ())
        if name.endswith("c_fc.weight"):
            assert torch.equal(found[name], begun[name]) == frozen, name


@pytest.mark.parametrize("method", ["clips", "coca"])
def test_caption_examples_are_written_at_every_evaluation(spec_of: SpecOf, method: str) -> None:
    spec = spec_of(method=method, every={"evaluate": 6, "caption_examples": 4})
    launch(spec, ignore)
    events = [event for event in read_all(spec.events) if event["kind"] == "captions"]
    assert [event["step"] for event in events] == [6, 9]
    table, picture = (Path(file) for file in events[-1]["files"])
    examples = json.loads(table.read_text())["examples"]
    assert len(examples) == 4
    assert all(isinstance(example["beam"], str) for example in examples)
    assert all((example["at_once"] is None) == (method == "coca") for example in examples)
    assert picture.read_bytes().startswith(b"\x89PNG")
