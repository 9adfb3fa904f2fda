"""The study node."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from clips_pipeline.data.prepare.statistics import load_statistics
from clips_pipeline.data.shards.index import load_index
from clips_pipeline.pipelines.parameters import typed
from clips_pipeline.pipelines.train.nodes import build_run_spec
from clips_pipeline.study import plan, summary, table
from clips_pipeline.study.run import run_all
from clips_pipeline.text.tokenizers.tokenizer import load_tokenizer
from clips_pipeline.training.cost import flops_per_sample, read_captions
from clips_pipeline.training.resolve import size_name


def study(
    parameters: dict[str, Any],
    train_parameters: dict[str, Any],
    evaluate_parameters: dict[str, Any],
    shards: Path,
    tokenizer_folder: Path,
    remote: Any,
    paths: Mapping[str, Path],
) -> tuple[pd.DataFrame, str, Any, Any]:
    """Run the missing trainings and summarize the results.

    Returns:
        one row per run, the summary in Markdown, and two figures: caption lengths, methods.
    """
    # Imported here: it loads matplotlib.
    from clips_pipeline.study import figures

    folder = paths["study_folder"]
    config, train = typed("study", parameters), typed("train", train_parameters)
    evaluation = replace(typed("evaluate", evaluate_parameters), examples=0)
    tokenizer, captions = load_tokenizer(tokenizer_folder), read_captions(shards, remote)

    def flops(changed: Any) -> float:
        return flops_per_sample(changed, captions, tokenizer)

    captioners = load_statistics(shards).splits["train"].captions.names
    cases = plan.cases(config, train, lambda which: captions.mean_ids(tokenizer, which), flops, captioners)
    results, finished, planned = run_all(
        cases,
        config.seeds,
        config.parallel_runs,
        config.hours,
        lambda changed: build_run_spec(changed, shards, tokenizer_folder, remote, folder / "runs", folder),
        evaluation,
        folder,
        remote.storage.options,
    )
    costs = {id(case): flops(case.train) for case in cases}
    runs = table.runs_table(results, [costs[id(run.case)] for run in results])
    metric = f"retrieval/{evaluation.set_name}/mean_recall@1"
    lines = table.aggregate_seeds(runs, metric)
    facts = {
        "data": f"{load_index(shards).version}, split {evaluation.split}",
        "model": size_name(train),
        "seeds": ", ".join(map(str, config.seeds)),
        "trainings": f"{planned}" if finished == planned else f"{finished} of {planned}; the others have not been run",
    }
    text = summary.markdown(lines, runs, metric, facts)
    return runs, text, figures.length_curves(lines, runs, metric), figures.method_bars(lines, runs, metric)
