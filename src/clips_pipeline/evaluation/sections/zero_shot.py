"""Zero-shot classes and what they are taken for."""

from clips_pipeline.evaluation.confusion import Confusion
from clips_pipeline.reports.page import bdi, number, share, table

_CHARACTERS = 40


def zero_shot(shown: Confusion) -> str:
    """HTML of the section: the matrix of the classes with most images, and the most frequent mistakes."""
    some = f"the {number(len(shown.names))} of {number(shown.classes)} classes with most images"
    which = "all classes" if len(shown.names) == shown.classes else some
    rows = [
        [bdi(m.of, _CHARACTERS), bdi(m.taken_for, _CHARACTERS), number(m.images), share(m.images, m.of_images)]
        for m in shown.mistakes
    ]
    frequent = (
        table(["class", "taken for", "images", "of its images"], rows, "Most frequent mistakes, among all classes")
        if rows
        else "<p>No image is taken for another class.</p>"
    )
    return (
        f"<p>Rows are what an image shows, columns what it is taken for; {which}. The diagonal is right.</p>"
        f"{_matrix(shown)}{frequent}"
    )


def _matrix(shown: Confusion) -> str:
    heads = "".join(f'<th scope="col"><span>{bdi(name, _CHARACTERS)}</span></th>' for name in (*shown.names, "others"))
    body = []
    for place, (name, counts) in enumerate(zip(shown.names, shown.counts, strict=True)):
        whole = sum(counts)
        cells = "".join(
            f'<td class="{"hit" if column == place else ""}" style="--share: {count / whole:.2f}">{count or ""}</td>'
            for column, count in enumerate(counts)
        )
        body.append(
            f'<tr><th scope="row">{bdi(name, _CHARACTERS)}</th>{cells}<td class="total">{number(whole)}</td></tr>'
        )
    told = "Confusion: images by class (rows) and by the class they are taken for (columns)"
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{told}"><table class="confusion"><caption><span>{told}</span>'
        f'</caption><thead><tr><td></td>{heads}<th scope="col"><span>images</span></th></tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
