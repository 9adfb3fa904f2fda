"""The Dockerfile and the dev container: what can be checked where no Docker daemon is."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def instructions(repository: Path) -> list[tuple[str, str]]:
    """Instructions of the Dockerfile with their arguments; continued lines are joined."""
    text = (repository / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


@pytest.fixture(scope="module")
def dev_container(repository: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((repository / ".devcontainer" / "devcontainer.json").read_text())
    return found


def test_hadolint_finds_nothing(repository: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "Dockerfile"], cwd=repository, capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


def test_the_image_runs_as_a_user_and_exposes_nothing(instructions: list[tuple[str, str]]) -> None:
    names = [name for name, _ in instructions]
    assert "EXPOSE" not in names
    assert [rest for name, rest in instructions if name == "USER"] == ["1000"]
    assert any("make install" in rest for name, rest in instructions if name == "RUN")
    after_user = instructions[names.index("USER") :]
    assert all(rest.startswith("--chown=clips:clips ") for name, rest in after_user if name == "COPY")


def test_every_variant_is_a_stage(instructions: list[tuple[str, str]], dev_container: dict[str, Any]) -> None:
    stages = {rest.split(" AS ")[1] for name, rest in instructions if name == "FROM" and " AS " in rest}
    arguments = dict(rest.split("=") for name, rest in instructions if name == "ARG")
    assert stages == {"cpu", "cuda"}
    assert arguments["VARIANT"] in stages
    assert dev_container["build"]["args"]["VARIANT"] in stages


def test_what_is_copied_exists_and_is_not_ignored(repository: Path, instructions: list[tuple[str, str]]) -> None:
    ignored = (repository / ".dockerignore").read_text().split("\n")
    copied = {word for name, rest in instructions if name == "COPY" for word in rest.split()[1:-1] if name == "COPY"}
    assert {"pyproject.toml", "requirements.lock", "Makefile", "src"} <= copied
    assert all((repository / name).exists() for name in copied)
    assert copied.isdisjoint(ignored)
    # What git ignores for its secrets or its size does not go into an image either.
    assert {".venv", "mlruns", "data", "conf/local", "**/credentials*"} <= set(ignored)


def test_the_dev_container_fits_the_image(
    repository: Path, instructions: list[tuple[str, str]], dev_container: dict[str, Any]
) -> None:
    folder = repository / ".devcontainer"
    assert (folder / dev_container["build"]["dockerfile"]).resolve() == repository / "Dockerfile"
    assert (folder / dev_container["build"]["context"]).resolve() == repository
    (workdir,) = (rest for name, rest in instructions if name == "WORKDIR")
    assert dev_container["workspaceFolder"] == workdir
    assert f"target={workdir}," in dev_container["workspaceMount"]
    assert f"target={workdir}/.venv," in dev_container["mounts"][0]
    users = [rest for name, rest in instructions if name == "RUN" and "useradd" in rest]
    assert re.search(rf"--uid 1000 {dev_container['remoteUser']}\b", users[0])
    space = (repository / ".ci" / "doctor" / "space.py").read_text()
    ports = re.search(r"^PORTS = (.*)$", space, re.MULTILINE)
    assert ports is not None
    assert set(dev_container["forwardPorts"]) == {int(port) for port in re.findall(r"\((\d+),", ports[1])}
