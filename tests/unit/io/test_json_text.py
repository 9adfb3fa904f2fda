"""JSON of others: its depth is bounded before it is parsed."""

import json

import pytest

from clips_pipeline.io.json_text import json_depth, parse_json


@pytest.mark.parametrize("levels", [65, 900, 3_000, 100_000])
@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"size":', "}"), ('[{"a":', "}]")])
def test_deep_json_is_one_error(levels: int, begin: str, end: str) -> None:
    with pytest.raises(ValueError, match="more than 64 levels"):
        parse_json(begin * levels + "1" + end * levels)


@pytest.mark.parametrize("content", ["[" * 64 + "]" * 64, '{"a": "[[{\\"[", "b": [{"c": 1}]}', '"text"', "1"])
def test_other_json_is_read_from_text_and_bytes(content: str) -> None:
    assert (
        parse_json(content)
        == parse_json(content.encode())
        == parse_json(content.encode("utf-16"))
        == json.loads(content)
    )


def test_brackets_in_texts_are_no_levels() -> None:
    assert json_depth('{"a": "[[{\\"[", "b": [{"c": 1}]}') == 3
