"""Page of search results with pictures, from a table of embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clips_pipeline.data.images.formats import DECODE_ERRORS, TooLargeImageError, read_image
from clips_pipeline.data.images.thumbnail import Thumbnail, make_thumbnail
from clips_pipeline.data.shards.records import IMAGE_EXTENSIONS
from clips_pipeline.data.shards.tar_file import BadSampleError, TarFile
from clips_pipeline.embeddings.index import Hit
from clips_pipeline.reports.page import render, write_page

_LONGEST = 320  # pixels of a picture's longer side
_NO_PICTURE = (OSError, BadSampleError, ValueError, TooLargeImageError, *DECODE_ERRORS)


@dataclass(frozen=True)
class Result:
    """A result and its picture; None if its file is missing, remote or damaged."""

    hit: Hit
    picture: Thumbnail | None


class Pictures:
    """The pictures of results, from the shards and image files that the table names. A context that closes the shards."""

    def __init__(self) -> None:
        self._shards: dict[str, tuple[TarFile, dict[str, int]] | None] = {}

    def __enter__(self) -> "Pictures":
        return self

    def __exit__(self, *_: object) -> None:
        for found in self._shards.values():
            if found is not None:
                found[0].close()

    def read(self, hit: Hit) -> bytes | None:
        """Return the image file of a result; None if it cannot be read."""
        source = Path(hit.source or "")
        try:
            # A table is data: only image files and shards are opened, never a device or a pipe.
            if not source.is_file():
                return None
            if source.suffix.lower().lstrip(".") in (*IMAGE_EXTENSIONS, "jpeg"):
                return read_image(source)
            if source.suffix != ".tar":
                return None
            found = self._open(source)
            return None if found is None or hit.key not in found[1] else found[0].read(found[1][hit.key]).image
        except _NO_PICTURE:
            return None

    def thumbnail(self, hit: Hit) -> Thumbnail | None:
        """Return a small picture of a result; None if there is none."""
        data = self.read(hit)
        try:
            return None if data is None else make_thumbnail(data, _LONGEST)
        except _NO_PICTURE:
            return None

    def _open(self, shard: Path) -> tuple[TarFile, dict[str, int]] | None:
        name = str(shard)
        if name not in self._shards:
            self._shards[name] = None
            tar = TarFile(shard)
            self._shards[name] = tar, {key: row for row, key in enumerate(tar.keys)}
        return self._shards[name]


def write_results(hits: Sequence[Hit], text: str | None, image: Path | None, table: Path, path: Path) -> Path:
    """Write the page.

    Args:
        hits: results, best first.
        text: text of the query; None for a query by image.
        image: image of the query; None for a query by text.
        table: table that was searched.
        path: path of the HTML file.
    """
    with Pictures() as pictures:
        results = [Result(hit, pictures.thumbnail(hit)) for hit in hits]
    query = None if image is None else make_thumbnail(read_image(image), _LONGEST)
    values = {"results": results, "text": text, "image": image, "query": query, "table": table}
    return write_page(render("search_results.html", **values), path)
