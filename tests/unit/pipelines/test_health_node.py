"""The node of the data health report rewrites it only when something has changed."""

from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.samples import ListSource, record

from clips_pipeline.config import ConfigError
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.shards.records import Skip
from clips_pipeline.pipelines.prepare.nodes import report_health
from clips_pipeline.text.tokenizers.train_vocabulary import MIN_VOCAB_SIZE, train_wordpiece


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    make_shards(tmp_path, [record(i) for i in range(5)])
    train_wordpiece(["web 1", "Long 2. And more."], MIN_VOCAB_SIZE, tmp_path / "tokenizer")
    return tmp_path


def make_shards(folder: Path, records: list[Any], name: str = "list") -> None:
    prepare(ListSource({"train": [records]}, name), folder / "shards", max_skipped_fraction=0.5)  # type: ignore[arg-type]


def made(folder: Path, captions: dict[str, Any] | None = None, **health: int) -> tuple[int, str]:
    """Return the report's modification time in nanoseconds, and its content."""
    target = folder / "data_health.html"
    file = report_health(
        {"health": health}, captions or {}, folder / "shards", folder / "tokenizer", None, {"data_health": target}
    )
    assert file == target
    return file.stat().st_mtime_ns, file.read_text(encoding="utf-8")


def test_a_current_report_is_not_rewritten(prepared: Path) -> None:
    first = made(prepared)
    assert "5 of 5 samples" in first[1]
    assert made(prepared) == first


def test_rewritten_when_settings_data_tokenizer_or_the_file_change(prepared: Path) -> None:
    seen = [made(prepared), made(prepared, samples=2)]
    assert "2 of 5 samples" in seen[-1][1]
    # The same samples, but the source had another one that was left out.
    make_shards(prepared, [*(record(i) for i in range(5)), Skip("bad_record", "odd", "why")], "other")
    seen.append(made(prepared, samples=2))
    assert "bad_record" in seen[-1][1]
    train_wordpiece(["web 1 2 3 4", "Long 2. And more."], MIN_VOCAB_SIZE, prepared / "tokenizer")
    seen.append(made(prepared, samples=2))
    assert len({written for written, _ in seen}) == 4
    (prepared / "data_health.html").write_text("edited")
    assert made(prepared, samples=2)[1] == seen[-1][1]


def test_the_page_depends_on_the_configured_lengths(prepared: Path) -> None:
    first = made(prepared)
    second = made(prepared, {"context_length": 32, "target_length": 48})
    assert "a context of 80 (web) or a target of 128 (synthetic)" in first[1]
    assert "a context of 32 (web) or a target of 48 (synthetic)" in second[1]


def test_an_invalid_length_is_named_by_its_key(prepared: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.captions.*target_length"):
        made(prepared, {"target_length": 1})
