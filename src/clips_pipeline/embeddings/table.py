"""Table of embeddings: one Parquet file.

    key      text: key of the sample
    kind     "image" or "text"
    source   text: the shard or the image file that the sample comes from; null if unknown
    text     text: the caption of a row of kind "text"; null for an image
    vector   fixed-size list of float16 with unit norm

The metadata of the file says under `clips_pipeline.embeddings` (JSON) the format version, the digest of the model
(`interop.digest.model_digest`), the embedding size, and the fingerprint of what the table was made from. Vectors of two
models cannot be compared, so whoever reads a table checks the digest.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.config import ConfigError
from clips_pipeline.io.atomic import replace_file

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT: Final = 1
"""Version of the format; a reader refuses others."""

Kind = Literal["image", "text"]

Vectors = NDArray[np.float16]
FloatVectors = NDArray[np.floating[Any]]

_METADATA = b"clips_pipeline.embeddings"
_ROWS_AT_A_TIME = 16_384
_MAX_SIZE = 65_536  # of a vector; a larger number in a foreign file would only cost memory
_REMEDY = "give a table of `kedro run --pipelines embed`"


@dataclass(frozen=True)
class TableFacts:
    """Facts on a table, from its metadata.

    Attributes:
        model: digest of the model.
        embedding_size: numbers of a vector.
        fingerprint: digest of what the table was made from; empty if unknown.
        skipped: number of samples without a row, by reason.
    """

    model: str
    embedding_size: int
    fingerprint: str = ""
    skipped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Rows:
    """Rows of a table, in its order.

    Attributes:
        keys: keys of the samples.
        kinds: `image` or `text` of each row.
        vectors: (N, E) float16.
        sources: shard or image file of each row; None if unknown.
        texts: caption of each row of kind `text`; None for images.
    """

    keys: Sequence[str]
    kinds: Sequence[Kind]
    vectors: FloatVectors
    sources: Sequence[str | None]
    texts: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, numbers: NDArray[np.integer[Any]]) -> "Rows":
        """Return the rows of these numbers."""
        at = numbers.tolist()
        return Rows(
            [self.keys[i] for i in at],
            [self.kinds[i] for i in at],
            self.vectors[numbers],
            [self.sources[i] for i in at],
            [self.texts[i] for i in at],
        )


class TableWriter:
    """Writer of one table. Use `write_table`, which is atomic.

    Args:
        file: the file to write.
        facts: facts for the metadata.
    """

    def __init__(self, file: Path, facts: TableFacts) -> None:
        import pyarrow.parquet as pq

        self._facts, self._schema = facts, _schema(facts)
        # Vectors do not compress; keys, sources and captions do.
        self._writer = pq.ParquetWriter(file, self._schema, compression="zstd", use_dictionary=["kind", "source"])

    def add(self, rows: Rows) -> None:
        """Append rows.

        Raises:
            ValueError: a vector has another size, or holds a number that is not finite in float16.
        """
        import pyarrow as pa

        size = self._facts.embedding_size
        vectors = np.ascontiguousarray(rows.vectors, dtype=np.float16)
        if vectors.shape != (len(rows), size):
            raise ValueError(f"vectors have shape {vectors.shape}, expected {(len(rows), size)}")
        if not np.isfinite(vectors).all():
            raise ValueError("a vector holds NaN or infinity")
        columns = [
            pa.array(list(rows.keys), pa.string()),
            pa.array(list(rows.kinds), pa.string()),
            pa.array(list(rows.sources), pa.string()),
            pa.array(list(rows.texts), pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), size),
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema), row_group_size=_ROWS_AT_A_TIME)

    def close(self) -> None:
        """Write the end of the file."""
        self._writer.close()


@contextmanager
def write_table(path: Path, facts: TableFacts, *, sync: bool = False) -> Iterator[TableWriter]:
    """Yield a writer; the file appears under `path` when the block ends without an error, and not at all otherwise.

    Args:
        path: the file to write; replaced if it exists. Missing parent folders are created.
        facts: facts for the metadata.
        sync: flush the file to the disk.

    Raises:
        OSError: the file cannot be written, for example because the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path, sync=sync) as temporary:
        writer = TableWriter(temporary, facts)
        try:
            yield writer
        except BaseException:
            _close_quietly(writer)
            raise
        writer.close()


