"""Preparation: parallel, atomic, only if needed, and with counts of everything left out."""

import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.unit.data.samples import ListSource, ListTask, bomb_image, image_bytes, read_tree, record, source

from clips_pipeline import formats
from clips_pipeline.config import ConfigError
from clips_pipeline.data.prepare.run import is_current, prepare
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.index import load_classes, load_index
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.data.shards.records import Skip
from clips_pipeline.data.shards.splits import Classes
from clips_pipeline.io import file_lock


def test_prepared_records_equal_the_source_in_order(tmp_path: Path) -> None:
    made = source(10, found=Classes(("a", "b", "c"), ("a {}",)))
    index = prepare(made, tmp_path / "shards", samples_per_shard=3)
    assert [shard.samples for shard in index.split("train")] == [3, 2, 3, 2]
    assert [shard.path for shard in index.split("train")] == [f"train/0000{i}.tar" for i in range(4)]
    assert list(eval_samples(tmp_path / "shards", "train")) == [r for part in made.parts["train"] for r in part]
    assert list(eval_samples(tmp_path / "shards", "test")) == made.parts["test"][0]
    assert load_index(tmp_path / "shards") == index
    assert load_classes(tmp_path / "shards") == Classes(("a", "b", "c"), ("a {}",))


def test_same_bytes_for_one_and_for_two_processes(tmp_path: Path) -> None:
    prepare(source(12, tasks=3), tmp_path / "one", processes=1)
    prepare(source(12, tasks=3), tmp_path / "two", processes=2)
    assert read_tree(tmp_path / "one") == read_tree(tmp_path / "two")


def test_second_run_does_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "shards"
    prepare(source(), out)
    before = {name: (out / name).stat().st_mtime_ns for name in read_tree(out)}
    again = source()
    with caplog.at_level(logging.INFO):
        prepare(again, out, processes=2)
    assert again.opened == []
    assert "nothing to do" in caplog.text
    assert {name: (out / name).stat().st_mtime_ns for name in read_tree(out)} == before


@pytest.mark.parametrize("change", ["source", "samples_per_shard", "missing", "size", "index"])
def test_changes_prepare_again(tmp_path: Path, change: str) -> None:
    out = tmp_path / "shards"
    prepare(source(), out)
    good = read_tree(out)
    shard = out / "train" / "00000.tar"
    if change == "missing":
        shard.unlink()
    elif change == "size":
        shard.write_bytes(shard.read_bytes() + b"x")
    elif change == "index":
        (out / "index.json").write_text("{")
    again = source(name="other") if change == "source" else source()
    size = 2 if change == "samples_per_shard" else 10_000
    assert not is_current(again, out, samples_per_shard=size)
    prepare(again, out, samples_per_shard=size)
    assert is_current(again, out, samples_per_shard=size)
    assert again.opened == ["train", "test"]
    if change in ("missing", "size", "index"):
        assert read_tree(out) == good


def test_format_version_is_part_of_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(source(), tmp_path / "shards")
    monkeypatch.setattr(formats, "SHARDS", formats.SHARDS + 1)
    assert not is_current(source(), tmp_path / "shards")


BAD = {
    records.EMPTY_WEB_CAPTION: record(1, web_caption=" \n"),
    records.EMPTY_SYNTHETIC_CAPTION: record(2, synthetic_caption=""),
    records.UNDECODABLE_IMAGE: record(3, image=image_bytes(3, kind="JPEG", size=(64, 64))[:-300], extension="jpg"),
    records.NOT_UTF8: record(4, web_caption="caf\udce9"),
    records.DUPLICATE_KEY: record(5, key="k0100"),
    records.BAD_RECORD: record(6, key="a.b"),
    records.UNSUPPORTED_IMAGE: record(7, extension="bmp"),
    records.EMPTY_FILE: record(8, image=b""),
    records.TOO_MANY_PIXELS: record(9, image=bomb_image(30_000, 30_000)),
    records.MISSING_IMAGE: Skip(records.MISSING_IMAGE, "gone\udcff", "no such file"),
}


def test_bad_samples_are_left_out_and_counted_by_reason(tmp_path: Path) -> None:
    good = [record(100 + number) for number in range(4)]
    made = ListSource({"train": [[*good, *BAD.values()]]})
    index = prepare(made, tmp_path / "shards", max_skipped_fraction=0.75)
    assert index.skips == {"train": dict.fromkeys(sorted(BAD), 1)}
    assert list(eval_samples(tmp_path / "shards", "train")) == good
    assert load_index(tmp_path / "shards") == index


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"no image at all", records.UNSUPPORTED_IMAGE),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, records.UNDECODABLE_IMAGE),
    ],
)
def test_damaged_images_are_skipped(tmp_path: Path, image: bytes, reason: str) -> None:
    index = prepare(
        ListSource({"train": [[record(1), record(2, image=image)]]}), tmp_path / "s", max_skipped_fraction=0.5
    )
    assert index.skips == {"train": {reason: 1}}


def test_too_many_bad_samples_are_an_error_with_counts_and_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "shards"
    prepare(source(), out)
    before = read_tree(out)
    made = ListSource({"train": [[record(100), *BAD.values()]]}, name="spoiled")
    with pytest.raises(ConfigError, match=r"(?s)90\.9%.*10\.0%.*train undecodable_image 1.*empty_web_caption k0001"):
        prepare(made, out, max_skipped_fraction=0.1)
    assert read_tree(out) == before
    # Finished work is kept: a higher limit reads no sample again.
    monkeypatch.setattr(ListTask, "records", None)
    assert prepare(made, out, max_skipped_fraction=0.95).splits["train"][0].samples == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [".shards.lock", "shards"]


