"""Entry point of `python -m clips_pipeline` and of `clips-pipeline`: `kedro run` for this project, and commands without one."""

import copy
import sys
from collections.abc import Container
from pathlib import Path
from typing import Any


def main(*arguments: Any, **options: Any) -> Any:
    """Run a command that needs no project if one is named, else the project's `kedro run`."""
    # Kedro is imported below, because it takes a second and logs a line outside a project.
    from clips_pipeline.commands.standalone import standalone

    if not arguments and _is_command(sys.argv[1:], standalone.commands):
        return standalone(prog_name="clips-pipeline")
    from kedro.framework.cli.utils import find_run_command
    from kedro.framework.project import configure_project

    package = Path(__file__).parent.name
    configure_project(package)
    interactive = hasattr(sys, "ps1")
    options["standalone_mode"] = not interactive
    run: Any = copy.copy(find_run_command(package))
    run.epilog = f"`clips-pipeline COMMAND --help` shows other commands: {', '.join(sorted(standalone.commands))}."
    return run(*arguments, **options)


def _is_command(words: list[str], commands: Container[str]) -> bool:
    """Return whether the words are no options of `kedro run`; none, or an unknown command, list the commands."""
    return not words or words[0] in commands or not words[0].startswith("-")


if __name__ == "__main__":
    main()
