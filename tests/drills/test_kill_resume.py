"""Kill drill: repeated SIGKILL, then the same weights, the same samples, and one MLflow run.

`CLIPS_DRILL_KILLS` sets the number of kills (20), `CLIPS_DRILL_SEED` their times. A kill hits all processes (as when a machine
loses power), one rank (as when memory runs out) or the launcher, at a random time: while processes start, during a step, or while
a checkpoint is written, which the temporary folder of the checkpoint shows.
"""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from tests.drills.conftest import assert_same_weights
from tests.drills.training_process import TrainingProcess, kill_tree, send
from tests.integration.conftest import SpecOf
from tests.integration.test_training import CAPTIONING, SIGMOID

from clips_pipeline.training.events.event_log import read_all
from clips_pipeline.training.launch.launcher import launch
from clips_pipeline.training.run_spec import RunSpec

pytestmark = [
    pytest.mark.slow,
    # MLflow uses SQLAlchemy in a way that the locked version deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]

KILLS = int(os.environ.get("CLIPS_DRILL_KILLS", "20"))
INSIDE = min(3, KILLS)
"""Minimum number of kills while a checkpoint is written."""
STEPS = 20 + 20 * KILLS


def writing(spec: RunSpec) -> bool:
    """Return whether a checkpoint is being written."""
    try:
        return any(name.endswith(".writing") for name in os.listdir(spec.checkpoints))
    except FileNotFoundError:
        return False


def kill_at_random_time(run: TrainingProcess, rng: random.Random, inside: bool) -> str:
    """Wait, then kill; return what was killed, or "over" if the training had ended before."""
    if inside:
        # Leftovers of earlier kills do not count.
        began = {path.name for path in run.spec.checkpoints.glob(".ba*")}
        run.wait_for_step(run.trained() + rng.randint(0, 3))
        while not (writing(run.spec) and {p.name for p in run.spec.checkpoints.glob(".ba*.writing")} - began):
            time.sleep(0.0005)
            if run.process.poll() is not None:
                return "over"
        kill_tree(run.process.pid)
        return "inside" if writing(run.spec) else "all"
    begun = run.trained()
    if rng.random() < 0.25:
        # During the start. A fast machine must not finish the training in this time.
        until = time.monotonic() + rng.uniform(0.0, 6.0)
        while time.monotonic() < until and run.trained() <= begun:
            time.sleep(0.02)
    else:
        run.wait_for_step(begun + rng.randint(1, 6))
        time.sleep(rng.uniform(0.0, 0.1))
    what = rng.choice(("all", "all", "rank", "launcher"))
    ranks = run.ranks()
    if what == "rank" and ranks:
        send(rng.choice(ranks), signal.SIGKILL)
        return what
    if what == "launcher":
        send(run.process.pid, signal.SIGKILL)
        return what
    kill_tree(run.process.pid)
    return "all"


def traces(spec: RunSpec) -> dict[int, str]:
    """Return the sample trace by step, from every line of the log, also of steps that were trained again."""
    found: dict[int, str] = {}
    for line in spec.events.read_bytes().splitlines():
        if line.startswith(b'{"kind": "step"') and line.endswith(b"}"):
            event = json.loads(line)
            assert found.setdefault(event["step"], event["trace"]) == event["trace"], event["step"]
    return found


@pytest.mark.parametrize("ranks", [1, 2])
def test_after_repeated_kills_the_same_command_ends_with_the_same_weights(
    spec_of: SpecOf, tmp_path: Path, ranks: int
) -> None:
    changes: dict[str, Any] = {
        "samples": STEPS * 8,
        "every": {"log": 1, "evaluate": 25, "checkpoint": 3},
        "launch": {"processes": ranks, "loader_workers": 2},
    }
    whole, spec = spec_of("whole", **changes), spec_of("killed", **changes)
    assert launch(whole, lambda event: None).finished

    rng = random.Random(f"{os.environ.get('CLIPS_DRILL_SEED', '0')} {ranks}")  # noqa: S311  # not for secrets
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    # Create MLflow's tables now. After a kill during their creation, MLflow would require an upgrade.
    MlflowClient(store).search_experiments()
    kills: list[str] = []
    while len(kills) < KILLS or kills.count("inside") < INSIDE:
        # Every third kill, and at the end as many as are missing.
        inside = len(kills) % 3 == 2 or len(kills) >= KILLS
        run = TrainingProcess(spec, tracking=store)
        kills.append(kill_at_random_time(run, rng, inside))
        code, printed = run.end()
        assert code != 0, f"the training ended before kill {len(kills)}: {printed}"
        assert len(kills) < 2 * KILLS, kills
    code, printed = TrainingProcess(spec, tracking=store).end()
    assert code == 0, printed
    print(f"{ranks} rank(s), {len(kills)} kills: { ({what: kills.count(what) for what in set(kills)}) }")

    assert_same_weights(spec, whole)
    assert traces(spec) == traces(whole)
    assert set(traces(spec)) == set(range(1, STEPS + 1))
    assert not list(spec.checkpoints.glob(".ba*"))

    client = MlflowClient(store)
    (tracked,) = client.search_runs(["0"])
    assert tracked.info.status == "FINISHED"
    for metric, kind, value in (
        ("train/loss/total", "step", lambda event: event["losses"]["total"]),
        ("validation/mean_recall_at_1", "evaluation", lambda event: event["metrics"]["mean_recall@1"]),
    ):
        points = [(point.step, point.value) for point in client.get_metric_history(tracked.info.run_id, metric)]
        assert sorted(points) == [
            (event["step"], value(event)) for event in read_all(whole.events) if event["kind"] == kind
        ]


@pytest.mark.parametrize("options", [SIGMOID, CAPTIONING], ids=["sigmoid, muon", "captioning, lamb"])
def test_a_kill_loses_no_state_of_another_optimizer_or_loss(spec_of: SpecOf, options: dict[str, Any]) -> None:
    whole, spec = spec_of("whole", **options), spec_of("killed", **options)
    assert launch(whole, lambda event: None).finished
    run = TrainingProcess(spec)
    run.wait_for_step(5)
    kill_tree(run.process.pid)
    assert run.end()[0] != 0
    code, printed = TrainingProcess(spec).end()
    assert code == 0, printed
    assert_same_weights(spec, whole)
    assert traces(spec) == traces(whole)
