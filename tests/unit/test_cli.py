"""`kedro run` on the command line: one-line errors, and lists as parameters."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from clips_pipeline.cli import run, split_parameters


def kedro(repository: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "kedro", *arguments]
    environment = {**os.environ, "COLUMNS": "300"}
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, env=environment)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "smok"], "smok; did you mean 'smoke'?; known: b16, "),
        (["--env", "smoke", "--pipelines", "pretrian"], "--pipelines pretrian: unknown; did you mean 'pretrain'?"),
    ],
)
def test_a_misspelled_name_gives_one_line(repository: Path, arguments: list[str], message: str) -> None:
    code, shown = kedro(repository, "run", *arguments)
    assert code == 2
    assert message in shown
    assert len(shown.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "place", "remedy"),
    [
        ("train:\n  samples: [1\n  seed: 2\n", "line 3, column 7: ", "repair this line, or the one before it"),
        ("train:\n\tsamples: 3\n", "line 2, column 1: ", "indent with spaces, not with tabs"),
    ],
    ids=["a bracket", "a tab"],
)
def test_invalid_yaml_gives_one_line(repository: Path, tmp_path: Path, text: str, place: str, remedy: str) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(repository / "conf", conf)
    (conf / "smoke" / "parameters.yml").write_text(text)
    code, shown = kedro(repository, "run", "--env", "smoke", "--conf-source", str(conf))
    assert code == 2
    assert "Traceback" not in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("Error: ")]
    assert f"{conf / 'smoke' / 'parameters.yml'}, {place}" in line
    assert line.endswith(remedy)


@pytest.mark.parametrize(
    ("text", "nested"),
    [
        ("a=1,b.c=x", {"a": 1, "b": {"c": "x"}}),
        ("a=[2,3],b=4", {"a": [2, 3], "b": 4}),
        ("a={x: 1, y: [2,3]},b.c=[0.5]", {"a": {"x": 1, "y": [2, 3]}, "b": {"c": [0.5]}}),
        ("url=s3://b/{a,b}-{000..123}.tar,n=null", {"url": "s3://b/{a,b}-{000..123}.tar", "n": None}),
        ("", {}),
    ],
)
def test_parameters_can_be_lists(text: str, nested: dict[str, object]) -> None:
    context = click.Context(run)
    option = next(option for option in run.params if option.name == "params")
    assert split_parameters(context, option, text) == nested


@pytest.mark.parametrize("text", ["a=[2,3", "a", "=3"])
def test_malformed_parameters_explain_how_to_write_a_list(text: str) -> None:
    option = next(option for option in run.params if option.name == "params")
    with pytest.raises(click.UsageError, match=r"write a list as 'key=\[2,3\]', in quotes"):
        split_parameters(click.Context(run), option, text)


def test_an_invalid_model_name_gives_one_line(repository: Path) -> None:
    code, shown = kedro(repository, "champion", "set", "1", "--reason", "why", "--name", "a/b")
    assert code == 2
    assert (
        shown.strip().splitlines()[-1]
        == "Error: register.name: 'a/b' must not be empty or contain '/' or ':'; choose another name"
    )
    assert "Traceback" not in shown


def test_commands_without_a_project_import_no_kedro(tmp_path):
    """`clips-pipeline` outside a project: one line for an error, exit code 2, and nothing of Kedro."""
    program = """
import sys
from clips_pipeline.__main__ import main
try:
    main()
except SystemExit as end:
    print(end.code, sorted({"kedro", "mlflow", "composer"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", program, "export", "missing", "out", "--to", "onnx"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert found.stdout == "2 []\n"
    assert found.stderr.startswith("Error: missing/config.json: no such file")
    assert found.stderr.count("\n") == 1


def test_help_of_the_project_names_the_other_commands(tmp_path):
    command = [sys.executable, "-m", "clips_pipeline", "--help"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "--pipelines" in found.stdout
    assert "other commands: dedup, export, import, push, search, serve." in " ".join(found.stdout.split())


@pytest.mark.parametrize(("words", "code", "found"), [([], 2, "Commands:"), (["foo"], 2, "No such command 'foo'")])
def test_without_options_the_commands_are_listed(tmp_path, words, code, found):
    command = [sys.executable, "-m", "clips_pipeline", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == code
    assert found in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())
