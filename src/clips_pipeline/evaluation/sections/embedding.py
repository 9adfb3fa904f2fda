"""The embedding map: images and their captions in a plane."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from clips_pipeline.evaluation.embedding_map import EmbeddingMap, MapPoint
from clips_pipeline.reports.figure import LINE, SERIES, SOFT, label, svg
from clips_pipeline.reports.page import number, share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OTHERS = "others"
_MOST_CLASSES = 7  # the last colour is for what lies between
_LETTERS = 20  # of a class
_MARKS = ("o", "s", "^", "D", "v", "P", "X")


def embedding(shown: EmbeddingMap) -> str:
    """HTML of the section."""
    named = Counter(point.name for point in shown.points if point.name is not None)
    classes = [name for name, _ in named.most_common(_MOST_CLASSES)]
    groups: dict[str, list[MapPoint]] = {name: [] for name in [*classes, _OTHERS]}
    for point in shown.points:
        groups[point.name if point.name in classes else _OTHERS].append(point)
    texts = any(point.text is not None for point in shown.points)

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        pairs = [(point.image, point.text) for point in shown.points if point.text is not None]
        for image, text in pairs:
            axes.plot(*zip(image, text, strict=True), color=LINE, linewidth=0.4, zorder=1)
        for place, (name, points) in enumerate(groups.items()):
            if not points:
                continue
            between = classes and name == _OTHERS
            color, mark = (SOFT, ".") if between else (SERIES[place], _MARKS[place])
            known = name if classes else "images"
            filled: dict[str, Any] = {"color": color, "linewidths": 0, "label": label(known, _LETTERS), "zorder": 3}
            hollow: dict[str, Any] = {"facecolors": "none", "edgecolors": color, "linewidths": 0.8, "zorder": 2}
            captions = [point.text for point in points if point.text is not None]
            for places, look in (([point.image for point in points], filled), (captions, hollow)):
                if places:
                    across, up = zip(*places, strict=True)
                    axes.scatter(across, up, 16, marker=mark, **look)
        axes.set(xticklabels=[], yticklabels=[])
        axes.tick_params(length=0)
        axes.set_xlabel(f"first direction, {share(shown.explained[0], 1)} of the variance")
        axes.set_ylabel(f"second, {share(shown.explained[1], 1)}")
        longest = max(len(label(name, _LETTERS)) for name in groups)
        columns = 4 if longest <= 9 else 3 if longest <= 13 else 2
        figure.legend(loc="outside lower left", ncols=columns)

    drawing = svg(
        draw,
        f"Map of {len(shown.points)} of {shown.images} images{' and their captions' if texts else ''}, by class",
        size=(5.2, 4.7),
    )
    gap = ""
    if shown.gap is not None:
        gap = (
            f" The means of images and of captions are {shown.gap:.2f} apart (unit vectors; a gap is usual), and both stand in "
            "the middle here."
        )
    hollow = "; hollow: the first of their captions, joined by a line" if texts else ""
    about = (
        f"<p>{number(len(shown.points))} of {number(shown.images)} images, evenly spaced: the first two principal components of "
        f"all image embeddings. Filled: images{hollow}. Short lines and classes that stay together are what training is for.{gap} "
        "Two directions out of many: points that lie together here may be far apart, but points far apart here are.</p>"
    )
    return f'{about}<figure class="broad">{drawing}</figure>'
