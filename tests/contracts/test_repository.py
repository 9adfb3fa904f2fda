"""Consistency of the repository: documents, lock file, Makefile, package structure and CI."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[2]
WRITTEN = ("conf/best", "conf/mine", "conf/NAME", "conf/local/")
PARTS = ("tutorials", "how-to", "reference", "explanation")
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(
        str(page.relative_to(REPOSITORY))
        for part in PARTS
        for page in sorted((REPOSITORY / "docs" / part).glob("*.md"))
    ),
)


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text())


@pytest.fixture(scope="module", params=["requirements.lock", "requirements-bounded.lock"])
def lock(request: pytest.FixtureRequest, repository: Path) -> str:
    return (repository / request.param).read_text()


@pytest.fixture(scope="module")
def targets(repository: Path) -> set[str]:
    """Return all phony targets of the Makefile."""
    return set(re.findall(r"^\.PHONY: (\S+)$", (repository / "Makefile").read_text(), re.MULTILINE))


def declared_lines(project: dict[str, Any]) -> list[str]:
    """Return the direct dependencies as they are written in pyproject.toml."""
    extras = project["project"]["optional-dependencies"].values()
    return [*project["project"]["dependencies"], *(line for extra in extras for line in extra)]


def pins(lock: str) -> dict[str, str]:
    """Return the locked version of each package."""
    return {
        canonicalize_name(name): version for name, version in re.findall(r"^([\w.\[\]-]+)==(\S+)", lock, re.MULTILINE)
    }


def test_lock_names_no_index_host(lock: str) -> None:
    assert "://" not in lock
    assert not re.search(r"^\s*(-i|-f|--(extra-)?index-url|--find-links)\b", lock, re.MULTILINE)


def test_lock_satisfies_every_direct_dependency(project: dict[str, Any], lock: str) -> None:
    pinned = pins(lock)
    for requirement in map(Requirement, declared_lines(project)):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in the lock: run `make lock`"
        assert requirement.specifier.contains(version), f"the lock has {requirement.name} {version}: run `make lock`"


def test_locks_differ_only_by_the_overrides_and_what_torch_brings(repository: Path, project: dict[str, Any]) -> None:
    """One lock is within the bounds of all packages, Composer's too; the other one is beyond them as pyproject.toml says."""
    latest, bounded = (pins((repository / f"requirements{name}.lock").read_text()) for name in ("", "-bounded"))
    overrides = {
        canonicalize_name(one.name): one.specifier
        for one in map(Requirement, project["tool"]["uv"]["override-dependencies"])
    }
    changed = {name for name in latest.keys() & bounded.keys() if latest[name] != bounded[name]}
    assert changed == {*overrides, "triton"}
    assert all(re.match("nvidia-|cuda-", name) for name in latest.keys() ^ bounded.keys())
    for name, specifier in overrides.items():
        assert specifier.contains(latest[name])
    (torch,) = [one for one in map(Requirement, requires("torchvision") or ()) if one.name == "torch"]
    assert torch.specifier.contains(version("torch"))  # the override hides it
    composer = [Requirement(line) for line in requires("mosaicml") or () if "extra ==" not in line]
    assert {one.name for one in composer if not one.specifier.contains(bounded[canonicalize_name(one.name)])} == set()


def test_every_pin_has_a_hash(lock: str) -> None:
    blocks = [block for block in re.split(r"\n(?=\S)", lock.strip()) if not block.startswith("#")]
    assert len(blocks) > 100
    assert all("==" in block and "--hash=sha256:" in block for block in blocks)


def test_every_dependency_has_a_comment_with_its_reason(repository: Path, project: dict[str, Any]) -> None:
    text = (repository / "pyproject.toml").read_text()
    lines = declared_lines(project)
    assert len(lines) > 20
    assert [line for line in lines if not re.search(rf'"{re.escape(line)}",\s+# \S.{{7,}}', text)] == []