def test_work_for_other_data_is_deleted(tmp_path: Path) -> None:
    bad = ListSource({"train": [[record(100), *BAD.values()]]}, name="spoiled")
    with pytest.raises(ConfigError, match=r"90\.9%"):
        prepare(bad, tmp_path / "shards")
    mended = ListSource({"train": [[record(200)]]}, name="mended")
    prepare(mended, tmp_path / "shards")
    assert [found.key for found in eval_samples(tmp_path / "shards", "train")] == ["k0200"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".shards.lock", "shards"]


def test_lower_limit_applies_to_existing_shards(tmp_path: Path) -> None:
    made = ListSource({"train": [[record(1), BAD[records.EMPTY_WEB_CAPTION]]]})
    prepare(made, tmp_path / "shards", max_skipped_fraction=0.5)
    with pytest.raises(ConfigError, match=r"50\.0%"):
        prepare(made, tmp_path / "shards", max_skipped_fraction=0.1)


@pytest.mark.parametrize("processes", [1, 2])
def test_keys_repeated_across_tasks_are_found(tmp_path: Path, processes: int) -> None:
    made = ListSource({"train": [[record(1), record(2)], [record(3), record(2)], [record(2)], [record(4)]]})
    index = prepare(made, tmp_path / "shards", processes=processes, max_skipped_fraction=0.4)
    assert index.skips == {"train": {records.DUPLICATE_KEY: 2}}
    assert [r.key for r in eval_samples(tmp_path / "shards", "train")] == ["k0001", "k0002", "k0003", "k0004"]
    assert len(list((tmp_path / "shards" / "train").iterdir())) == len(index.split("train")) == 3


def test_same_key_may_be_in_two_splits(tmp_path: Path) -> None:
    index = prepare(ListSource({"train": [[record(1)]], "test": [[record(1)]]}), tmp_path / "shards")
    assert index.skips == {"train": {}, "test": {}}


def test_a_split_without_samples_is_an_error(tmp_path: Path) -> None:
    made = ListSource({"train": [[record(1)]], "test": []})
    with pytest.raises(ConfigError, match="'test' has no sample"):
        prepare(made, tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


def test_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="chapter1"):
        prepare(source(), tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter1.txt").read_text() == "years of work"


KILLED = """
import sys
from pathlib import Path
from clips_pipeline.data.prepare.run import prepare
from tests.unit.data.samples import source
if __name__ == "__main__":
    prepare(source(12, tasks=4, name="new", flag=sys.argv[2], wait=60.0), Path(sys.argv[1]), processes=int(sys.argv[3]))
"""


def test_a_second_run_waits_for_the_first(
    tmp_path: Path, repository: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, flags, script = tmp_path / "shards", tmp_path / "flags", tmp_path / "first.py"
    flags.mkdir()
    script.write_text(KILLED)
    monkeypatch.setattr(file_lock, "_LOG_INTERVAL_S", 0.2)
    environment = {**os.environ, "PYTHONPATH": f"{repository / 'src'}:{repository}"}
    first = subprocess.Popen([sys.executable, str(script), str(out), str(flags), "1"], env=environment)
    second = source(12, tasks=4, name="new")
    try:
        _wait(lambda: any(flags.iterdir()))
        with caplog.at_level(logging.INFO), ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(prepare, second, out)
            _wait(lambda: caplog.text.count("another process is making it; waiting until it ends") >= 2)
            assert not waiting.done()
            assert second.opened == []
            first.kill()
            first.wait()
            waiting.result()
    finally:
        first.kill()
        first.wait()
    assert second.opened == ["train", "test"]
    assert load_index(out).split_samples("train") == 12


@pytest.mark.parametrize("processes", [1, 2])
def test_kill_keeps_the_old_shards_and_the_next_run_succeeds(tmp_path: Path, repository: Path, processes: int) -> None:
    out, flags, script = tmp_path / "shards", tmp_path / "flags", tmp_path / "killed.py"
    flags.mkdir()
    script.write_text(KILLED)
    prepare(source(12, tasks=4, name="old"), out)
    before = read_tree(out)
    command = [sys.executable, str(script), str(out), str(flags), str(processes)]
    running = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": f"{repository / 'src'}:{repository}"})
    try:
        _wait(lambda: any(flags.iterdir()))
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert read_tree(out) == before
    # Processes of the pool exit after their parent was killed.
    _wait(lambda: not any(Path("/proc", flag.name).exists() for flag in flags.iterdir()))
    prepare(source(12, tasks=4, name="new"), out)
    assert read_tree(out)["index.json"] != before["index.json"]
    assert sorted(path.name for path in tmp_path.iterdir() if "shards" in path.name) == [".shards.lock", "shards"]


def test_kill_between_the_two_renames_restores_the_old_shards(tmp_path: Path) -> None:
    out = tmp_path / "shards"
    prepare(source(), out)
    before = read_tree(out)
    out.rename(tmp_path / ".shards.before")
    again = source()
    prepare(again, out)
    assert again.opened == []
    assert read_tree(out) == before


def _wait(condition: object, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
