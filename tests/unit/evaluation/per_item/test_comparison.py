"""Paired comparisons on results that can be counted by hand."""

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.metric_keys import higher_is_better
from clips_pipeline.evaluation.per_item.comparison import Difference, compare, intervals, sign_test
from clips_pipeline.evaluation.per_item.item_table import read_items
from clips_pipeline.evaluation.per_item.items import ItemResults, items_from_rows
from clips_pipeline.evaluation.results import ItemRow
from clips_pipeline.reports.model.comparison import HEAD, cells, terminal_table, verdicts, write_comparison

RECALL = "retrieval/some/image_to_text_recall@1"


def row(key: str, image: int | None = 0, texts: tuple[int, ...] = (0,), **changes: Any) -> ItemRow:
    facts = {"label": None, "zero_shot_rank": None, "caption_nats": 0.0, "caption_tokens": 0, "set_version": "v"}
    return {"key": key, "image_to_text_rank": image, "text_to_image_ranks": list(texts), **facts, **changes}


def ranks(*found: int) -> ItemResults:
    return items_from_rows(row(f"k{number}", rank) for number, rank in enumerate(found))


def test_every_metric_is_computed_from_the_items() -> None:
    items = items_from_rows(
        [
            row("a", 0, (0, 7), zero_shot_rank=0, caption_nats=6.0, caption_tokens=3),
            row("b", 4, (1,), zero_shot_rank=4, caption_nats=2.0, caption_tokens=1),
            row("c", None, (), zero_shot_rank=None),
        ]
    )
    wanted = {
        "retrieval/image_to_text_recall@1": 1 / 2,
        "retrieval/image_to_text_recall@5": 2 / 2,
        "retrieval/text_to_image_recall@1": 1 / 3,
        "retrieval/text_to_image_recall@5": 2 / 3,
        "retrieval/text_to_image_recall@10": 3 / 3,
        "retrieval/mean_recall@1": (1 / 2 + 1 / 3) / 2,
        "zero_shot/accuracy@1": 1 / 2,
        "zero_shot/accuracy@5": 2 / 2,
        "caption/loss": 8 / 4,
    }
    for name, value in wanted.items():
        assert items.metric_of(name.replace("/", "/set/")).value() == pytest.approx(value, abs=1e-15), name
    with pytest.raises(ConfigError, match=r"zero_shot/set/accuracy@9: cannot be computed .* only retrieval/"):
        items.metric_of("zero_shot/set/accuracy@9")
    assert [higher_is_better(name) for name in ("caption/s/loss", "zero_shot/s/accuracy@1")] == [False, True]


def test_the_bootstrap_approximates_the_exact_one() -> None:
    """Three images have 27 equally likely draws; so many resamples come close to their distribution."""
    a, b = ranks(0, 3, 3), ranks(3, 0, 0)
    gain = np.array([-1, 1, 1])
    every = np.array([gain[list(draw)].mean() for draw in itertools.product(range(3), repeat=3)])
    found = compare(a, b, [RECALL], resamples=200_000, confidence=0.6)[0]
    assert (found.a, found.b, found.difference) == (1 / 3, 2 / 3, 1 / 3)
    assert found.fraction_better == pytest.approx(np.mean(every > 0), abs=0.01)
    assert (found.low, found.high) == tuple(np.percentile(np.repeat(every, 1000), [20, 80]))
    assert (found.wins, found.losses) == (2, 1)
    # With a margin of half a point, only samples without a loss count.
    with_margin = compare(a, b, [RECALL], resamples=200_000, margin=0.5)[0]
    assert with_margin.fraction_better == pytest.approx(np.mean(every > 0.5), abs=0.01)


def test_captions_of_an_image_stay_together() -> None:
    """Drawing single captions would underestimate the interval, since a hundred of them are of one image."""
    a = items_from_rows([row("x", 0, (5,) * 100), row("y", 0, (0,) * 100)])
    b = items_from_rows([row("x", 0, (0,) * 100), row("y", 0, (5,) * 100)])
    found = compare(a, b, ["retrieval/some/text_to_image_recall@1"])[0]
    assert (found.low, found.high) == (-1.0, 1.0)


def test_a_loss_is_better_when_it_is_lower() -> None:
    a = items_from_rows(row(f"k{n}", caption_nats=4.0, caption_tokens=2) for n in range(9))
    b = items_from_rows(row(f"k{n}", caption_nats=3.0, caption_tokens=2) for n in range(9))
    found = compare(a, b, ["caption/some/loss"])[0]
    assert (found.difference, found.fraction_better, found.wins, found.losses) == (-0.5, 1.0, 9, 0)
    assert verdicts([found], 0.95) == ["B is better; the 95% interval excludes 0: caption/some/loss"]


