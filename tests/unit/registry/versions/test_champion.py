"""Aliases in a real store, also with concurrent registrations and after a rollback."""

import multiprocessing
import re
import sqlite3
from contextlib import closing

import mlflow
import pandas as pd
import pytest
import sqlalchemy as sa
from mlflow.tracking import MlflowClient

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.per_item.item_table import COMPOSITIONALITY_COLUMNS, tables_by_set
from clips_pipeline.interop.digest import model_digest
from clips_pipeline.registry.versions.champion import (
    GATE_DECISION,
    GATE_REASON,
    PREVIOUS_CHAMPION,
    roll_back,
    set_champion,
    update_aliases,
    version_with_alias,
)
from clips_pipeline.registry.versions.compare_models import compare_references
from clips_pipeline.registry.versions.gate import Decision, GateConfig
from clips_pipeline.registry.versions.register import RegistryConfig, register_model

METRIC = "retrieval/scenes/mean_recall@1"


def rows(found: int, of: int = 60) -> pd.DataFrame:
    """Return per-item results with `found` images retrieved in both directions."""
    return pd.DataFrame(
        {
            "key": str(number),
            "image_to_text_rank": int(number >= found),
            "text_to_image_ranks": [int(number >= found)],
            "label": None,
            "zero_shot_rank": None,
            "caption_nats": 0.0,
            "caption_tokens": 0,
            "set_version": "v",
        }
        for number in range(of)
    )


def register(folder, found, name, **config):
    (folder / "model.safetensors").write_bytes(bytes([found]))
    return register_model(
        folder, {METRIC: found / 60}, config=RegistryConfig(name, **config), items={"scenes": rows(found)}
    )


def aliases(name):
    return {alias: int(version) for alias, version in MlflowClient().get_registered_model(name).aliases.items()}


def tags(name, version):
    return MlflowClient().get_model_version(name, str(version)).tags


def test_chance_does_not_promote_and_the_loser_is_the_challenger(store, model_folder):
    assert register(model_folder, 30, "sure").promoted
    assert aliases("sure") == {"champion": 1}
    close = register(model_folder, 31, "sure")
    assert (close.promoted, close.champion_uri) == (False, "models:/sure/1")
    assert close.reason.startswith("not surely better")
    assert aliases("sure") == {"champion": 1, "challenger": 2}
    far = register(model_folder, 45, "sure")
    assert far.promoted
    # The loser of the last comparison.
    assert aliases("sure") == {"champion": 3, "challenger": 1}
    assert tags("sure", 3)[PREVIOUS_CHAMPION] == "1"
    assert '"wins": 15' in tags("sure", 3)["gate.figures"]


def test_rollback_is_recorded(store, model_folder):
    for found in (20, 40):
        register(model_folder, found, "back")
    names = RegistryConfig("back")
    assert roll_back(names, "answers nonsense") == (2, 1)
    assert aliases("back") == {"champion": 1, "challenger": 2}
    assert tags("back", 2)[GATE_DECISION] == "rolled back"
    assert tags("back", 2)[GATE_REASON] == "rolled back to version 1: answers nonsense"
    with pytest.raises(ConfigError, match="1 is the first champion"):
        roll_back(names, "again")
    # A version that was rolled back does not compete with later registrations.
    assert register(model_folder, 35, "back").promoted
    assert aliases("back")["champion"] == 3
    assert set_champion(names, 1, "a person says so") == 3
    assert aliases("back")["champion"] == 1
    assert tags("back", 1)[GATE_REASON] == "set by hand: a person says so"
    assert set_champion(names, 1, "twice") == 1
    assert roll_back(names, "no") == (1, 3)


def test_missing_names_are_reported(store, model_folder):
    with pytest.raises(ConfigError, match="no registered model 'nobody'"):
        roll_back(RegistryConfig("nobody"), "why")
    register(model_folder, 20, "someone")
    with pytest.raises(ConfigError, match="someone has no version 9"):
        set_champion(RegistryConfig("someone"), 9, "why")
    with pytest.raises(ConfigError, match="no version with the alias 'best'"):
        roll_back(RegistryConfig("someone", "best"), "why")


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_both_orders_of_a_race_promote_the_better_version(store, model_folder, order):
    """Each reads the champion before the other moves the alias, and then moves it too."""
    name = f"race-{order[0]}"
    for found in (10, 30, 50):
        register(model_folder, found, name, gate=GateConfig(confidence=None))
    client, names = MlflowClient(), RegistryConfig(name)
    score = {1: 10, 2: 30, 3: 50}
    client.set_registered_model_alias(name, "champion", "1")
    contenders = {2: 2, 3: 3}
    fast, slow = (contenders[number + 1] for number in order)

    def decide(one, other):
        if (one, other) == (slow, 1) and version_with_alias(client, name, "champion") == 1 and not raced:
            raced.append(True)
            # In between, the other registration completes.
            update_aliases(client, names, fast, lambda a, b: Decision(score[a] > score.get(b, 0), f"{a} against {b}"))
            # Simulate that this one has read the alias before.
            client.set_registered_model_alias(name, "champion", "1")
        return Decision(score[one] > score.get(other, 0), f"{one} against {other}")

    raced: list[bool] = []
    decision = update_aliases(client, names, slow, decide)
    assert raced
    assert aliases(name)["champion"] == 3
    assert decision.promote is (slow == 3)
    assert {version: tags(name, version)[GATE_DECISION] for version in (2, 3)} == {2: "kept", 3: "promoted"}


