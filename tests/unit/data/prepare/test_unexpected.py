"""Whatever a sample raises costs that sample, in `prepare`, in training and in evaluation; faults of the machine do not."""

import errno
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.unit.data.samples import LengthReader, ListSource, image_bytes, record, source, write_shard

from clips_pipeline.config import ConfigError
from clips_pipeline.data.images import formats
from clips_pipeline.data.images.transforms import ImageConfig, UndecodableImageError
from clips_pipeline.data.loading.loader import train_loader
from clips_pipeline.data.prepare import sample_checker
from clips_pipeline.data.prepare.filters import FilterConfig
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.prepare.statistics import load_statistics
from clips_pipeline.data.shards import reader, tar_file, unexpected
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.data.shards.records import Record, Skip
from clips_pipeline.data.shards.unexpected import make_skip
from clips_pipeline.data.sources.folder import FolderConfig, FolderSource
from clips_pipeline.data.sources.img2dataset import Img2datasetConfig, Img2datasetSource
from clips_pipeline.data.storage.files import Storage
from clips_pipeline.data.storage.retry import StorageError
from clips_pipeline.evaluation.inference.embed import open_image

pytestmark = pytest.mark.unexpected

ERRORS = [
    RuntimeError("odd"),
    ZeroDivisionError(),
    NotImplementedError("no"),
    MemoryError(),
    RecursionError(),
    KeyError(1),
]
BAD = image_bytes(3)


def on_bad_images(real: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """Return the function, which raises if its first argument is the image of number 3."""

    def call(*args: Any, **options: Any) -> Any:
        if any(BAD in (part, getattr(part, "image", None)) for part in args):
            raise error
        return real(*args, **options)

    return call


def prepared(made: Any, folder: Path) -> Any:
    index = prepare(made, folder, max_skipped_fraction=0.2)
    assert [found.key for found in eval_samples(folder, "train")] == [f"k{n:04d}" for n in range(10) if n != 3]
    return index.skips["train"]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_of_the_decoder_costs_the_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(formats, "check_limits", on_bad_images(formats.check_limits, error))
    reason = f"unexpected: {type(error).__name__}"
    assert prepared(source(), tmp_path / "shards") == {reason: 1}
    (example,) = load_statistics(tmp_path / "shards").examples
    assert (example.reason, example.key) == (reason, "k0003")


@pytest.mark.parametrize("step", ["validate_record", "has_identical_captions", "_hashes", "_lengths"])
def test_an_error_of_any_step_costs_the_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    monkeypatch.setattr(sample_checker, step, on_bad_images(getattr(sample_checker, step), RuntimeError("odd")))
    assert prepared(source(), tmp_path / "shards") == {"unexpected: RuntimeError": 1}
    assert load_statistics(tmp_path / "shards").splits["train"].kept == 9


def test_an_error_of_a_filter_costs_the_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FilterConfig, "find_fault", on_bad_images(FilterConfig.find_fault, RuntimeError("odd")))
    assert prepared(source(), tmp_path / "shards") == {"unexpected: RuntimeError": 1}


@pytest.mark.parametrize("rewrite", [False, True])
@pytest.mark.parametrize("place", ["read", "parse"])
def test_an_error_while_reading_costs_the_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rewrite: bool, place: str
) -> None:
    write_shard(tmp_path / "a.tar", map(record, range(10)), "a.tar")
    if place == "parse":
        monkeypatch.setattr(reader, "json", type("json", (), {"loads": on_bad_json}))
    else:
        real = tar_file.read_samples
        monkeypatch.setattr(tar_file, "read_samples", lambda stream, url: odd(stream) or real(stream, url))
    config = Img2datasetConfig(str(tmp_path / "a.tar"), validation="none", test="none", rewrite=rewrite)
    made = Img2datasetSource(config, Storage())
    index = prepare(made, tmp_path / "shards", max_skipped_fraction=0.2)
    assert index.skips["train"] == {"unexpected: RuntimeError": 1}
    assert index.split_samples("train") == 9


def on_bad_json(text: str) -> Any:
    if "Long 3." in text:
        raise RuntimeError("odd")
    return json.loads(text)


def odd(stream: Any) -> None:
    if b"Long 3." in stream.getvalue():
        raise RuntimeError("odd")


def test_an_error_of_a_header_costs_the_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        write_shard(tmp_path / f"{name}.tar", (record(n, key=f"{name}{n}") for n in range(3)), name)
    real = tar_file.scan

    def scan(path: Path, *args: int) -> Any:
        if path.name == "b.tar":
            raise RecursionError
        return real(path, *args)

    monkeypatch.setattr(tar_file, "scan", scan)
    config = Img2datasetConfig(str(tmp_path / "{a,b}.tar"), validation="none", test="none")
    index = prepare(Img2datasetSource(config, Storage()), tmp_path / "shards", max_skipped_fraction=0.6)
    assert index.skips["train"] == {"unreadable_shard": 1}
    assert "unexpected: RecursionError" in index.examples[0]


