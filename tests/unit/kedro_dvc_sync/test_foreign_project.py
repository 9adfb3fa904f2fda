"""`kedro_dvc_sync` in another project: its stages, edge cases, and use with DVC."""

import subprocess
import threading
import time

import pytest
import yaml
from dvc.repo import Repo
from kedro.io import DataCatalog, MemoryDataset
from tests.servers import wait_for
from tests.unit.kedro_dvc_sync.conftest import Tiny

from kedro_dvc_sync.commit import nodes_in_place
from kedro_dvc_sync.errors import StageError
from kedro_dvc_sync.project import Project
from kedro_dvc_sync.stages import build_stages


def written(tiny: Tiny, environment: str | None = None) -> dict[str, object]:
    return {stage.name: stage.written() for stage in build_stages(Project(tiny.root, environment))}


def test_stages_follow_from_the_graph(tiny: Tiny) -> None:
    assert written(tiny) == {
        "clean": {
            "cmd": "kedro run --pipelines clean",
            "deps": ["data/01_raw/raw.json"],
            "params": [
                {"conf/base/parameters.yml": ["clean.drop"]},
                {f"src/{tiny.package}/formats.py": ["CLEAN"]},
            ],
            "outs": ["data/02_intermediate/clean.json"],
        },
        "model": {
            "cmd": "kedro run --pipelines model",
            "deps": ["data/02_intermediate/clean.json"],
            "params": [
                {"conf/base/globals.yml": ["factor"]},
                {"conf/base/parameters.yml": ["model.more", "model.scale"]},
                {f"src/{tiny.package}/formats.py": ["MODEL"]},
            ],
            "metrics": [{"data/08_reporting/final.json": {"cache": False}}],
            "plots": [{"data/08_reporting/table.csv": {"desc": "one line"}}],
        },
    }


def test_an_environment_has_its_own_file_and_shares_equal_stages(tiny: Tiny) -> None:
    tiny.edit("conf/base/catalog.yml", "data/08_reporting/table.csv", "${globals:reports}/table.csv")
    assert Project(tiny.root, "twice").stage_file == tiny.root / "conf/twice/dvc.yaml"
    stages = written(tiny, "twice")
    # `clean` writes the same file with the same parameters, so it is the base's stage.
    assert set(stages) == {"model"}
    model = stages["model"]
    assert isinstance(model, dict)
    assert model["cmd"] == "kedro run --env twice --pipelines model"
    assert model["wdir"] == "../.."
    assert model["metrics"] == [{"data/twice/final.json": {"cache": False}}]
    assert {"conf/twice/parameters.yml": ["model.more"]} in model["params"]
    assert {"conf/twice/globals.yml": ["factor"]} in model["params"]


def test_an_environment_that_would_overwrite_the_base_is_refused(tiny: Tiny) -> None:
    with pytest.raises(
        StageError, match=r"stage model of environment twice writes data/08_reporting/table\.csv, which"
    ):
        written(tiny, "twice")
    # An environment that only cleans may name the base's paths of the other stage.
    assert build_stages(Project(tiny.root, "twice"), set()) == []
    assert [stage.name for stage in build_stages(Project(tiny.root), {"clean"})] == ["clean"]


