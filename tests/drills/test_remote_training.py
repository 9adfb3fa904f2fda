"""Training from shards on a real S3 server that stops and restarts during the training."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from s3fs import S3FileSystem
from safetensors.torch import load_file
from tests.integration.conftest import output_of
from tests.servers import S3Server, s3_server, wait_for

from clips_pipeline.config import from_mapping
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.scenes.source import ScenesConfig, ScenesSource
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.index import load_index
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.data.sources.img2dataset import Img2datasetConfig, Img2datasetSource
from clips_pipeline.data.storage.files import Storage, StorageConfig
from clips_pipeline.text.tokenizers.train_vocabulary import train_wordpiece
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.events.event_log import Event, read_all
from clips_pipeline.training.launch.launcher import TrainingFailedError, launch
from clips_pipeline.training.run_spec import RunSpec

pytestmark = pytest.mark.slow

STEPS = 9
# In an outage no attempt waits long, and there are enough of them for a server that comes back.
PATIENT = StorageConfig(retries=60, back_off_s=0.05, timeout_s=5.0)

MakeSpec = Callable[..., RunSpec]


@pytest.fixture
def s3() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture
def make_spec(s3: S3Server, tmp_path: Path) -> MakeSpec:
    """Trainings of nine steps of eight in three epochs, whose six shards are on the server, read in place."""
    made, shards = tmp_path / "made", tmp_path / "shards"
    prepare(ScenesSource(ScenesConfig(train=24, validation=8, test=8, samples_per_shard=4)), made)
    storage = Storage(PATIENT, s3.options)
    for file in made.glob("*/*.tar"):
        storage.upload(file, f"s3://data/{file.relative_to(made).as_posix()}")
    splits = {
        split: f"s3://data/{split}/{{00000..0000{last}}}.tar"
        for split, last in (("train", 5), ("validation", 1), ("test", 1))
    }
    prepare(Img2datasetSource(Img2datasetConfig(**splits), storage), shards)
    assert all(shard.path.startswith("s3://data/") for shard in load_index(shards).split("train"))
    captions = [text for r in eval_samples(made, "train") for text in (r.web_caption, r.synthetic_caption)]
    train_wordpiece(captions, 300, tmp_path / "tokenizer")
    parameters = {
        "samples": 8 * STEPS,
        "batch_size": 8,
        "optimizer": {"warmup_samples": 16},
        "every": {"log": 1, "evaluate": STEPS, "checkpoint": 2},
        "launch": {"device": "cpu", "loader_workers": 1, "threads": 1},
    }

    def make(name: str, **changes: Any) -> RunSpec:
        # Room for two shards: every epoch, whose worker is a new process, has to fetch some again.
        largest = max(shard.bytes for shard in load_index(shards).split("train"))
        return RunSpec(
            from_mapping(TrainConfig, parameters, "train"),
            shards=str(shards),
            tokenizer=str(tmp_path / "tokenizer"),
            run_folder=str(tmp_path / name),
            model_folder=str(tmp_path / f"{name}-model"),
            data_version=load_index(shards).version,
            storage=replace(PATIENT, cache_gib=2 * largest / 2**30, **changes),
            shard_cache=str(tmp_path / f"{name}-cache"),
        )

    return make


def ignore(event: Event) -> None:
    """Do nothing: the events are read after the launch."""


def after_step(number: int, act: Callable[[], None]) -> Callable[[Event], None]:
    def on_event(event: Event) -> None:
        if event["kind"] == "step" and event["step"] == number:
            act()

    return on_event


def read_log(spec: RunSpec) -> str:
    return output_of(spec.run_folder)


def assert_same_weights(spec: RunSpec, wanted: RunSpec) -> None:
    found, expected = (load_file(Path(s.model_folder) / "model.safetensors") for s in (spec, wanted))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_short_outage_changes_no_result(s3: S3Server, make_spec: MakeSpec) -> None:
    whole, shaken = make_spec("whole"), make_spec("shaken")
    assert launch(whole, ignore, storage_options=s3.options).finished
    assert "trying again" not in read_log(whole)

    def come_back() -> None:
        wait_for(lambda: read_log(shaken).count("trying again") >= 3, 120.0)
        s3.start()

    watching = threading.Thread(target=come_back)

    def outage() -> None:
        s3.stop()
        watching.start()

    outcome = launch(shaken, after_step(2, outage), storage_options=s3.options)
    watching.join()
    assert outcome.finished
    assert outcome.skipped == {}
    assert_same_weights(shaken, whole)


def test_a_long_outage_ends_the_run_and_the_same_command_resumes(s3: S3Server, make_spec: MakeSpec) -> None:
    whole, stopped = make_spec("whole"), make_spec("stopped", retries=1)
    launch(whole, ignore, storage_options=s3.options)
    with pytest.raises(TrainingFailedError, match=r"^s3://data/train/\d+\.tar: 2 attempts, the last one failed with"):
        launch(stopped, after_step(2, s3.stop), storage_options=s3.options)
    kinds = [event["kind"] for event in read_all(stopped.events)]
    assert kinds.count("error") == 1
    assert kinds[-1] == "error"
    s3.start()
    assert launch(stopped, ignore, storage_options=s3.options).finished
    starts = [event for event in read_all(stopped.events) if event["kind"] == "start"]
    assert starts[1]["resumed_from"] is not None
    assert_same_weights(stopped, whole)


def test_a_missing_shard_is_skipped_where_that_is_allowed(s3: S3Server, make_spec: MakeSpec) -> None:
    spec = make_spec("lacking", unreachable="skip")
    S3FileSystem(**s3.options["s3"]).rm("data/train/00003.tar")
    outcome = launch(spec, ignore, storage_options=s3.options)
    assert outcome.finished
    # Three epochs of all places, of which four are the lost shard's; what stands in for them may be of it too.
    assert outcome.skipped[records.UNREADABLE_SHARD] >= 3 * 4
    # The worker of each epoch asks for it, once, and not for each of its samples.
    assert read_log(spec).count("left out: ") == 3
    with pytest.raises(TrainingFailedError, match=r"train/00003\.tar: one attempt"):
        launch(make_spec("strict"), ignore, storage_options=s3.options)
