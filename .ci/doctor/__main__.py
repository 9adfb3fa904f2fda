"""Check whether this machine can install and run the project, and say what to do (`make doctor`).

Runs before `.venv` exists, with any Python from 3.8, and imports only the standard library. Each check prints one line: ok,
warn or error, and after a colon what to do. Ends with 1 if there is an error. It changes nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator

from line import ERROR, OK, WARN, Line
from machine import encoding, gpu, memory_and_cores, open_files, system
from programs import index, programs, python
from space import disk, ports


def main(arguments: list[str] | None = None) -> int:
    """Print all checks; return 1 if one is an error."""
    parser = argparse.ArgumentParser(prog="make doctor", description="Check whether this machine can run the project.")
    parser.add_argument("--needs-gb", type=float, help="GB of disk that must be free (default: 12, or 3 with .venv)")
    parser.add_argument("--index-seconds", type=int, default=10, help="how long to wait for the package index")
    options = parser.parse_args(arguments)
    checks: list[tuple[str, Callable[[], Iterator[Line]]]] = [
        ("system", system),
        ("python", python),
        ("programs", programs),
        ("disk", lambda: disk(options.needs_gb)),
        ("memory", memory_and_cores),
        ("GPU", gpu),
        ("package index", lambda: index(options.index_seconds)),
        ("ports", ports),
        ("encoding", encoding),
        ("open files", open_files),
    ]
    counts = {OK: 0, WARN: 0, ERROR: 0}
    for name, check in checks:
        try:
            lines = list(check())
        except Exception as error:  # a check that fails must not hide the others
            lines = [Line(WARN, name, f"could not be checked ({type(error).__name__}: {error})")]
        for line in lines:
            counts[line.level] += 1
            # A path may have letters that this terminal cannot show.
            encoding_name = sys.stdout.encoding or "ascii"
            print(str(line).encode(encoding_name, "replace").decode(encoding_name), flush=True)
    if counts[ERROR]:
        print(f"\n{counts[ERROR]} to mend before `make install`; each line says how. {counts[WARN]} warnings.")
        return 1
    print(f"\nthis machine is ready: `make pretrain` is the first thing to try. {counts[WARN]} warnings.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
