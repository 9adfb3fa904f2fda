"""Nodes of the `llava_probe` pipeline."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.data.scenes.source import ScenesConfig
from clips_pipeline.data.shards.index import load_index
from clips_pipeline.pipelines.parameters import typed
from clips_pipeline.pipelines.prepare.config import SourceConfig
from clips_pipeline.pipelines.train.nodes import build_run_spec
from clips_pipeline.study import plan
from clips_pipeline.study.config import StudyConfig
from clips_pipeline.study.run import run_all
from clips_pipeline.text.tokenizers.tokenizer import load_tokenizer
from clips_pipeline.training.resolve import model_config


def train_towers(
    parameters: dict[str, Any],
    study_parameters: dict[str, Any],
    train_parameters: dict[str, Any],
    evaluate_parameters: dict[str, Any],
    source_parameters: dict[str, Any],
    shards: Path,
    tokenizer_folder: Path,
    remote: Any,
    paths: Mapping[str, Path],
) -> list[dict[str, Any]]:
    """Train the models that the study has not trained.

    Returns:
        method, seed, model folder and mean recall@1 of each tower.
    """
    # Imported here: it loads torch.
    from clips_pipeline.llava.run import check_probes

    config, train = typed("llava_probe", parameters), typed("train", train_parameters)
    scenes = _scenes(source_parameters)
    depth = model_config(train, load_tokenizer(tokenizer_folder).vocab_size).vision.depth
    check_probes(config, scenes, shards, remote, depth)
    samples = config.tower_samples or typed("study", study_parameters).samples
    folder = paths["study_folder"]
    # `clips` is the baseline of the study's comparison; only the methods asked for are trained.
    study = StudyConfig(comparisons=("methods",), samples=samples)
    cases = plan.cases(study, train, lambda _which: 0.0, lambda _train: 0.0)
    evaluation = replace(typed("evaluate", evaluate_parameters), examples=0)
    results, _, _ = run_all(
        [case for case in cases if case.label in config.methods],
        config.seeds,
        config.parallel_runs,
        config.hours,
        lambda changed: build_run_spec(changed, shards, tokenizer_folder, remote, folder / "runs", folder),
        evaluation,
        folder,
        remote.storage.options,
        "llava_probe",
    )
    metric = f"retrieval/{evaluation.set_name}/mean_recall@1"
    return [
        {
            "method": result.case.label,
            "seed": result.seed,
            "folder": str(result.model_folder),
            # A model without a text tower has no retrieval.
            "recall": result.metrics.get(metric, math.nan),
        }
        for result in results
    ]


def probe(
    parameters: dict[str, Any],
    source_parameters: dict[str, Any],
    shards: Path,
    remote: Any,
    towers: list[dict[str, Any]],
    paths: Mapping[str, Path],
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, str, Any]:
    """Run the missing probes, summarize the results, and log them to the active MLflow run.

    Returns:
        accuracies per probe, their means over seeds, paired comparisons, the summary in Markdown, and the figure.
    """
    # Imported here: they load torch, matplotlib or MLflow.
    from clips_pipeline.llava import figure, questions, results, summary
    from clips_pipeline.llava.job import methods_of
    from clips_pipeline.llava.run import ProbeSetup, Tower, run_probes
    from clips_pipeline.registry.tracking.probe_log import log_probe

    config, scenes = typed("llava_probe", parameters), _scenes(source_parameters)
    version = load_index(shards).version
    setup = ProbeSetup(config, scenes, shards, version, remote.storage.config, remote.folder)
    known = [Tower(one["method"], one["seed"], Path(one["folder"]), one["recall"]) for one in towers]
    probes = run_probes(known, setup, paths["llava_probe_folder"], remote.storage.options)
    asked = questions.balanced_questions(scenes, "test", config.questions.test, config.questions.seed)
    methods = methods_of([one.row for one in probes])
    runs = results.runs_table(probes, asked, "clips" if "clips" in methods else methods[0])
    table, paired = results.accuracy_table(runs), results.paired_table(probes, asked)
    chance = questions.chance_by_type(asked)
    chance[results.MEAN] = statistics.mean(chance.values())
    recall = {name: statistics.mean(one.recall for one in known if one.method == name) for name in methods}
    planned, seconds = len(config.methods) * len(config.seeds), statistics.median(one.seconds for one in probes)
    facts = {
        "data": f"{version}; questions: {len(asked):,} about the split test",
        "towers": f"{len(known)} of {planned}"
        + ("" if len(known) == planned else "; the others have not been trained"),
        "probes": ", ".join(f"{count} {row}" for row, count in Counter(one.row for one in probes).items()),
        "seeds": ", ".join(map(str, config.seeds)),
        "layer": str(config.vision_layer),
        "language model": f"{config.language.depth} blocks of width {config.language.width}, from scratch",
        "training of a probe": f"{config.epochs:g} epochs, median {seconds:.0f} s on its part of the cores",
    }
    text, drawn = summary.markdown(table, paired, chance, recall, facts), figure.accuracy_bars(table, runs, chance)
    log_probe(table, text, drawn)
    return runs.drop(columns=["fraction", "samples", "gflop_per_sample", "samples_per_s"]), table, paired, text, drawn


def _scenes(parameters: dict[str, Any]) -> ScenesConfig:
    """Return the embedded data that the questions are about.

    Raises:
        ConfigError: the source is another one.
    """
    source = from_mapping(SourceConfig, parameters, "prepare.source")
    if source.kind != "scenes":
        raise ConfigError(
            f"llava_probe: asks about the embedded data, but prepare.source.kind is {source.kind}; use an environment with scenes"
        )
    return source.scenes
