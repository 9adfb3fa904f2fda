"""Tables of a study: one row per run, and over seeds the mean, its interval and the difference from the baseline."""

import math
from collections.abc import Sequence
from statistics import mean, stdev

import pandas as pd

from clips_pipeline.study.run import RunResult


def runs_table(results: Sequence[RunResult], flops: Sequence[float]) -> pd.DataFrame:
    """Return one row per case and seed, with every metric.

    Args:
        results: results of the trainings.
        flops: FLOPs of a training sample of each.
    """
    rows = [
        {
            "comparison": run.case.comparison,
            "label": run.case.label,
            "fraction": run.case.fraction,
            "baseline": run.case.baseline,
            "seed": run.seed,
            "samples": run.case.train.samples,
            "gflop_per_sample": per_sample / 1e9,
            "samples_per_s": run.samples_per_s,
            **run.metrics,
        }
        for run, per_sample in zip(results, flops, strict=True)
    ]
    return pd.DataFrame(rows)


def ci_half_width(values: Sequence[float]) -> float:
    """Return half the width of the 95 % confidence interval of a mean over seeds (Student's t); infinite for one seed."""
    # Imported here: it takes 0.3 s, and every `kedro` command loads this module.
    from scipy.special import stdtrit

    count = len(values)
    if count < 2:
        return math.inf
    return float(stdtrit(count - 1, 0.975)) * stdev(values) / math.sqrt(count)


def aggregate_seeds(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the mean over seeds of one metric, and its mean difference from the baseline, paired by seed.

    Args:
        runs: one row per run, from `runs_table`.
        metric: the column to aggregate.

    Returns:
        One row per case: comparison, label, fraction, baseline, samples, gflop_per_sample, samples_per_s, seeds, mean,
        half_width, change, change_half_width. The last two are NaN for the baseline itself, and where the baseline has
        not been run with a seed of the row. The mean is NaN for a method without the metric.
    """
    rows = []
    for comparison, of_comparison in runs.groupby("comparison", sort=False):
        for (label, fraction), line in of_comparison.groupby(["label", "fraction"], sort=False, dropna=False):
            values = line.set_index("seed")[metric].dropna()
            base_label = line["baseline"].iloc[0]
            base = of_comparison[of_comparison["label"] == base_label].set_index("seed")[metric]
            changes = [] if label == base_label else list((values - base.reindex(values.index)).dropna())
            rows.append(
                {
                    "comparison": comparison,
                    "label": label,
                    "fraction": fraction,
                    "baseline": base_label,
                    "samples": int(line["samples"].iloc[0]),
                    "gflop_per_sample": line["gflop_per_sample"].iloc[0],
                    "samples_per_s": line["samples_per_s"].median(),
                    "seeds": len(line),
                    "mean": mean(values) if len(values) else math.nan,
                    "half_width": ci_half_width(list(values)),
                    "change": mean(changes) if changes else math.nan,
                    "change_half_width": ci_half_width(changes) if changes else math.nan,
                }
            )
    return pd.DataFrame(rows)
