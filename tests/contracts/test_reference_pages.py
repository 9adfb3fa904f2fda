"""Pages of docs/reference that are written by hand name everything that the code has."""

import re
from pathlib import Path

from tests.unit.evaluation.per_item.test_every_metric_from_items import FORCED, METRICS

from clips_pipeline import formats


def test_every_metric_is_explained(repository: Path) -> None:
    rows = re.findall(
        r"^\| (`.*?) \|", (repository / "docs/reference/metrics.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    for metric in (*METRICS, FORCED):
        kind, _, rest = metric.partition("/")
        name = re.sub(r"@\d+$", "", rest.rpartition("/")[2])
        # `retrieval_long/<set>/…` has the keys of `retrieval`.
        explained = [row for row in rows if row.startswith(f"`{kind}/") and (name in row or "…" in row)]
        assert explained, metric


def test_every_format_version_is_listed(repository: Path) -> None:
    page = (repository / "docs/reference/contracts.md").read_text(encoding="utf-8")
    names = [name for name in vars(formats) if name.isupper()]
    assert len(names) > 5
    assert [name for name in names if f"`{name}`" not in page] == []
