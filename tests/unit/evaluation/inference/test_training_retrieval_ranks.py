"""Retrieval during training on two and three ranks is bitwise equal to one process."""

import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
from tests.distributed.ranks import run_ranks
from tests.unit.evaluation.inference.training_retrieval_worker import run_case

from clips_pipeline.data.shards.index import load_index
from clips_pipeline.data.shards.reader import ShardSet
from clips_pipeline.evaluation.inference import training_retrieval

CASES = {
    "uneven": {"split": "validation", "batch_size": 2},
    "more samples": {"split": "test", "batch_size": 3},
    "one batch, so a rank has nothing": {"split": "validation"},
    "first places": {"split": "validation", "batch_size": 2, "limit": 5},
    "diverged": {"split": "validation", "batch_size": 2, "diverged": True},
    "empty": {"split": "validation", "limit": 0},
}


@pytest.fixture(scope="module")
def damaged(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards with one unreadable sample per split."""
    folder = tmp_path_factory.mktemp("damaged") / "shards"
    shutil.copytree(shards, folder)
    for split in ("validation", "test"):
        file = folder / load_index(folder).split(split)[0].path
        content = file.read_bytes()
        # The opening brace of the second sample's JSON.
        at = content.index(b'{"', content.index(b'{"') + content[content.index(b'{"') :].index(b"\0"))
        file.write_bytes(content[:at] + b"x" + content[at + 1 :])
    return folder


@pytest.fixture(scope="module", params=[2, 3])
def found(request, damaged, model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quick")
    worker = Path(__file__).with_name("training_retrieval_worker.py")
    run_ranks(worker, request.param, folder / "store", json.dumps(CASES), damaged, model_folder, folder / "{rank}.pt")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(request.param)]


@pytest.mark.parametrize("case", CASES)
def test_ranks_equal_one_process(found, damaged, model_folder, case):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = run_case(CASES[case], str(damaged), str(model_folder), None)
    torch.set_num_threads(threads)
    assert ("error" in alone) == (case in ("diverged", "empty"))
    assert all(rank[case].get("metrics") == alone.get("metrics") for rank in found)
    assert all(rank[case].get("error") == alone.get("error") for rank in found)
    first, *others = (rank[case]["ranked"] for rank in found)
    assert others == [[]] * len(others)
    assert len(first) == len(alone["ranked"])
    for together, by_one in zip(first, alone["ranked"], strict=True):
        assert torch.equal(together.nan_to_num(), by_one.nan_to_num())


@pytest.mark.parametrize("case", ["uneven", "empty"])
def test_threads_that_decode_as_for_a_gpu_change_nothing(damaged, model_folder, case, monkeypatch):
    alone = run_case(CASES[case], str(damaged), str(model_folder), None)
    monkeypatch.setattr(training_retrieval, "decoding_threads", lambda device, cores: 3)
    decoding, plain = set(), training_retrieval.open_image
    monkeypatch.setattr(
        training_retrieval, "open_image", lambda *of: (decoding.add(threading.current_thread()), plain(*of))[1]
    )
    threads = run_case(CASES[case], str(damaged), str(model_folder), None)
    assert threading.main_thread() not in decoding
    assert bool(decoding) == (case != "empty")
    assert threads.get("metrics") == alone.get("metrics")
    assert threads.get("error") == alone.get("error")
    for found, expected in zip(threads["ranked"], alone["ranked"], strict=True):
        assert torch.equal(found, expected)


def test_a_bad_sample_is_skipped(shards, damaged):
    whole, rest = (list(ShardSet(folder, "validation").iterate()) for folder in (shards, damaged))
    assert len(rest) == len(whole) - 1
    assert [r.key for r in ShardSet(damaged, "validation").iterate(range(3))] == [r.key for r in rest[:2]]
    assert [r.key for r in ShardSet(damaged, "validation").iterate(range(3, 9))] == [r.key for r in rest[2:]]
