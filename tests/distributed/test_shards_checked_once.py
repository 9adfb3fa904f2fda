"""Two gloo ranks open the shards of a training: one rank of a machine checks them, and all have the same error."""

import json
import platform
from pathlib import Path
from typing import Any

import pytest
from tests.distributed.ranks import run_ranks
from tests.unit.data.samples import source

from clips_pipeline.data.prepare.run import prepare

SHARDS = 5


def run_cases(folder: Path, machines: int) -> list[dict[str, Any]]:
    """Return what each rank found, by case: nothing is wrong, or the last machine has lost two shards."""
    for case in ("whole", "lost"):
        for machine in range(machines):
            prepare(source(count=10, tasks=SHARDS), folder / "cases" / case / str(machine))
    damaged = folder / "cases" / "lost" / str(machines - 1) / "train"
    (damaged / "00001.tar").unlink()
    (damaged / "00003.tar").write_bytes(b"")
    worker = Path(__file__).with_name("shards_worker.py")
    run_ranks(worker, 2, folder / "store", folder / "cases", machines, folder / "{rank}.json")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("machines", [1, 2])
def test_one_rank_of_each_machine_checks_the_shards_for_all(tmp_path: Path, machines: int) -> None:
    first, second = run_cases(tmp_path, machines)
    assert first["whole"]["error"] is None is second["whole"]["error"]
    assert len(first["whole"]["keys"]) == len(second["whole"]["keys"]) == 2
    assert not set(first["whole"]["keys"]) & set(second["whole"]["keys"])
    for case in ("whole", "lost"):
        assert first[case]["looked"] == SHARDS
        assert second[case]["looked"] == (SHARDS if machines == 2 else 0)
    message = first["lost"]["error"]
    assert message == second["lost"]["error"]
    there = f"{tmp_path}/cases/lost/{machines - 1}/train/00001.tar is missing (2 such shards); run `kedro run"
    assert message.startswith((f"on machine {platform.node()}: " if machines == 2 else "") + there)
