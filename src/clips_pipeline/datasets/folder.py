"""Catalog types for files and folders that a node writes itself: the catalog owns the path, memory never holds the bytes.

A node that produces such a path takes the entry `NAME_target` (a `PathTarget`: where to write) and returns the path, which
the entry `NAME` (a `PathDataset`) checks. A node that consumes it takes `NAME` and receives the path.
"""

from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DatasetError


class MissingPathError(DatasetError):
    """What an earlier pipeline makes is not there yet."""


class PathDataset(AbstractDataset[Path, Path]):
    """An existing file or folder, handed on as its absolute path.

    Args:
        filepath: relative to the project, or absolute.
        made_by: the pipeline that makes it, named in the error when it is missing.
        metadata: for kedro-viz.
    """

    def __init__(self, *, filepath: str, made_by: str, metadata: dict[str, Any] | None = None):
        self.filepath = Path(filepath)
        self.made_by = made_by
        self.metadata = metadata

    def load(self) -> Path:
        """The path.

        Raises:
            MissingPathError: nothing is there yet.
        """
        if not self.filepath.exists():
            raise MissingPathError(f"{self.filepath} does not exist; `kedro run --pipelines {self.made_by}` makes it")
        return self.filepath.absolute()

    def save(self, data: Path) -> None:
        """Check that the node wrote where the catalog says.

        Raises:
            DatasetError: it wrote elsewhere or nothing.
        """
        if Path(data).absolute() != self.filepath.absolute() or not self.filepath.exists():
            raise DatasetError(f"the node returned {data}; the catalog says {self.filepath}")

    def _exists(self) -> bool:
        return self.filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self.filepath), "made_by": self.made_by}


class PathTarget(AbstractDataset[None, Path]):
    """Where a node is to write; the path need not exist."""

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None):
        self.filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> Path:
        """The absolute path; its parent folder is made."""
        path = self.filepath.absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def save(self, data: None) -> None:
        """Targets are only read.

        Raises:
            DatasetError: always.
        """
        raise DatasetError(f"{self.filepath} is a target: return the path into its PathDataset instead")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self.filepath)}
