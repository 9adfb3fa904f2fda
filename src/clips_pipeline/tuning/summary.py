"""The search in words: what was found, and how sure one may be."""

import math

import pandas as pd

from clips_pipeline.tuning.config import SearchConfig
from clips_pipeline.tuning.study import SearchResult

_FEWEST_FOR_IMPORTANCE = 20
_Z95 = 1.96


def summary(result: SearchResult, config: SearchConfig, held_out: int) -> str:
    """Markdown.

    Args:
        result: of the search.
        config: of the search.
        held_out: images that a score is measured on.
    """
    table, best = result.trials, result.best_trial
    done = table[table["state"] == "complete"]
    (_, row), *_ = done[done["trial"] == best].iterrows()
    counts = ", ".join(f"{count} {state}" for state, count in table["state"].value_counts().items())
    lines = [
        f"# Search `{config.study_name}`",
        "",
        f"{len(table)} attempts at trials ({counts}) of {config.samples:,} training samples each; {config.metric}, "
        f"{'higher' if config.direction == 'maximize' else 'lower'} is better, on {held_out:,} held-out images.",
        "",
        "## Found",
        f"Trial {best} is the best: {config.metric} **{row[config.metric]:.4f}** at {row['gflop_per_sample']:.3f} GFLOP per "
        "training sample.",
        "",
        "| parameter | value |",
        "| --- | --- |",
        *(f"| `{path}` | {row[path] if not pd.isna(row[path]) else 'null'} |" for path in config.space),
        "",
        *_against_first(done, config, best),
        *_front(done[done["trial"].isin(result.front)], config),
        "## How sure one may be",
        *_certainty(result.importances, done, config, held_out, row),
        "",
        "## Use it",
        "    kedro run --pipelines pretrain --env best",
    ]
    return "\n".join(lines) + "\n"


def _against_first(done: pd.DataFrame, config: SearchConfig, best: int) -> list[str]:
    first = done[done["first_attempt"] == 0]
    if first.empty:
        return ["The first trial, with the training's own parameters, has no score to compare with.", ""]
    if int(first["trial"].iloc[0]) == best:
        return ["It is the first trial: the training's own parameters were not beaten.", ""]
    score = float(first[config.metric].iloc[0])
    return [f"The training's own parameters (the first trial) reached {score:.4f}.", ""]


def _front(front: pd.DataFrame, config: SearchConfig) -> list[str]:
    return [
        "No other finished trial beats these in score and cost at once:",
        "",
        f"| trial | {config.metric} | GFLOP per sample | mean tokens of a fragment's row |",
        "| --- | --- | --- | --- |",
        *(
            f"| {row['trial']} | {row[config.metric]:.4f} | {row['gflop_per_sample']:.3f} | {row['fragment_tokens']:.1f} |"
            for _, row in front.sort_values("gflop_per_sample").iterrows()
        ),
        "",
    ]


def margin(score: float, held_out: int) -> float:
    """Half the 95 % interval of a share that was counted on `held_out` images.

    Normal approximation of the binomial; both directions of retrieval see the same images, so they count once.
    """
    share = min(max(score, 1 / (2 * held_out)), 1 - 1 / (2 * held_out))
    return _Z95 * math.sqrt(share * (1 - share) / held_out)


def _certainty(
    found: dict[str, float], done: pd.DataFrame, config: SearchConfig, held_out: int, best: pd.Series
) -> list[str]:
    score = float(best[config.metric])
    # Of a difference of two trials on the same images at most, as if they were independent.
    apart = math.sqrt(2) * margin(score, held_out)
    others = done[done["trial"] != best["trial"]]
    close = others[(others[config.metric] - score).abs() <= apart]
    lines = [
        f"- A score has a 95 % interval of about ±{margin(score, held_out):.4f}, from the {held_out:,} images alone.",
        f"- {len(close)} of the {len(others)} other finished trials lie within {apart:.4f} of the best: this search cannot "
        f"tell them from it{' (trials ' + ', '.join(map(str, close['trial'])) + ')' if 0 < len(close) <= 10 else ''}.",
        "- Every trial ran with one seed. How much a seed moves the score was not measured here.",
        f"- The best of {len(done)} is chosen by the same images that score it, so its score is an overestimate. Train it anew "
        "and evaluate it on the test split before believing it.",
        f"- Trials saw {config.samples:,} samples; what is best after a short training need not be best after a long one.",
    ]
    if found and len(done) >= _FEWEST_FOR_IMPORTANCE:
        named = ", ".join(f"`{path}` {share:.0%}" for path, share in found.items())
        lines.append(f"- What the best tenth of the trials owes to each parameter (PED-ANOVA): {named}.")
    else:
        lines.append(
            f"- {len(done)} finished trials are too few to say which parameter matters; from {_FEWEST_FOR_IMPORTANCE} on it "
            "stands here."
        )
    return lines
