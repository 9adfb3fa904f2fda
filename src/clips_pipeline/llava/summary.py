"""Markdown summary of the probe: accuracies, comparisons, and what can be concluded."""

import math
import textwrap
from collections.abc import Mapping

import pandas as pd

from clips_pipeline.llava.job import BLIND, UNTRAINED, methods_of
from clips_pipeline.llava.questions import TYPES
from clips_pipeline.llava.results import MEAN

_ASKED = {
    "color": "what color is the largest thing?",
    "kind": "what is the largest thing?",
    "count": "how many things are there?",
    "where": "where is the largest thing? (nine places)",
    "exists": "is there an apple?",
    "background": "what is in the background?",
    MEAN: "mean of the above",
}


def markdown(
    table: pd.DataFrame,
    paired: pd.DataFrame,
    chance: Mapping[str, float],
    recall: Mapping[str, float],
    facts: Mapping[str, str],
) -> str:
    """Return the summary.

    Args:
        table: from `accuracy_table`.
        paired: from `paired_table`.
        chance: by type and for the mean, accuracy of the best constant answer.
        recall: by method, mean recall@1 of its towers over seeds.
        facts: lines of the head, such as data version and seeds.
    """
    names = list(dict.fromkeys(table["row"]))
    text = ["# LLaVA in miniature", ""]
    text += [line for name, value in facts.items() for line in _wrapped(f"- {name}: {value}")]
    text += [
        "- accuracy: fraction of the test questions with exactly the right answer, in %",
        "- ±: half the width of the 95 % confidence interval of the mean over seeds (Student's t); one seed has none",
        f"- {UNTRAINED}: a tower with initial weights. {BLIND}: no image",
        "- best constant: the best answer that is the same for all questions of a type; answers are balanced",
        "",
        "## Conclusion",
        "",
        *(line for item in conclusion(table, paired, recall) for line in _wrapped(item)),
        "",
        "## Accuracy",
        "",
    ]
    heads = ["question", "best constant", *names]
    text += ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for kind in (*TYPES, MEAN):
        cells = [f"{kind}: {_ASKED[kind]}", f"{100 * chance[kind]:.1f}"]
        for name in names:
            line = table[(table["row"] == name) & (table["type"] == kind)].iloc[0]
            cells.append(f"{100 * line['mean']:.1f}{_plus_minus(line['half_width'])}")
        text.append("| " + " | ".join(cells) + " |")
    text += [
        "",
        "Mean recall@1 of the towers: "
        + ", ".join(f"{name} {100 * value:.1f} %" for name, value in recall.items())
        + ".",
    ]
    text += ["", "## Differences over seeds", "", *_over_seeds(table, names)]
    text += ["", "## Differences over test images", "", *_over_images(paired)]
    return "\n".join(text) + "\n"


def conclusion(table: pd.DataFrame, paired: pd.DataFrame, recall: Mapping[str, float]) -> list[str]:
    """Return what the comparisons say, as list items: what the towers show, what training added, and how methods differ."""
    methods = methods_of(list(table["row"]))
    seen = [kind for kind in TYPES if any(_clearly_better(paired, name, BLIND, kind) for name in methods)]
    unseen = [kind for kind in TYPES if kind not in seen]
    text = []
    if seen:
        text.append(
            f"- With a trained tower, answers are clearly better than without the image about: {', '.join(seen)}."
        )
    if unseen:
        text.append(
            f"- **The language model gets nothing from any tower about: {', '.join(unseen)}.** There the towers show too little "
            "(or the language model is too small, or trained too shortly), and methods cannot be compared."
        )
    better = [name for name in methods if _clearly_better(paired, name, UNTRAINED, MEAN)]
    worse = [name for name in methods if _clearly_better(paired, UNTRAINED, name, MEAN)]
    text.append(
        f"- Clearly better than an untrained tower on the mean, over the test images: {', '.join(better) or 'none'}; clearly "
        f"worse: {', '.join(worse) or 'none'}."
    )
    for kind in (*TYPES, MEAN):
        pairs = [f"{a} than {b}" for a in methods for b in methods if a != b and _clearly_better(paired, a, b, kind)]
        if pairs:
            text.append(
                f"- Between methods, {kind}, over the test images and with these seeds: better {', '.join(pairs)}."
            )
        elif kind == MEAN:
            text.append("- **Between methods there is no clear difference on the mean.**")
    lines = table[(table["type"] == MEAN) & table["row"].isin(methods)]
    clear = [str(line["row"]) for line in lines.to_dict("records") if abs(line["change"]) > line["change_half_width"]]
    text.append(f"- Clearly different from the baseline method over seeds, on the mean: {', '.join(clear) or 'none'}.")
    if recall and max(recall.values()) < 0.1:
        text.append(
            f"- The towers see little: mean recall@1 is at most {100 * max(recall.values()):.1f} %. A result here says "
            "nothing about towers of the paper's size."
        )
    return text


def _clearly_better(paired: pd.DataFrame, one: str, other: str, kind: str) -> bool:
    """Return whether the interval over images of one row minus another one is above 0."""
    of_type = paired[paired["type"] == kind]
    direct = of_type[(of_type["row"] == one) & (of_type["against"] == other)]
    inverse = of_type[(of_type["row"] == other) & (of_type["against"] == one)]
    return bool((direct["low"] > 0).any() or (inverse["high"] < 0).any())


def _over_seeds(table: pd.DataFrame, names: list[str]) -> list[str]:
    lines = ["Points against the baseline with the same seed, ± as above; clear where the interval excludes zero.", ""]
    lines += ["| | " + " | ".join((*TYPES, MEAN)) + " |", "|" + " --- |" * (2 + len(TYPES))]
    for name in names:
        own = table[table["row"] == name].set_index("type")
        if own["change"].isna().all():
            continue
        cells = []
        for kind in (*TYPES, MEAN):
            change, width = own.loc[kind, "change"], own.loc[kind, "change_half_width"]
            clear = " clear" if math.isfinite(width) and abs(change) > width else ""
            cells.append(f"{100 * change:+.1f}{_plus_minus(width)}{clear}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _over_images(paired: pd.DataFrame) -> list[str]:
    lines = [
        "Points. Bold: the 95 % interval of a paired bootstrap over the test images excludes zero. p: sign test of the mean over",
        "the images. Both say how certain the difference of *these* trained models is, not how other seeds would differ. All",
        "intervals are in `paired.csv`. Many pairs are compared, so about one in twenty is clear by chance.",
        "",
        "| | against | " + " | ".join((*TYPES, MEAN)) + " | interval of the mean | p |",
        "|" + " --- |" * (5 + len(TYPES)),
    ]
    for (row, against), own in paired.groupby(["row", "against"], sort=False):
        by_type = {line["type"]: line for line in own.to_dict("records")}
        cells = []
        for kind in (*TYPES, MEAN):
            line = by_type[kind]
            points = f"{100 * line['difference']:+.1f}"
            cells.append(f"**{points}**" if line["low"] > 0 or line["high"] < 0 else points)
        mean = by_type[MEAN]
        cells += [f"{100 * mean['low']:+.1f} to {100 * mean['high']:+.1f}", f"{mean['sign_p']:.2g}"]
        lines.append(f"| {row} | {against} | " + " | ".join(cells) + " |")
    return lines


def _wrapped(item: str) -> list[str]:
    """Return a list item in lines of at most 120 characters."""
    return textwrap.wrap(item, 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _plus_minus(width: float) -> str:
    return f" ± {100 * width:.1f}" if math.isfinite(width) else ""
