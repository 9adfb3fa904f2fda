"""Figures and summary of a search, from a study with known effects."""

import dataclasses
import math
import random

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from clips_pipeline.pipelines.search.pipeline import FIGURES as PIPELINE_FIGURES
from clips_pipeline.tuning import trial_queue
from clips_pipeline.tuning.config import SearchConfig
from clips_pipeline.tuning.figures import FIGURES, figures, importances, pareto_front, with_cost_objective
from clips_pipeline.tuning.search import SearchResult, best_trial, trials_table
from clips_pipeline.tuning.search_space import suggest
from clips_pipeline.tuning.summary import margin_of_error, summary

CONFIG = SearchConfig()
STRATEGIES = ("sub_caption", "truncation", "random_mask", "block_mask")
TRIALS = 24


@pytest.fixture(scope="module")
def study() -> optuna.Study:
    """A study in which shorter fragments score better and the caption weight has a small effect; the last trial is pruned."""
    draw = random.Random(0)  # noqa: S311 - not used for security
    found = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(TRIALS + 1):
        asked = found.ask()
        values = suggest(asked, CONFIG.space)
        tokens, weight = values["captions.fragment.tokens"], float(str(values["loss.caption_weight"]))
        length = float(str(tokens or draw.choice((9, 15)))) + 3
        asked.set_user_attr(trial_queue.VALUES, values)
        asked.set_user_attr(trial_queue.COST, 1e9 * (0.1 + 0.01 * length))
        asked.set_user_attr("fragment_tokens", length)
        if number == TRIALS:
            asked.report(0.01, 1)
            found.tell(asked, state=TrialState.PRUNED)
        else:
            found.tell(asked, 0.5 - 0.005 * length + 0.01 * weight)
    return found


def result_of(study: optuna.Study) -> SearchResult:
    table = trials_table(study, CONFIG)
    best = best_trial(study, CONFIG)
    assert best is not None
    drawn = figures(study, table, CONFIG)
    return SearchResult(
        {}, best.values[0], best.number, table, drawn, pareto_front(study), importances(study), parent=None
    )


def test_six_figures(study: optuna.Study) -> None:
    drawn = figures(study, trials_table(study, CONFIG), CONFIG)
    assert tuple(drawn) == FIGURES == PIPELINE_FIGURES
    assert all(len(figure.data) > 0 for figure in drawn.values())
    length = drawn["fragment_length"]
    assert {series.name for series in length.data} == set(STRATEGIES)
    assert sum(len(series.x) for series in length.data) == TRIALS  # the pruned trial has no final score
    assert "tokens" in length.layout.xaxis.title.text
    assert sum(len(series.x) for series in drawn["pareto_front"].data) == TRIALS


def test_two_objectives_have_importances_of_the_front(study: optuna.Study) -> None:
    both = with_cost_objective(study)
    assert len(both.directions) == 2
    assert sum(importances(both).values()) == pytest.approx(1.0)


def test_figures_without_finished_trials_have_a_note() -> None:
    empty = optuna.create_study(direction="maximize")
    columns = pd.DataFrame({"state": []})
    assert "at least 2 finished trials" in figures(empty, columns, CONFIG)["history"].layout.title.text


def test_two_trials_with_one_score_have_figures() -> None:
    same = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(2):
        asked = same.ask()
        asked.set_user_attr(trial_queue.VALUES, suggest(asked, CONFIG.space))
        asked.set_user_attr(trial_queue.COST, 1e9)
        asked.set_user_attr("fragment_tokens", 9.0)
        same.tell(asked, 0.5)
    result = result_of(same)
    assert tuple(result.figures) == FIGURES
    assert "no parameter" in result.figures["importances"].layout.title.text
    assert result.importances == {}


def test_importances_rank_the_parameters(study: optuna.Study) -> None:
    found = importances(study)
    assert next(iter(found)) in ("captions.fragment.tokens", "captions.fragment.tokens is null")
    assert sum(found.values()) == pytest.approx(1.0)


def test_parameters_that_never_varied_have_no_importance() -> None:
    same = optuna.create_study(direction="maximize")
    for place in range(4):
        asked = same.ask()
        asked.suggest_float("varied", 0.0, 1.0)
        asked.suggest_float("fixed", 1.0, 1.0)
        same.tell(asked, float(place))
    assert set(importances(same)) == {"varied"}


def test_no_trial_beats_the_pareto_front(study: optuna.Study) -> None:
    done = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    points = {trial.number: (trial.values[0], trial.user_attrs[trial_queue.COST]) for trial in done}
    front = {
        number
        for number, (score, cost) in points.items()
        if not any(s >= score and c <= cost and (s > score or c < cost) for s, c in points.values())
    }
    found = pareto_front(study)
    assert set(found) == front
    assert found == sorted(found, key=lambda number: points[number][1])


def test_the_summary_reports_the_best_trial_and_its_uncertainty(study: optuna.Study) -> None:
    result = result_of(study)
    text = summary(result, CONFIG, held_out=400)
    assert f"Trial {result.best_trial} is the best" in text
    assert "24 complete, 1 pruned" in text
    assert "on 400 held-out images" in text
    assert "| `captions.fragment.tokens` |" in text
    assert "other finished trials are within" in text
    assert "biased upward" in text
    assert "(PED-ANOVA): `captions.fragment.tokens" in text
    few = result.trials[result.trials["trial"].isin([result.best_trial, 0])]
    text = summary(dataclasses.replace(result, trials=few), CONFIG, held_out=400)
    assert "too few for parameter importances" in text


def test_the_margin_of_error_is_binomial() -> None:
    assert margin_of_error(0.5, 100) == pytest.approx(1.96 * 0.05)
    # A score of 0 on 8 images is uncertain.
    assert margin_of_error(0.0, 8) > 0.1
    assert margin_of_error(0.5, 400) == pytest.approx(margin_of_error(0.5, 100) / math.sqrt(4))
