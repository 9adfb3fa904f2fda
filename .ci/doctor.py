"""Check whether this machine can install and run the project, and say what to do (`make doctor`).

Runs before `.venv` exists, with any Python from 3.8, and imports only the standard library. Each check prints one line: ok,
warn or error, and after a colon what to do. Ends with 1 if there is an error. It changes nothing.
"""

from __future__ import annotations

import argparse
import errno
import glob
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
OK, WARN, ERROR = "ok", "warn", "error"

# The environment takes 7 GB; pip and uv keep downloads of 3 GB while they install it.
INSTALL_GB, RUN_GB = 12.0, 3.0
MEMORY_GB, LEAST_MEMORY_GB = 4.0, 2.0
PORTS = ((5000, "make mlflow-ui"), (4141, "make viz"), (8080, "make dashboard"))
# Unix sockets have names of at most 108 bytes (104 on macOS); processes that share data add up to 45 to TMPDIR.
MOST_TMPDIR = 60
FEWEST_FILES = 1024
DRIVER = (580, 65)  # oldest driver of CUDA 13, which the lock's torch is built for
BOUNDED_DRIVER = 525  # of CUDA 12.6


class Line(NamedTuple):
    """One line of the answer: `ok`, `warn` or `error`, what was checked, what was found, and what to do about it."""

    level: str
    name: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:<6} {self.name:<16} {self.found}{': ' + self.remedy if self.remedy else ''}"


