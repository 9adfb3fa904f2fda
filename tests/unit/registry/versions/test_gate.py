"""The alias moves only to a significantly better model, on the same images, within the floors of other metrics."""

import json
import math

import pytest

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.evaluation.per_item.items import ItemResults, compositionality_items, items_from_rows
from clips_pipeline.registry.versions.gate import GateConfig, ModelResults, check_metrics, decide

M = "retrieval/some/image_to_text_recall@1"
FLOOR = "zero_shot/some/accuracy@1"
LOSS = "caption/some/loss"
NUMBERS = GateConfig(confidence=None)


def items(found: int, of: int = 100, version: str = "v") -> ItemResults:
    """Return per-item results with `found` of `of` images retrieved."""
    return items_from_rows(
        {
            "key": str(number),
            "image_to_text_rank": int(number >= found),
            "text_to_image_ranks": [0],
            "zero_shot_rank": None,
            "caption_nats": 0.0,
            "caption_tokens": 0,
            "set_version": version,
        }
        for number in range(of)
    )


def model(value: float, found: int | None = None, **others: float) -> ModelResults:
    return ModelResults({M: value, **others}, None if found is None else items(found))


@pytest.mark.parametrize(
    ("value", "champion", "promote", "reason"),
    [
        (0.5, None, True, f"first champion: {M} = 0.5000"),
        (0.5, model(0.4), True, f"better: {M} = 0.5000, the champion's is 0.4000"),
        (0.4, model(0.4), False, "not better"),
        (0.3, model(0.4), False, "not better"),
        (0.9, ModelResults({"other": 0.1}), False, "not comparable: the champion has no"),
    ],
)
def test_decisions_without_bootstrap(value, champion, promote, reason):
    decision = decide(M, NUMBERS, model(value), champion)
    assert decision.promote is promote
    assert decision.reason.startswith(reason)
    assert decision.difference_json == "{}"


def test_an_insignificant_win_does_not_promote():
    lucky = decide(M, GateConfig(), model(0.51, 51), model(0.50, 50))
    assert not lucky.promote
    assert lucky.reason.startswith("not surely better")
    assert "1 images won and 0 lost" in lucky.reason
    sure = decide(M, GateConfig(), model(0.62, 62), model(0.50, 50))
    assert sure.promote
    assert json.loads(sure.difference_json)["wins"] == 12
    assert "95% interval +0.06" in sure.reason


def test_a_minimum_win_must_be_significant():
    assert not decide(M, GateConfig(minimum_win=0.12), model(0.62, 62), model(0.50, 50)).promote
    assert not decide(M, GateConfig(minimum_win=0.10), model(0.62, 62), model(0.50, 50)).promote
    assert decide(M, GateConfig(minimum_win=0.02), model(0.62, 62), model(0.50, 50)).promote


@pytest.mark.parametrize(
    ("candidate", "champion", "reason"),
    [
        (model(0.6), model(0.5, 50), "no per-item results of the new model"),
        (model(0.6, 60), model(0.5), "no per-item results of the champion"),
        (model(0.6, 60), ModelResults({M: 0.5}, items(25, of=50)), "different items (50 and 100"),
        (model(0.6, 60), ModelResults({M: 0.5}, items(50, version="w")), "evaluated on different data"),
    ],
)
def test_unpaired_results_are_not_compared(candidate, champion, reason):
    decision = decide(M, GateConfig(), candidate, champion)
    assert not decision.promote
    assert decision.reason.startswith("not comparable")
    assert reason in decision.reason