def test_images_are_paired_by_key_and_draws_are_repeatable() -> None:
    a = ranks(*[n % 2 for n in range(50)])
    turned = items_from_rows(row(f"k{number}", number % 2) for number in reversed(range(50)))
    found = compare(a, turned, [RECALL], resamples=500)[0]
    assert (found.low, found.high, found.wins, found.losses, found.sign_p) == (0.0, 0.0, 0, 0, 1.0)
    other = ranks(*[n % 3 for n in range(50)])
    assert compare(a, other, [RECALL], seed=3) == compare(a, other, [RECALL], seed=3)
    # Samples of many images are drawn in chunks, which must not change the result.
    assert compare(other, a, [RECALL])[0].low == -compare(a, other, [RECALL])[0].high


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 5), (8, 2), (2, 8), (60, 41), (3000, 2800)])
def test_the_sign_test_is_exact(wins: int, losses: int) -> None:
    from math import comb

    total = wins + losses
    wanted = min(1.0, 2 * sum(comb(total, k) for k in range(min(wins, losses) + 1)) / 2**total)
    assert sign_test(wins, losses) == pytest.approx(wanted, rel=1e-9)


def test_interval_coverage() -> None:
    """Fifty sets of 400 images with a true recall of 0.3: about 95 % of the intervals contain it."""
    draws = np.random.default_rng(0)
    held = 0
    for _ in range(50):
        found = ranks(*(draws.random(400) > 0.3).astype(int).tolist())
        low, high = intervals({"some": found}, [RECALL], resamples=1000)[RECALL]
        held += low <= 0.3 <= high
    assert held >= 44


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (items_from_rows([row("k0"), row("k2")]), "2 and 2; 1 of the first are missing in the second"),
        (items_from_rows([row("k0"), row("k1"), row("k2")]), "2 and 3"),
        (
            items_from_rows([row("k0", set_version="w"), row("k1", set_version="w")]),
            r"different data \(set versions v and w\)",
        ),
    ],
)
def test_results_on_different_images_are_refused(other: ItemResults, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(ranks(0, 1), other, [RECALL])


def test_rows_of_one_image_twice_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 rows, 1 different keys"):
        items_from_rows([row("a"), row("a")])
    with pytest.raises(ConfigError, match="0 rows"):
        items_from_rows([])


def test_written_tables_are_read(tmp_path: Path) -> None:
    rows = [
        row("001", 0, (0, 7), label=3, zero_shot_rank=2, caption_nats=6.5, caption_tokens=3),
        row("None", None, (), set_version="v"),
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "a.csv", index=False)
    found, wanted = read_items(tmp_path / "a.csv"), items_from_rows(rows)
    assert (found.keys, found.set_version) == (wanted.keys, "v") == (("001", "None"), "v")
    for name in wanted.names():
        np.testing.assert_array_equal(wanted.metrics[name].per_item(), found.metrics[name].per_item())
    # As Kedro loads the table: integers with missing values are floats, lists are texts.
    pd.read_csv(tmp_path / "a.csv").to_csv(tmp_path / "b.csv", index=False)
    assert read_items(tmp_path / "b.csv").names() == wanted.names()


@pytest.mark.parametrize("content", ["", "key,other\n1,2\n"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ConfigError, match=r"a\.csv: not a table of per-item results"):
        read_items(tmp_path / "a.csv")
    with pytest.raises(ConfigError, match="no such file"):
        read_items(tmp_path / "b.csv")


def test_the_page_has_verdicts_and_escapes_names(tmp_path: Path) -> None:
    found = compare(ranks(*[1] * 20 + [0] * 20), ranks(*[0] * 40), [RECALL, "retrieval/some/text_to_image_recall@1"])
    assert verdicts(found, 0.95) == [
        f"B is better; the 95% interval excludes 0: {RECALL}",
        "No significant difference; the 95% interval contains 0: retrieval/some/text_to_image_recall@1",
    ]
    assert cells(found[0])[:4] == (RECALL, "0.5000", "1.0000", "+0.5000")
    page = write_comparison(found, ("<script>", "b"), 40, 0.95, tmp_path / "c.html").read_text()
    assert "<script>" not in page
    assert "B is better" in page


@pytest.mark.parametrize("width", [80, 140])
def test_the_terminal_table_does_not_truncate_metrics(width: int) -> None:
    keys = [
        "retrieval/some/image_to_text_recall@10",
        "retrieval_long/some/text_to_image_recall@10",
        "zero_shot/some/mean_per_class_accuracy@1",
        "caption/some/loss",
        "sugarcrepe/replace_rel/accuracy",
    ]
    found = [Difference(key, 0.25, 0.125, -0.25, 0.0625, 0.2, 1234, 4321, 0.00012) for key in keys]
    stream = io.StringIO()
    console = Console(file=stream, width=width)
    console.print(terminal_table(found, 40, 0.95, console.width))
    lines = stream.getvalue().splitlines()
    assert "…" not in stream.getvalue()
    assert max(map(len, lines)) <= width
    for name in (
        "image_to_text_recall@10",
        "mean_per_class_accuracy@1",
        "loss (lower is better)",
        "replace_rel/accuracy",
    ):
        (line,) = [line for line in lines if f" {name} " in line and line.startswith(" ")][:1]
        assert "-0.1250   -0.2500 to +0.0625" in line
    assert [name in stream.getvalue() for name in HEAD] == [True] * 5 + [width > 80] * 3
