"""Catalog types for files and folders that nodes write themselves: the catalog defines the path, nodes pass it on.

A node that makes the entry NAME takes the entry `paths`, writes to `paths[NAME]` and returns that path, which the entry
NAME (a `PathDataset`) checks. A node that reads NAME receives the path. `ProjectHooks` adds `paths` to the catalog.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, CatalogProtocol, DatasetError


class MissingPathError(DatasetError):
    """The output of an earlier pipeline does not exist yet."""


class PathDataset(AbstractDataset[Path, Path]):
    """An existing file or folder, passed on as its absolute path.

    Args:
        filepath: relative to the project, or absolute.
        made_by: the pipeline that makes it; the error names it when the path is missing.
        metadata: metadata for Kedro-Viz.
    """

    def __init__(self, *, filepath: str, made_by: str, metadata: dict[str, Any] | None = None):
        self.filepath = Path(filepath)
        self.made_by = made_by
        self.metadata = metadata

    def load(self) -> Path:
        """Return the path.

        Raises:
            MissingPathError: it does not exist yet.
        """
        if not self.filepath.exists():
            raise MissingPathError(f"{self.filepath} does not exist; `kedro run --pipelines {self.made_by}` makes it")
        return self.filepath.absolute()

    def save(self, data: Path) -> None:
        """Check that the node wrote to the catalog's path.

        Raises:
            DatasetError: it wrote elsewhere, or nothing.
        """
        if Path(data).absolute() != self.filepath.absolute() or not self.filepath.exists():
            raise DatasetError(f"the node returned {data}; the catalog says {self.filepath}")

    def _exists(self) -> bool:
        return self.filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self.filepath), "made_by": self.made_by}


class Paths(Mapping[str, Path]):
    """Output paths: `paths["shards"]` is the absolute path of the catalog entry `shards`.

    Args:
        catalog: a catalog whose entries have a `filepath`.
        names: entries to use in place of others, for a pipeline with results of its own.

    Attributes:
        makes_parents: whether a lookup creates the parent folder; False during parameter checks and in a dry run.
    """

    def __init__(self, catalog: CatalogProtocol[Any, Any], names: Mapping[str, str] | None = None) -> None:
        self._catalog, self._names = catalog, names or {}
        self.makes_parents = True

    def __getitem__(self, name: str) -> Path:
        dataset = self._catalog[self._names.get(name, name)]
        path: Path = dataset.filepath.absolute()
        if self.makes_parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def __iter__(self) -> Iterator[str]:
        return iter(name for name in self._catalog if hasattr(self._catalog[name], "filepath"))

    def __len__(self) -> int:
        return sum(1 for _ in self)
