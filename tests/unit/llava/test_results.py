"""Tables, summary and figure, with numbers that can be computed by hand."""

import pytest

from clips_pipeline.llava import figure, results, summary
from clips_pipeline.llava.questions import TYPES, Question, chance_by_type
from clips_pipeline.llava.run import Probe

QUESTIONS = [
    Question(f"test-{image}", image, name, "?", "yes" if image % 2 else "no") for image in range(40) for name in TYPES
]


def probe(row, seed, right):
    """A probe that answers the first `right` of the 40 images."""
    answers = tuple(q.answer if q.index < right else "?" for q in QUESTIONS)
    return Probe(row, seed, answers, (0.5,), 60.0)


PROBES = [
    probe("clip", 0, 20),
    probe("clips", 0, 30),
    probe("untrained", 0, 20),
    probe("blind", 0, 20),
    probe("clip", 1, 22),
    probe("clips", 1, 32),
]


@pytest.fixture
def runs():
    return results.runs_table(PROBES, QUESTIONS, "clips")


def test_accuracies_and_changes(runs):
    assert len(runs) == 6 * 7
    table = results.accuracy_table(runs)
    clip = table[(table["row"] == "clip") & (table["type"] == "color")].iloc[0]
    assert (clip["seeds"], clip["mean"], clip["change"]) == (2, pytest.approx(0.525), pytest.approx(-0.25))
    # The two seeds differ by the same amount in both rows.
    assert clip["change_half_width"] == pytest.approx(0.0, abs=1e-12)


def test_pairs_over_images(runs):
    paired = results.paired_table(PROBES, QUESTIONS)
    line = paired[(paired["row"] == "clips") & (paired["against"] == "clip") & (paired["type"] == "mean")].iloc[0]
    assert line["difference"] == pytest.approx(0.25)
    # Of images 20 to 31 clips is right at one seed or both where clip is not.
    assert (line["wins"], line["losses"], line["seeds"]) == (12, 0, 2)
    assert line["low"] > 0
    assert line["sign_p"] == pytest.approx(2 * 0.5**12)


def test_the_summary_says_what_is_clear_and_what_is_not(runs):
    table, paired = results.accuracy_table(runs), results.paired_table(PROBES, QUESTIONS)
    chance = {**chance_by_type(QUESTIONS), "mean": 0.5}
    text = summary.markdown(table, paired, chance, {"clip": 0.01, "clips": 0.04}, {"seeds": "0, 1"})
    said = " ".join(text.split())
    assert "clearly better than without the image about: color, kind, count, where, exists, background." in said
    assert "Between methods, color, over the test images and with these seeds: better clips than clip." in said
    assert "The towers see little: mean recall@1 is at most 4.0 %." in said
    assert "| clips | clip | **+25.0** | **+25.0** |" in text
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 120
    drawn = figure.accuracy_bars(table, runs, chance)
    labels = [label.get_text() for label in drawn.axes[0].get_legend().get_texts()]
    assert sorted(labels) == ["best constant answer", "blind", "clip", "clips", "untrained"]


def test_towers_that_show_nothing_are_said_to():
    probes = [probe(row, seed, 20) for seed in (0, 1) for row in ("clip", "clips", "untrained", "blind")]
    runs = results.runs_table(probes, QUESTIONS, "clips")
    lines = "\n".join(
        summary.conclusion(results.accuracy_table(runs), results.paired_table(probes, QUESTIONS), {"clip": 0.01})
    )
    assert (
        "The language model gets nothing from any tower about: color, kind, count, where, exists, background" in lines
    )
    assert "Between methods there is no clear difference" in lines
