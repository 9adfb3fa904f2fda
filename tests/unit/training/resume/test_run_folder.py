"""Parameter changes that an unfinished training may resume with, and those that are refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from clips_pipeline.config import ConfigError, flatten, from_mapping
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.events.event_log import EventWriter
from clips_pipeline.training.resume import checkpoint_store, run_folder
from clips_pipeline.training.resume.run_folder import changes_since, choose_run_folder, compare_specs, write_spec
from clips_pipeline.training.run_spec import RunSpec

Parameters = dict[str, Any]


def spec(parameters: Parameters | None = None, **fields: Any) -> RunSpec:
    train = from_mapping(TrainConfig, parameters or {}, "train")
    made = RunSpec(train, shards="/s", tokenizer="/t", run_folder="", model_folder="/m", data_version="d")
    return dataclasses.replace(made, **fields)


def begin(runs: Path, made: RunSpec, *events: tuple[str, Parameters], step: int = 5) -> Path:
    """Make the run folder of a training that has written a checkpoint and these events."""
    chosen = choose_run_folder(made, runs)
    folder = Path(chosen.run_folder)
    folder.mkdir(parents=True)
    write_spec(chosen)
    with EventWriter(chosen.events) as writer:
        for kind, values in (("start", {}), *events):
            writer.write(kind, **values)
    files = {
        checkpoint_store.STATE: checkpoint_store.text_writer("x"),
        checkpoint_store.SPEC: checkpoint_store.text_writer(chosen.text),
    }
    checkpoint_store.save(chosen.checkpoints, step, files, keep=2)
    return folder


APPLIED: list[Parameters] = [
    {"samples": 200_000},
    {"every": {"log": 3, "evaluate": 7, "checkpoint": 11, "keep_checkpoints": 5}},
    {"launch": {"processes": 2, "loader_workers": 3, "threads": 1, "stall_warning_s": 1.0, "rank_timeout_s": 9.0}},
    {"launch": {"sharding": "fsdp2"}},
    {"launch": {"chunk_size": 8}},
]


def test_changed_code_is_reported_and_not_refused(tmp_path: Path) -> None:
    chosen = choose_run_folder(spec(), tmp_path)
    files = {
        name: checkpoint_store.text_writer(text)
        for name, text in ((checkpoint_store.STATE, "x"), (checkpoint_store.CODE, "before"))
    }
    checkpoint_store.save(
        chosen.checkpoints, 5, {**files, checkpoint_store.SPEC: checkpoint_store.text_writer(chosen.text)}, keep=2
    )
    (found,) = checkpoint_store.list_checkpoints(chosen.checkpoints)
    now = run_folder.code_digest()
    assert [str(change) for change in changes_since(found, chosen, now)] == [f'code was "before" and is now "{now}"']
    assert changes_since(found, chosen, "before") == []


REFUSED: list[tuple[Parameters, Parameters, str]] = [
    ({"seed": 1}, {}, "train.seed was 0 and is now 1"),
    ({"model": {"size": "s16"}}, {}, 'train.model.size was "tiny" and is now "s16"'),
    ({"batch_size": 32}, {}, "train.batch_size was 64 and is now 32"),
    ({"loss": {"caption_weight": 1.0}}, {}, "train.loss.caption_weight was 2.0 and is now 1.0"),
    ({"optimizer": {"peak_lr": 1e-3}}, {}, "train.optimizer.peak_lr was 0.0004 and is now 0.001"),
    ({"ema": {"half_life_batches": 3}}, {}, "train.ema was null and is now null; train.ema.half_life_batches"),
    ({"launch": {"precision": "amp_bf16"}}, {}, 'train.launch.precision was "fp32" and is now "amp_bf16"'),
    ({}, {"data_version": "e"}, 'data_version was "d" and is now "e"'),
    ({}, {"tokenizer_version": "f"}, 'tokenizer_version was "" and is now "f"'),
]
REFUSED[5] = (REFUSED[5][0], {}, "train.ema.half_life_batches was null and is now 3")


@pytest.mark.parametrize("parameters", APPLIED)
def test_allowed_changes_resume_in_the_same_folder(tmp_path: Path, parameters: Parameters) -> None:
    folder = begin(tmp_path, spec())
    chosen = choose_run_folder(spec(parameters), tmp_path)
    assert chosen.run_folder == str(folder)
    write_spec(chosen)
    found = changes_since(checkpoint_store.list_checkpoints(chosen.checkpoints)[0], chosen)
    assert found
    assert all(change.allowed for change in found)
    assert choose_run_folder(spec(parameters), tmp_path).run_folder == str(folder)


@pytest.mark.parametrize(("parameters", "fields", "message"), REFUSED)
def test_other_changes_are_refused_by_name(tmp_path: Path, parameters: Parameters, fields: Any, message: str) -> None:
    folder = begin(tmp_path, spec())
    with pytest.raises(ConfigError) as caught:
        choose_run_folder(spec(parameters, **fields), tmp_path)
    assert message in str(caught.value)
    assert f"{folder} holds an unfinished training" in str(caught.value)
    # Also with the folder given, and from a checkpoint alone, as for ranks that torchrun starts.
    here = spec(parameters, **fields, run_folder=str(folder))
    with pytest.raises(ConfigError, match="cannot resume with this"):
        write_spec(here)
    with pytest.raises(ConfigError, match="cannot resume with this"):
        changes_since(checkpoint_store.list_checkpoints(here.checkpoints)[0], here)
    # The folder is unchanged.
    assert json.loads((folder / run_folder.SPEC).read_text())["train"]["seed"] == 0
    assert choose_run_folder(spec(), tmp_path).run_folder == str(folder)


def test_every_parameter_is_either_applied_or_refused() -> None:
    """A change of a new parameter is refused by default."""
    now = spec({"launch": {"on_change": "restart"}})
    assert [change.key for change in compare_specs(spec(), now)] == ["train.launch.on_change"]
    keys = flatten({"train": dataclasses.asdict(TrainConfig())})
    allowed = {key for key in keys if run_folder.ParameterChange(key, 0, 1).allowed}
    assert {key for key in keys if key.startswith(("train.every.", "train.launch."))} | {"train.samples"} == allowed | {
        "train.launch.precision",
        "train.launch.residual",
        "train.launch.communication",
    }


def test_locations_and_storage_may_change(tmp_path: Path) -> None:
    folder = begin(tmp_path, spec())
    moved = spec(shards="/elsewhere", tokenizer="/there", model_folder="/m2", shard_cache="/c")
    assert compare_specs(spec(), moved) == []
    assert choose_run_folder(moved, tmp_path).run_folder == str(folder)


def test_restart_leaves_the_unfinished_one(tmp_path: Path) -> None:
    folder = begin(tmp_path, spec())
    chosen = choose_run_folder(spec({"seed": 1, "launch": {"on_change": "restart"}}), tmp_path)
    assert chosen.run_folder != str(folder)
    assert (folder / "checkpoints" / "ba5").is_dir()


@pytest.mark.parametrize(
    "event",
    [("end", {"step": 5, "finished": True}), ("error", {"message": "not finite", "again": False})],
)
def test_a_training_that_has_ended_does_not_block_another(tmp_path: Path, event: tuple[str, Parameters]) -> None:
    """A finished training is not extended either: a result must not depend on what was trained before."""
    folder = begin(tmp_path, spec(), event)
    assert choose_run_folder(spec({"seed": 1}), tmp_path).run_folder != str(folder)
    assert choose_run_folder(spec({"samples": 200_000}), tmp_path).run_folder != str(folder)
    assert choose_run_folder(spec(), tmp_path).run_folder == str(folder)


def test_a_training_without_a_checkpoint_does_not_block_another(tmp_path: Path) -> None:
    folder = begin(tmp_path, spec())
    checkpoint_store.latest_folder(folder / "checkpoints").rename(folder / "gone")  # type: ignore[union-attr]
    assert choose_run_folder(spec({"seed": 1}), tmp_path).run_folder != str(folder)


def test_a_training_cannot_become_shorter_than_it_is(tmp_path: Path) -> None:
    begin(tmp_path, spec(), step=100)
    chosen = choose_run_folder(spec({"samples": 6_399}), tmp_path)
    with pytest.raises(
        ConfigError, match=r"train\.samples: 6399, but 6400 are already trained; set it to 6400 or more"
    ):
        changes_since(checkpoint_store.list_checkpoints(chosen.checkpoints)[0], chosen)
    chosen = choose_run_folder(spec({"samples": 6_400}), tmp_path)
    assert [
        change.key for change in changes_since(checkpoint_store.list_checkpoints(chosen.checkpoints)[0], chosen)
    ] == ["train.samples"]
