"""Figures and summary of a search, from a table whose truth is known."""

import math
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from clips_pipeline.pipelines.search.pipeline import FIGURES as PIPELINE_FIGURES
from clips_pipeline.tuning.charts import save, to_plotly
from clips_pipeline.tuning.config import SearchConfig
from clips_pipeline.tuning.figures import FIGURES, figures, importances, pareto_front
from clips_pipeline.tuning.summary import margin, summary

CONFIG = SearchConfig()
STRATEGIES = ("sub_caption", "truncation", "random_mask", "block_mask")


def table_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    for path in CONFIG.space:
        table[path] = pd.Series([row[path] for row in rows], dtype=object)
    return table


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Shorter is better, the caption weight matters a little, nothing else does."""
    draw = random.Random(0)  # noqa: S311 - no secret depends on it
    rows: list[dict[str, Any]] = []
    for trial in range(24):
        tokens = draw.choice([None, 6, 12, 24, 48])
        weight = draw.uniform(0.25, 4.0)
        length = (tokens or 12) + 3
        rows.append(
            {
                "trial": trial,
                "state": "complete",
                "mean_recall@1": 0.5 - 0.005 * length + 0.01 * weight,
                "gflop_per_sample": 0.1 + 0.01 * length,
                "fragment_tokens": float(length),
                "captions.fragment.strategy": draw.choice(STRATEGIES),
                "captions.fragment.tokens": tokens,
                "loss.contrastive_weight": draw.uniform(0.5, 2.0),
                "loss.caption_weight": weight,
                "first_attempt": trial,
            }
        )
    rows.append({**rows[3], "trial": 24, "state": "pruned", "mean_recall@1": 0.01})
    return table_of(rows)


def test_six_figures_as_pages_and_pictures(table: pd.DataFrame, tmp_path: Path) -> None:
    drawn = figures(table, CONFIG)
    assert tuple(drawn) == FIGURES == PIPELINE_FIGURES
    for name, chart in drawn.items():
        page, picture = save(chart, tmp_path, name)
        text = page.read_text()
        assert "<script src=" not in text  # it needs no network
        assert chart.title in text
        with Image.open(picture) as image:
            assert len(image.convert("L").getcolors(1 << 16) or []) > 8  # something is drawn
    length = drawn["fragment_length"].panels[0]
    assert {series.name for series in length.series} == set(STRATEGIES)
    assert sum(len(series.x) for series in length.series) == 24  # the pruned trial has no final score
    assert "tokens" in length.x_label
    assert len(to_plotly(drawn["slices"]).data) == len(CONFIG.space)


def test_without_finished_trials_figures_say_so(table: pd.DataFrame, tmp_path: Path) -> None:
    chart = figures(table[table["state"] == "pruned"], CONFIG)["history"]
    assert "at least 2 finished trials" in chart.title
    assert all(path.is_file() for path in save(chart, tmp_path, "history"))


def test_importance_finds_what_matters(table: pd.DataFrame) -> None:
    found = importances(table[table["state"] == "complete"], CONFIG)
    assert next(iter(found)) == "captions.fragment.tokens"
    assert sum(found.values()) == pytest.approx(1.0)


def test_importance_of_what_never_varied_is_left_out(table: pd.DataFrame) -> None:
    same = table.assign(**{"loss.caption_weight": 1.0})
    assert "loss.caption_weight" not in importances(same, CONFIG)
    assert importances(table.assign(**{"mean_recall@1": 0.5}), CONFIG) == {}


def test_the_front_is_what_no_trial_beats(table: pd.DataFrame) -> None:
    done = table[table["state"] == "complete"]
    front = set(pareto_front(done, CONFIG)["trial"])
    rows = done.to_dict("records")

    def beaten(row: dict[str, Any]) -> bool:
        better = [
            other
            for other in rows
            if other["mean_recall@1"] >= row["mean_recall@1"] and other["gflop_per_sample"] <= row["gflop_per_sample"]
        ]
        return any(
            other["mean_recall@1"] > row["mean_recall@1"] or other["gflop_per_sample"] < row["gflop_per_sample"]
            for other in better
        )

    assert front == {row["trial"] for row in rows if not beaten(row)}


def test_the_summary_says_what_was_found_and_how_sure_one_may_be(table: pd.DataFrame) -> None:
    done = table[table["state"] == "complete"]
    best = int(done.loc[done["mean_recall@1"].idxmax(), "trial"])
    text = summary(table, CONFIG, held_out=400, best=best)
    assert f"Trial {best} is the best" in text
    assert "24 complete, 1 pruned" in text
    assert "on 400 held-out images" in text
    assert "| `captions.fragment.tokens` | 6 |" in text
    assert "other finished trials lie within" in text
    assert "overestimate" in text
    assert "Share of the score's variance by parameter: `captions.fragment.tokens`" in text
    few = summary(done[done["trial"].isin([best, 0])], CONFIG, held_out=400, best=best)
    assert "too few to say which parameter matters" in few


def test_the_margin_is_that_of_a_counted_share() -> None:
    assert margin(0.5, 100) == pytest.approx(1.96 * 0.05)
    # Nothing found on 8 images is no certainty.
    assert margin(0.0, 8) > 0.1
    assert margin(0.5, 400) == pytest.approx(margin(0.5, 100) / math.sqrt(4))
