"""Git and DVC as they are on disk: real repositories, real lock files."""

import subprocess

import pytest

from clips_pipeline.config import ConfigError
from clips_pipeline.registry.lineage import GitState, data_hashes, folder_digest, git_state, read_lineage

LOCK = """\
schema: '2.0'
stages:
  train:
    cmd: kedro run --pipelines train
    deps:
    - path: src/a.py
      hash: md5
      md5: 00000000000000000000000000000000
    outs:
    - path: data/06_models/clips
      hash: md5
      md5: 22222222222222222222222222222222.dir
      size: 10
      nfiles: 3
    - path: data/08_reporting/metrics.json
      hash: md5
      md5: 33333333333333333333333333333333
  prepare:
    cmd: kedro run --pipelines prepare
    outs:
    - path: data/05_model_input/shards
      md5: 11111111111111111111111111111111.dir
  register:
    cmd: kedro run --pipelines register
"""


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def project(tmp_path):
    """A committed project in a subfolder of its repository."""
    project = tmp_path / "repository" / "project"
    (project / "data/08_reporting").mkdir(parents=True)
    (project / "code.py").write_text("x = 1\n")
    (project / "data/08_reporting/metrics.json").write_text("{}")
    (project / "dvc.lock").write_text(LOCK)
    git(project.parent, "init", "-q", "-b", "main")
    git(project.parent, "add", "-A")
    git(project.parent, "commit", "-q", "-m", "first")
    return project


def test_every_output_has_its_hash_and_nothing_else(project):
    assert data_hashes(project / "dvc.lock") == {
        "data/05_model_input/shards": "11111111111111111111111111111111.dir",
        "data/06_models/clips": "22222222222222222222222222222222.dir",
        "data/08_reporting/metrics.json": "33333333333333333333333333333333",
    }


def test_no_lock_is_no_data(tmp_path):
    assert data_hashes(tmp_path / "dvc.lock") == {}
    (tmp_path / "dvc.lock").write_text("")
    assert data_hashes(tmp_path / "dvc.lock") == {}


@pytest.mark.parametrize("text", ["stages: [1, 2]", "a: [", "just text", "stages: {train: {outs: [{size: 1}]}}"])
def test_a_broken_lock_names_the_file_and_the_remedy(tmp_path, text):
    (tmp_path / "dvc.lock").write_text(text)
    with pytest.raises(ConfigError, match=r"dvc\.lock.*git checkout"):
        data_hashes(tmp_path / "dvc.lock")


def test_a_clean_checkout(project):
    lineage = read_lineage(project)
    assert lineage.git == GitState(commit=git(project, "rev-parse", "HEAD"), dirty=False, branch="main")
    assert len(lineage.data) == 3


@pytest.mark.parametrize("name", ["code.py", "new file.py", "data/new.csv"])
def test_changed_and_new_files_are_dirty(project, name):
    (project / name).write_text("x = 2\n")
    assert read_lineage(project).git.dirty is True


def test_outputs_of_the_run_itself_are_not_dirt(project):
    (project / "data/08_reporting/metrics.json").write_text('{"a": 1}')
    (project / "data/06_models/clips").mkdir(parents=True)
    (project / "data/06_models/clips/config.json").write_text("{}")
    (project / "dvc.lock").write_text(LOCK.replace("3333", "4444"))
    assert read_lineage(project).git.dirty is False
    (project / "data/06_models/clips_by_hand.json").write_text("{}")
    assert read_lineage(project).git.dirty is True


def test_a_detached_head_has_no_branch(project):
    git(project, "checkout", "-q", "--detach")
    state = git_state(project)
    assert state.commit
    assert state.branch is None


def test_no_repository_no_commit_and_no_git_are_tolerated(tmp_path, monkeypatch):
    assert git_state(tmp_path) == GitState()
    git(tmp_path, "init", "-q")
    assert git_state(tmp_path) == GitState()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_lineage(tmp_path).git == GitState()


def test_the_digest_of_a_folder_follows_names_and_bytes(tmp_path):
    def folder(name, files):
        for path, text in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(text)
        return folder_digest(tmp_path / name)

    first = folder("a", {"x": "1", "sub/y": "2"})
    assert folder("b", {"sub/y": "2", "x": "1"}) == first
    assert len({first, folder("c", {"x": "1", "sub/z": "2"}), folder("d", {"x": "1", "sub/y": "3"})}) == 3
    with pytest.raises(ConfigError, match="no exported model"):
        folder_digest(tmp_path / "nowhere")
