"""Code that changed between an interruption and its resume is on the run, in the lineage and on the card."""

import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from tests.unit.registry.versions.test_model_card import facts

from clips_pipeline.registry.lineage.record import GitState, Lineage, describe
from clips_pipeline.registry.lineage.tags import load_record, tag_version
from clips_pipeline.registry.tracking.code_changes import (
    TAG,
    CodeChange,
    add_code_changes,
    code_changes,
    parse_code_changes,
)
from clips_pipeline.registry.tracking.run_tracking import RunTracker
from clips_pipeline.registry.versions.model_card import render_card

FIRST, SECOND = CodeChange(4, "a" * 16, "b" * 16), CodeChange(8, "b" * 16, "c" * 16)


def test_each_resume_with_other_code_is_kept_once(store: str, tmp_path: Path) -> None:
    client = MlflowClient()
    run_id = client.create_run("0").info.run_id
    assert code_changes(client, run_id) == ()
    for change in (FIRST, SECOND, SECOND):
        with RunTracker(tmp_path / "run", run_id) as tracker:
            values = {"code": [change.before, change.now], "train.every.log": [1, 2]}
            tracker.record({"kind": "changed", "time": 1.0, "step": change.step, "values": values})
            tracker.record({"kind": "changed", "time": 1.0, "step": 99, "values": {"train.every.log": [1, 2]}})
    assert code_changes(client, run_id) == (FIRST, SECOND)


def test_hundreds_of_changes_fit_into_a_tag(store: str) -> None:
    client = MlflowClient()
    run_id = client.create_run("0").info.run_id
    add_code_changes(client, run_id, (CodeChange(10**9 + n, f"{n:016x}", f"{n + 1:016x}") for n in range(300)))
    assert code_changes(client, run_id)[-1].step == 10**9 + 299


def test_lineage_and_card_name_the_changes(store: str, model_folder: Path) -> None:
    client = MlflowClient()
    run_id = client.create_run("0").info.run_id
    client.create_registered_model("resumed")
    client.create_model_version("resumed", str(model_folder), run_id)
    lineage = Lineage(GitState("d" * 40, False, "main"), code_changes=(FIRST, SECOND))
    tag_version("resumed", 1, lineage, b"")
    assert load_record("resumed", "1").lineage.code_changes == (FIRST, SECOND)
    assert str(FIRST) in client.get_model_version("resumed", "1").tags[TAG]
    line = f"from step 8 by source {'c' * 16}, before by {'b' * 16}"
    assert line in describe(lineage)
    assert json.dumps(lineage.to_mapping())
    assert line in render_card(facts(code_changes=lineage.code_changes))
    assert "changed while" not in render_card(facts())


@pytest.mark.parametrize("content", [5, [1], [{"step": 1}], [{"step": "x", "before": "", "now": ""}]])
def test_a_foreign_lineage_with_other_content_is_an_error(content: object) -> None:
    with pytest.raises((TypeError, ValueError, KeyError)):
        parse_code_changes(content)
