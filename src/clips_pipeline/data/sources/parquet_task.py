"""Tasks that read row groups of Parquet files with images."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.caption_values import CaptionTypeError
from clips_pipeline.data.shards.records import Record, Skip, is_label, parse_score
from clips_pipeline.data.shards.unexpected import make_skip
from clips_pipeline.data.sources.parquet_columns import ParquetColumns, Selector, check_columns
from clips_pipeline.data.sources.source import hash_to_unit_interval
from clips_pipeline.data.storage.files import Storage, StorageError
from clips_pipeline.io.redact import redact

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_PER_BATCH = 32
_MAGIC = {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp"}


@dataclass(frozen=True)
class FaultyFileTask:
    """A file that is not Parquet or cannot be reached: a `sources.source.ShardTask`."""

    address: str
    fault: str

    def records(self) -> Iterator[Record | Skip]:
        """Yield the skip of the file."""
        yield Skip(records.UNREADABLE_SHARD, redact(self.address), self.fault)


@dataclass(frozen=True)
class ParquetTask:
    """Some row groups of a file: a `sources.source.ShardTask`.

    Attributes:
        address: path or URL.
        groups: numbers of the row groups.
        first: number of the first row in the file.
        columns: names of the columns.
        storage: access to the file.
        low: lower bound of the hashes of the keys to read, from 0 to 1.
        high: upper bound, excluded.
        seed: seed of the hash.
        limits: limits on a sample.
        name: what the keys begin with if no column has them.
    """

    address: str
    groups: tuple[int, ...]
    first: int
    columns: ParquetColumns
    storage: Storage
    low: float = 0.0
    high: float = 1.0
    seed: int = 0
    limits: SampleLimits = DEFAULT_LIMITS
    name: str = ""

    def records(self) -> Iterator[Record | Skip]:
        """Yield the rows in order, and a `Skip` if the file cannot be read to the end.

        Raises:
            StorageError: the file cannot be read, and the storage has `unreachable: stop`.
        """
        row = self.first
        try:
            with open_parquet(self.address, self.storage) as parquet:
                selectors = check_columns(self.columns, parquet.schema_arrow, self.address)
                wanted = sorted({_stored(parquet.schema_arrow, name, self.columns, selectors) for name in selectors})
                for batch in parquet.iter_batches(_ROWS_PER_BATCH, row_groups=list(self.groups), columns=wanted):
                    for at in range(batch.num_rows):
                        item = self._read(batch, at, row, selectors)
                        row += 1
                        if item is not None:
                            yield item
        except StorageError as error:
            if not self.storage.should_skip(error):
                raise
            yield Skip(records.UNREADABLE_SHARD, redact(self.address), str(error))
        except NotParquetError as error:
            yield Skip(records.TRUNCATED_SHARD, redact(self.address), f"row {row}: {error}")

    def _read(self, batch: "pa.RecordBatch", at: int, row: int, selectors: dict[str, Selector]) -> Record | Skip | None:
        place = f"{redact(self.address)} row {row}"
        try:
            return self._parse(batch, at, row, place, selectors)
        except UnicodeDecodeError as error:
            return Skip(records.NOT_UTF8, place, str(error))
        except Exception as error:
            return make_skip(error, place)

    def _parse(
        self, batch: "pa.RecordBatch", at: int, row: int, place: str, selectors: dict[str, Selector]
    ) -> Record | Skip | None:
        columns = self.columns

        def value(name: str | None) -> Any:
            return None if name is None else selectors[name].pick(batch.column(selectors[name].column)[at].as_py())

        name = value(columns.key)
        if columns.key is not None and (name is None or name == ""):
            return Skip(records.BAD_RECORD, place, f"nothing under {columns.key!r}, which is its key")
        key = (f"{self.name}/{row:09d}" if name is None else str(name)).replace(".", "_").strip("/")
        split_key = f"{self.seed}/{key}".encode("utf-8", "replace").decode()
        if not self.low <= hash_to_unit_interval(split_key) < self.high:
            return None
        image = _image_bytes(batch, at, selectors[columns.image])
        if not image:
            return Skip(records.MISSING_IMAGE, place, f"no bytes under {columns.image!r}")
        if len(image) > self.limits.max_image_bytes:
            most = self.limits.max_image_bytes
            return Skip(records.TOO_LARGE, place, f"its image has {len(image)} bytes; max_image_bytes is {most}")
        values = {text: value(text) for text in columns.texts}
        try:
            web, synthetic = columns.web_captions(values), columns.synthetic_captions(values)
        except CaptionTypeError as error:
            return Skip(records.BAD_RECORD, place, str(error))
        for names, found in ((columns.web, web), (columns.synthetic, [text for text, _ in synthetic])):
            if names is not None and not any(text.strip() for text in found):
                reason = records.EMPTY_WEB_CAPTION if found is web else records.EMPTY_SYNTHETIC_CAPTION
                return Skip(reason, place, f"nothing under {names!r}")
        human = value(columns.captions) or []
        label = value(columns.label)
        if label is not None and not is_label(label):
            return Skip(
                records.BAD_RECORD, place, f"{columns.label!r} is {str(label)[:40]}; a class number from 0 is needed"
            )
        captions = tuple(text for text in human if isinstance(text, str))
        score = parse_score(value(columns.score))
        return Record(key, image, _extension(image), web, synthetic, captions, label, score, limits=self.limits)


class NotParquetError(Exception):
    """A file that is not Parquet, or is damaged where it is read."""


@contextmanager
def open_parquet(address: str, storage: Storage) -> Iterator[Any]:
    """Open a file as `pyarrow.parquet.ParquetFile`; damaged pages are found only while they are read.

    Args:
        address: path or URL.
        storage: access to the file.

    Raises:
        NotParquetError: see above.
        StorageError: the file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with storage.open(address) as file:
        try:
            # Without `pre_buffer`, only the current pages are in memory instead of a whole row group.
            yield pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
        except StorageError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise NotParquetError(f"{redact(address)}: not a Parquet file, or a damaged one ({error})") from None


def _stored(schema: "pa.Schema", name: str, columns: ParquetColumns, selectors: dict[str, Selector]) -> str:
    """Return what is read of a column: of a struct with an image, only the bytes."""
    import pyarrow as pa

    selector = selectors[name]
    struct = name == columns.image and not selector.steps and pa.types.is_struct(schema.field(selector.column).type)
    return f"{selector.column}.bytes" if struct else selector.column


def _image_bytes(batch: "pa.RecordBatch", at: int, selector: Selector) -> bytes:
    found = selector.pick(batch.column(selector.column)[at].as_py())
    if isinstance(found, dict):
        found = found.get("bytes")
    return found if isinstance(found, bytes) else b""


def _extension(image: bytes) -> str:
    return _MAGIC.get(image[:2], "jpg")