def test_each_dependency_is_declared_once(project: dict[str, Any]) -> None:
    names = [canonicalize_name(Requirement(line).name) for line in project["project"]["dependencies"]]
    assert sorted(names) == sorted(set(names))


def test_make_alone_lists_every_target(repository: Path, targets: set[str]) -> None:
    shown = subprocess.run(["make"], cwd=repository, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make ([a-z-]+) ", shown, re.MULTILINE)) == targets


def test_documented_make_commands_exist(repository: Path, targets: set[str]) -> None:
    for document in DOCUMENTS:
        # Commands are in code: `make x`, or a line of an indented or fenced block.
        text = (repository / document).read_text()
        used = set(re.findall(r"`make ([a-z-]+)", text)) | set(re.findall(r"^\s*make ([a-z-]+)", text, re.MULTILINE))
        assert used <= targets, f"{document}: {sorted(used - targets)}"


def test_readme_shows_the_two_commands(repository: Path) -> None:
    text = (repository / "README.md").read_text()
    assert "make pretrain" in text
    assert "make test" in text


def test_documented_paths_exist(repository: Path) -> None:
    folders = r"(?:src|conf|docs|tests|benchmarks|\.ci|\.github)"
    for document in DOCUMENTS:
        text = (repository / document).read_text()
        paths = {*re.findall(rf"`({folders}/[\w./-]+)`", text), *re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text)}
        base = (repository / document).parent
        for path in paths:
            # A search writes `conf/best`, readers write others; all other paths are in the checkout.
            if not path.startswith(WRITTEN):
                assert (repository / path).exists() or (base / path).exists(), f"{document} names {path}"


def test_pages_that_are_named_anywhere_exist(repository: Path) -> None:
    """Messages, comments and docstrings name pages of docs/ by their path."""
    command = ["git", "grep", "-IohE", r"docs/[a-z-]+/[a-z_-]+\.md", "--", ":!CHANGELOG.md"]
    named = set(subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout.split())
    assert len(named) > 20
    assert {page for page in named if not (repository / page).is_file()} == set()
    old = subprocess.run(
        ["git", "grep", "-nIE", r"(^|[^/a-z-])docs/[a-z-]+\.md", "--", ":!CHANGELOG.md", ":!docs/index.md"],
        cwd=repository,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert [line for line in old if "docs/index.md" not in line] == []


def test_code_that_is_named_in_the_source_tree_exists(repository: Path) -> None:
    page = (repository / "docs/reference/source-tree.md").read_text()
    rows = re.findall(r"^\|.*\| (.*) \|$", page[page.index("## Where is") :], re.MULTILINE)
    paths = [path for row in rows for path in re.findall(r"`([\w./-]+/[\w.-]*|\w+\.py)`", row)]
    package = repository / "src/clips_pipeline"
    assert len(paths) > 30
    assert [path for path in paths if not (package / path).exists() and not (repository / path).exists()] == []


def test_tree_of_the_package_is_documented(repository: Path) -> None:
    """docs/reference/source-tree.md and the layers in docs/explanation/architecture.md name every part of the package."""
    package = repository / "src" / "clips_pipeline"
    parts = {entry.name for entry in package.iterdir() if (entry / "__init__.py").is_file()}
    page = (repository / "docs/reference/source-tree.md").read_text()
    layers = (repository / "docs/explanation/architecture.md").read_text()
    assert [part for part in sorted(parts) if f"{part}/" not in page] == []
    assert [part for part in sorted(parts) if f"`{part}`" not in layers] == []


def test_no_source_file_is_too_long(repository: Path) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in (repository / "src").rglob("*.py")}
    assert len(lengths) > 20
    assert {str(path): lines for path, lines in lengths.items() if lines > 400} == {}


