"""From what one evaluation has found to what its report shows.

Legend of suffixes: N images, M captions, E embedding width.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from clips_pipeline.evaluation.caption_examples import written
from clips_pipeline.evaluation.confusion import Confusion
from clips_pipeline.evaluation.embed import Embedder, TowerEmbedder
from clips_pipeline.evaluation.embedding_map import embedding_map
from clips_pipeline.evaluation.examples import caption_examples, choose, image_examples
from clips_pipeline.evaluation.exhibits import Captioned, Exhibits, Picture
from clips_pipeline.evaluation.retrieval import FloatArray, IntArray, RetrievalRanks
from clips_pipeline.shards.records import Record


@dataclass(frozen=True)
class Asked:
    """Captions and how they were answered.

    Attributes:
        embeddings: (M, E), and owners: (M,), as for `retrieval_ranks`.
        texts: the M captions.
        ranks: of both directions.
    """

    embeddings: FloatArray
    owners: IntArray
    texts: Sequence[str]
    ranks: RetrievalRanks


@dataclass(frozen=True)
class Found:
    """One evaluation's results, as far as the report looks at them.

    Attributes:
        set_name: of the set.
        chance: by key of a metric.
        images: their embeddings, (N, E).
        keys: of the N images.
        classes: of the N images, None where there is none.
        nats, tokens: caption loss of the N images.
        asked: None without captions.
        confusion: of the classes; None without them.
    """

    set_name: str
    chance: dict[str, float]
    images: FloatArray
    keys: Sequence[str]
    classes: Sequence[str | None]
    nats: Sequence[float]
    tokens: Sequence[int]
    asked: Asked | None
    confusion: Confusion | None


def exhibits_of(found: Found, embedder: TowerEmbedder, read: Callable[[], Iterable[Record]], count: int) -> Exhibits:
    """Choose, and read the pictures again that are shown.

    Args:
        found: the results.
        embedder: its model writes captions.
        read: gives the N samples again, in order. Only those shown are kept, so a large set fits.
        count: examples of each kind.
    """
    image_NE, asked = found.images, found.asked
    text_ME, owner_M = (asked.embeddings, asked.owners) if asked else (None, None)
    plane = embedding_map(image_NE, text_ME, owner_M, found.keys, found.classes)
    plain = Exhibits(found.set_name, found.chance, embedding_map=plane, confusion=found.confusion)
    if not count or asked is None:
        return plain
    choice = choose(image_NE, asked.embeddings, asked.owners, asked.ranks, count)
    records = {i: record for i, record in enumerate(read()) if i in choice.wanted}
    pictures = {i: Picture.of(record) for i, record in records.items()}
    images = [
        image_examples(queries, pictures, image_NE, asked.embeddings, asked.owners, asked.texts, asked.ranks)
        for queries in (choice.worst_images, choice.even_images)
    ]
    captions = [
        caption_examples(queries, pictures, choice, asked.owners, asked.texts, asked.ranks)
        for queries in (choice.worst_captions, choice.even_captions)
    ]
    return replace(
        plain,
        worst_images=images[0],
        even_images=images[1],
        worst_captions=captions[0],
        even_captions=captions[1],
        captioned=_captioned(found, embedder, {i: records[i] for i in choice.even_images}, pictures),
    )


def _captioned(
    found: Found, embedder: TowerEmbedder, records: Mapping[int, Record], pictures: Mapping[int, Picture]
) -> tuple[Captioned, ...]:
    if not isinstance(embedder, Embedder) or embedder.model.captioner is None:
        return ()
    shown = []
    for i, record in records.items():
        one = written(embedder.model, record, embedder.tokenizer, embedder.image_transform)
        loss = found.nats[i] / found.tokens[i] if found.tokens[i] else None
        shown.append(Captioned(pictures[i], one.web, one.synthetic, one.at_once, one.beam, loss))
    return tuple(sorted(shown, key=lambda one: -(one.loss or 0.0)))
