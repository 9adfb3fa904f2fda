"""`dvc.yaml` is up to date, and a changed parameter reruns exactly the stages that read it."""

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.kedro_project import copy_tracked

from clips_pipeline import formats
from kedro_dvc_sync.project import Project

# Stages that read each group of parameters. `storage` only affects downloads, `search` belongs to no stage.
READERS: dict[str, set[str]] = {
    "prepare": {"prepare"},
    "train": {"train"},
    "finetune": set(),
    "evaluate": {"evaluate"},
    "register": {"register"},
    "search": set(),
    "study": set(),
    "llava_probe": set(),
    "storage": set(),
    "export_benchmark": set(),
    "embed": set(),
    "recaption": set(),
    "suite": set(),
    "tracking": set(),
}
# `prepare` then rewrites only its report, not shards and tokenizer.
SHOWN_BY_DATA_HEALTH = ("train", "captions")


def test_dvc_yaml_is_up_to_date(repository: Path) -> None:
    command = [sys.executable, "-m", "kedro", "dvc", "check"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def finished(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked files with a placeholder at every out, committed to DVC, in place of a run, which takes minutes."""
    copy = tmp_path_factory.mktemp("project")
    copy_tracked(repository, copy, lambda name: name.split("/")[0] in (".dvc", ".dvcignore", "conf", "dvc.yaml", "src"))
    for stage in yaml.safe_load((copy / "dvc.yaml").read_text())["stages"].values():
        for out in [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]:
            path = copy / (next(iter(out)) if isinstance(out, dict) else out)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(path.name))
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "commit", "-fq"], cwd=copy, check=True)
    return copy


@pytest.fixture
def repo(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(finished)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from dvc.repo import Repo

        with Repo(finished) as repo:
            yield repo


def leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if not isinstance(tree, dict) or not tree:
        yield path
        return
    for key, value in tree.items():
        yield from leaves(value, (*path, key))


def parameters_of(stage: Any) -> list[Any]:
    from dvc.dependency import ParamsDependency

    return [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]


def test_a_parameter_change_reruns_only_the_stages_that_read_it(finished: Path, repo: Any) -> None:
    assert repo.status() == {}
    stages = list(repo.index.stages)
    matrix: dict[tuple[str, ...], set[str]] = {}
    in_full: dict[str, set[str]] = {}
    for file in sorted((finished / "conf" / "base").glob("parameters*.yml")):
        text = file.read_text()
        content = yaml.safe_load(text)
        for path in leaves(content):
            changed = yaml.safe_load(text)
            parent = changed
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = ["another value"]
            file.write_text(yaml.safe_dump(changed))
            matrix[path] = {stage.name for stage in stages if any(dep.status() for dep in parameters_of(stage))}
            if path[0] not in in_full:
                in_full[path[0]] = set(repo.status())
        file.write_text(text)
    assert repo.status() == {}
    assert {path[0] for path in matrix} == set(READERS)
    assert len(matrix) > 60
    # Full `dvc status`, which also checks files, for one parameter of each group; for the others only the parameters.
    assert in_full == READERS
    expected = {
        path: READERS[path[0]] | ({"prepare"} if path[:2] == SHOWN_BY_DATA_HEALTH else set()) for path in matrix
    }
    assert {path: stages for path, stages in matrix.items() if stages != expected[path]} == {}


# Stages that a raised format version reruns.
MADE_BY = {
    "SHARDS": {"prepare"},
    "SCENES": {"prepare"},
    "TOKENIZER": {"prepare"},
    "DATA_HEALTH": {"prepare"},
    "TRAINING": {"train"},
    "MOVING_AVERAGE": {"train"},
    "EMBEDDINGS": {"evaluate"},
    "EVALUATION": {"evaluate"},
    "REGISTRATION": {"register"},
}


def test_a_raised_format_version_reruns_only_its_stages(finished: Path, repo: Any) -> None:
    file = finished / "src" / "clips_pipeline" / "formats.py"
    before = file.read_text()
    names = [name for name in vars(formats) if name.isupper()]
    try:
        found = {}
        for name in names:
            file.write_text(re.sub(rf"^{name} = (\d+)$", rf"{name} = 1\g<1>", before, flags=re.MULTILINE))
            found[name] = {stage.name for stage in repo.index.stages if any(dep.status() for dep in stage.deps)}
    finally:
        file.write_text(before)
    assert found == MADE_BY


def test_source_edits_rerun_no_stage(finished: Path, repo: Any) -> None:
    """A changed comment, message or style sheet must not prepare all data again."""
    sources = [file for file in (finished / "src").rglob("*") if file.suffix in (".py", ".css", ".html", ".jinja")]
    before = {file: file.read_text() for file in sources}
    try:
        for file, text in before.items():
            file.write_text(f"{text}\n# changed\n" if file.suffix == ".py" else f"{text}\n")
        assert repo.status() == {}
    finally:
        for file, text in before.items():
            file.write_text(text)


def test_every_output_names_its_format_versions(repository: Path) -> None:
    stages = yaml.safe_load((repository / "dvc.yaml").read_text())["stages"]
    made = {
        next(iter(out)) if isinstance(out, dict) else out
        for stage in stages.values()
        for kind in ("outs", "metrics", "plots")
        for out in stage.get(kind, [])
    }
    named = {
        entry.filepath
        for name in Project(repository).datasets
        if (entry := Project(repository).entry(name)) is not None and entry.options.formats
    }
    assert made - {None if path is None else str(path) for path in named} == set()
