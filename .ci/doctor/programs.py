"""Python and other programs that `make install` starts, and the package index that it asks."""

from __future__ import annotations

import glob
import os
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from line import ERROR, OK, ROOT, WARN, Line, run


def python() -> Iterator[Line]:
    """As `make install` chooses it: the first of python3.11, python3 and python that is 3.11 and has venv."""
    own = ROOT / ".venv" / "bin" / "python"
    if own.exists():
        found = run([str(own), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
        if found is not None and found.stdout.strip() == "3.11":
            yield Line(OK, "python", f"{own} (3.11)")
            return
        yield Line(WARN, "python", f"{own} is not 3.11", "run `make distclean`, then `make install`")
    seen = []
    for name, program in _pythons():
        done = run([program, "-c", "import sys; print('%d.%d' % sys.version_info[:2]); import venv, ensurepip"])
        if done is None or not done.stdout:
            continue
        version = done.stdout.strip()
        if version == "3.11" and done.returncode == 0:
            yield Line(OK, "python", f"{program} (3.11)")
            return
        seen.append(f"{name} is {version}{' without venv' if done.returncode else ''}")
    what = ", ".join(seen) or "none on PATH"
    remedy = (
        "install Python 3.11 with venv (Debian and Ubuntu: python3.11 python3.11-venv; pyenv: `pyenv install 3.11`)"
    )
    yield Line(ERROR, "python", f"3.11 is needed ({what})", remedy)


def _pythons() -> Iterator[tuple[str, str]]:
    folders = [folder for folder in os.get_exec_path() if not folder.startswith(str(ROOT / ".venv"))]
    for name in ("python3.11", "python3", "python"):
        for folder in folders:
            program = os.path.join(folder, name)
            if os.access(program, os.X_OK):
                yield name, program


def programs() -> Iterator[Line]:
    """Programs that the Makefile, DVC and torch start."""
    git = run(["git", "--version"])
    if git is None:
        yield Line(ERROR, "git", "not found", "install git: DVC, and the lineage of a model, need it")
    else:
        yield Line(OK, "git", git.stdout.strip())
        inside = run(["git", "-C", str(ROOT), "rev-parse", "--is-inside-work-tree"])
        if inside is None or inside.returncode:
            remedy = "clone with git instead of a download, so that models record their code"
            if inside is not None and "dubious ownership" in inside.stderr:
                remedy = f"run `git config --global --add safe.directory {ROOT}`"
            yield Line(WARN, "git", f"{ROOT} is not a git checkout", remedy)
    compiler = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if compiler is None or not _compiles(compiler):
        found = "not found" if compiler is None else f"{compiler} cannot compile a program"
        remedy = "install one (Debian and Ubuntu: build-essential); packages without a wheel and `train.launch.compile` need it"
        yield Line(ERROR, "C compiler", found, remedy)
    else:
        yield Line(OK, "C compiler", str(shutil.which(compiler)))
    made = run(["make", "--version"])
    version = "" if made is None else made.stdout.splitlines()[0] if made.stdout else ""
    if "GNU Make" not in version or version.split()[-1].startswith(("3.7", "3.80", "3.81")):
        yield Line(ERROR, "make", version or "not found", "install GNU make 3.82 or later (macOS: `brew install make`)")
    else:
        yield Line(OK, "make", version)


def _compiles(compiler: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "a.c"
        source.write_text("#include <stdio.h>\nint main(void) { return 0; }\n")
        done = run([compiler, str(source), "-o", str(Path(folder) / "a.out")])
        return done is not None and done.returncode == 0


def index(seconds: int) -> Iterator[Line]:
    """Whether pip finds a package, by its own configuration (files, environment, proxy, certificates)."""
    installed = (ROOT / ".venv" / ".installed").exists()
    done = None
    options = ["index", "versions", "uv", "--disable-pip-version-check", "--retries", "0", "--timeout", str(seconds)]
    for command, environment in _pips():
        done = run([*command, *options], seconds * 3, **environment)
        if done is not None and "No module named pip" not in done.stderr:
            break
    if done is not None and done.returncode == 0 and done.stdout.startswith("uv "):
        yield Line(OK, "package index", f"answers pip (newest uv: {done.stdout.split()[1].strip('()')})")
        return
    if done is None and not os.environ.get("PIP_INDEX_URL"):
        remedy = "install Python 3.11 with its venv module, then run `make doctor` again"
        yield Line(WARN, "package index", "was not asked: no pip answers here, and PIP_INDEX_URL is not set", remedy)
        return
    if done is None and (said := _ask_directly(os.environ["PIP_INDEX_URL"], seconds)) is None:
        yield Line(OK, "package index", "answers (not asked by pip)")
        return
    said = (
        f"pip finds no package in it ({(done.stderr.strip().splitlines() or ['no message'])[-1]})"
        if done is not None
        else str(said)
    )
    remedy = (
        "set PIP_INDEX_URL, and HTTPS_PROXY or PIP_CERT if a proxy is between (`pip config debug` shows what pip reads)"
    )
    if installed:
        yield Line(WARN, "package index", said, f"the environment is complete without it; to change it, {remedy}")
    else:
        yield Line(ERROR, "package index", said, remedy)


def _pips() -> Iterator[tuple[list[str], dict[str, str]]]:
    """Yield ways to start pip: of `.venv`, of a Python 3.11, of this Python, and the wheel that ensurepip has."""
    own = ROOT / ".venv" / "bin" / "python"
    if own.exists():
        yield [str(own), "-m", "pip"], {}
    for _, program in _pythons():
        yield [program, "-m", "pip"], {}
    yield [sys.executable, "-m", "pip"], {}
    bundled = os.path.join(os.path.dirname(os.__file__), "ensurepip", "_bundled", "pip-*.whl")
    for wheel in [*glob.glob(bundled), *glob.glob("/usr/share/python-wheels/pip-*.whl")]:
        yield [sys.executable, "-m", "pip"], {"PYTHONPATH": wheel}


def _ask_directly(index_url: str, seconds: int) -> str | None:
    address = index_url.rstrip("/") + "/uv/"
    try:
        with urllib.request.urlopen(address, timeout=seconds):  # noqa: S310
            return None
    except (OSError, ValueError) as error:
        return f"{address.split('@')[-1]}: {error}"
