"""Changes of the code while a training was interrupted, in a tag of its MLflow run.

The model of such a run was trained by several versions of the code, though its commit names only one.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

TAG = "code.changed"
# MLflow's limit of a tag is 8,000 characters.
_MOST = 80


@dataclass(frozen=True)
class CodeChange:
    """Code that differed when a training went on.

    Attributes:
        step: the step from which the new code trained.
        before: digest of the package's source that wrote the checkpoint.
        now: digest of the source that went on.
    """

    step: int
    before: str
    now: str

    def __str__(self) -> str:
        return f"from step {self.step} by source {self.now}, before by {self.before}"


def code_changes(client: "MlflowClient", run_id: str) -> tuple[CodeChange, ...]:
    """Return the changes of a run, by step."""
    return parse_code_changes(json.loads(client.get_run(run_id).data.tags.get(TAG, "[]")))


def parse_code_changes(content: object) -> tuple[CodeChange, ...]:
    """Return the changes in the content of a tag or a lineage.

    Raises:
        TypeError, ValueError, KeyError: the content is not of that form.
    """
    if not isinstance(content, list):
        raise TypeError("code changes are not a list")
    return tuple(CodeChange(int(item["step"]), str(item["before"]), str(item["now"])) for item in content)


def add_code_changes(client: "MlflowClient", run_id: str, changes: Iterable[CodeChange]) -> None:
    """Add changes to the tag of a run; one that is there already stays one. Of too many, the last are kept."""
    every = {*code_changes(client, run_id), *changes}
    kept = sorted(every, key=lambda change: (change.step, change.before, change.now))[-_MOST:]
    client.set_tag(run_id, TAG, json.dumps([asdict(change) for change in kept], separators=(",", ":")))
