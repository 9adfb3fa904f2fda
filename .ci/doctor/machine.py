"""The machine: system, memory, cores and GPU, and what its settings allow a process."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from line import ERROR, OK, ROOT, WARN, Line, run

MEMORY_GB, LEAST_MEMORY_GB = 4.0, 2.0
FEWEST_FILES = 1024
DRIVER = (580, 65)  # oldest driver of CUDA 13, which the lock's torch is built for
BOUNDED_DRIVER = 525  # of CUDA 12.6


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
