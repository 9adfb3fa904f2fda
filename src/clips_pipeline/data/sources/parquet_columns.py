"""Columns of Parquet files with images: which they are, whether their types fit, and their values.

A column may be a path into nested ones: `NAME`, followed by `.FIELD`, `[NUMBER]` or `[FIELD=VALUE]` any number of times. For
example, `conversations[from=gpt].value` gives the texts of a conversation that a model wrote.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clips_pipeline.config import ConfigError
from clips_pipeline.data.shards.caption_values import CaptionTypeError, drop_blank, parse_captions
from clips_pipeline.data.shards.records import Caption, CaptionerNames, Names, captioner_fields, field_names
from clips_pipeline.data.sources.table_rows import is_text, is_text_list

if TYPE_CHECKING:
    import pyarrow as pa

_STEP = re.compile(r"\.(?P<field>[^.\[\]]+)|\[(?P<number>-?\d{1,9})\]|\[(?P<name>[^\[\]=]+)=(?P<value>[^\[\]]*)\]")


@dataclass(frozen=True)
class ParquetColumns:
    """Names of columns, or paths into nested ones; None if there is no such column.

    Attributes:
        image: bytes of the image file, or a struct with `bytes`, as of Hugging Face's feature `Image`.
        web: the web caption; or a list of columns.
        synthetic: the synthetic caption; a list of columns, each named after its captioner; or a mapping from captioners to
            columns. For images with one kind of caption, name its column as `web` too.
        captions: list of human captions.
        label: class number.
        score: a number for the pair, for a filter.
        key: text or whole number that is unique in its split; None makes one of the name of the file and the row.
    """

    image: str = "image"
    web: Names | None = None
    synthetic: CaptionerNames | None = None
    captions: str | None = None
    label: str | None = None
    score: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if not (self.web or self.synthetic or self.captions or self.label):
            raise ConfigError("web: missing; name the column of a caption (web, synthetic, captions) or of a label")
        if not all(self.texts):
            raise ConfigError("web, synthetic: a name is empty; name a column")

    @property
    def needed(self) -> bool:
        """Whether every sample must have a web and a synthetic caption: where both are named."""
        return bool(self.web and self.synthetic)

    @property
    def texts(self) -> list[str]:
        """Columns of captions of both kinds, each once."""
        synthetic = [] if self.synthetic is None else [name for _, name in captioner_fields(self.synthetic)]
        return list(dict.fromkeys([*([] if self.web is None else field_names(self.web)), *synthetic]))

    def web_captions(self, values: dict[str, Any]) -> tuple[str, ...]:
        """Return the web captions of a row.

        Raises:
            CaptionTypeError: a column holds no captions.
        """
        names = [] if self.web is None else field_names(self.web)
        return tuple(
            caption.text for caption in drop_blank([one for name in names for one in _of_column(values, name)])
        )

    def synthetic_captions(self, values: dict[str, Any]) -> tuple[Caption, ...]:
        """Return the synthetic captions of a row.

        Raises:
            CaptionTypeError: a column holds no captions.
        """
        names = [] if self.synthetic is None else captioner_fields(self.synthetic)
        return drop_blank([one for captioner, name in names for one in _of_column(values, name, captioner)])


def _of_column(values: dict[str, Any], name: str, captioner: str = "") -> list[Caption]:
    try:
        return list(parse_captions(values[name], captioner))
    except CaptionTypeError as error:
        path = "; a path such as COLUMN[FIELD=VALUE] names one text in it" if "is not text" in str(error) else ""
        raise CaptionTypeError(f"column {name!r} {error}{path}") from None


@dataclass(frozen=True)
class Selector:
    """A path into a column.

    Attributes:
        column: the column.
        steps: names of fields, positions in a list, or pairs (field, value) that choose entries of a list.
    """

    column: str
    steps: tuple[str | int | tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str, columns: Sequence[str], where: str) -> "Selector":
        """Read a path; a column that has exactly this name goes before.

        Raises:
            ConfigError: there is no such column, or the rest is no path.
        """
        if text in columns:
            return cls(text)
        column = re.split(r"[.\[]", text, maxsplit=1)[0]
        if column not in columns:
            raise ConfigError(f"{where}: no column {column!r} (it has: {', '.join(columns)}); name an existing one")
        steps: list[str | int | tuple[str, str]] = []
        at = len(column)
        while at < len(text):
            found = _STEP.match(text, at)
            if found is None:
                raise ConfigError(f"{where}: {text!r} is no path; write COLUMN.FIELD, COLUMN[0] or COLUMN[FIELD=VALUE]")
            number = found["number"]
            steps.append(found["field"] or (int(number) if number is not None else (found["name"], found["value"])))
            at = found.end()
        return cls(column, tuple(steps))

    def pick(self, value: Any) -> Any:
        """Return what the path leads to in a value of the column; None if there is nothing."""
        values, several = [value], False
        for step in self.steps:
            if isinstance(step, str):
                values = [one.get(step) for one in values if isinstance(one, dict)]
            elif isinstance(step, int):
                lists = [one for one in values if isinstance(one, list)]
                values = [one[step] for one in lists if -len(one) <= step < len(one)]
            else:
                several = True
                name, wanted = step
                entries = [entry for one in values if isinstance(one, list) for entry in one]
                values = [entry for entry in entries if isinstance(entry, dict) and entry.get(name) == wanted]
        values = [one for one in values if one is not None]
        return values if several else (values[0] if values else None)

    def type_in(self, schema: "pa.Schema", where: str) -> "pa.DataType":
        """Return the type of the values that the path leads to, without the list of those that are chosen.

        Raises:
            ConfigError: the path does not fit the type of the column.
        """
        import pyarrow as pa

        kind = schema.field(self.column).type
        for step in self.steps:
            if isinstance(step, str):
                names = [field.name for field in kind] if pa.types.is_struct(kind) else []
                if step not in names:
                    raise ConfigError(
                        f"{where}: {self.column!r} holds {kind}, which has no field {step!r}; name another path"
                    )
                kind = kind.field(step).type
                continue
            if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
                raise ConfigError(f"{where}: {self.column!r} holds {kind}, which is no list; name another path")
            kind = kind.value_type
        return kind


def check_columns(columns: ParquetColumns, schema: "pa.Schema", where: str) -> dict[str, Selector]:
    """Return the paths of all columns by their names in the configuration.

    Args:
        columns: the names.
        schema: columns of the file.
        where: address of the file, for messages.

    Raises:
        ConfigError: a column is missing, or holds another type.
    """
    import pyarrow as pa

    singles = (columns.captions, columns.label, columns.score, columns.key)
    wanted = [columns.image, *columns.texts, *(name for name in singles if name is not None)]
    found = {name: Selector.parse(name, schema.names, where) for name in wanted}
    kinds = {name: selector.type_in(schema, where) for name, selector in found.items()}
    _check_image(columns.image, kinds[columns.image], where)

    def require(name: str | None, fits: bool, what: str) -> None:
        if not fits:
            raise ConfigError(f"{where}: column {name!r} holds {kinds[str(name)]}; name a column that holds {what}")

    for name in columns.texts:
        kind = kinds[name]
        nested = pa.types.is_struct(kind) or (pa.types.is_list(kind) and pa.types.is_struct(kind.value_type))
        require(name, is_text(kind) or is_text_list(kind) or nested, "text or lists of texts")
    if columns.captions is not None:
        several = any(isinstance(step, tuple) for step in found[columns.captions].steps)
        kind = kinds[columns.captions]
        fits = is_text_list(kind) or (several and is_text(kind))
        require(columns.captions, fits, "lists of texts, or name one text as web or synthetic")
    if columns.label is not None:
        require(columns.label, pa.types.is_integer(kinds[columns.label]), "class numbers")
    if columns.score is not None:
        kind = kinds[columns.score]
        require(columns.score, pa.types.is_floating(kind) or pa.types.is_integer(kind), "numbers")
    if columns.key is not None:
        kind = kinds[columns.key]
        require(columns.key, is_text(kind) or pa.types.is_integer(kind), "text or whole numbers")
    return found


def _check_image(name: str, kind: "pa.DataType", where: str) -> None:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        fields = [field.name for field in kind]
        if "bytes" not in fields or not _is_binary(kind.field("bytes").type):
            raise ConfigError(
                f"{where}: column {name!r} is a struct without bytes (it has: {', '.join(fields)}); name a column that holds the "
                "bytes of image files"
            )
    elif is_text(kind):
        raise ConfigError(
            f"{where}: column {name!r} holds {kind}, so paths or addresses; name a column that holds the bytes of image files, or "
            "use source.folder for files and img2dataset for addresses (docs/how-to/sources.md)"
        )
    elif not _is_binary(kind):
        raise ConfigError(f"{where}: column {name!r} holds {kind}; name a column that holds the bytes of image files")


def _is_binary(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def find_empty_column(selectors: Sequence[Selector], metadata: Any) -> str | None:
    """Return a column that has no value in a whole file, by the statistics in its footer; None if there is none.

    Args:
        selectors: the paths that are read.
        metadata: `pyarrow.parquet.FileMetaData`.
    """
    leaves: dict[str, list[bool]] = {}
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for at in range(group.num_columns):
            column = group.column(at)
            known = column.statistics is not None and column.statistics.has_null_count
            empty = known and column.statistics.null_count == column.num_values
            leaves.setdefault(column.path_in_schema, []).append(empty)
    for selector in selectors:
        inside = [path for path in leaves if path == selector.column or path.startswith(f"{selector.column}.")]
        # The path of a file name beside the bytes may be there.
        inside = [path for path in inside if not path.endswith(".path")] or inside
        if metadata.num_rows and inside and all(all(leaves[path]) for path in inside):
            return selector.column
    return None
