"""The notebooks of `notebooks/`: every cell runs, in a copy of the project, with a shorter training."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.kedro_project import copy_tracked

SHORTER = {
    '"train": 4096': '"train": 128',
    '"samples_per_shard": 512': '"samples_per_shard": 64',
    '"samples": 30_720': '"samples": 256',
    '"warmup_samples": 1024': '"warmup_samples": 64',
    '"evaluate": 240': '"evaluate": 4',
    '"checkpoint": 240': '"checkpoint": 8',
}


def load_executor(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks", repository / ".ci" / "notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def executor(repository: Path) -> ModuleType:
    return load_executor(repository)


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook["cells"] for output in cell.get("outputs", [])]


@pytest.mark.slow
def test_every_cell_runs_without_warnings(repository: Path, executor: ModuleType, tmp_path: Path) -> None:
    project = tmp_path / "project"
    copy_tracked(repository, project, lambda name: not name.startswith(("docs/", "tests/")))
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    subprocess.run(["git", "add", "-A"], cwd=project, check=True)
    first = project / "notebooks" / f"{executor.NAMES[0]}.ipynb"
    notebook = json.loads(first.read_text())
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
        for long, short in SHORTER.items():
            cell["source"] = cell["source"].replace(long, short)
    text = json.dumps(notebook)
    assert all(json.dumps(short)[1:-1] in text for short in SHORTER.values())
    first.write_text(text)
    for name in executor.NAMES:
        executed = executor.execute(project / "notebooks" / f"{name}.ipynb")
        found = outputs(executed)
        assert [output for output in found if output["output_type"] == "error"] == []
        complaints = [output["text"] for output in found if output.get("name") == "stderr"]
        assert [text for text in complaints if "Warning" in text or "Error" in text] == []
        assert len([output for output in found if "image/png" in output.get("data", {})]) >= 4
    assert (project / "out" / "transformers" / "README.md").is_file()


def test_they_are_committed_with_outputs_that_name_no_machine(repository: Path, executor: ModuleType) -> None:
    folder = repository / "notebooks"
    assert {file.stem for file in folder.glob("*.ipynb")} == set(executor.NAMES)
    for name in executor.NAMES:
        text = (folder / f"{name}.ipynb").read_text()
        notebook = json.loads(text)
        assert len(text) < 800_000
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code" and cell["source"]]
        assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))  # executed in order, once
        assert max(len(cell["source"]) for cell in code) <= 32  # short cells
        # An absolute path: a slash that is in no address, tag or relative path. The data of pictures have such slashes too.
        readable = re.sub(r'"image/png": "[^"]*"', "", text)
        assert not re.search(r"(?<![\w.:/<-])/\w+/", readable)
        assert not re.search(r"Traceback|[A-Za-z]+Warning", text)
        links = re.findall(r"\]\((?!http)([^)#]+)", text)
        assert links
        assert [link for link in links if not (folder / link).exists()] == []


def test_removing_what_differs_between_machines(executor: ModuleType, tmp_path: Path) -> None:
    from nbformat.v4 import new_code_cell, new_notebook, new_output

    said = new_output("stream", name="stdout", text=f"12:30:01 INFO {tmp_path}/data/x: written")
    bar = new_output("display_data", data={"text/html": "<pre></pre>", "text/plain": ""})
    picture = new_output("display_data", data={"image/png": "abc", "text/plain": "<Figure>"})
    notebook = new_notebook(
        cells=[new_code_cell("x", outputs=[said, bar, picture], metadata={"execution": {"shell": "1"}})]
    )
    executor.tidy(notebook, tmp_path)
    (cell,) = notebook.cells
    assert [output.output_type for output in cell.outputs] == ["stream", "display_data"]
    assert cell.outputs[0].text == "INFO data/x: written"
    assert "execution" not in cell.metadata


def test_the_kernel_is_this_python(executor: ModuleType, tmp_path: Path) -> None:
    from nbformat import write
    from nbformat.v4 import new_code_cell, new_notebook

    file = tmp_path / "one.ipynb"
    write(new_notebook(cells=[new_code_cell("import sys; print(sys.executable)")]), file)
    (said,) = outputs(executor.execute(file))
    assert said["text"].strip() == sys.executable
