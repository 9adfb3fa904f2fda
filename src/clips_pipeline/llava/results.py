"""Tables of the probe: accuracies by question type, and comparisons over seeds and over images."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from clips_pipeline.evaluation.per_item.bootstrap import Ratio, RatioMetric
from clips_pipeline.evaluation.per_item.comparison import compare
from clips_pipeline.evaluation.per_item.items import ItemResults
from clips_pipeline.llava.questions import TYPES, Question
from clips_pipeline.llava.run import Probe
from clips_pipeline.study.table import aggregate_seeds

MEAN = "mean"
"""The unweighted mean over the question types."""


def runs_table(probes: Sequence[Probe], questions: Sequence[Question], baseline: str) -> pd.DataFrame:
    """Return one row per probe and question type (and their mean), with the accuracy; columns as `aggregate_seeds` reads.

    Args:
        probes: the results.
        questions: the test questions.
        baseline: the row that others are compared with.
    """
    rows = []
    for probe in probes:
        values: dict[str, float] = {
            name: float(np.mean([answer == question.answer for answer, question in _of_type(probe, questions, name)]))
            for name in TYPES
        }
        for name, value in {**values, MEAN: float(np.mean(list(values.values())))}.items():
            rows.append(
                {
                    "comparison": name,
                    "label": probe.row,
                    "fraction": None,
                    "baseline": baseline,
                    "seed": probe.seed,
                    "samples": len(questions),
                    "gflop_per_sample": np.nan,
                    "samples_per_s": np.nan,
                    "seconds": probe.seconds,
                    "accuracy": value,
                }
            )
    return pd.DataFrame(rows)


def accuracy_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per probed row and question type: mean over seeds, and half the width of its 95 % interval."""
    lines = aggregate_seeds(runs, "accuracy").rename(columns={"comparison": "type", "label": "row"})
    return lines[["row", "type", "seeds", "mean", "half_width", "change", "change_half_width"]]


def paired_table(probes: Sequence[Probe], questions: Sequence[Question]) -> pd.DataFrame:
    """Return the paired comparison of every two rows over the test images, at the seeds that both have.

    An image's answers stay together, of all its questions and all seeds. The interval is of the bootstrap over images, and p
    of the sign test.

    Returns:
        columns row, against, type, difference, low, high, wins, losses, sign_p.
    """
    names = list(dict.fromkeys(probe.row for probe in probes))
    found = []
    for place, name in enumerate(names):
        for other in names[:place]:
            own, others = ({p.seed for p in probes if p.row == one} for one in (name, other))
            if not (both := own & others):
                continue
            a, b = (_items([p for p in probes if p.row == one and p.seed in both], questions) for one in (other, name))
            metrics = [f"llava/scenes/{kind}_accuracy" for kind in (*TYPES, MEAN)]
            for line in compare(a, b, metrics):
                kind = line.metric.rpartition("/")[2].removesuffix("_accuracy")
                found.append(
                    {
                        "row": name,
                        "against": other,
                        "type": kind,
                        "seeds": len(both),
                        "difference": line.difference,
                        "low": line.low,
                        "high": line.high,
                        "wins": line.wins,
                        "losses": line.losses,
                        "sign_p": line.sign_p,
                    }
                )
    columns = ["row", "against", "type", "seeds", "difference", "low", "high", "wins", "losses", "sign_p"]
    return pd.DataFrame(found, columns=columns)


def _of_type(probe: Probe, questions: Sequence[Question], name: str) -> list[tuple[str, Question]]:
    return [(a, q) for a, q in zip(probe.answers, questions, strict=True) if q.type == name]


def _items(probes: Sequence[Probe], questions: Sequence[Question]) -> ItemResults:
    """Return accuracies with images as items: right answers over all seeds, and questions asked."""
    keys = sorted({question.key for question in questions})
    place = {key: number for number, key in enumerate(keys)}
    ratios = {}
    for name in TYPES:
        right_N, asked_N = np.zeros(len(keys)), np.zeros(len(keys))
        for probe in probes:
            for answer, question in _of_type(probe, questions, name):
                right_N[place[question.key]] += answer == question.answer
                asked_N[place[question.key]] += 1
        ratios[name] = Ratio(right_N, asked_N)
    metrics = {f"llava/{name}_accuracy": RatioMetric((ratio,)) for name, ratio in ratios.items()}
    metrics[f"llava/{MEAN}_accuracy"] = RatioMetric(tuple(ratios.values()))
    return ItemResults(tuple(keys), "", metrics)
