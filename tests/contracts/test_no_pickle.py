"""Nothing is unpickled: one function reads weights of others, one module reads own checkpoints with `weights_only=True`."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

FORBIDDEN_MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib.numpy_pickle"}
# The last part of a call, with the argument that makes it safe.
LOADERS = {"torch.load": "weights_only", "np.load": "allow_pickle", "numpy.load": "allow_pickle"}
FORBIDDEN_CALLS = ("torch.jit.load", "joblib.load", "read_pickle", "torch.package.PackageImporter", "torch.export.load")
OWN_CHECKPOINTS = "training/resume/checkpoint_callback.py"


def _problems(name: str, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        modules = {node.module or ""} if isinstance(node, ast.ImportFrom) else set()
        if isinstance(node, ast.Import):
            modules = {alias.name for alias in node.names}
        for module in modules & FORBIDDEN_MODULES:
            yield f"{name}: imports {module}"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        safe = {"weights_only": "True", "allow_pickle": "False"}
        argument = LOADERS.get(called)
        if argument is not None and given.get(argument) != safe[argument]:
            yield f"{name}: {called} without {argument}={safe[argument]}"
        if called == "torch.load" and not name.endswith(OWN_CHECKPOINTS):
            yield f"{name}: torch.load; use interop.foreign_weights"
        if called.endswith(FORBIDDEN_CALLS):
            yield f"{name}: {called}"


def test_no_source_unpickles(repository: Path) -> None:
    files = [
        path for folder in ("src", "benchmarks", "examples") for path in sorted((repository / folder).rglob("*.py"))
    ]
    assert len(files) > 200
    assert [problem for path in files for problem in _problems(path.as_posix(), path.read_text())] == []
    assert any(path.as_posix().endswith(OWN_CHECKPOINTS) for path in files)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load(file)",
        "torch.load(file, weights_only=True)",
        "np.load(file)",
        "np.load(file, allow_pickle=True)",
        "joblib.load(file)",
        "pd.read_pickle(file)",
        "torch.jit.load(file)",
    ],
)
def test_each_road_is_found(source: str) -> None:
    assert list(_problems("src/x.py", source))
