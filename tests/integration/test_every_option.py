"""Every method and every option of `train`, each set at least once to a non-default value, through `kedro run`.

An option that only unit tests set may still end a run, as `method: clip` once did at the first logged step.
"""

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from tests.kedro_project import kedro

from clips_pipeline import load
from clips_pipeline.config import flatten
from clips_pipeline.interop.open_clip import to_state_dict
from clips_pipeline.text.fragments import Strategy
from clips_pipeline.text.methods import CAPTIONING_METHODS, CONTRASTIVE_METHODS, Method
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.events.event_log import read_all

pytestmark = pytest.mark.slow

RUNS: dict[str, dict[str, Any]] = {
    "clip": {
        "method": "clip",
        "captions": {"web_tokens": 8, "context_length": 40},
        "images": {
            "framing": "squash",
            "interpolation": "bicubic",
            "reduced_decoding": False,
            "mean": [0.48, 0.46, 0.41],
            "std": [0.27, 0.26, 0.28],
        },
        "augment": {
            "crop_area": [0.5, 1.0],
            "crop_aspect": [0.9, 1.1],
            "color_jitter": 0.4,
            "color_jitter_probability": 0.5,
            "grayscale_probability": 0.2,
        },
        "launch": {"device_color_jitter": True},
        "ema": {"half_life_batches": 2},
        "seed": 1,
        "shuffle_window": 100,
    },
    "mixture": {
        "method": "mixture",
        "captions": {"synthetic_fraction": 0.5},
        "model": {"padding": "attend", "patch_dropout": 0.5},
        "optimizer": {
            "peak_lr": 1.0e-3,
            "final_lr": 1.0e-4,
            "beta1": 0.8,
            "beta2": 0.9,
            "epsilon": 1.0e-6,
            "weight_decay": 0.1,
            "clip_norm": 1.0,
            "warmup_samples": 16,
        },
        "freeze": ["text"],
    },
    "coca": {
        "method": "coca",
        "captions": {"target_length": 48, "fragment": {"strategy": "random_mask", "tokens": 9}},
        "launch": {
            "chunk_size": 4,
            "recompute": "chunk",
            "round_lengths_to": 4,
            "tf32": False,
            "loader_workers": 1,
            "prefetch_batches": 3,
            "background_checkpoints": False,
            "stall_warning_s": 20.0,
            "threads": 1,
        },
        "every": {"log": 1, "evaluate": 2, "checkpoint": 1, "keep_checkpoints": 1, "caption_examples": 2},
    },
    "truncation": {
        "captions": {
            "fragment": {"strategy": "truncation", "tokens": 12},
            "captioners": ["detailed", "brief"],
            "target_captioner": "detailed",
        },
        "model": {"condition": "after_norm", "image_size": 96},
        "progressive": {"first_size": 32, "until": 0.75},
        "loss": {"contrastive_weight": 0.5, "caption_weight": 1.5},
    },
    "block_mask": {
        "captions": {"fragment": {"strategy": "block_mask", "tokens": 12}},
        "loss": {"contrastive": "sigmoid"},
        "launch": {
            "processes": 2,
            "sharding": "fsdp2",
            "device": "cpu",
            "communication": "bf16",
            "rank_timeout_s": 120.0,
            "restarts": 1,
            "loader_workers": "auto",
        },
        "batch_size": 8,
    },
    "started": {
        "captions": {"fragment": {"strategy": "sub_caption", "blank_pieces": "drop"}},
        "model": {"initial_weights": "INITIAL"},
        "samples": 64,
    },
    "sized": {
        "model": {
            "size": {
                "base": None,
                "vision": {"image_size": 48, "patch_size": 12, "width": 48, "depth": 2, "heads": 3},
                "text": {"width": 36, "depth": 2, "heads": 2},
                "captioner": {"width": 24, "depth": 1, "heads": 2},
                "embed_dim": 20,
                "vocab_size": 600,
            }
        }
    },
    "sigmoid": {
        "captions": {"positives": 2},
        "loss": {"contrastive": "sigmoid"},
        "model": {"padding": "attend"},
        "optimizer": {"name": "muon", "options": {"momentum": 0.9}},
    },
    "captioning": {
        "method": "captioning",
        "model": {"image_tokens_kept": 0.35},
        "optimizer": {"name": "lamb"},
    },
    "towers": {"model": {"vision_weights": "TOWERS", "text_weights": "TOWERS"}, "launch": {"compile": True}},
}
"""Parameters below `train` by environment."""

ELSEWHERE = {
    "launch.precision": "amp_bf16 needs a GPU",
    "launch.residual": "bf16 needs amp_bf16; tests/unit/models/test_residual.py trains with it",
    "launch.start": "tests/integration/test_other_starters.py starts the ranks by torchrun",
    "launch.on_change": "tests/drills/test_changed_parameters.py edits an unfinished training",
}
"""Options that no run here sets, with the reason."""


def options(config: type[Any], prefix: str = "") -> set[str]:
    """Return the dotted names of all leaves of a configuration, including optional groups."""
    found = set()
    for field in fields(config):
        hint = get_type_hints(config)[field.name]
        group = next((choice for choice in (hint, *get_args(hint)) if is_dataclass(choice)), None)
        name = f"{prefix}{field.name}"
        found |= options(group, f"{name}.") if isinstance(group, type) else {name}
    return found


