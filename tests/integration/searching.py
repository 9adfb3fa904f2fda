"""One process of a search with tiny trainings and MLflow; used by `test_search.py`.

python -m tests.integration.searching FOLDER PREPARED KIND URL TRIALS SAMPLES
"""

import sys
from pathlib import Path
from typing import Any

import mlflow

from clips_pipeline.config import from_mapping
from clips_pipeline.data.shards.index import load_index
from clips_pipeline.registry.tracking import trial_runs
from clips_pipeline.text.tokenizers.tokenizer import load_tokenizer
from clips_pipeline.training import cost
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.run_spec import RunSpec
from clips_pipeline.tuning.config import Dimension, SearchConfig, StudyStorageConfig
from clips_pipeline.tuning.search import SearchResult, search
from clips_pipeline.tuning.trial import SearchContext

BATCH = 8


def parameters_of(**changes: Any) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "batch_size": BATCH,
        "optimizer": {"warmup_samples": 16},
        "every": {"log": 1, "evaluate": 100, "checkpoint": 100, "caption_examples": 0},
        "launch": {"device": "cpu", "loader_workers": 0, "threads": 1},
    }
    return {**parameters, **changes}


def config_of(kind: str, trials: int, samples: int, **changes: Any) -> SearchConfig:
    settings: dict[str, Any] = {
        "trials": trials,
        "samples": samples,
        "storage": StudyStorageConfig(kind=kind, timeout_s=60.0, heartbeat_s=1, grace_s=20),  # type: ignore[arg-type]
        "space": {
            "captions.fragment.tokens": Dimension("int", low=4, high=16, or_null=True),
            "loss.caption_weight": Dimension("float", low=0.5, high=4.0, log=True),
        },
    }
    return SearchConfig(**{**settings, **changes})


def run(
    config: SearchConfig, parameters: dict[str, Any], folder: Path, prepared: Path, url: str = "none", **more: Any
) -> SearchResult:
    """Run a search as the node does, without Kedro."""
    tokenizer = load_tokenizer(prepared / "tokenizer")
    version = load_index(prepared / "shards").version
    captions = cost.read_captions(prepared / "shards", None)

    def build_spec(found: dict[str, Any], place: Path) -> RunSpec:
        train = from_mapping(TrainConfig, found, "train")
        shards, words = str(prepared / "shards"), str(prepared / "tokenizer")
        return RunSpec(train, shards, words, str(place / "run"), str(place / "model"), version)

    def estimate_cost(spec: RunSpec) -> tuple[float, float]:
        lengths = cost.row_lengths(spec.train, captions, tokenizer)
        return cost.mean_flops(spec.train, lengths, tokenizer), cost.fragment_tokens(lengths)

    context = SearchContext(config, parameters, build_spec, estimate_cost, trial_runs.child_run, folder)
    return search(context, credentials={"url": url}, **more)


def main() -> None:
    folder, prepared, kind, url = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    config = config_of(kind, int(sys.argv[5]), int(sys.argv[6]))
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    run_id = trial_runs.load_parent(folder, config.study_name)
    with mlflow.start_run(run_id=run_id) as active:
        run(
            config,
            parameters_of(),
            folder,
            prepared,
            url,
            parent_run_id=active.info.run_id,
            on_parent=lambda found: trial_runs.save_parent(folder, config.study_name, found),
        )


if __name__ == "__main__":
    main()