def run(command: list[str], seconds: float = 20.0, **environment: str) -> subprocess.CompletedProcess[str] | None:
    """Run a program; None if it is absent, fails to start or takes too long."""
    try:
        return subprocess.run(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env={**os.environ, **environment},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def system() -> Iterator[Line]:
    """The lock has packages for Linux on x86-64; others are not tested."""
    name = f"{platform.system()} {platform.machine()}"
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        yield Line(OK, "system", name)
    elif platform.system() == "Windows":
        yield Line(ERROR, "system", name, "use WSL 2 (`wsl --install`), and clone the project inside it")
    else:
        yield Line(WARN, "system", f"{name} is not tested", "the container of Dockerfile is Linux")
    bad = [sign for sign in ":;$'\"" if sign in str(ROOT)]
    if bad or " " in str(ROOT):
        yield Line(ERROR, "folder", f"{ROOT} has {bad[0] if bad else 'a space'} in its name", "move the checkout")
    with tempfile.TemporaryDirectory(dir=str(ROOT), prefix=".doctor-") as folder:
        (Path(folder) / "a").touch()
        if (Path(folder) / "A").exists():
            yield Line(WARN, "folder", "ignores the case of names", "data with keys `a` and `A` needs another disk")
        script = Path(folder) / "run"
        script.write_text("#!/bin/sh\nexit 0\n")
        script.chmod(0o755)
        if run([str(script)]) is None:
            yield Line(ERROR, "folder", f"no program may run in {ROOT} (noexec)", "move the checkout to another disk")
    kind = _file_system(ROOT)
    if kind.startswith(("nfs", "cifs", "smb", "9p", "fuse.sshfs")):
        remedy = "MLflow's and Optuna's databases need a local disk: set results_root in conf/base/globals.yml"
        yield Line(WARN, "folder", f"is on {kind}", remedy)


def _file_system(path: Path) -> str:
    best = ("", "")
    try:
        mounts = Path("/proc/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in mounts:
        _, mount, kind = line.split()[:3]
        inside = mount == "/" or str(path) == mount or str(path).startswith(f"{mount}/")
        if inside and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best[1]


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


def disk(needs: float | None) -> Iterator[Line]:
    """Space for the environment, and where it exists, for the results.

    Args:
        needs: GB that must be free; None chooses by whether `.venv` exists.
    """
    installed = (ROOT / ".venv" / ".installed").exists()
    needs = needs if needs is not None else RUN_GB if installed else INSTALL_GB
    free = shutil.disk_usage(str(ROOT)).free / 1e9
    if free < needs:
        remedy = "free some, or move the checkout to a larger disk"
        yield Line(ERROR, "disk", f"{free:.1f} GB free in {ROOT}, {needs:g} GB are needed", remedy)
    else:
        yield Line(OK, "disk", f"{free:.0f} GB free in {ROOT}, {needs:g} GB are needed")
    folder, wanted = tempfile.gettempdir(), os.environ.get("TMPDIR")
    if wanted and os.path.realpath(wanted) != os.path.realpath(folder):
        yield Line(
            WARN, "temporary files", f"TMPDIR={wanted} cannot be written, {folder} is used", "create it or unset it"
        )
    free = shutil.disk_usage(folder).free / 1e9
    if free < 1:
        yield Line(
            WARN, "temporary files", f"{free:.2f} GB free in {folder}", "set TMPDIR to a folder with 1 GB or more"
        )
    elif len(folder) > MOST_TMPDIR:
        remedy = "set a shorter TMPDIR: names of sockets in it would be too long"
        yield Line(
            ERROR, "temporary files", f"{folder} has {len(folder)} characters, {MOST_TMPDIR} are the limit", remedy
        )
    else:
        yield Line(OK, "temporary files", folder)
    shared = "/dev/shm"  # noqa: S108 - its size is read
    if os.path.isdir(shared) and shutil.disk_usage(shared).total < 500e6:
        size = shutil.disk_usage(shared).total / 1e6
        yield Line(
            WARN, "shared memory", f"{size:.0f} MB in {shared}", "start the container with --shm-size=1g or more"
        )


def memory_and_cores() -> Iterator[Line]:
    """What this process may use: of the machine, or of its container (cgroup)."""
    total = _memory_gb()
    if total is not None:
        level = ERROR if total < LEAST_MEMORY_GB else WARN if total < MEMORY_GB else OK
        remedy = "" if level == OK else f"give {MEMORY_GB:g} GB or more, or lower train.batch_size"
        yield Line(level, "memory", f"{total:.1f} GB", remedy)
    allowed = getattr(os, "sched_getaffinity", None)
    cores = float(len(allowed(0)) if allowed else os.cpu_count() or 1)
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, int(quota[0]) / int(quota[1]))
    slow = cores < 2
    yield Line(WARN if slow else OK, "cores", f"{cores:g}", "`make pretrain` takes longer than on two" if slow else "")


def _memory_gb() -> float | None:
    limits = []
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            limits.append(int(line.split()[1]) * 1024)
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        value = _read(file).strip()
        if value.isdigit():
            limits.append(int(value))
    return min(limits) / 1e9 if limits else None


def _read(file: str) -> str:
    try:
        return Path(file).read_text(errors="replace")
    except OSError:
        return ""


def gpu() -> Iterator[Line]:
    """The NVIDIA driver, as nvidia-smi tells it. No GPU is needed."""
    if shutil.which("nvidia-smi") is None:
        yield Line(OK, "GPU", "none; training runs on the CPU")
        return
    done = run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
    if done is None or done.returncode:
        said = "" if done is None else (done.stdout + done.stderr).strip().splitlines()[0:1]
        remedy = "install or restart the driver; in a container, start it with --gpus all"
        yield Line(WARN, "GPU", f"nvidia-smi fails {said[0] if said else ''}".strip(), remedy)
        return
    for line in done.stdout.strip().splitlines():
        parts = [part.strip() for part in line.split(",")]
        numbers = [int(part) for part in parts[1].split(".")[:2] if part.isdigit()] if len(parts) > 1 else []
        if tuple(numbers) < DRIVER:
            other = f"from {BOUNDED_DRIVER} on `make install LOCK=requirements-bounded.lock` does as well"
            remedy = f"update the driver to {DRIVER[0]} or later, or torch will not use it; {other}"
            yield Line(WARN, "GPU", line, remedy)
        else:
            yield Line(OK, "GPU", line)


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


def ports() -> Iterator[Line]:
    """The ports of the user interfaces, on loopback."""
    for port, target in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                used = error.errno == errno.EADDRINUSE
                found = "is used by another process" if used else str(error.strerror)
                remedy = f"end that process, or run `{target} PORT={port + 1}`"
                yield Line(WARN, f"port {port}", found, remedy)
            else:
                yield Line(OK, f"port {port}", f"is free for `{target}`")


def encoding() -> Iterator[Line]:
    """Whether Python reads and writes UTF-8 here, as captions need it."""
    program = sys.executable
    code = "import json, locale, sys; print(json.dumps([locale.getpreferredencoding(False), sys.stdout.encoding]))"
    done = run([program, "-c", code])
    if done is None or done.returncode:
        yield Line(WARN, "encoding", "unknown", "export LC_ALL=C.UTF-8")
        return
    names = {name.lower().replace("-", "") for name in json.loads(done.stdout)}
    if names == {"utf8"}:
        yield Line(OK, "encoding", "UTF-8")
    else:
        yield Line(ERROR, "encoding", ", ".join(sorted(names)), "export LC_ALL=C.UTF-8 (or PYTHONUTF8=1)")


def open_files() -> Iterator[Line]:
    """Limit on open files: loader workers and shards take many."""
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < FEWEST_FILES:
        remedy = f"run `ulimit -n {FEWEST_FILES if hard < 0 else min(hard, 4 * FEWEST_FILES)}` in this shell"
        yield Line(WARN, "open files", f"at most {soft}", remedy)
    else:
        yield Line(OK, "open files", "no limit" if soft < 0 else f"at most {soft}")


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
