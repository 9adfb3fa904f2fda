"""What the captioner writes, beside the captions it should have written."""

from collections.abc import Sequence

from clips_pipeline.evaluation.exhibits import Captioned
from clips_pipeline.evaluation.sections.retrieval import shown_picture
from clips_pipeline.reports.page import bdi

_CHARACTERS = 800


def captions(shown: Sequence[Captioned]) -> str:
    """HTML of the section."""
    about = (
        "<p>Pictures evenly spaced over the set, largest loss first. The captioner is given picture and web caption, and has "
        "learnt to write the synthetic one.</p>"
    )
    return f'{about}<div class="cards">{"".join(map(_card, shown))}</div>'


def _card(one: Captioned) -> str:
    loss = "" if one.loss is None else f"<p><small>{one.loss:.2f} nats per token</small></p>"
    lines = [("given: web caption", one.web), ("truth: synthetic caption", one.synthetic), ("written: beam", one.beam)]
    if one.at_once is not None:
        lines.append(("written: all words at once", one.at_once))
    told = "".join(
        f"<dt>{name}</dt><dd>{bdi(words, _CHARACTERS) if words.strip() else '<em>nothing</em>'}</dd>"
        for name, words in lines
    )
    return f"<article>{shown_picture(one.picture)}<div>{loss}<dl>{told}</dl></div></article>"