def test_every_option_and_choice_has_a_run() -> None:
    # Options of an optimizer have its own names.
    used = {key.replace("options.momentum", "options") for run in RUNS.values() for key in flatten(run)}
    assert used <= options(TrainConfig)
    assert options(TrainConfig) - used == set(ELSEWHERE)
    assert {run.get("method", "clips") for run in RUNS.values()} == set(get_args(Method))
    strategies = {flatten(run).get("captions.fragment.strategy", "sub_caption") for run in RUNS.values()}
    assert strategies == set(get_args(Strategy))


@pytest.fixture(scope="module")
def started(project: Path) -> Path:
    """The project with prepared data, of two captioners, and a trained model of the smoke environment."""
    two = "prepare.source.scenes.captioners=2"
    kedro(project, "--pipelines", "prepare,train", "--env", "smoke", "--params", two)
    return project


def environment(project: Path, name: str, train: dict[str, Any]) -> Path:
    """Write the environment `name`, on the data of `smoke`, and return its results folder."""
    conf, results = project / "conf" / name, project / "data" / name
    conf.mkdir()
    (conf / "globals.yml").write_text(yaml.safe_dump({"data_root": "data/smoke", "results_root": f"data/{name}"}))
    smoke = {"samples": 48, "batch_size": 16, "optimizer": {"warmup_samples": 16}, "every": {"log": 1, "evaluate": 2}}
    merged = {
        **smoke,
        **{
            key: {**smoke.get(key, {}), **value} if isinstance(value, dict) else value  # type: ignore[dict-item]
            for key, value in train.items()
        },
    }
    register = {"name": f"clips-{name}"}
    if train.get("method") == "captioning":
        register["metric"] = "caption/scenes/teacher_forced_loss"
    (conf / "parameters.yml").write_text(yaml.safe_dump({"train": merged, "register": register}))
    return results


@pytest.mark.parametrize("name", RUNS)
def test_each_environment_trains_evaluates_and_registers(started: Path, name: str) -> None:
    smoke = started / "data/smoke/06_models/clips"
    train = json.loads(json.dumps(RUNS[name]).replace("INITIAL", str(smoke)))
    if name == "towers":
        save_file(to_state_dict(load(smoke).model), started / "towers.safetensors")
        train = json.loads(json.dumps(train).replace("TOWERS", str(started / "towers.safetensors")))
    results = environment(started, name, train)
    shown = kedro(started, "--pipelines", "train,evaluate,register", "--env", name)
    assert "registered as models:/clips-" in shown
    (log,) = (results / "06_models/runs").glob("*/events.jsonl")
    events = read_all(log)
    steps = [event for event in events if event["kind"] == "step"]
    assert events[-1]["kind"] == "end"
    assert events[-1]["finished"]
    captioned = train.get("method", "clips") in CAPTIONING_METHODS
    contrasted = train.get("method", "clips") in CONTRASTIVE_METHODS
    assert ("contrastive" in steps[-1]["losses"]) == contrasted
    assert "total" in steps[-1]["losses"]
    assert ("caption" in steps[-1]["losses"]) == captioned
    exported = load(results / "06_models/clips").model.config
    assert (exported.captioner is not None) == captioned
    assert exported.text_tower == contrasted
    assert exported.contrastive == train.get("loss", {}).get("contrastive", "softmax")
    if name == "sized":
        size = train["model"]["size"]
        found = json.loads((results / "06_models/clips/config.json").read_text())["model"]
        for part in ("vision", "text", "captioner"):
            assert {key: found[part][key] for key in size[part]} == size[part]
        assert (found["embed_dim"], found["text"]["vocab_size"]) == (20, 600)
    metrics = json.loads((results / "08_reporting/metrics.json").read_text())
    assert ("retrieval/scenes/mean_recall@1" in metrics) == contrasted
    assert any(key.startswith("caption/") for key in metrics) == captioned
    with safe_open(results / "06_models/clips/model.safetensors", "pt") as weights:
        assert len(list(weights.keys())) > 10


def test_captioners_are_compared_and_searched(started: Path) -> None:
    results = environment(started, "captioners", {})
    file = started / "conf/captioners/parameters.yml"
    chosen = {"kind": "categorical", "choices": [["brief"], ["detailed", "brief"]]}
    more = {
        "study": {"comparisons": ["captioners"], "seeds": [0], "samples": 32, "curve_samples": None},
        "search": {"trials": 1, "samples": 64, "space": {"captions.captioners": chosen}},
    }
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | more))
    kedro(started, "--pipelines", "study,search", "--env", "captioners")
    table = (results / "08_reporting/study/README.md").read_text()
    assert "## Captions of each captioner alone, and of all" in table
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    assert list(dict.fromkeys(row for row in rows if "alone" in row or "all" in row)) == [
        "all captioners",
        "brief alone",
        "detailed alone",
    ]
    best = yaml.safe_load((started / "conf/best/parameters.yml").read_text())
    assert best["train"]["captions"]["captioners"] in chosen["choices"]
