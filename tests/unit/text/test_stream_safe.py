"""Captions of any characters take linear time: runs of marks are limited before normalization sorts them."""

import subprocess
import sys
import unicodedata
from collections.abc import Callable

import pytest

from clips_pipeline.text.stream_safe import MAX_MARKS, limit_marks
from clips_pipeline.text.tokenizers.bpe import clean
from clips_pipeline.text.tokenizers.wordpiece import fold

RUNS = {
    "two kinds of marks": "\u0301\u0316",
    "three kinds": "\u0301\u0316\u0f71",
    "zero-width spaces between": "\u0301\u200b\u0316\u200b",
    "soft hyphens between": "\u0301\xad\u0316\xad",
    "joiners that are marks": "\u0301\u034f\u0316",
    "variation selectors": "\u0301\ufe0f\u0316",
    "marks after normalization": "\uff9e\u093c",
    "marks of two": "\u0344\u0316",
}
REPAIRED = {
    "mojibake": "Ì\x81Ì\x96",
    "entities": "&#x301;&#x316;",
    "entities of entities": "&amp;#x301;&amp;#x316;",
}
"""Only `clean` makes marks of these."""


def longest_run(text: str) -> int:
    """Return the largest number of characters in a row that normalization sorts."""
    longest = run = 0
    for sign in unicodedata.normalize("NFKD", text):
        run = run + 1 if unicodedata.combining(sign) else 0
        longest = max(longest, run)
    return longest


@pytest.mark.parametrize("name", RUNS)
def test_runs_are_limited(name: str) -> None:
    limited = limit_marks("a" + RUNS[name] * 5_000 + " b")
    assert limited[0] == "a"
    assert limited[-2:] == " b"
    assert longest_run(limited.replace("\u200b", "").replace("\xad", "")) <= 2 * MAX_MARKS  # some marks are two


def test_ordinary_text_does_not_change() -> None:
    for text in (
        "naïve café",
        "ภาษาไทยเป็นภาษาที่มีระดับเสียงของคำ" * 9,
        "हिन्दी में लिखा हुआ एक वाक्य " * 9,
        "Tiếng Việt " * 30,
        "中文描述" * 30,
        "a" + "\u0301" * MAX_MARKS,
        "\N{FAMILY}\u200d\ufe0f" * 40,
        ("z" + "\u0301\u0316" * 15) * 5,
    ):
        assert limit_marks(text) == text


@pytest.mark.parametrize("name", RUNS | REPAIRED)
@pytest.mark.parametrize("normalize", [fold, clean])
def test_what_normalization_sorts_does_not_grow(
    name: str, normalize: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time is quadratic in the longest run that is sorted; so that is measured, and not time."""
    sorted_runs: list[int] = []
    real = unicodedata.normalize

    def counted(form: str, text: str) -> str:
        sorted_runs.append(longest_run_in(text))
        return real(form, text)

    def longest_run_in(text: str) -> int:
        longest = run = 0
        for sign in text:
            run = run + 1 if any(unicodedata.combining(part) for part in real("NFKD", sign)) else 0
            longest = max(longest, run)
        return longest

    text = "a" + (RUNS | REPAIRED)[name] * 1_500
    monkeypatch.setattr(unicodedata, "normalize", counted)
    normalize(text)
    assert max(sorted_runs, default=0) <= 2 * MAX_MARKS


@pytest.mark.parametrize("name", RUNS | REPAIRED)
def test_a_megabyte_of_marks_ends(name: str) -> None:
    """Without the limit, this takes minutes to hours."""
    code = (
        "from clips_pipeline.text.tokenizers.bpe import clean\n"
        "from clips_pipeline.text.tokenizers.wordpiece import fold\n"
        f"text = 'a' + {(RUNS | REPAIRED)[name]!a} * 200_000\n"
        "fold(text)\n"
        "clean(text)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
