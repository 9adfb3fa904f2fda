"""Which source files a stage runs: found by reading imports, without importing anything.

Imports inside functions count, because heavy ones usually stand there; imports for type checkers do not run and do not count.
A text that is the dotted name of a module counts too: that is how a module is started as a process (`python -m`).
"""

import ast
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_NO_SOURCE = (".pyc", ".pyo", ".so", ".typed")


@dataclass(frozen=True)
class SourceTree:
    """The source folder of a project (Kedro's `source_dir`)."""

    folder: Path

    def file_of(self, module: str) -> Path | None:
        """The file of a module or package; None for what is not in this tree."""
        base = self.folder.joinpath(*module.split("."))
        for file in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
            if file.is_file():
                return file
        return None

    def name_of(self, file: Path) -> str:
        """The module that stands in `file`."""
        parts = file.relative_to(self.folder).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def own_modules(self, function: Callable[..., Any]) -> set[str]:
        """The module of a node's function; with a `pipeline.py` beside it, that whole folder, which is the pipeline's own."""
        while isinstance(function, functools.partial):
            function = function.func
        function = inspect.unwrap(function)
        module = getattr(function, "__module__", None) or type(function).__module__
        file = self.file_of(module)
        if file is None:
            return set()
        if (file.parent / "pipeline.py").is_file():
            return {self.name_of(found) for found in file.parent.rglob("*.py")}
        return {module}

    def used_files(self, modules: Iterable[str]) -> set[Path]:
        """The files of `modules` and of all they import, directly or not, within this tree."""
        files: set[Path] = set()
        seen: set[tuple[str, bool]] = set()
        todo = [(module, True) for module in modules]
        while todo:
            module, whole = todo.pop()
            # A module that is used is seen whole; a package on the way to it is only executed.
            if (module, whole) in seen or (module, True) in seen:
                continue
            seen.add((module, whole))
            file = self.file_of(module)
            if file is None:
                continue
            code = _read(file, file.stat().st_mtime_ns)
            if whole or code.acts:
                files.add(file)
            for name, attribute in code.all_imports if whole else code.imports_at_start:
                for found in self._targets(_absolute(name, module, file), attribute):
                    todo.append((found, True))
            if whole:
                todo += [(text, True) for text in code.texts]
            todo += [(package, False) for package in _packages(module)]
        return files | {beside for file in files for beside in _data_beside(file)}

    def _targets(self, module: str, attribute: str | None) -> Iterator[str]:
        if attribute is not None and self.file_of(f"{module}.{attribute}") is not None:
            yield f"{module}.{attribute}"
        else:
            yield module

    def as_paths(self, files: set[Path]) -> list[Path]:
        """`files`, or a folder in place of all of its files: shorter to read, and it means the same."""
        paths: list[Path] = []

        def collect(folder: Path) -> None:
            python = list(folder.rglob("*.py"))
            wanted = [file for file in python if file in files or not _matters(file)]
            if len(python) > 1 and len(wanted) == len(python) and folder != self.folder:
                paths.append(folder)
                return
            paths.extend(sorted(file for file in files if file.parent == folder))
            inside = (file.relative_to(folder).parts for file in files if file.is_relative_to(folder))
            for child in sorted({parts[0] for parts in inside if len(parts) > 1}):
                collect(folder / child)

        collect(self.folder)
        return sorted(paths)


@dataclass(frozen=True)
class _Code:
    """What a file imports, as (module, attribute) with leading dots for relative names; `acts`: it does more than define."""

    imports_at_start: frozenset[tuple[str, str | None]]
    all_imports: frozenset[tuple[str, str | None]]
    texts: frozenset[str]
    acts: bool


@functools.cache
def _read(file: Path, changed: int) -> _Code:
    tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    at_start: set[tuple[str, str | None]] = set()
    anywhere: set[tuple[str, str | None]] = set()
    texts: set[str] = set()

    def visit(node: ast.AST, in_function: bool) -> None:
        if isinstance(node, ast.If) and _for_type_checkers(node.test):
            for statement in node.orelse:
                visit(statement, in_function)
            return
        if isinstance(node, ast.Import | ast.ImportFrom):
            found = _imports(node)
            anywhere.update(found)
            if not in_function:
                at_start.update(found)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _DOTTED.fullmatch(node.value):
            texts.add(node.value)
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(tree, False)
    return _Code(frozenset(at_start), frozenset(anywhere), frozenset(texts), any(map(_acts, tree.body)))


def _imports(node: ast.Import | ast.ImportFrom) -> set[tuple[str, str | None]]:
    if isinstance(node, ast.Import):
        return {(alias.name, None) for alias in node.names}
    module = "." * node.level + (node.module or "")
    return {(module, None if alias.name == "*" else alias.name) for alias in node.names}


def _absolute(name: str, module: str, file: Path) -> str:
    """`..a.b` as seen from `module` (in `file`) without its dots."""
    level = len(name) - len(name.lstrip("."))
    if level == 0:
        return name
    parts = module.split(".")
    package = parts if file.name == "__init__.py" else parts[:-1]
    kept = package[: len(package) - (level - 1)]
    return ".".join([*kept, *filter(None, [name[level:]])])


def _packages(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _for_type_checkers(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"


def _acts(statement: ast.stmt) -> bool:
    """Whether a package's `__init__` with this statement is more than a place for definitions."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return False
    if isinstance(statement, ast.If) and _for_type_checkers(statement.test):
        return False
    if isinstance(statement, ast.ImportFrom | ast.Import):
        return any(alias.name != "TYPE_CHECKING" for alias in statement.names)
    if isinstance(statement, ast.Assign):
        names = [getattr(target, "id", "") for target in statement.targets]
        return not all(name in ("__all__", "__version__") for name in names)
    return True


def _matters(file: Path) -> bool:
    return file.name != "__init__.py" or _read(file, file.stat().st_mtime_ns).acts


def _data_beside(file: Path) -> Iterator[Path]:
    """Other files of a package (templates, tables): its code may open them."""
    for found in file.parent.iterdir():
        if found.is_file() and found.suffix not in (".py", *_NO_SOURCE) and not found.name.startswith("."):
            yield found