def test_without_soft_merge_an_environment_replaces_the_group(tiny: Tiny) -> None:
    tiny.edit("src/PACKAGE/settings.py", ', "merge_strategy": {"parameters": "soft"}', "")
    tiny.edit("conf/base/catalog.yml", "data/08_reporting/table.csv", "${globals:reports}/table.csv")
    tiny.write("conf/twice/parameters.yml", "model: {scale: 2, more: {power: 3}}\n")
    model = written(tiny, "twice")["model"]
    assert isinstance(model, dict)
    assert {"conf/twice/parameters.yml": ["model.more", "model.scale"]} in model["params"]


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (
            "conf/base/catalog.yml",
            "metrics: true",
            "metric: true",
            "final_metrics, metadata.dvc.metric: unknown key; known",
        ),
        (
            "conf/base/catalog.yml",
            "cache: false",
            "cache: never",
            "metadata.dvc.cache: Input should be a valid boolean, found 'never'",
        ),
        (
            "conf/base/catalog.yml",
            "plots: true",
            "plots: true, metrics: true",
            "metrics and plots are both true; choose one",
        ),
        (
            "conf/base/catalog.yml",
            "{dvc: {plots: true, desc: one line, formats: [MODEL]}}",
            "{dvc: 3}",
            "valid dictionary or instance of OutOptions",
        ),
        ("conf/base/catalog.yml", "table.csv\n", "table.csv\n  versioned: true\n", "table: `versioned: true` stores"),
        (
            "conf/base/catalog.yml",
            "data/08_reporting/table.csv",
            "s3://a/table.csv",
            "table: DVC versions local files only",
        ),
        (
            "conf/base/catalog.yml",
            "clean: {type",
            "elsewhere: {type",
            "stage model reads 'clean' of stage clean, but",
        ),
        (
            "conf/base/parameters.yml",
            "scale:",
            "scala:",
            "parameters model.scale: not set in any parameters file of conf/base",
        ),
        (
            "pyproject.toml",
            "[tool.kedro-dvc]",
            "[tool.kedro-dvc]\nstage = []",
            "kedro-dvc] stage: unknown key",
        ),
        (
            "pyproject.toml",
            "[tool.kedro-dvc]",
            "[tool.kedro-dvc]\nstages = 'a'",
            "stages: Input should be a valid list",
        ),
        ("pyproject.toml", "formats.py", "format.py", "formats: src/"),
        (
            "src/PACKAGE/formats.py",
            "MODEL",
            "MODAL",
            "catalog entry table, metadata.dvc.formats: no 'MODEL' in the file",
        ),
        (
            "pyproject.toml",
            "[tool.kedro-dvc]",
            "[tool.kedro-dvc]\nstages = ['cleen']",
            "no pipeline 'cleen'; reg",
        ),
        (
            "pyproject.toml",
            "[tool.kedro-dvc]",
            "[tool.kedro-dvc]\nstages = ['both', 'clean']",
            "both write data/02",
        ),
    ],
)
def test_each_error_gives_one_message(tiny: Tiny, name: str, old: str, new: str, message: str) -> None:
    tiny.edit(name, old, new)
    with pytest.raises(StageError) as caught:
        written(tiny)
    assert message in str(caught.value)


def test_untracked_entries_and_paths_in_parameters(tiny: Tiny) -> None:
    tiny.edit("conf/base/catalog.yml", "{plots: true, desc: one line, formats: [MODEL]}", "{track: false}")
    tiny.edit("pyproject.toml", "[tool.kedro-dvc]", "[tool.kedro-dvc]\npath_parameters = ['model.more.words']")
    stages = written(tiny)
    assert "plots" not in stages["model"]  # type: ignore[operator]
    assert "zero" in stages["model"]["deps"]  # type: ignore[index]
    tiny.edit("conf/base/parameters.yml", "words: zero", "words: [a.txt, ../b.txt, 's3://c/d', 'e{0..3}']")
    deps = build_stages(Project(tiny.root))[1].deps
    assert set(deps) == {
        "a.txt",
        (tiny.root.parent / "b.txt").as_posix(),
        "data/02_intermediate/clean.json",
    }


def test_a_node_with_a_redirected_output_belongs_to_no_stage(tiny: Tiny) -> None:
    project = Project(tiny.root)
    moved = DataCatalog({"table": MemoryDataset("", metadata={"dvc": {"track": False}})})
    assert nodes_in_place(project, project.stages["model"], DataCatalog()) == {"model_node", "report_node"}
    assert nodes_in_place(project, project.stages["model"], moved) == {"model_node"}


def test_all_parameters_at_once(tiny: Tiny) -> None:
    tiny.edit("src/PACKAGE/pipelines/cleaning/pipeline.py", "params:clean.drop", "parameters")
    assert build_stages(Project(tiny.root))[0].written()["params"][0] == {"conf/base/parameters.yml": None}


@pytest.fixture
def under_dvc(tiny: Tiny) -> Tiny:
    subprocess.run(["git", "init", "-q"], cwd=tiny.root, check=True)
    tiny.run("dvc", "init", "-q")
    tiny.run("dvc", "config", "core.analytics", "false")
    return tiny