def test_an_error_in_a_folder_costs_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(image_bytes(number))
    captions = [{"image": f"{n}.png", "captions": ["One thing.", "Another."]} for n in range(5)]
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    made = FolderSource(FolderConfig(str(tmp_path), str(tmp_path / "captions.json"), evaluate_on="train"))
    real = os.fstat
    seen: list[int] = []

    def fstat(descriptor: int) -> Any:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("/3.png"):
            seen.append(1)
            raise NotImplementedError("odd")
        return real(descriptor)

    monkeypatch.setattr(os, "fstat", fstat)
    index = prepare(made, tmp_path / "shards", max_skipped_fraction=0.3)
    assert seen
    assert index.skips["train"] == {"unexpected: NotImplementedError": 1}


def test_too_many_of_them_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "check_limits", on_bad_images(formats.check_limits, MemoryError()))
    with pytest.raises(ConfigError, match="train unexpected: MemoryError 1"):
        prepare(source(), tmp_path / "shards", max_skipped_fraction=0.05)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("error", ERRORS[:2] + ERRORS[3:4], ids=lambda error: type(error).__name__)
def test_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, workers: int) -> None:
    prepare(source(), tmp_path / "shards")
    monkeypatch.setattr("clips_pipeline.data.images.decode.open_image", on_bad_images(formats.open_image, error))
    batches = list(
        train_loader(
            tmp_path / "shards",
            "train",
            LengthReader(),
            ImageConfig(size=8, crop_area=(0.8, 1.0)),
            global_batch_size=5,
            workers=workers,
        )
    )
    assert [len(batch.keys) for batch in batches] == [5, 5]
    assert "k0003" not in {key for batch in batches for key in batch.keys}
    assert sum((batch.skipped.get(f"unexpected: {type(error).__name__}", 0) for batch in batches), 0) == 1


def test_training_names_the_limit_of_an_image(tmp_path: Path) -> None:
    made = source()
    prepare(made, tmp_path / "shards")
    file = tmp_path / "shards" / "index.json"
    facts = json.loads(file.read_text())
    facts["limits"]["max_image_bytes"] = 10
    file.write_text(json.dumps(facts))
    loader = train_loader(
        tmp_path / "shards", "train", LengthReader(), ImageConfig(size=8, crop_area=(0.8, 1.0)), global_batch_size=5
    )
    with pytest.raises(ConfigError, match=r"'too_large': \d+"):
        list(loader)


def test_evaluation_leaves_out_what_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prepare(source(), tmp_path / "shards")
    monkeypatch.setattr(reader, "json", type("json", (), {"loads": on_bad_json}))
    assert len(list(eval_samples(tmp_path / "shards", "train"))) == 9
    assert "left out: unexpected: RuntimeError" in caplog.text


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_image_of_a_caller_gives_one_error(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(Image, "open", on_bad_images(Image.open, error))
    monkeypatch.setattr(formats.io, "BytesIO", lambda content: content)
    with pytest.raises(UndecodableImageError, match=type(error).__name__):
        open_image(BAD)


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("key: wrong; mend it"),
        StorageError("away"),
        *(OSError(number, "") for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE)),
        KeyboardInterrupt(),
        SystemExit(),
    ],
    ids=repr,
)
def test_what_is_not_the_fault_of_a_sample_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fails(*_: object) -> object:
        raise error

    monkeypatch.setattr(sample_checker, "_hashes", fails)
    with pytest.raises(type(error)) as found:
        prepare(source(), tmp_path / "shards", max_skipped_fraction=1.0)
    assert found.value is error


@dataclass(frozen=True)
class OddTask:
    def records(self) -> Iterator[Record | Skip]:
        yield record(1)
        raise RuntimeError("a bug of a source")


def test_a_source_that_breaks_its_promise_ends_the_run(tmp_path: Path) -> None:
    made = ListSource({"train": []})
    made.tasks = lambda split: [OddTask()]  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError, match="a bug of a source"):
        prepare(made, tmp_path / "shards")


def test_an_image_that_is_not_decoded_has_its_own_reason(caplog: pytest.LogCaptureFixture) -> None:
    error = UndecodableImageError("cut")
    error.reason = "too_large_image"
    with caplog.at_level(logging.DEBUG, unexpected.__name__):
        assert make_skip(error, "k") == Skip("too_large_image", "k", "cut")
    assert not caplog.records


def test_tracebacks_are_logged_once_per_type(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unexpected, "_logged", set())
    with caplog.at_level(logging.DEBUG, unexpected.__name__):
        for error in (RuntimeError("first"), RuntimeError("second"), MemoryError("third")):
            assert make_skip(error, "k").detail == str(error)
    assert [str(entry.exc_info[1]) for entry in caplog.records if entry.exc_info] == ["first", "third"]
    assert {entry.levelname for entry in caplog.records} == {"DEBUG"}
