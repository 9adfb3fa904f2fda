"""The kill drill: SIGKILL again and again, then the same weights, the same samples, and one MLflow run.

`CLIPS_DRILL_KILLS` sets how many kills (20), `CLIPS_DRILL_SEED` the moments. Kills strike everything at once (a machine that
goes down), one rank (memory that ran out), or the process that follows them, at a random moment: while processes start, while
steps are trained, and while a checkpoint is written, which is seen from outside by the folder that it is written aside to.
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
from tests.drills.starting import Started, kill_tree, send
from tests.integration.conftest import SpecOf

from clips_pipeline.training.events.event_log import read_all
from clips_pipeline.training.launch.launcher import launch
from clips_pipeline.training.run_spec import RunSpec

pytestmark = [
    pytest.mark.slow,
    # MLflow's own tables, on the SQLAlchemy that the lock has.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]

KILLS = int(os.environ.get("CLIPS_DRILL_KILLS", "20"))
INSIDE = min(3, KILLS)
"""Kills within the writing of a checkpoint that there must be."""
STEPS = 20 + 20 * KILLS


def writing(spec: RunSpec) -> bool:
    """Whether a checkpoint is being written."""
    try:
        return any(name.endswith(".writing") for name in os.listdir(spec.checkpoints))
    except FileNotFoundError:
        return False


def strike(run: Started, luck: random.Random, inside: bool) -> str:
    """Wait for a moment and kill; says what was killed, or that the training had ended before."""
    if inside:
        # One that an earlier kill has left is none of this start.
        began = {path.name for path in run.spec.checkpoints.glob(".ba*")}
        run.wait_for_step(run.trained() + luck.randint(0, 3))
        while not (writing(run.spec) and {p.name for p in run.spec.checkpoints.glob(".ba*.writing")} - began):
            time.sleep(0.0005)
            if run.process.poll() is not None:
                return "over"
        kill_tree(run.process.pid)
        return "inside" if writing(run.spec) else "all"
    begun = run.trained()
    if luck.random() < 0.25:
        # While it starts; a fast machine must not train to the end meanwhile.
        until = time.monotonic() + luck.uniform(0.0, 6.0)
        while time.monotonic() < until and run.trained() <= begun:
            time.sleep(0.02)
    else:
        run.wait_for_step(begun + luck.randint(1, 6))
        time.sleep(luck.uniform(0.0, 0.1))
    what = luck.choice(("all", "all", "rank", "follower"))
    ranks = run.ranks()
    if what == "rank" and ranks:
        send(luck.choice(ranks), signal.SIGKILL)
        return what
    if what == "follower":
        send(run.process.pid, signal.SIGKILL)
        return what
    kill_tree(run.process.pid)
    return "all"


def traces(spec: RunSpec) -> dict[int, str]:
    """By step, the number that stands for all samples so far; every line of the log, also of steps trained again."""
    found: dict[int, str] = {}
    for line in spec.events.read_bytes().splitlines():
        if line.startswith(b'{"kind": "step"') and line.endswith(b"}"):
            event = json.loads(line)
            assert found.setdefault(event["step"], event["trace"]) == event["trace"], event["step"]
    return found


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_again_and_again_the_same_command_ends_with_the_same_weights(
    spec_of: SpecOf, tmp_path: Path, ranks: int
) -> None:
    changes: dict[str, Any] = {
        "samples": STEPS * 8,
        "every": {"log": 1, "evaluate": 25, "checkpoint": 3},
        "launch": {"processes": ranks, "loader_workers": 2},
    }
    whole, spec = spec_of("whole", **changes), spec_of("killed", **changes)
    assert launch(whole, lambda event: None).finished

    luck = random.Random(f"{os.environ.get('CLIPS_DRILL_SEED', '0')} {ranks}")  # noqa: S311  # not for secrets
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    # MLflow makes its tables now; killed while it does, it would ask for their upgrade (docs/reliability.md).
    MlflowClient(store).search_experiments()
    struck: list[str] = []
    while len(struck) < KILLS or struck.count("inside") < INSIDE:
        # Every third, and those at the end that are wanting.
        inside = len(struck) % 3 == 2 or len(struck) >= KILLS
        run = Started(spec, tracking=store)
        struck.append(strike(run, luck, inside))
        code, printed = run.end()
        assert code != 0, f"the training ended before kill {len(struck)}: {printed}"
        assert len(struck) < 2 * KILLS, struck
    code, printed = Started(spec, tracking=store).end()
    assert code == 0, printed
    print(f"{ranks} rank(s), {len(struck)} kills: { ({what: struck.count(what) for what in set(struck)}) }")

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
