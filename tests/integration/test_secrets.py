"""Plant secrets wherever a user can have some, run everything, and search every file, database and output for them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from tests.kedro_project import copy_tracked
from tests.servers import HttpServer, S3Server, http_server, postgresql_server, s3_server

from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.scenes.source import ScenesConfig, ScenesSource
from clips_pipeline.data.storage.files import Storage

pytestmark = pytest.mark.slow

# The names are parts of the planted strings.
PLANTS = {
    name: f"planted-{name}-0f1e2d"
    for name in ("s3-key", "s3-secret", "header", "variable", "database", "dvc", "env-file", "id", "git", "address")
}
# Not secret: the search must find it.
CONTROL = "control-0f1e2d"
IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")


@dataclass
class Planted:
    """A project with planted secrets, and all output of its commands.

    Attributes:
        root: folder of the project, its home, its temporary folder and restored versions.
        environment: environment variables of the commands.
        databases: URLs of MLflow's and Optuna's databases.
    """

    root: Path
    environment: dict[str, str]
    databases: tuple[str, str]
    output: str = ""

    @property
    def project(self) -> Path:
        return self.root / "project"

    def run(self, *command: str, status: int = 0) -> str:
        whole = [sys.executable, "-m", *command] if command[0] in ("kedro", "dvc") else list(command)
        done = subprocess.run(whole, cwd=self.project, capture_output=True, text=True, env=self.environment)
        text = done.stdout + done.stderr
        self.output += text
        assert done.returncode == status, text
        return text

    def write(self, name: str, content: object) -> None:
        file = self.project / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))

    def places_of(self, *texts: str) -> dict[str, set[str]]:
        """Return where each text is: files by their path, databases, and the output of the commands."""
        found: dict[str, set[str]] = {text: set() for text in texts}
        others = {f"database {number}": dump(url) for number, url in enumerate(self.databases)} | {
            "output": self.output
        }
        for text, places in found.items():
            places.update(name for name, content in others.items() if text in content)
        for path in self.root.rglob("*"):
            if path.is_file() and not path.is_symlink():
                content, name = path.read_bytes(), path.relative_to(self.root).as_posix()
                for text, places in found.items():
                    if text.encode() in content or text in name:
                        places.add(name)
        return found


def dump(url: str) -> str:
    """Return all rows of all tables of a database as text."""
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(url) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        return str([connection.execute(f'SELECT * FROM "{name}"').fetchall() for (name,) in names])  # noqa: S608


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    prepare(ScenesSource(ScenesConfig(train=32, validation=8, test=8, samples_per_shard=16)), folder / "made")
    return folder / "made"


@pytest.fixture(scope="module")
def servers(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[S3Server, HttpServer, str]]:
    with (
        s3_server() as s3,
        http_server(shards) as http,
        postgresql_server(tmp_path_factory.mktemp("postgresql"), PLANTS["database"]) as url,
    ):
        storage = Storage(options=s3.options)
        for file in shards.glob("train/*.tar"):
            storage.upload(file, f"s3://data/{CONTROL}/{file.name}")
        yield s3, http, url


@pytest.fixture(scope="module")
def planted(repository: Path, servers: tuple[S3Server, HttpServer, str], module_folder: Path) -> Planted:
    s3, http, url = servers
    root = module_folder
    for folder in ("project", "home", "tmp"):
        (root / folder).mkdir()
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE studies")
    studies = url.removesuffix("postgres") + "studies"
    environment = {
        **os.environ,
        "COLUMNS": "240",
        "HOME": str(root / "home"),
        "TMPDIR": str(root / "tmp"),
        "PYTHONPATH": str(root / "project" / "src"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": url.replace("postgresql:", "postgresql+psycopg:"),
        "MINE_TOKEN": PLANTS["variable"],
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    found = Planted(root, environment, (url, studies))
    copy_tracked(repository, found.project, lambda name: not name.startswith(("tests/", "docs/")))
    found.write("conf/planted/globals.yml", {"data_root": "data/planted", "results_root": "data/planted"})
    parameters = yaml.safe_load((repository / "conf/smoke/parameters.yml").read_text())
    parameters["prepare"]["source"] = {
        "kind": "img2dataset",
        "img2dataset": {
            "train": f"s3://data/{CONTROL}/{{00000..00001}}.tar",
            "validation": f"{http.url}/validation/00000.tar",
            "test": f'pipe:curl -sf -H "Authorization: Bearer $MINE_TOKEN" {http.url}/test/00000.tar',
        },
    }
    parameters["train"] |= {"samples": 64, "every": {"log": 1, "evaluate": 4, "checkpoint": 4}}
    parameters["register"]["name"] = "clips-planted"
    parameters["search"] = {"trials": 1, "samples": 32, "storage": {"kind": "postgresql"}}
    parameters["storage"] = {"allow_pipe": True, "retries": 1, "back_off_s": 0.01}
    found.write("conf/planted/parameters.yml", parameters)
    found.write("conf/planted/mlflow.yml", {"server": {"mlflow_tracking_uri": None}})
    client = {"endpoint_url": s3.endpoint, "region_name": "us-east-1"}
    options = {
        "s3": {"key": PLANTS["s3-key"], "secret": PLANTS["s3-secret"], "client_kwargs": client},
        "http": {"headers": {"Authorization": f"Bearer {PLANTS['header']}"}},
    }
    found.write("conf/local/credentials.yml", {"storage": options, "search": {"url": studies}})
    found.run("git", "init", "-q", "-b", "main")
    found.run("kedro", "dvc", "sync", "--env", "planted")
    found.run("git", "add", "-A")
    found.run("git", *IDENTITY, "commit", "-q", "-m", "all")
    found.run("git", "remote", "add", "origin", f"https://me:{PLANTS['git']}@example.org/x.git")
    found.run("dvc", "remote", "add", "--local", "-d", "store", "s3://data/dvc")
    found.run("dvc", "remote", "modify", "--local", "store", "endpointurl", s3.endpoint)
    for name in ("access_key_id", "secret_access_key"):
        found.run("dvc", "remote", "modify", "--local", "store", name, PLANTS["dvc"])
    found.write(".env", f"PASSWORD={PLANTS['env-file']}\n")
    found.write("id_rsa", PLANTS["id"])
    return found


def assert_nothing_leaked(planted: Planted) -> None:
    """Search for every plant outside of the files in which it was planted."""
    restored = {f"{path.name}/.dvc/config.local" for path in planted.root.glob("restored*")}
    own = {
        f"project/{name}"
        for name in (".env", "id_rsa", ".git/config", ".dvc/config.local", "conf/local/credentials.yml")
    }
    found = planted.places_of(*PLANTS.values())
    leaks = {name: found[text] - own - restored for name, text in PLANTS.items()}
    assert {name: places for name, places in leaks.items() if places} == {}


def test_a_whole_run_leaks_nothing(planted: Planted) -> None:
    told = planted.run("kedro", "run", "--env", "planted", "--pipelines", "pretrain")
    assert "not kept: .env, id_rsa; before training" in told
    planted.run("kedro", "run", "--env", "planted", "--pipelines", "search")
    planted.run("dvc", "push", "conf/planted/dvc.yaml")
    planted.run("kedro", "lineage", "show", "1", "--env", "planted")
    shutil.rmtree(planted.project / ".dvc" / "cache")
    told = planted.run("kedro", "lineage", "restore", "1", str(planted.root / "restored"), "--env", "planted")
    assert "not kept: .env, id_rsa" in told
    # The search finds what is not secret, in every kind of place.
    places = planted.places_of(CONTROL)[CONTROL]
    assert {"database 0", "project/conf/planted/dvc.lock"} <= places
    for part in (
        "shards/index.json",
        "lineage.json",
        "lineage/clips-planted-1/dvc.lock",
        "restored/conf/planted/dvc.lock",
    ):
        assert any(place.endswith(part) for place in places), (part, places)
    (run_folder,) = (planted.project / "data/planted/06_models/runs").iterdir()
    events = run_folder / "events.jsonl"
    events.write_text(events.read_text() + json.dumps({"kind": CONTROL}) + "\n")
    assert events.relative_to(planted.root).as_posix() in planted.places_of(CONTROL)[CONTROL]
    assert "project/conf/local/credentials.yml" in planted.places_of(PLANTS["s3-secret"])[PLANTS["s3-secret"]]
    assert_nothing_leaked(planted)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://URL/missing.tar", "missing.tar"),
        (
            "pipe:curl -vf -H 'Authorization: Bearer '$MINE_TOKEN http://URL/missing.tar",
            "the command failed with exit status",
        ),
        (f"s3://data/{CONTROL}/missing.tar", f"{CONTROL}/missing.tar"),
    ],
)
def test_a_failed_run_leaks_nothing(
    planted: Planted, servers: tuple[S3Server, HttpServer, str], address: str, message: str
) -> None:
    address = address.replace("http://URL", servers[1].url)
    parameters = yaml.safe_load((planted.project / "conf/planted/parameters.yml").read_text())
    parameters["prepare"]["source"]["img2dataset"]["train"] = address
    planted.write("conf/failing/parameters.yml", parameters)
    planted.write("conf/failing/mlflow.yml", {"server": {"mlflow_tracking_uri": None}})
    planted.write("conf/failing/globals.yml", {"data_root": "data/failing", "results_root": "data/failing"})
    done = subprocess.run(
        [sys.executable, "-m", "kedro", "run", "--env", "failing", "--pipelines", "prepare"],
        cwd=planted.project,
        capture_output=True,
        text=True,
        env=planted.environment,
    )
    planted.output += done.stdout + done.stderr
    assert done.returncode
    assert message in " ".join((done.stdout + done.stderr).split())
    assert_nothing_leaked(planted)


@pytest.mark.parametrize(
    ("parameter", "key"),
    [
        ("prepare.source.img2dataset.train=s3://KEY:a/PLANT@data/x.tar", "prepare.source.img2dataset.train"),
        ("prepare.run_on.address=tcp://me:PLANT@host:8786", "prepare.run_on.address"),
    ],
)
def test_a_refused_address_leaks_nothing(planted: Planted, parameter: str, key: str) -> None:
    parameter = parameter.replace("PLANT", PLANTS["address"])
    told = planted.run("kedro", "run", "--env", "planted", "--pipelines", "pretrain", "--params", parameter, status=2)
    assert f"{key}: contains a" in told
    assert "Traceback" not in told
    assert_nothing_leaked(planted)


def test_refused_trackers_and_remotes_leak_nothing(planted: Planted) -> None:
    planted.write(
        "conf/planted/mlflow.yml", {"server": {"mlflow_tracking_uri": f"https://me:{PLANTS['address']}@host"}}
    )
    config = (planted.project / ".dvc/config").read_text()
    try:
        told = planted.run("kedro", "run", "--env", "planted", "--pipelines", "pretrain", status=2)
        assert "mlflow.yml: server.mlflow_tracking_uri: contains a user name or password" in told
        planted.write("conf/planted/mlflow.yml", {"server": {"mlflow_tracking_uri": None}})
        planted.write(".dvc/config", config + f"['remote \"x\"']\n    url = https://me:{PLANTS['address']}@host\n")
        told = planted.run("kedro", "run", "--env", "planted", "--pipelines", "pretrain", status=2)
        assert '.dvc/config: remote "x": url: contains a user name or password' in told
    finally:
        planted.write("conf/planted/mlflow.yml", {"server": {"mlflow_tracking_uri": None}})
        planted.write(".dvc/config", config)
    assert_nothing_leaked(planted)
