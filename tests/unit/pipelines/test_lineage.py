"""Lineage of a run with an invalid DVC lock."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from clips_pipeline.config import ConfigError
from clips_pipeline.pipelines import lineage


def test_an_invalid_lock_is_one_error_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "dvc.lock"
    lock.write_text("stages: [1, 2]")
    monkeypatch.setattr(lineage, "Project", lambda root: SimpleNamespace(lock_file=lock))
    with pytest.raises(ConfigError, match=r"dvc\.lock: not a DVC lock; restore it"):
        lineage.code_state(tmp_path)