def test_an_alias_that_another_process_inserts_first_is_updated(store, model_folder):
    """MLflow finds no such alias; before it inserts its row, another process inserts one."""
    register(model_folder, 10, "between")
    register(model_folder, 30, "between")
    database = sa.make_url(store).database
    late: list[str] = []

    @sa.event.listens_for(sa.Engine, "before_cursor_execute")
    def other_process(connection, cursor, statement, values, context, many):
        if statement.startswith("INSERT INTO registered_model_aliases") and not late:
            late.append(statement)
            with closing(sqlite3.connect(database)) as other, other:
                other.execute(statement, ("default", "between", "first", 2))

    try:
        set_champion(RegistryConfig("between", alias="first"), 1, "why")
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", other_process)
    assert late
    assert aliases("between")["first"] == 1


def _register_at(barrier, uri, folder, found, name):
    mlflow.set_tracking_uri(uri)
    (folder / "model.safetensors").write_bytes(bytes([found]))
    barrier.wait()
    register_model(folder, {METRIC: found / 60}, config=RegistryConfig(name), items={"scenes": rows(found)})


@pytest.mark.slow
def test_concurrent_registrations_end_in_one_state(store, model_folder, tmp_path):
    register(model_folder, 10, "crowd")
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    processes = []
    for found in (50, 30, 58, 20):
        folder = tmp_path / str(found)
        folder.mkdir()
        for file in model_folder.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        processes.append(context.Process(target=_register_at, args=(barrier, store, folder, found, "crowd")))
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    versions = {v.version: v for v in MlflowClient().search_model_versions("name='crowd'")}
    assert sorted(map(int, versions)) == [1, 2, 3, 4, 5]
    best = max(versions.values(), key=lambda v: float(v.tags["metric.retrieval/scenes/mean_recall_at_1"]))
    assert aliases("crowd")["champion"] == int(best.version)
    promoted = [int(v.version) for v in versions.values() if v.tags[GATE_DECISION] == "promoted"]
    assert int(best.version) in promoted
    # A version that lost to a concurrent one has this reason.
    assert all(v.tags[GATE_REASON] for v in versions.values())


def test_versions_are_compared_item_by_item(store, model_folder, tmp_path):
    first, second = register(model_folder, 20, "pair"), register(model_folder, 40, "pair")
    found, images = compare_references("models:/pair/1", "models:/pair@champion")
    assert images == 60
    by_name = {difference.metric: difference for difference in found}
    assert (by_name[METRIC].a, by_name[METRIC].b, by_name[METRIC].wins) == (1 / 3, 2 / 3, 20)
    rows(40).to_csv(tmp_path / "b.csv", index=False)
    assert compare_references(first.uri, str(tmp_path / "b.csv"))[0] == found
    assert compare_references(f"runs:/{first.run_id}", f"runs:/{second.run_id}", "scenes")[0] == found
    for wrong, message in (
        ("models:/pair/9", "models:/pair/9: .*not found"),
        ("models:/pair@best", "best"),
        ("runs:/0123", "0123"),
        ("nowhere.csv", "nowhere.csv: neither a file nor a name in MLflow"),
    ):
        with pytest.raises(ConfigError, match=re.compile(message, re.IGNORECASE)):
            compare_references("models:/pair/1", wrong)
    with pytest.raises(ConfigError, match=r"pair/1: scenes; .*pair/2: scenes; evaluate both on the same set"):
        compare_references("models:/pair/1", "models:/pair/2", "flickr")


CREPE = "sugarcrepe/mean/accuracy"


def entries(right: int, of: int = 40, version: str = "v") -> pd.DataFrame:
    """Return SugarCrepe results with this many correct entries in each of two subsets."""
    found = [
        {"set": "sugarcrepe", "key": f"{subset}/{n}", "subset": subset, "image": str(n), "right": n < right}
        for subset in ("add_att", "swap_obj")
        for n in range(of)
    ]
    return pd.DataFrame(found, columns=list(COMPOSITIONALITY_COLUMNS)).assign(set_version=version)


def register_both(folder, found, right, name, version="v"):
    (folder / "model.safetensors").write_bytes(bytes([found, right]))
    return register_model(
        folder,
        {METRIC: found / 60, CREPE: right / 40},
        config=RegistryConfig(name, metric=CREPE, gate=GateConfig(floors={METRIC: 0.05})),
        items=tables_by_set("scenes", rows(found), entries(right, version=version).assign(model=model_digest(folder))),
    )


def test_another_set_can_decide_and_be_compared(store, model_folder, tmp_path):
    first, second = (register_both(model_folder, 30, right, "crepe") for right in (20, 32))
    assert second.promoted
    assert '"metric": "sugarcrepe/mean/accuracy"' in tags("crepe", 2)["gate.figures"]
    # Better by the deciding metric, but worse than a floor allows on the split's images.
    assert register_both(model_folder, 20, 40, "crepe").reason.startswith(f"below a floor: {METRIC}")
    # The same entries from other files cannot be compared.
    assert "different data" in register_both(model_folder, 30, 40, "crepe", version="w").reason
    split, images = compare_references(first.uri, second.uri)
    assert (images, {one.metric.split("/")[1] for one in split}) == (60, {"scenes"})
    found, items = compare_references(first.uri, second.uri, "sugarcrepe")
    assert (items, [one.metric for one in found]) == (
        40,
        ["sugarcrepe/add_att/accuracy", "sugarcrepe/swap_obj/accuracy", CREPE],
    )
    assert (found[2].a, found[2].b, found[2].wins) == (0.5, 0.8, 12)
    entries(32).to_csv(tmp_path / "entries.csv", index=False)
    assert compare_references(first.uri, str(tmp_path / "entries.csv"), "sugarcrepe")[0] == found
    with pytest.raises(ConfigError, match=r"no metric in common; .*--set"):
        compare_references(first.uri, str(tmp_path / "entries.csv"))