def _modules(package: Path) -> list[str]:
    """Return the names of the modules and packages in a folder, sorted."""
    modules = [path.stem for path in package.glob("*.py") if path.name != "__init__.py"]
    return sorted([*modules, *(path.parent.name for path in package.glob("*/__init__.py"))])


def test_every_package_lists_its_modules(repository: Path) -> None:
    """Each `__init__` has a docstring, and an `__all__` that equals the modules and packages in its folder."""
    top = repository / "src" / "clips_pipeline"
    inits = [path for path in top.glob("*/**/__init__.py") if path.parent.parent.name != "pipelines"]
    assert len(inits) > 20
    wrong = []
    for init in inits:
        tree = ast.parse(init.read_text(encoding="utf-8"))
        listed = [
            ast.literal_eval(statement.value)
            for statement in tree.body
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__"
        ]
        if not ast.get_docstring(tree) or listed != [_modules(init.parent)]:
            wrong.append(f"{init.parent.relative_to(repository)}: {_modules(init.parent)}")
    assert wrong == []


def test_no_folder_has_too_many_modules(repository: Path) -> None:
    folders = {path.parent for path in (repository / "src").rglob("*.py")}
    counts = {str(folder): len([*folder.glob("*.py")]) - (folder / "__init__.py").is_file() for folder in folders}
    assert {folder: count for folder, count in counts.items() if count > 16} == {}


def test_no_function_is_too_long(repository: Path) -> None:
    lengths = {
        f"{path}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for path in (repository / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    }
    assert {name: lines for name, lines in lengths.items() if lines > 80} == {}


def _prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield number and text of the lines that are neither code, nor tables, nor only links."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        only_links = re.fullmatch(r"[\s*-]*(!?\[[^\]]*\]\([^)]*\)[\s,.|]*)+", line)
        if not fenced and not only_links and not line.startswith(("|", "    ")):
            yield number, line


def test_no_line_of_prose_is_too_long(repository: Path) -> None:
    """Lines of Markdown have at most 120 characters. Templates are excluded: the pages made from them have no limit."""
    tracked = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=repository, capture_output=True, text=True, check=True
    ).stdout.split()
    documents = [file for file in tracked if file != "CHANGELOG.md" and "/templates/" not in file]
    long = [
        f"{file}:{number}"
        for file in documents
        for number, line in _prose((repository / file).read_text(encoding="utf-8"))
        if len(line) > 120
    ]
    assert long == []


def test_the_documented_layers_are_those_that_are_checked(repository: Path) -> None:
    contracts = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = "\n".join(contracts[0]["layers"]).replace(" : ", " · ")
    assert f"```text\n{layers}\n```" in (repository / "docs/explanation/architecture.md").read_text()


def test_telemetry_is_off_in_committed_files(repository: Path) -> None:
    assert yaml.safe_load((repository / ".telemetry").read_text()) == {"consent": False}
    dvc = (repository / ".dvc" / "config").read_text()
    assert "analytics = false" in dvc
    assert "check_update = false" in dvc
    make = (repository / "Makefile").read_text()
    assert "export MLFLOW_DISABLE_TELEMETRY := true" in make
    assert "export DO_NOT_TRACK := 1" in make


def test_ci_runs_the_checks(repository: Path, targets: set[str]) -> None:
    script = (repository / ".ci" / "run").read_text()
    steps = re.search(r"^for target in (.*); do$", script, re.MULTILINE)
    assert steps is not None
    assert steps[1].split()[0] == "test"
    assert {"lint", "types", "layers", "drill"} <= set(steps[1].split()) <= targets
    assert ".ci/run" in (repository / ".github" / "workflows" / "checks.yml").read_text()


def test_hooks_call_local_tools_only(repository: Path) -> None:
    hooks = yaml.safe_load((repository / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in hooks["repos"]] == ["local"]
    entries = [hook["entry"] for repo in hooks["repos"] for hook in repo["hooks"]]
    assert all(entry.startswith(".venv/bin/") for entry in entries)
