"""The commonest mistakes of newcomers, made as they make them: one message, which names what is wrong and the remedy."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.kedro_project import copy_tracked

FOLDER = (
    "--params=prepare.source.kind=folder,prepare.source.folder.images={0}/pictures,prepare.source.folder.captions={0}/"
)
PREPARE = ("kedro", "run", "--pipelines", "prepare")

# What was meant, the command, and what the last lines must say.
MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "a target that is a pipeline": (
        ("make", "evaluate"),
        "make has no target 'evaluate'; `make` alone lists all. A pipeline of that name runs by: .venv/bin/kedro run "
        "--pipelines evaluate",
    ),
    "an environment that is none": (("kedro", "run", "--env", "fotos"), "did you mean 'photos'?"),
    "a misspelt pipeline": (("kedro", "run", "--pipelines", "trian"), "unknown; did you mean 'train'?"),
    "training before preparing": (
        ("kedro", "run", "--pipelines", "train"),
        "data/03_primary/shards does not exist; `kedro run --pipelines prepare` makes it",
    ),
    "evaluating before training": (
        ("kedro", "run", "--pipelines", "evaluate"),
        "data/06_models/clips does not exist; `kedro run --pipelines train` makes it",
    ),
    "a misspelt parameter": (
        ("kedro", "run", "--pipelines", "train", "--params=train.sed=1"),
        "train.sed: unknown key; did you mean 'seed'?",
    ),
    "tabs in YAML": (
        (*PREPARE, "--env", "tabs"),
        "conf/tabs/parameters.yml, line 2, column 1: found character '\\t' that cannot start any token; indent with spaces",
    ),
    "a folder that does not exist": (
        (
            *PREPARE,
            "--params=prepare.source.kind=folder,prepare.source.folder.images=/no,prepare.source.folder.captions={0}/broken.json",
        ),
        "prepare.source.folder.images: /no is not a folder; give the folder of the images",
    ),
    "captions that are no JSON": ((*PREPARE, FOLDER + "broken.json"), "broken.json is not valid JSON"),
    "captions under another name": (
        (*PREPARE, FOLDER + "other_key.json"),
        "prepare.source.folder.fields.captions: {0}/other_key.json has no field 'caption' (it has: image, text)",
    ),
    "captions of other pictures": (
        (*PREPARE, FOLDER + "other_names.json"),
        "none of the 1 images named in {0}/other_names.json is in {0}/pictures (the first is 'b.png'); give the folder these",
    ),
    "no GPU": (
        ("kedro", "run", "--pipelines", "pretrain", "--params=train.launch.device=gpu"),
        "train.launch.device: 'gpu', but this machine shows none; set `auto` or `cpu`",
    ),
    "a folder that is no model": (
        ("python", "-c", "import clips_pipeline; clips_pipeline.load('data/06_models')"),
        "give a model folder, such as data/06_models/clips of a project",
    ),
    "the dashboard before a search": (
        ("make", "--assume-old=.venv/.installed", "dashboard"),
        "no study at data/07_model_output/search/study.db yet: run `make search` first",
    ),
    "the dashboard of an environment before its search": (
        ("make", "--assume-old=.venv/.installed", "dashboard", "ENV=photos"),
        "no study at data/photos/07_model_output/search/study.db yet: run `make search ENV=photos` first",
    ),
}


@pytest.fixture(scope="module")
def project(repository: Path, module_folder: Path) -> Path:
    folder = module_folder / "project"
    folder.mkdir()
    for name in ("conf", "data", "mlruns", "pyproject.toml", ".telemetry", "Makefile", ".ci"):
        if (repository / name).is_dir():
            (folder / name).mkdir(exist_ok=True)
    copy_tracked(repository, folder, lambda name: not name.startswith(("docs/", "tests/", "notebooks/")))
    (folder / "conf" / "tabs").mkdir()
    (folder / "conf" / "tabs" / "parameters.yml").write_text("train:\n\tsamples: 3\n")
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").touch()
    (folder / "broken.json").write_text("{broken")
    (folder / "other_key.json").write_text(json.dumps([{"image": "a.png", "text": "x"}]))
    (folder / "other_names.json").write_text(json.dumps([{"image": "b.png", "caption": "x", "long_caption": "A. B."}]))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_message_says_what_to_do(mistake: str, project: Path, files: Path) -> None:
    command, message = MISTAKES[mistake]
    if mistake == "no GPU" and shutil.which("nvidia-smi"):
        pytest.skip("there is a GPU")
    programs = Path(sys.executable).parent
    done = subprocess.run(
        [part.format(files) for part in command],
        cwd=project,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert message.format(files) in " ".join(said.split())
    assert "Repeat the previous command" not in said
    if command[0] == "kedro":
        assert "Traceback" not in said
        assert len(said.splitlines()) <= 3