class EmbeddingTable:
    """A table on disk. Its rows are read when they are asked for.

    Args:
        path: the Parquet file.

    Raises:
        ConfigError: there is no such file, it is no table of embeddings, or it is of another format version.

    Attributes:
        path: the file.
        facts: facts from the metadata.
        rows: number of rows.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        import pyarrow.parquet as pq

        if not self.path.is_file():
            raise ConfigError(f"{self.path}: no such file; {_REMEDY}")
        with _parquet_errors(self.path), pq.ParquetFile(self.path) as file:
            self.facts = _read_facts(self.path, file.schema_arrow)
            self.rows = int(file.metadata.num_rows)

    def require_model(self, digest: str) -> None:
        """Check that the vectors are of a model.

        Raises:
            ConfigError: they are of another one.
        """
        if digest != self.facts.model:
            raise ConfigError(
                f"{self.path}: its vectors are of the model {self.facts.model[:12]}, not of {digest[:12]}; give the model that "
                "it was made with, or run `kedro run --pipelines embed` with this one"
            )

    def count(self, kind: Kind) -> int:
        """Return the number of rows of a kind, without reading their vectors.

        Raises:
            ConfigError: the file is damaged.
        """
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        with _parquet_errors(self.path):
            kinds = pq.read_table(self.path, columns=["kind"])["kind"]
        return int(pc.sum(pc.equal(kinds, kind)).as_py() or 0)

    def blocks(self, kind: Kind | None = None, rows: int = _ROWS_AT_A_TIME) -> Iterator[Rows]:
        """Yield all rows in order.

        Args:
            kind: only rows of this kind; None for both.
            rows: rows to hold in memory at a time.

        Raises:
            ConfigError: the file is damaged, a vector holds a number that is not finite, or a key is missing.
        """
        import pyarrow.parquet as pq

        with _parquet_errors(self.path), pq.ParquetFile(self.path, pre_buffer=False) as file:
            for batch in file.iter_batches(rows):
                found = self._to_rows(batch)
                if kind is not None:
                    found = found.take(np.flatnonzero(np.array([one == kind for one in found.kinds], np.bool_)))
                yield found

    def _to_rows(self, batch: "pa.RecordBatch") -> Rows:
        size = self.facts.embedding_size
        column = batch.column("vector")
        if column.null_count:
            raise ConfigError(f"{self.path}: a row has no vector; {_REMEDY}")
        vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, size)
        keys = batch.column("key").to_pylist()
        kinds = batch.column("kind").to_pylist()
        for key, one in zip(keys, kinds, strict=True):
            if key is None or one not in get_args(Kind):
                raise ConfigError(
                    f"{self.path}: the row {key!r} has kind {one!r}; a table has image and text rows with keys"
                )
        wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(wrong):
            raise ConfigError(f"{self.path}: the vector of {keys[wrong[0]]!r} holds NaN or infinity; embed again")
        return Rows(keys, kinds, vectors, batch.column("source").to_pylist(), batch.column("text").to_pylist())


def is_table(path: Path) -> bool:
    """Return whether a file is a table of embeddings."""
    try:
        EmbeddingTable(path)
    except ConfigError:
        return False
    return True


def merge_tables(parts: Sequence[Path], path: Path, facts: TableFacts) -> int:
    """Write one table of several, in their order and in bounded memory; return the number of rows.

    Raises:
        ConfigError: a part is damaged or of another model.
        OSError: the file cannot be written.
    """
    total = 0
    with write_table(path, facts, sync=True) as writer:
        for part in parts:
            table = EmbeddingTable(part)
            table.require_model(facts.model)
            for rows in table.blocks():
                writer.add(rows)
                total += len(rows)
    return total


def _schema(facts: TableFacts) -> "pa.Schema":
    import pyarrow as pa

    text = json.dumps(
        {
            "format": FORMAT,
            "model": facts.model,
            "embedding_size": facts.embedding_size,
            "fingerprint": facts.fingerprint,
            "skipped": dict(facts.skipped),
        }
    )
    vector = pa.list_(pa.float16(), facts.embedding_size)
    columns = [
        pa.field("key", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("source", pa.string()),
        pa.field("text", pa.string()),
        pa.field("vector", vector),
    ]
    return pa.schema(columns, metadata={_METADATA: text.encode()})


def _read_facts(path: Path, schema: "pa.Schema") -> TableFacts:
    metadata = (schema.metadata or {}).get(_METADATA)
    if metadata is None:
        raise ConfigError(f"{path}: no table of embeddings (its metadata lacks {_METADATA.decode()}); {_REMEDY}")
    try:
        facts = json.loads(metadata)
        version, model, size = facts["format"], facts["model"], facts["embedding_size"]
        fingerprint, skipped = facts.get("fingerprint", ""), dict(facts.get("skipped", {}))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: its metadata cannot be read ({error!r}); {_REMEDY}") from None
    if version != FORMAT:
        raise ConfigError(f"{path}: format {version!r}, this release reads {FORMAT}; embed again with this release")
    if (
        not isinstance(model, str)
        or not isinstance(fingerprint, str)
        or type(size) is not int
        or not 0 < size <= _MAX_SIZE
    ):
        raise ConfigError(f"{path}: its metadata names the model {model!r} and the size {size!r}; {_REMEDY}")
    found = TableFacts(model, size, fingerprint, skipped)
    wanted = _schema(found)
    if [(one.name, one.type) for one in schema] != [(one.name, one.type) for one in wanted]:
        raise ConfigError(
            f"{path}: its columns are {', '.join(f'{one.name}: {one.type}' for one in schema)}; {_REMEDY}"
        )
    return found


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    """Raise a ConfigError for a damaged file; pyarrow finds damaged pages only while it reads them."""
    import pyarrow as pa

    try:
        yield
    except ConfigError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise ConfigError(f"{path}: cannot be read: {os.strerror(error.errno)}") from None
        raise ConfigError(f"{path}: no Parquet file, or a damaged one ({error}); {_REMEDY}") from None


def _close_quietly(writer: TableWriter) -> None:
    # The error that ended the block is the one to report.
    with suppress(Exception):
        writer.close()
