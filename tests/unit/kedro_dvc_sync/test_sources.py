"""Which files a stage runs, on small trees of modules written here."""

from pathlib import Path

import pytest

from kedro_dvc_sync.sources import SourceTree

FILES = {
    "app/__init__.py": '"""Doc."""\n__version__ = "1"\ndef load():\n    from app import unused\n',
    "app/nodes.py": "from app.direct import thing\ndef node():\n    from . import lazy\n    from .sub import name\n",
    "app/direct.py": "import json\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from app import unused\nthing = 1\n",
    "app/lazy.py": "WORKER = 'app.worker'\nNO_MODULE = 'app.nothing'\nENTRY = 'app.unused:main'\n",
    "app/worker.py": "import app.deep.inner as inner\n",
    "app/sub/__init__.py": "from app.sub.part import name\n",
    "app/sub/part.py": "name = 1\n",
    "app/sub/other.py": "from app import unused\n",
    "app/deep/__init__.py": "",
    "app/deep/inner.py": "from ..star import *\n",
    "app/star.py": "x = 1\n",
    "app/unused.py": "y = 2\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> SourceTree:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return SourceTree(tmp_path)


def used(tree: SourceTree, *modules: str) -> set[str]:
    return {file.relative_to(tree.folder).as_posix() for file in tree.used_files(modules)}


def test_lazy_relative_star_and_process_imports_count_and_typing_imports_do_not(tree: SourceTree) -> None:
    assert used(tree, "app.nodes") == {
        "app/nodes.py",
        "app/direct.py",
        "app/lazy.py",
        "app/worker.py",
        "app/sub/__init__.py",
        "app/sub/part.py",
        "app/deep/inner.py",
        "app/star.py",
    }


def test_a_package_that_is_used_by_itself_is_seen_whole(tree: SourceTree) -> None:
    (tree.folder / "app" / "nodes.py").write_text("from app import load\n")
    assert used(tree, "app.nodes") == {"app/nodes.py", "app/__init__.py", "app/unused.py"}


def test_what_a_package_does_on_import_counts(tree: SourceTree) -> None:
    (tree.folder / "app" / "deep" / "__init__.py").write_text("import os\nos.environ.setdefault('A', '1')\n")
    assert "app/deep/__init__.py" in used(tree, "app.worker")


def test_modules_elsewhere_and_import_circles_are_no_trouble(tree: SourceTree) -> None:
    (tree.folder / "app" / "star.py").write_text("import numpy, app.worker\n")
    assert used(tree, "app.worker", "pandas") == {"app/worker.py", "app/deep/inner.py", "app/star.py"}


def test_data_of_a_package_goes_with_its_code(tree: SourceTree) -> None:
    for name in ("page.html", "py.typed", ".hidden", "fast.so"):
        (tree.folder / "app" / "sub" / name).write_text("")
    assert used(tree, "app.sub.part") == {"app/sub/part.py", "app/sub/page.html", "app/sub/__init__.py"}


def test_a_folder_stands_for_all_of_its_files(tree: SourceTree) -> None:
    (tree.folder / "app" / "sub" / "other.py").unlink()
    paths = tree.as_paths(tree.used_files(["app.nodes"]))
    assert [path.relative_to(tree.folder).as_posix() for path in paths] == [
        "app/deep",
        "app/direct.py",
        "app/lazy.py",
        "app/nodes.py",
        "app/star.py",
        "app/sub",
        "app/worker.py",
    ]
    (tree.folder / "app" / "sub" / "more.py").write_text("")
    paths = tree.as_paths(tree.used_files(["app.nodes"]))
    assert tree.folder / "app" / "sub" not in paths
    assert {tree.folder / "app/sub/__init__.py", tree.folder / "app/sub/part.py"} <= set(paths)


def test_every_folder_or_file_is_named_once_and_covers_exactly_what_is_used(tree: SourceTree) -> None:
    files = tree.used_files(["app.nodes"])
    covered = {file for path in tree.as_paths(files) for file in (path.rglob("*.py") if path.is_dir() else [path])}
    assert files <= covered
    # What is covered beyond is packages that only hold others.
    assert {file.name for file in covered - files} <= {"__init__.py"}


def test_the_own_code_of_a_node(tree: SourceTree, monkeypatch: pytest.MonkeyPatch) -> None:
    import functools

    def node() -> None:
        """Not run."""

    node.__module__ = "app.nodes"
    assert tree.own_modules(functools.partial(node)) == {"app.nodes"}
    assert tree.own_modules(len) == set()
    (tree.folder / "app" / "sub" / "pipeline.py").write_text("")
    node.__module__ = "app.sub.part"
    assert tree.own_modules(node) == {"app.sub", "app.sub.part", "app.sub.other", "app.sub.pipeline"}
