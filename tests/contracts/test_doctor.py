"""`make doctor` and the targets that open a user interface, as a user runs them."""

import ast
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

# pip answers without a network: an index that is a folder.
PAGE = '<a href="uv-1.0-py3-none-any.whl">uv-1.0-py3-none-any.whl</a>'


@pytest.fixture
def index(tmp_path: Path) -> str:
    folder = tmp_path / "simple" / "uv"
    folder.mkdir(parents=True)
    (folder / "index.html").write_text(PAGE)
    return folder.parent.as_uri()


@pytest.fixture
def bare_path(tmp_path: Path) -> str:
    """A PATH with the programs of a minimal image: no compiler, no Python 3.11."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "sh", "git", "make", "awk", "sed", "mkdir"):
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return str(folder)


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        yield held.getsockname()[1]


@pytest.fixture
def clone(repository: Path, tmp_path: Path) -> Path:
    """A checkout without `.venv`."""
    folder = tmp_path / "clone"
    shutil.copytree(repository / ".ci", folder / ".ci")
    shutil.copy2(repository / "Makefile", folder / "Makefile")
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    return folder


def doctor(clone: Path, index: str, *arguments: str, **environment: str) -> tuple[int, dict[str, str]]:
    """Run the check and return its exit code and its lines by what they check."""
    unset = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    done = subprocess.run(
        [sys.executable, "-B", ".ci/doctor", *arguments],
        cwd=clone,
        env={**unset, "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": index, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    lines = [line for line in done.stdout.splitlines() if line][:-1]
    assert all(line.split()[0] in ("ok", "warn", "error") for line in lines), done.stdout
    return done.returncode, {line[7:23].strip(): line for line in lines}


def errors(lines: Mapping[str, str]) -> set[str]:
    return {name for name, line in lines.items() if line.startswith("error")}


def test_a_machine_that_can_run_the_project(clone: Path, index: str) -> None:
    code, lines = doctor(clone, index, "--needs-gb", "0.001")
    assert code == len(errors(lines)) == 0
    assert {"system", "python", "git", "C compiler", "make", "disk", "memory", "cores", "GPU"} <= lines.keys()
    assert {"package index", "port 5000", "port 4141", "port 8080", "encoding", "open files"} <= lines.keys()
    assert "newest uv: 1.0" in lines["package index"]


def test_a_minimal_image_lacks_compiler_and_python(clone: Path, index: str, bare_path: str) -> None:
    code, lines = doctor(clone, index, "--needs-gb", "0.001", PATH=bare_path)
    assert code == 1
    assert errors(lines) == {"C compiler", "python"}
    assert "build-essential" in lines["C compiler"]
    assert "python3.11-venv" in lines["python"]


def test_a_compiler_that_cannot_compile(clone: Path, index: str, bare_path: str) -> None:
    broken = Path(bare_path) / "cc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    _, lines = doctor(clone, index, PATH=bare_path)
    assert "cc cannot compile a program" in lines["C compiler"]


def test_a_small_disk_and_no_index(clone: Path, tmp_path: Path) -> None:
    absent = (tmp_path / "absent").as_uri()
    code, lines = doctor(clone, absent, "--needs-gb", "1e9", "--index-seconds", "2")
    assert code == 1
    assert errors(lines) == {"disk", "package index"}
    assert "free some" in lines["disk"]
    assert "PIP_INDEX_URL" in lines["package index"]


def test_a_long_tmpdir_another_encoding_and_few_files(clone: Path, index: str, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    limited = f"ulimit -n 256; exec {sys.executable} -B .ci/doctor --needs-gb 0.001"
    done = subprocess.run(
        ["bash", "-c", limited],
        cwd=clone,
        env={**os.environ, "TMPDIR": str(long), "PIP_INDEX_URL": index, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    shown = done.stdout.decode("latin-1")
    assert done.returncode == 1
    assert "error  temporary files" in shown
    assert "set a shorter TMPDIR" in shown
    assert "error  encoding         iso88591, utf8: export LC_ALL=C.UTF-8" in shown.replace("latin1", "iso88591")
    assert "warn   open files       at most 256: run `ulimit -n" in shown


def test_busy_ports_are_warnings(clone: Path, index: str, busy_port: int) -> None:
    space = clone / ".ci" / "doctor" / "space.py"
    # The real ports may be used on the machine of this test.
    space.write_text(space.read_text().replace("(5000, ", f"({busy_port}, "))
    code, lines = doctor(clone, index, "--needs-gb", "0.001")
    assert code == 0
    line = lines[f"port {busy_port}"]
    assert line.startswith("warn")
    assert line.endswith(f"end that process, or run `make mlflow-ui PORT={busy_port + 1}`")


def test_make_doctor_runs_without_an_environment(clone: Path, index: str) -> None:
    python = Path(sys.executable).parent
    done = subprocess.run(
        ["make", "doctor"],
        cwd=clone,
        env={**os.environ, "PIP_INDEX_URL": index, "PATH": f"{python}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ok     system" in done.stdout
    assert not (clone / ".venv").exists()


def test_make_doctor_without_any_python_says_so(clone: Path, bare_path: str) -> None:
    done = subprocess.run(
        ["make", "doctor"], cwd=clone, env={"PATH": bare_path}, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "python3.11-venv" in done.stdout


def test_it_reads_as_python_3_8(repository: Path) -> None:
    files = sorted((repository / ".ci" / "doctor").glob("*.py"))
    assert len(files) > 3
    for file in files:
        ast.parse(file.read_text(), feature_version=(3, 8))


def test_an_interface_prints_its_address_or_who_has_the_port(repository: Path, busy_port: int) -> None:
    def address(port: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, ".ci/address.py", "MLflow", "127.0.0.1", str(port)]
        return subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)

    taken = address(busy_port)
    assert (taken.returncode, taken.stdout) == (1, "")
    assert f"choose another port with PORT={busy_port + 1}" in taken.stderr
    assert "give a number" in address("http").stderr
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    assert address(free).stdout.startswith(f"MLflow: http://127.0.0.1:{free} ")


@pytest.mark.parametrize("target", ["viz", "mlflow-ui", "dashboard"])
def test_interfaces_listen_on_loopback(repository: Path, target: str) -> None:
    command = ["make", "--dry-run", "--assume-old=.venv/.installed", target, "PORT=6123"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    assert "--host 127.0.0.1 --port 6123" in done.stdout
