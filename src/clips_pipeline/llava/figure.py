"""Figure of the probe: accuracy by question type and row."""

import math

import pandas as pd
from matplotlib.figure import Figure

from clips_pipeline.llava.questions import TYPES
from clips_pipeline.llava.results import MEAN

_SIZE = (9.5, 4.2)


def accuracy_bars(table: pd.DataFrame, runs: pd.DataFrame, chance: dict[str, float]) -> Figure:
    """Plot the mean accuracy by question type, with intervals over seeds, a dot per seed, and the best constant answer.

    Args:
        table: from `accuracy_table`.
        runs: from `runs_table`.
        chance: by type, from `chance_by_type`; with the mean.
    """
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    types, rows = [*TYPES, MEAN], list(dict.fromkeys(table["row"]))
    width = 0.8 / len(rows)
    for number, row in enumerate(rows):
        own = table[table["row"] == row].set_index("type").reindex(types)
        places = [place + (number - (len(rows) - 1) / 2) * width for place in range(len(types))]
        # One seed has no interval; do not draw one of width 0.
        widths = [100 * value if math.isfinite(value) else math.nan for value in own["half_width"]]
        axes.bar(places, 100 * own["mean"], width=0.95 * width, yerr=widths, capsize=2, label=row)
        dots = runs[runs["label"] == row]
        axes.plot([places[types.index(kind)] for kind in dots["comparison"]], 100 * dots["accuracy"], ".", color="0.2")
    for place, kind in enumerate(types):
        label = "best constant answer" if place == 0 else "_"  # a label with an underscore is not in the legend
        axes.hlines(100 * chance[kind], place - 0.45, place + 0.45, colors="black", linestyles="--", label=label)
    # Accuracy is not outside of these, even where the interval of few seeds is.
    axes.set_ylim(0.0, 101.0)
    axes.set_xticks(range(len(types)), types)
    axes.set_ylabel("exact answers (%)")
    axes.legend(fontsize="small", ncols=2)
    return figure
