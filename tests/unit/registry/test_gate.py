"""The champion's alias moves only for a better, comparable number."""

import math

import pytest

from clips_pipeline.config import ConfigError
from clips_pipeline.registry.gate import decide


@pytest.mark.parametrize(
    ("candidate", "champion", "promote", "reason"),
    [
        (0.5, None, True, "first champion: m = 0.5000"),
        (0.5, {"m": 0.4}, True, "better: m = 0.5000, the champion's is 0.4000"),
        (0.4, {"m": 0.4}, False, "not better"),
        (0.3, {"m": 0.4}, False, "not better"),
        (0.9, {"other": 0.1}, False, "not comparable"),
    ],
)
def test_decisions(candidate, champion, promote, reason):
    decision = decide("m", {"m": candidate, "z": 0.0}, champion)
    assert decision.promote is promote
    assert decision.reason.startswith(reason)


def test_a_model_that_was_not_measured_is_refused():
    with pytest.raises(ConfigError, match="'m' was not measured; choose one of a, b"):
        decide("m", {"a": 1.0, "b": 1.0}, None)
    with pytest.raises(ConfigError, match="nan"):
        decide("m", {"m": math.nan}, {"m": 0.1})
