"""The model card contains the known facts, and escapes foreign text."""

from typing import Any

from clips_pipeline.evaluation.per_item.items import compositionality_items, items_from_rows
from clips_pipeline.registry.versions.model_card import CardFacts, SplitFacts, render_card

METRIC = "retrieval/some/image_to_text_recall@1"


def facts(**changes: Any) -> CardFacts:
    items = items_from_rows(
        {
            "key": str(number),
            "image_to_text_rank": number % 2,
            "text_to_image_ranks": [0],
            "zero_shot_rank": None,
            "caption_nats": 0.0,
            "caption_tokens": 0,
        }
        for number in range(100)
    )
    known: dict[str, Any] = {
        "name": "clips",
        "version": 3,
        "run_id": "abc",
        "decision": "better: <script>alert(1)</script> | [link](x)",
        "metrics": {METRIC: 0.5, "caption/some/loss": 2.25},
        "items": {"some": items},
        "parameters": {"train": {"seed": 7, "model": {"size": "tiny"}, "launch": {"processes": 2}}},
        "data_version": "d" * 64,
        "splits": {"train": SplitFacts(20_000, {"empty_file": 3}), "test": SplitFacts(100, {})},
        "history": [{"samples": 64, "samples_per_s": 100.0}, {"samples": 6400, "samples_per_s": float("nan")}],
        "git_commit": "c" * 40,
    }
    return CardFacts(**(known | changes))


def test_the_card_contains_every_fact() -> None:
    text = render_card(facts())
    assert "# clips, version 3" in text
    assert f"| `{METRIC}` | 0.5000 | 0.4" in text
    # It has no per-item results.
    assert "| `caption/some/loss` | 2.2500 | – |" in text
    assert "| train | 20,000 | 3 empty\\_file |" in text
    assert "| test | 100 | none |" in text
    assert "d" * 64 in text
    assert "`train.seed` | `7`" in text
    assert "processes" not in text
    assert "6,400 samples seen at a median of 100 per second, about 64 s of training." in text
    assert "c" * 40 in text
    assert "Evaluated only on some;" in text
    assert "Zero-shot classification was not evaluated." in text


def test_metrics_of_other_sets_have_intervals_from_their_own_items() -> None:
    pairs = [
        {"set": "winoground", "key": str(n), "text_right": n % 2 == 0, "image_right": False, "set_version": "v"}
        for n in range(50)
    ]
    known = facts()
    metrics = {**known.metrics, "winoground/all/text_score": 0.5}
    text = render_card(facts(metrics=metrics, items={**known.items, **compositionality_items(pairs)}))
    assert "| `winoground/all/text_score` | 0.5000 | 0.3" in text
    assert f"| `{METRIC}` | 0.5000 | 0.4" in text


def test_foreign_text_is_escaped() -> None:
    text = render_card(facts())
    assert "<script>" not in text
    assert "[link](x)" not in text


def test_unknown_facts_are_left_out() -> None:
    text = render_card(facts(items={}, history=[], git_commit=None, metrics={}, splits={}))
    assert "samples seen" not in text
    assert "commit" not in text
    assert "Evaluated only on no set;" in text
