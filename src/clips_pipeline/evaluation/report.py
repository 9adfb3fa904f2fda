"""The evaluation report: one HTML file that needs nothing else, and the figure of ranks as PNG."""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clips_pipeline.evaluation.results import CaptionExample, EvaluationResult, ImageExample, Picture
from clips_pipeline.reports.page import page, picture, table, text, write_page

FIGURE_FILE = "retrieval_ranks.png"
REPORT_FILE = "evaluation.html"


def write_report(result: EvaluationResult, folder: Path) -> Path:
    """Write `evaluation.html` and `retrieval_ranks.png` into `folder`, which is made where missing.

    Without captions there is no retrieval and no figure; one of an earlier evaluation is removed.

    Returns:
        The path of the HTML file. Pictures and the figure are inside it as data URIs; it can be sent as one file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figure = None
    if any(row["text_to_image_ranks"] for row in result.per_item):
        figure = rank_figure(result)
        (folder / FIGURE_FILE).write_bytes(figure)
    else:
        (folder / FIGURE_FILE).unlink(missing_ok=True)
    return write_page(report_html(result, figure), folder / REPORT_FILE)


def report_html(result: EvaluationResult, figure: bytes | None) -> str:
    """The whole page. All text from data is escaped: captions and keys are foreign text."""
    summary = (
        f"<p>{len(result.per_item)} images. Recall and accuracy lie in [0, 1]; ties count against the model.</p>"
        f"{_metrics_table(result)}"
    )
    parts = []
    if figure is not None:
        parts.append(f"<figure>{picture(figure, 'png', 'Recall at K in both directions')}</figure>")
    if result.image_examples:
        parts += ["<h2>Image to text</h2>", "<p>What the model finds for an image; its own captions are green.</p>"]
        parts += [_image_example(example) for example in result.image_examples]
    if result.caption_examples:
        parts += ["<h2>Text to image</h2>", "<p>What the model finds for a caption; the right image is framed.</p>"]
        parts += [_caption_example(example) for example in result.caption_examples]
    return page(f"Evaluation on {result.set_name}", summary, "\n".join(parts))


def rank_figure(result: EvaluationResult) -> bytes:
    """PNG of recall at every K, both ways, beside a random order."""
    # The object interface and not pyplot: no global state, no display, and nothing imported before a report is wanted.
    from matplotlib.figure import Figure

    image_rank = np.array(
        [r["image_to_text_rank"] for r in result.per_item if r["image_to_text_rank"] is not None], np.int64
    )
    text_rank = np.array([rank for r in result.per_item for rank in r["text_to_image_ranks"]], np.int64)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    curves = [("image to text", image_rank, len(text_rank)), ("text to image", text_rank, len(result.per_item))]
    for (name, rank_X, candidates), color in zip(curves, ("#0057b8", "#d1495b"), strict=True):
        at = np.arange(1, candidates + 1)
        axes.plot(at, _cumulative(rank_X, candidates), color=color, label=name, drawstyle="steps-post")
    images = len(result.per_item)
    axes.plot(
        np.arange(1, images + 1), np.arange(1, images + 1) / images, color="#777777", ls=":", label="random images"
    )
    axes.set(xscale="log", xlabel="K", ylabel="recall at K", ylim=(0, 1.02), title=f"Retrieval on {result.set_name}")
    axes.grid(alpha=0.3)
    axes.legend()
    stream = io.BytesIO()
    # Without the software's version in it, the same result gives the same bytes.
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _cumulative(rank_X: npt.NDArray[np.int64], candidates: int) -> npt.NDArray[np.float64]:
    counts = np.bincount(rank_X, minlength=candidates)[:candidates]
    share: npt.NDArray[np.float64] = np.cumsum(counts) / max(1, len(rank_X))
    return share


def _metrics_table(result: EvaluationResult) -> str:
    rows = [
        [text(name), f"{value:.4f}", f"{result.chance[name]:.4f}" if name in result.chance else ""]
        for name, value in sorted(result.metrics.items())
    ]
    return table(["metric", "value", "chance"], rows, "Metrics, and what a model that knows nothing reaches")


def _image_example(example: ImageExample) -> str:
    items = "".join(f"<li{_right(own)}>{text(caption)}</li>" for caption, own in example.captions)
    return _row(_picture(example.picture), f"<div>{_rank(example.rank)}<ol>{items}</ol></div>")


def _caption_example(example: CaptionExample) -> str:
    pictures = [_picture(shown, own) for shown, own in example.pictures]
    return f"<p>“{text(example.caption)}” {_rank(example.rank)}</p>{_row(*pictures)}"


def _row(*parts: str) -> str:
    return f'<div class="example">{"".join(parts)}</div>'


def _rank(rank: int) -> str:
    return "<small>found first</small>" if rank == 0 else f"<small>{rank} wrong before the right one</small>"


def _right(own: bool) -> str:
    return ' class="right"' if own else ""


def _picture(shown: Picture, own: bool = False) -> str:
    return picture(shown.data, shown.extension, shown.key, "right" if own else "")
