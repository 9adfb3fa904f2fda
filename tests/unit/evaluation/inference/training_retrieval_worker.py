"""One rank of test_training_retrieval_ranks.py, run by `tests.distributed.ranks`."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests.distributed.ranks import process_group

from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.evaluation.inference import training_retrieval
from clips_pipeline.interop.folder import load_model_folder


def run_case(case: dict[str, Any], shards: str, model_folder: str, group: dist.ProcessGroup | None) -> dict[str, Any]:
    """Return the result or error of `measure_retrieval`, and its arguments of `retrieval_ranks` on rank 0."""
    loaded = load_model_folder(Path(model_folder))
    if case.get("diverged"):
        next(loaded.model.vision.parameters()).data.fill_(float("nan"))
    ranked: list[torch.Tensor] = []
    plain = training_retrieval.retrieval_ranks

    def spy(*arrays: Any) -> Any:
        ranked.extend(torch.from_numpy(array) for array in arrays)
        return plain(*arrays)

    training_retrieval.retrieval_ranks = spy
    options = {name: case[name] for name in ("batch_size", "limit") if name in case}
    try:
        metrics = training_retrieval.measure_retrieval(
            loaded.model, Path(shards), case["split"], loaded.tokenizer, ImageConfig(size=32), group=group, **options
        )
    except ValueError as error:
        return {"error": str(error), "ranked": ranked}
    finally:
        training_retrieval.retrieval_ranks = plain
    return {"metrics": metrics, "ranked": ranked}


def main(rank: int, ranks: int, store: str, cases: str, shards: str, model_folder: str, target: str) -> None:
    """Run all cases and write the results."""
    with process_group(rank, ranks, store):
        found = {
            name: run_case(case, shards, model_folder, dist.group.WORLD) for name, case in json.loads(cases).items()
        }
        torch.save(found, target)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
