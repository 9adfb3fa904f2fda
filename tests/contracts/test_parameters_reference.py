"""docs/reference/parameters.md equals the configuration dataclasses; `make docs-parameters` writes it."""

from pathlib import Path

from clips_pipeline.pipelines.parameters import TYPES
from clips_pipeline.pipelines.parameters_reference import parameters, reference


def test_the_page_is_up_to_date(repository: Path) -> None:
    page = (repository / "docs/reference/parameters.md").read_text(encoding="utf-8")
    assert page == reference(), "run `make docs-parameters`"


def test_every_parameter_has_a_description() -> None:
    assert [found.key for name, cls in TYPES.items() for found in parameters(cls, name) if not found.meaning] == []
