"""Git state, patches and lock hashes, on real repositories and lock files."""

import subprocess

import pytest

from clips_pipeline.config import ConfigError
from clips_pipeline.interop.digest import model_digest
from clips_pipeline.registry.lineage.record import (
    GitState,
    Lineage,
    describe,
    git_state,
    not_kept_message,
    uncommitted_patch,
)
from clips_pipeline.registry.lineage.restore import _dvc as run_dvc


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_dvc_of_a_restored_folder_is_not_run(tmp_path):
    """A record's patch may add files, and `python -m` looks into the working directory first."""
    package, marker = tmp_path / "dvc", tmp_path / "ran"
    package.mkdir()
    for name in ("__init__.py", "__main__.py"):
        (package / name).write_text(f"open({str(marker)!r}, 'w').close()\n")
    assert run_dvc(tmp_path, "version").returncode == 0
    assert not marker.exists()


@pytest.fixture
def project(tmp_path):
    """A committed project in a subfolder of its repository."""
    project = tmp_path / "repository" / "project"
    (project / "data/08_reporting").mkdir(parents=True)
    (project / "code.py").write_text("x = 1\n")
    (project / "data/08_reporting/metrics.json").write_text("{}")
    (project / "dvc.lock").write_text("stages: {}")
    git(project.parent, "init", "-q", "-b", "main")
    git(project.parent, "add", "-A")
    git(project.parent, "commit", "-q", "-m", "first")
    return project


def test_every_output_has_its_hash_and_nothing_else():
    lock = {
        "train": {
            "cmd": "kedro run --pipelines train",
            "deps": [{"path": "src/a.py", "hash": "md5", "md5": "0" * 32}],
            "outs": [
                {"path": "data/06_models/clips", "md5": "2" * 32 + ".dir", "size": 10, "nfiles": 3},
                {"path": "data/remote", "etag": "tag"},
            ],
        },
        "register": {"cmd": "kedro run --pipelines register"},
    }
    lineage = Lineage(lock=lock, parameters={"train": {"seed": 3}})
    assert lineage.data == {"data/06_models/clips": "2" * 32 + ".dir", "data/remote": "tag"}
    assert lineage.inputs("train") == {"src/a.py": "0" * 32}
    assert lineage.select_stages(["register"]).data == {}
    shown = describe(lineage)
    assert "train.seed = 3" in shown
    assert "2" * 32 + ".dir" in shown


def test_a_clean_checkout(project):
    assert git_state(project) == GitState(commit=git(project, "rev-parse", "HEAD"), dirty=False, branch="main")
    assert uncommitted_patch(project) == b""


@pytest.mark.parametrize("own_index", [False, True])
def test_the_patch_turns_the_commit_into_the_checkout(project, tmp_path, own_index):
    (project / "code.py").write_text("x = 2\n")
    (project / "new.bin").write_bytes(bytes(range(256)))
    git(project, "add", "--intent-to-add", "new.bin")
    (project / "data/08_reporting/metrics.json").unlink()
    if own_index:
        git(project, "add", "code.py", "new.bin")
    before = git(project, "status", "--porcelain")
    patch = uncommitted_patch(project)
    assert git(project, "status", "--porcelain") == before
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(project.parent), str(clone))
    (tmp_path / "patch").write_bytes(patch)
    git(clone, "apply", "--binary", str(tmp_path / "patch"))
    assert (clone / "project/code.py").read_text() == "x = 2\n"
    assert (clone / "project/new.bin").read_bytes() == bytes(range(256))
    assert not (clone / "project/data/08_reporting/metrics.json").exists()


def test_the_patch_has_tracked_files_only(project):
    (project / "code.py").write_text("x = 2\n")
    (project / "*").write_text("tracked\n")
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "second")
    for name in (".env", "id_rsa", "code.py.d/key"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text("PLANTED\n")
    assert uncommitted_patch(project) == b""
    # Names that git could read as a pattern, and a folder in place of a file.
    (project / "*").write_text("changed\n")
    (project / "code.py").unlink()
    (project / "code.py.d").rename(project / "code.py")
    patch = uncommitted_patch(project)
    assert b"changed" in patch
    assert b"-x = 2" in patch
    assert b"PLANTED" not in patch
    state = git_state(project)
    assert state.dirty is True
    assert state.not_kept == ("project/.env", "project/code.py/key", "project/id_rsa")
    assert "not kept: project/.env, project/code.py/key, project/id_rsa; before" in not_kept_message(state)
    assert "not kept     project/.env" in describe(Lineage(git=state))
    assert git_state(project, outputs=[".env", "code.py", "id_rsa"]).not_kept == ()


def test_a_patch_that_is_too_large_is_not_kept(project, monkeypatch):
    monkeypatch.setattr("clips_pipeline.registry.lineage.record.PATCH_LIMIT_BYTES", 100)
    (project / "data.bin").write_bytes(b"x" * 101)
    git(project, "add", "data.bin")
    assert uncommitted_patch(project) is None


@pytest.mark.parametrize("name", ["code.py", "new file.py", "data/new.csv"])
def test_changed_and_new_files_are_dirty(project, name):
    (project / name).write_text("x = 2\n")
    assert git_state(project).dirty is True


def test_outputs_of_the_run_do_not_count_as_dirty(project):
    (project / "data/08_reporting/metrics.json").write_text('{"a": 1}')
    (project / "data/06_models/clips").mkdir(parents=True)
    (project / "data/06_models/clips/config.json").write_text("{}")
    (project / "dvc.lock").write_text("stages: {train: {}}")
    outputs = ["data/08_reporting/metrics.json", "data/06_models/clips"]
    assert git_state(project, outputs=outputs).dirty is False
    assert git_state(project).dirty is True
    (project / "data/06_models/clips_by_hand.json").write_text("{}")
    assert git_state(project, outputs=outputs).dirty is True


def test_a_detached_head_has_no_branch(project):
    git(project, "checkout", "-q", "--detach")
    state = git_state(project)
    assert state.commit
    assert state.branch is None


def test_missing_repository_commit_or_git_is_allowed(tmp_path, monkeypatch):
    assert git_state(tmp_path) == GitState()
    git(tmp_path, "init", "-q")
    assert git_state(tmp_path) == GitState()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) == GitState()


def test_a_folders_digest_depends_on_names_and_bytes(tmp_path):
    def folder(name, files):
        for path, text in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(text)
        return model_digest(tmp_path / name)

    first = folder("a", {"x": "1", "sub/y": "2"})
    assert folder("b", {"sub/y": "2", "x": "1"}) == first
    assert len({first, folder("c", {"x": "1", "sub/z": "2"}), folder("d", {"x": "1", "sub/y": "3"})}) == 3
    with pytest.raises(ConfigError, match="no exported model"):
        model_digest(tmp_path / "nowhere")
