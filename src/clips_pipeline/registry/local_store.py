"""MLflow's SQLite database, made by one process at a time.

MLflow makes its tables in many steps. Two processes that begin in a new project each make the same ones, and both fail; a
process that is killed meanwhile leaves tables that MLflow can neither use nor complete.
"""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock

log = logging.getLogger(__name__)

_SQLITE = "sqlite:///"


@contextmanager
def made_by_one(uri: str, experiment: str) -> Iterator[None]:
    """Hold a file lock beside the database while the body makes it; a database that is whole needs none.

    Args:
        uri: of the tracking store; another kind than SQLite's file is left to MLflow.
        experiment: its row is the last thing that the body makes.
    """
    file = Path(uri.removeprefix(_SQLITE))
    if not uri.startswith(_SQLITE) or ":memory:" in uri or _experiments(file, experiment):
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if file.exists() and not _experiments(file):
            # Not even the experiment "Default", the first row there is: no run can have been written.
            log.warning("%s: an earlier start was killed while it made this database; it is made again", file)
            for part in (file, *(Path(f"{file}{end}") for end in ("-journal", "-wal", "-shm"))):
                part.unlink(missing_ok=True)
        yield


def _experiments(file: Path, name: str | None = None) -> int:
    """How many experiments there are, or how many of this name; 0 without such a table."""
    if not file.is_file():
        return 0
    where, values = ("", ()) if name is None else (" WHERE name = ?", (name,))
    try:
        with closing(sqlite3.connect(file, timeout=60)) as connection:
            found: int = connection.execute(f"SELECT COUNT(*) FROM experiments{where}", values).fetchone()[0]  # noqa: S608
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return 0
        raise
    return found
