"""Retrieval as pictures: queries with what the model puts first, right and wrong marked, the worst failures first."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from clips_pipeline.evaluation.exhibits import CaptionExample, Exhibits, ImageExample, Picture
from clips_pipeline.evaluation.results import ItemRow
from clips_pipeline.reports.figure import SERIES, SOFT, svg
from clips_pipeline.reports.page import bdi, number, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHARACTERS = 400
_MOST_TRUTHS = 5


def retrieval(shown: Exhibits) -> str:
    """HTML of the section."""
    parts = [
        "<p>Recall at K asks whether the right answer is among the first K. Here are the first five. "
        '<span class="right">✓ belongs to the query</span>, ✗ does not.</p>'
    ]
    kinds = (
        ("Image to text, the worst failures", shown.worst_images, _WORST),
        ("Image to text, evenly spaced over the set", shown.even_images, _EVEN),
    )
    for title, images, about in kinds:
        if images:
            parts.append(_group(title, about, [_image_query(example) for example in images]))
    others = (
        ("Text to image, the worst failures", shown.worst_captions, _WORST + " One caption for each image."),
        ("Text to image, evenly spaced over the set", shown.even_captions, _EVEN),
    )
    for title, captions, about in others:
        if captions:
            parts.append(_group(title, about, [_caption_query(example) for example in captions]))
    return "\n".join(parts)


_WORST = "Most wrong answers before the right one: mistakes of the model, or captions that fit several images."
_EVEN = "Chosen by their place in the set and not by how they went; worst first."


_ON_PAPER = ("#0057b8", "#d1495b", "#00773a")


def recall_curves(per_item: Sequence[ItemRow], draw_on: "Figure", *, on_paper: bool = False) -> None:
    """How often the right answer is among the first K, for every K.

    Args:
        per_item: a row per image.
        draw_on: a Matplotlib figure.
        on_paper: in colours as they are, and not in those that a page will choose.
    """
    image = np.array([r["image_to_text_rank"] for r in per_item if r["image_to_text_rank"] is not None], np.int64)
    texts = np.array([rank for r in per_item for rank in r["text_to_image_ranks"]], np.int64)
    shot = np.array([r["zero_shot_rank"] for r in per_item if r.get("zero_shot_rank") is not None], np.int64)
    axes = draw_on.add_subplot()
    curves = (("image to text", image, "-"), ("text to image", texts, "--"), ("zero-shot classes", shot, "-."))
    for (name, ranks, style), color in zip(curves, _ON_PAPER if on_paper else SERIES, strict=False):
        if len(ranks):
            places, shares = _steps(ranks, len(per_item))
            axes.plot(places, shares, color=color, linestyle=style, label=name, drawstyle="steps-post")
    if len(texts):
        places = np.unique(np.geomspace(1, len(per_item), 60).round())
        axes.plot(
            places,
            places / len(per_item),
            color="#777777" if on_paper else SOFT,
            linestyle=":",
            label="images in a random order",
        )
    axes.set(xscale="log", xlabel="K", ylabel="right one among the first K", ylim=(0, 1.02))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    if axes.lines:
        axes.legend()


def recall_figure(per_item: Sequence[ItemRow]) -> str:
    """The same as SVG for a page; empty where nothing was ranked."""
    if not any(r["text_to_image_ranks"] or r.get("zero_shot_rank") is not None for r in per_item):
        return ""
    drawing = svg(
        lambda figure: recall_curves(per_item, figure),
        "How often the right answer is among the first K, for every K; the table has the values at 1, 5 and 10",
        size=(5.2, 2.7),
    )
    return f'<figure class="broad">{drawing}</figure>'


def _steps(ranks: npt.NDArray[np.int64], least: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """K up to `least` or more, and the share of ranks below it, at no more places than a picture shows."""
    places = np.unique(np.geomspace(1, max(least, 2, int(ranks.max()) + 1), 200).round())
    ordered = np.sort(ranks)
    return places, np.searchsorted(ordered, places, side="left") / len(ranks)


def _group(title: str, about: str, cards: Sequence[str]) -> str:
    return f'<h3>{title}</h3><p class="soft">{about}</p><div class="queries">{"".join(cards)}</div>'


def _image_query(example: ImageExample) -> str:
    answers = "".join(
        f"<li{_class(own)}>{_mark(own)}{bdi(caption, _CHARACTERS)}</li>" for caption, own in example.captions
    )
    truth = ""
    if not any(own for _, own in example.captions) and example.truth:
        own = "".join(f"<li>{bdi(caption, _CHARACTERS)}</li>" for caption in example.truth[:_MOST_TRUTHS])
        truth = f"<details><summary>its own captions</summary><ul>{own}</ul></details>"
    return (
        f'<article class="query">{shown_picture(example.picture)}<div><p>{_rank(example.rank)}</p>'
        f"<ol>{answers}</ol>{truth}</div></article>"
    )


def _caption_query(example: CaptionExample) -> str:
    answers = [_answer(shown, own, str(place + 1)) for place, (shown, own) in enumerate(example.pictures)]
    if not any(own for _, own in example.pictures):
        answers.append(_answer(example.truth, True, f"{number(example.rank + 1)}", far=True))
    return (
        f'<article class="query rows"><p>“{bdi(example.caption, _CHARACTERS)}”<br>{_rank(example.rank)}</p>'
        f'<div class="answers">{"".join(answers)}</div></article>'
    )


def _answer(shown: Picture, own: bool, place: str, far: bool = False) -> str:
    name = "answer far" if far else "answer"
    return f'<div class="{name}">{shown_picture(shown, own)}<span{_class(own)}>{_mark(own)}{place}</span></div>'


def shown_picture(shown: Picture, own: bool = False) -> str:
    """An `<img>` whose caption stands in for it where it is not seen."""
    alt = f"image {shown.key}: {shown.about}" if shown.about else f"image {shown.key}"
    return picture(shown.data, "webp", alt, "right" if own else "")


def _rank(rank: int) -> str:
    if rank == 0:
        return "<small>found first</small>"
    wrong = "1 wrong answer" if rank == 1 else f"{number(rank)} wrong answers"
    return f"<small>{wrong} before the right one</small>"


def _mark(own: bool) -> str:
    return "✓ " if own else "✗ "


def _class(own: bool) -> str:
    return ' class="right"' if own else ""
