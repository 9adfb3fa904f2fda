"""`embed`: vectors equal to those of `load`, resumable, bad samples counted, folders and several processes."""

import logging
import multiprocessing
import os
import resource
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.unit.batch_inference.data import StuckTask, inputs_of, kill_at, make_model
from tests.unit.data.samples import record, write_shard

from clips_pipeline import load
from clips_pipeline.batch_inference import parts, ranks
from clips_pipeline.batch_inference.config import EmbedConfig
from clips_pipeline.batch_inference.embed import embed
from clips_pipeline.batch_inference.inputs import Inputs, prepared_inputs
from clips_pipeline.config import ConfigError
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.scenes.source import ScenesConfig, ScenesSource
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.embeddings.table import EmbeddingTable, Rows
from clips_pipeline.evaluation.inference.embed import open_image
from clips_pipeline.interop.digest import model_digest
from clips_pipeline.io.disk_errors import find_disk_error

CONFIG = EmbedConfig(device="cpu", batch_size=4)


def rows_of(table: Path) -> Rows:
    (rows,) = EmbeddingTable(table).blocks()
    return rows


def test_vectors_are_those_of_the_model_with_key_source_and_text(tmp_path: Path, model: Path, shards: Path) -> None:
    out = embed(inputs_of(shards), model, CONFIG, tmp_path / "table.parquet")
    rows = rows_of(out)
    assert rows.keys == [f"k{n:04d}" for n in range(15) for _ in range(2)]
    assert list(rows.kinds) == ["image", "text"] * 15
    assert rows.texts[:4] == [None, "web 0", None, "web 1"]
    assert rows.sources[0] == str(shards / "00000.tar")
    clips = load(model)
    texts = clips.embed_texts([f"web {n}" for n in range(15)])
    assert np.allclose(rows.vectors[1::2], texts, atol=2e-3)
    assert EmbeddingTable(out).facts.model == model_digest(model)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".lock") == ["table.parquet"]


@pytest.mark.parametrize(
    ("texts", "expected"), [("none", []), ("synthetic", ["Long 0. And more."]), ("human", ["human 0"])]
)
def test_captions_to_embed_can_be_chosen(
    tmp_path: Path, model: Path, shards: Path, texts: str, expected: list[str]
) -> None:
    one = Inputs(inputs_of(shards).tasks[:1], "one")
    rows = rows_of(embed(one, model, replace(CONFIG, texts=texts), tmp_path / "table.parquet"))  # type: ignore[arg-type]
    assert [text for key, text in zip(rows.keys, rows.texts, strict=True) if key == "k0000" and text] == expected


def test_prepared_shards_and_folders_of_images(tmp_path: Path, model: Path) -> None:
    prepared = tmp_path / "prepared"
    prepare(ScenesSource(ScenesConfig(train=2, validation=2, test=5, image_size=32, samples_per_shard=3)), prepared)
    rows = rows_of(embed(prepared_inputs(prepared, "test", None), model, CONFIG, tmp_path / "a.parquet"))
    assert rows.keys[::2] == [one.key for one in eval_samples(prepared, "test")]
    rows = rows_of(embed(prepared_inputs(prepared, "all", None), model, CONFIG, tmp_path / "all.parquet"))
    assert len(set(rows.keys)) == 9
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    for name in ("sub/b.v2.png", "a.JPG"):
        Image.new("RGB", (40, 30), "red").save(photos / name)
    (photos / "notes.txt").write_text("no image")
    (photos / "link.png").symlink_to("/etc/passwd")
    rows = rows_of(embed(inputs_of(photos), model, CONFIG, tmp_path / "b.parquet"))
    assert (rows.keys, rows.kinds) == (["a", "sub/b_v2"], ["image", "image"])
    assert rows.sources == [str(photos / "a.JPG"), str(photos / "sub/b.v2.png")]


