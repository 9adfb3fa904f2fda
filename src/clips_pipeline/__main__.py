"""Entry point of `python -m clips_pipeline` and of the `clips-pipeline` command: `kedro run` for this project, and `export`."""

import sys
from pathlib import Path
from typing import Any

from kedro.framework.cli.utils import find_run_command
from kedro.framework.project import configure_project

from clips_pipeline.cli import STANDALONE, cli


def main(*arguments: Any, **options: Any) -> Any:
    """Run the project's `kedro run`, or `export`, which needs no project."""
    if not arguments and sys.argv[1:2] and sys.argv[1] in STANDALONE:
        return cli(prog_name="clips-pipeline")
    package = Path(__file__).parent.name
    configure_project(package)
    interactive = hasattr(sys, "ps1")
    options["standalone_mode"] = not interactive
    return find_run_command(package)(*arguments, **options)


if __name__ == "__main__":
    main()
