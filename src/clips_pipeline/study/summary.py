"""The study in words and tables, as Markdown. It reports what came out, whatever that is."""

import math

import pandas as pd

_TITLES = {
    "methods": "Methods at the same number of samples",
    "methods_at_equal_compute": "Methods at the same compute",
    "fragment_lengths": "Shorter fragments of the synthetic caption",
    "web_lengths": "Shorter web captions",
    "ablations": "Behind the defaults",
}


def markdown(lines: pd.DataFrame, metric: str, facts: dict[str, str]) -> str:
    """One table for each exhibit.

    Args:
        lines: what `over_seeds` gives for `metric`.
        metric: what is compared.
        facts: what else belongs at the head: data version, seeds and the like.
    """
    text = ["# Study", ""]
    text += [f"- {name}: {value}" for name, value in facts.items()]
    text += [
        f"- metric: {metric}; chance is not taken off",
        "- ± is half of the 95 % interval of the mean over seeds (Student's t); one seed has none. A change is that of each "
        "seed against the baseline of the same seed, where both have been run, and is called clear where its interval leaves "
        "out zero. Many lines are compared, so one in twenty would be called clear by chance.",
    ]
    for exhibit, title in _TITLES.items():
        chosen = lines[lines["exhibit"] == exhibit]
        if chosen.empty:
            continue
        text += ["", f"## {title}", ""]
        text += [
            "| | part read | samples | GFLOP a sample | samples/s | seeds | % | change, points | |",
            "|" + " --- |" * 9,
        ]
        text += [_row(line) for line in chosen.to_dict("records")]
    return "\n".join(text) + "\n"


def _row(line: dict[str, float | str]) -> str:
    change, width = float(line["change"]), float(line["change_half_width"])
    verdict = "" if math.isnan(change) or math.isinf(width) else "clear" if abs(change) > width else "not clear"
    share, is_baseline = float(line["share"]), line["label"] == line["baseline"]
    cells = (
        str(line["label"]),
        "" if math.isnan(share) else f"{share:g}",
        f"{int(line['samples']):,}",
        f"{float(line['gflop_per_sample']):.3f}",
        f"{float(line['samples_per_s']):.0f}",
        f"{int(line['seeds'])}",
        f"{100 * float(line['mean']):.2f}{_plus_minus(float(line['half_width']))}",
        "baseline" if is_baseline else "not yet" if math.isnan(change) else f"{100 * change:+.2f}{_plus_minus(width)}",
        verdict,
    )
    return "| " + " | ".join(cells) + " |"


def _plus_minus(width: float) -> str:
    return f" ± {100 * width:.2f}" if math.isfinite(width) else ""