def test_check_sync_check_repro(under_dvc: Tiny) -> None:
    tiny = under_dvc
    stale = tiny.run("kedro", "dvc", "check", status=1)
    assert "+    cmd: kedro run --pipelines clean" in stale
    assert "`kedro dvc sync`" in stale
    tiny.run("kedro", "dvc", "sync")
    assert "is up to date" in tiny.run("kedro", "dvc", "check")
    assert "Running stage 'model'" in tiny.run("dvc", "repro")
    assert (tiny.root / "data/08_reporting/table.csv").read_text() == f"total,{3 * (2**2 + 3**2)}"
    assert "up to date" in tiny.run("dvc", "status")


@pytest.mark.slow
def test_only_used_inputs_count_and_both_commands_end_clean(under_dvc: Tiny) -> None:
    tiny = under_dvc
    tiny.run("kedro", "dvc", "sync")
    tiny.run("kedro", "run")
    assert "up to date" in tiny.run("dvc", "status")
    tiny.edit("src/PACKAGE/words.py", "[]", "['one']")
    tiny.edit("conf/base/parameters.yml", "unused: 2", "unused: 3")
    assert "up to date" in tiny.run("dvc", "status")
    tiny.edit("src/PACKAGE/formats.py", "MODEL = 1", "MODEL = 2")
    changed = tiny.run("dvc", "status")
    assert "formats.py" in changed
    assert "clean:" not in changed
    tiny.run("kedro", "run")
    assert "up to date" in tiny.run("dvc", "status")
    assert (tiny.root / "data/08_reporting/table.csv").read_text() == f"total,{3 * (2**2 + 1 + 3**2 + 1)}"


@pytest.mark.slow
def test_parameters_outside_tracked_files(under_dvc: Tiny) -> None:
    """The lock has the used values, `dvc repro` runs with the files' values, and refuses values that DVC cannot see."""
    tiny = under_dvc
    tiny.run("kedro", "dvc", "sync")
    tiny.run("kedro", "run", "--params", "model.more.power=1")
    lock = yaml.safe_load((tiny.root / "dvc.lock").read_text())
    assert lock["stages"]["model"]["params"]["conf/base/parameters.yml"]["model.more"] == {"power": 1, "words": "zero"}
    told = tiny.run("dvc", "status")
    assert "model.more" in told
    assert "clean:" not in told
    assert "Stage 'clean' didn't change" in tiny.run("dvc", "repro")
    assert "up to date" in tiny.run("dvc", "status")
    tiny.write("conf/local/parameters.yml", "model: {more: {power: 7}}\n")
    tiny.edit("conf/base/parameters.yml", "power: 2", "power: 4")
    assert "conf/local sets model.more.power" in " ".join(tiny.run("dvc", "repro", status=255).split())


@pytest.mark.slow
def test_stages_finished_before_an_error_are_committed(under_dvc: Tiny) -> None:
    tiny = under_dvc
    tiny.run("kedro", "dvc", "sync")
    tiny.edit("src/PACKAGE/pipelines/modelling/nodes.py", "return sum(", "raise ValueError(")
    tiny.run("kedro", "run", status=1)
    assert set(yaml.safe_load((tiny.root / "dvc.lock").read_text())["stages"]) == {"clean"}


@pytest.mark.slow
def test_a_commit_waits_for_another_process_that_uses_dvc(under_dvc: Tiny) -> None:
    """DVC itself gives up after three seconds, and the commit would be lost."""
    tiny = under_dvc
    tiny.run("kedro", "dvc", "sync")
    with Repo(str(tiny.root)) as repo, repo.lock:
        running = threading.Thread(target=lambda: said.append(tiny.run("kedro", "run")))
        said: list[str] = []
        running.start()
        log = tiny.root / "data/08_reporting/table.csv"
        wait_for(lambda: log.exists() or not running.is_alive(), 120.0)
        # Longer than DVC tries.
        time.sleep(5.0)
        assert running.is_alive()
        assert not (tiny.root / "dvc.lock").exists()
    running.join()
    assert "another process uses the DVC repository; waiting" in " ".join(said[0].split())
    assert set(yaml.safe_load((tiny.root / "dvc.lock").read_text())["stages"]) == {"clean", "model"}


@pytest.mark.slow
def test_a_failed_commit_is_a_warning(under_dvc: Tiny) -> None:
    tiny = under_dvc
    tiny.run("kedro", "dvc", "sync")
    tiny.edit("dvc.yaml", "data/01_raw/raw.json", "data/01_raw/renamed.json")
    said = " ".join(tiny.run("kedro", "run").split())
    assert "renamed.json' does not exist" in said
    assert "kedro dvc sync" in said
