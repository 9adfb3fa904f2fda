"""Markdown summary of a study: one table per comparison."""

import math
import re

import pandas as pd

from clips_pipeline.study.table import aggregate_seeds

_TITLES = {
    "methods": "Methods at the same number of samples",
    "methods_at_equal_compute": "Methods at the same compute",
    "fragment_lengths": "Shorter fragments of the synthetic caption",
    "web_lengths": "Shorter web captions",
    "ablations": "Ablations of the defaults",
    "captioners": "Captions of each captioner alone, and of all",
    "second_generation": "Training on captions that a model has written",
}
# Metrics of the second table of a comparison.
_EXTRA_METRICS = re.compile(
    r"retrieval/.+/(image_to_text|text_to_image)_recall@(1|5|10)|zero_shot/.+/accuracy@1|probe/.+/linear_accuracy@1"
)


def markdown(lines: pd.DataFrame, runs: pd.DataFrame, metric: str, facts: dict[str, str]) -> str:
    """Return two tables per comparison: `metric` with its changes, and all recalls with zero-shot accuracy.

    Args:
        lines: means over seeds of `metric`, from `aggregate_seeds`.
        runs: one row per run, from `runs_table`.
        metric: the column that is compared.
        facts: lines of the head, such as data version and seeds.
    """
    text = ["# Study", ""]
    text += [f"- {name}: {value}" for name, value in facts.items()]
    text += [
        f"- metric: {metric}, chance level not subtracted",
        "- samples/s: of one training on its part of the cores, while the others run; median over seeds",
        "- ±: half the width of the 95 % confidence interval of the mean over seeds (Student's t); one seed has none.",
        "- change: difference from the baseline of the same seed, where both have been run; it is clear where its interval",
        "  excludes zero. Many rows are compared, so about one in twenty would be clear by chance.",
    ]
    for comparison, title in _TITLES.items():
        chosen = lines[lines["comparison"] == comparison]
        if chosen.empty:
            continue
        text += ["", f"## {title}", ""]
        text += [
            "| | fraction read | samples | GFLOP per sample | samples/s | seeds | % | change, points | |",
            "|" + " --- |" * 9,
        ]
        text += [_row(line) for line in chosen.to_dict("records")]
        text += ["", *_by_metric(runs[runs["comparison"] == comparison])]
    return "\n".join(text) + "\n"


def _by_metric(runs: pd.DataFrame) -> list[str]:
    """Return a table in percent of one comparison's rows, with a column per metric."""
    metrics = [name for name in runs.columns if _EXTRA_METRICS.fullmatch(name)]
    if not metrics:
        return []
    heads = [_name(metric) for metric in metrics]
    rows: dict[str, list[str]] = {}
    for metric in metrics:
        for line in aggregate_seeds(runs, metric).to_dict("records"):
            cell = f"{100 * line['mean']:.1f}{_plus_minus(line['half_width'], digits=1)}"
            cell = "–" if math.isnan(line["mean"]) else cell
            fraction = "" if math.isnan(line["fraction"]) else f" {line['fraction']:g}"
            rows.setdefault(f"{line['label']}{fraction}", []).append(cell)
    table = [["%, ± as above", *heads], ["---"] * (1 + len(heads)), *([label, *cells] for label, cells in rows.items())]
    return ["| " + " | ".join(cells) + " |" for cells in table]


def _name(metric: str) -> str:
    kind, _, name = metric.split("/", 2)
    return f"{kind} {name}".removeprefix("retrieval ").replace("_", " ").replace("zero shot", "zero-shot")


def _row(line: dict[str, float | str]) -> str:
    change, width = float(line["change"]), float(line["change_half_width"])
    verdict = "" if math.isnan(change) or math.isinf(width) else "clear" if abs(change) > width else "not clear"
    absent = math.isnan(float(line["mean"]))
    fraction, is_baseline = float(line["fraction"]), line["label"] == line["baseline"]
    changed = "not yet" if math.isnan(change) else f"{100 * change:+.2f}{_plus_minus(width)}"
    changed = "baseline" if is_baseline else "" if absent else changed
    cells = (
        str(line["label"]),
        "" if math.isnan(fraction) else f"{fraction:g}",
        f"{int(line['samples']):,}",
        f"{float(line['gflop_per_sample']):.3f}",
        f"{float(line['samples_per_s']):.0f}",
        f"{int(line['seeds'])}",
        "no such metric" if absent else f"{100 * float(line['mean']):.2f}{_plus_minus(float(line['half_width']))}",
        changed,
        verdict,
    )
    return "| " + " | ".join(cells) + " |"


def _plus_minus(width: float, digits: int = 2) -> str:
    return f" ± {100 * width:.{digits}f}" if math.isfinite(width) else ""