def test_floors_limit_losses_on_other_metrics():
    gate = GateConfig(confidence=None, floors={FLOOR: 0.01, LOSS: 0.1})

    def found(accuracy: float, loss: float) -> str:
        champion = model(0.5, **{FLOOR: 0.40, LOSS: 2.0})
        return decide(M, gate, model(0.6, **{FLOOR: accuracy, LOSS: loss}), champion).reason

    assert found(0.395, 2.05).startswith("better")
    assert found(0.45, 1.0).startswith("better")
    assert found(0.385, 2.0).startswith(
        f"below a floor: {FLOOR} = 0.3850 is worse than 0.4000 by 0.0150, 0.01 is allowed"
    )
    assert found(0.40, 2.2).startswith(f"below a floor: {LOSS}")
    assert "no metric zero_shot" in decide(M, gate, model(0.6, **{FLOOR: 0.4, LOSS: 1.0}), model(0.5)).reason


PER_CLASS = "zero_shot/some/mean_per_class_accuracy@1"
CREPE = "sugarcrepe/mean/accuracy"


def labeled(right: int) -> ItemResults:
    """Ninety images of class 0, all correct, and ten of class 1, some of them correct."""
    nothing = {"image_to_text_rank": None, "text_to_image_ranks": [], "caption_nats": 0.0, "caption_tokens": 0}
    return items_from_rows(
        {"key": str(n), "label": int(n >= 90), "zero_shot_rank": int(n >= 90 + right), **nothing} for n in range(100)
    )


def crepe(right: int) -> ItemResults:
    rows = [
        {"set": "sugarcrepe", "key": f"{subset}/{n}", "subset": subset, "image": str(n), "right": n < right}
        for subset in ("add_att", "swap_obj")
        for n in range(100)
    ]
    return compositionality_items(rows)["sugarcrepe"]


@pytest.mark.parametrize(
    ("metric", "few", "many"), [(PER_CLASS, labeled(2), labeled(9)), (CREPE, crepe(50), crepe(65))]
)
def test_any_metric_may_decide_and_have_a_floor(metric, few, many):
    """A rare class decides by its images, SugarCrepe by its entries; floors of both compare only the numbers."""
    low, high = few.metric_of(metric).value(), many.metric_of(metric).value()
    won = decide(metric, GateConfig(), ModelResults({metric: high}, many), ModelResults({metric: low}, few))
    assert won.promote
    assert (won.difference.a, won.difference.b) == (low, high)
    assert not decide(
        metric, GateConfig(), ModelResults({metric: low}, few), ModelResults({metric: high}, many)
    ).promote
    gate = GateConfig(floors={metric: 0.01})
    champion, candidate = model(0.5, 50, **{metric: high}), model(0.7, 70, **{metric: low})
    bounded = decide(M, gate, candidate, champion)
    assert bounded.reason.startswith(f"below a floor: {metric} = {low:.4f} is worse than {high:.4f}")
    assert decide(M, gate, model(0.7, 70, **{metric: high}), champion).promote


def test_results_without_a_metric_do_not_decide_by_it():
    decision = decide(
        "caption/some/bleu4",
        GateConfig(),
        ModelResults({"caption/some/bleu4": 0.4}, items(60)),
        ModelResults({"caption/some/bleu4": 0.3}, items(50)),
    )
    assert decision.reason.startswith("not comparable: caption/some/bleu4: cannot be computed")


def test_a_model_that_was_not_evaluated_is_refused():
    with pytest.raises(ConfigError, match=f"register.metric: '{M}' was not measured; choose one of a, b"):
        check_metrics(M, NUMBERS, {"a": 1.0, "b": 1.0})
    with pytest.raises(ConfigError, match="nan"):
        decide(M, NUMBERS, model(math.nan), model(0.1))
    with pytest.raises(ConfigError, match=f"register.gate.floors: '{FLOOR}' was not measured"):
        check_metrics(M, GateConfig(floors={FLOOR: 0.1}), {M: 0.5})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minimum_win": -0.1}, "minimum_win"),
        ({"confidence": 1.0}, "confidence"),
        ({"confidence": 0.3}, "confidence"),
        ({"floors": {FLOOR: -1.0}}, "floors.zero_shot"),
        ({"resamples": 0}, "resamples"),
    ],
)
def test_invalid_conditions_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(GateConfig, changes, "register.gate")
