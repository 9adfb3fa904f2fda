"""Markdown summary of a search: the best trial, its uncertainty, and the parameter importances."""

import math

from clips_pipeline.reports.page import environment
from clips_pipeline.tuning.config import SearchConfig
from clips_pipeline.tuning.search import SearchResult

_MIN_TRIALS_FOR_IMPORTANCE = 20
_Z95 = 1.96


def summary(result: SearchResult, config: SearchConfig, held_out: int) -> str:
    """Render `reports/templates/search.md`.

    Args:
        result: results of the search.
        config: configuration of the search.
        held_out: number of images that a score is measured on.
    """
    table = result.trials
    finished = table[table["state"] == "complete"]
    best = finished[finished["trial"] == result.best_trial].iloc[0]
    score = float(best[config.metric])
    # Upper bound for the difference of two trials on the same images: treats them as independent.
    indistinguishable = math.sqrt(2) * margin_of_error(score, held_out)
    others = finished[finished["trial"] != result.best_trial]
    first = finished[finished["first_attempt"] == 0]
    front = finished[finished["trial"].isin(result.front)].sort_values("gflop_per_sample")
    text = environment().overlay(autoescape=False).get_template("search.md")
    return text.render(
        config=config,
        held_out=held_out,
        table=table,
        done=len(finished),
        best=best.to_dict(),
        first=None if first.empty else first.iloc[0].to_dict(),
        front=front.to_dict("records"),
        margin=margin_of_error(score, held_out),
        apart=indistinguishable,
        close=others[(others[config.metric] - score).abs() <= indistinguishable]["trial"].tolist(),
        importances=result.importances,
        enough=_MIN_TRIALS_FOR_IMPORTANCE,
    )


def margin_of_error(score: float, held_out: int) -> float:
    """Return half the width of the 95 % confidence interval of a fraction that was counted on `held_out` images.

    Normal approximation of the binomial. Both retrieval directions use the same images, which therefore count once.
    """
    share = min(max(score, 1 / (2 * held_out)), 1 - 1 / (2 * held_out))
    return _Z95 * math.sqrt(share * (1 - share) / held_out)