def test_images_of_any_mode_have_the_vectors_of_the_model(tmp_path: Path, model: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    colors = Image.linear_gradient("L").resize((40, 30))
    for name, mode in (("a.png", "RGBA"), ("b.png", "P"), ("c.jpg", "CMYK"), ("d.png", "LA")):
        image = colors.convert("RGB").convert(mode)
        if "A" in mode:
            image.putalpha(colors)
        image.save(photos / name)
    out = embed(inputs_of(photos), model, CONFIG, tmp_path / "table.parquet")
    assert np.allclose(rows_of(out).vectors, load(model).embed_images(sorted(photos.iterdir())), atol=2e-3)


def test_bad_samples_are_counted_and_too_many_stop_the_run(tmp_path: Path, model: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    bad = [record(1, image=b"no image"), record(2, image=record(2).image[:60])]
    write_shard(data / "0.tar", [record(0), *bad, *(record(n) for n in range(3, 20))], "0.tar")
    (data / "1.tar").write_bytes(b"no tar at all" * 100)
    out = tmp_path / "table.parquet"
    with pytest.raises(
        ConfigError, match=r"(?s)embed: 52.6% of the samples .*max_skipped_fraction allows 5.0% \(.*k0001"
    ):
        embed(inputs_of(data), model, CONFIG, out)
    assert not out.exists()
    embed(inputs_of(data), model, replace(CONFIG, max_skipped_fraction=0.6), out)
    facts = EmbeddingTable(out).facts
    assert sum(facts.skipped.values()) == 3
    assert "unreadable_shard" in facts.skipped
    assert len(set(rows_of(out).keys)) == 18


def test_threads_that_decode_as_for_a_gpu_change_nothing(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_shard(data / "0.tar", [record(0), record(1, image=b"no image"), *(record(n) for n in range(2, 20))], "0.tar")
    config = replace(CONFIG, max_skipped_fraction=0.6)
    alone, threads = tmp_path / "alone.parquet", tmp_path / "threads.parquet"
    embed(inputs_of(data), model, config, alone)
    monkeypatch.setattr(ranks, "decoding_threads", lambda device, cores: 3)
    decoding = set()
    monkeypatch.setattr(parts, "open_image", lambda *of: (decoding.add(threading.current_thread()), open_image(*of))[1])
    embed(inputs_of(data), model, config, threads)
    assert decoding
    assert threading.main_thread() not in decoding
    assert rows_of(threads).keys == rows_of(alone).keys
    assert np.array_equal(rows_of(threads).vectors, rows_of(alone).vectors)
    assert EmbeddingTable(threads).facts.skipped == EmbeddingTable(alone).facts.skipped != {}


def test_empty_shards_a_missing_folder_and_other_models(tmp_path: Path, model: Path, shards: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match=r"embed.data: .*holds no tar shard and no JPEG"):
        inputs_of(empty)
    with pytest.raises(ConfigError, match=r"embed.data: .*no such file or folder"):
        inputs_of(tmp_path / "nowhere")
    write_shard(empty / "0.tar", [], "0.tar")
    with pytest.raises(ConfigError, match="no sample has a result"):
        embed(inputs_of(empty), model, CONFIG, tmp_path / "table.parquet")
    with pytest.raises(ConfigError, match="named twice"):
        inputs_of(f"{shards}/00000.tar::{shards}/00000.tar")
    with pytest.raises(ConfigError, match="no exported model"):
        embed(inputs_of(shards), tmp_path / "nowhere", CONFIG, tmp_path / "table.parquet")
    out = embed(inputs_of(shards), model, CONFIG, tmp_path / "table.parquet")
    other = make_model(tmp_path / "other", seed=5)
    with pytest.raises(ConfigError, match="of the model"):
        EmbeddingTable(out).require_model(model_digest(other))
    embed(inputs_of(shards), other, CONFIG, out)  # made again
    EmbeddingTable(out).require_model(model_digest(other))


def test_nothing_is_done_twice_and_the_cost_is_told_first(
    tmp_path: Path, model: Path, shards: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "table.parquet"
    with caplog.at_level(logging.INFO):
        embed(inputs_of(shards), model, CONFIG, out)
    assert "images/s of one process on cpu" in caplog.text
    before = out.stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        embed(inputs_of(shards), model, CONFIG, out)
    assert "nothing to do" in caplog.text
    assert out.stat().st_mtime_ns == before


def _embed_stuck(data: Path, model: Path, flag: Path, out: Path) -> None:
    found = inputs_of(data)
    tasks = [found.tasks[0], StuckTask(found.tasks[1], flag), *found.tasks[2:]]
    embed(Inputs(tasks, found.fingerprint), model, CONFIG, out)


def test_a_killed_run_resumes_and_equals_an_uninterrupted_one(tmp_path: Path, model: Path, shards: Path) -> None:
    out, flag = tmp_path / "killed" / "table.parquet", tmp_path / "flag"
    kill_at(flag, _embed_stuck, shards, model, flag, out)
    assert not out.exists()
    (work,) = (tmp_path / "killed" / ".table.parquet.parts").iterdir()
    done = work / "000000.parquet"
    first = done.stat().st_mtime_ns
    assert not (work / "000001.json").exists()
    kept = tmp_path / "kept.parquet"
    os.link(done, kept)  # the work folder is deleted at the end
    embed(inputs_of(shards), model, CONFIG, out)
    assert kept.stat().st_mtime_ns == first
    whole = embed(inputs_of(shards), model, CONFIG, tmp_path / "whole.parquet")
    assert out.read_bytes() == whole.read_bytes()
    assert not work.exists()


def _embed_on_full_disk(data: Path, model: Path, out: Path, answer: Any) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))  # no file may be larger
    try:
        embed(inputs_of(data), model, replace(CONFIG, texts="none"), out)
    except OSError as error:
        disk_error = find_disk_error(error)
        answer.send(str(disk_error))


def test_a_full_disk_is_one_error_and_leaves_the_old_table(tmp_path: Path, model: Path, shards: Path) -> None:
    out = embed(inputs_of(shards), model, CONFIG, tmp_path / "folder" / "table.parquet")
    before = out.read_bytes()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_embed_on_full_disk, args=(shards, model, out, theirs))
    process.start()
    assert ours.poll(100)
    message = ours.recv()
    process.join()
    assert "File too large" in message
    assert "make room" in message
    assert out.read_bytes() == before
    assert not [file for file in out.parent.rglob("*.parquet") if file != out]
    embed(inputs_of(shards), model, replace(CONFIG, texts="none"), out)
    assert len(rows_of(out)) == 15


def test_processes_share_the_shards(tmp_path: Path, model: Path, shards: Path) -> None:
    one = rows_of(embed(inputs_of(shards), model, CONFIG, tmp_path / "one.parquet"))
    two = rows_of(embed(inputs_of(shards), model, replace(CONFIG, processes=2), tmp_path / "two.parquet"))
    assert (two.keys, two.texts) == (one.keys, one.texts)
    assert np.allclose(two.vectors, one.vectors, atol=2e-3)
