"""Remote files: a real S3 server and a real HTTP server, with and without faults."""

import importlib.util
import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers import Fault, HttpServer, S3Server, http_server, s3_server

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.data.storage.files import Storage, StorageConfig, StorageError
from clips_pipeline.data.storage.urls import expand_addresses, is_remote

CONTENT = bytes(range(256)) * 40
QUICK = StorageConfig(retries=2, back_off_s=0.01, timeout_s=2.0)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture
def http(tmp_path: Path) -> Iterator[HttpServer]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.tar").write_bytes(CONTENT)
    with http_server(folder) as running:
        yield running


@pytest.mark.parametrize(
    ("addresses", "wanted"),
    [
        ("/data/{00..02}.tar", ["/data/00.tar", "/data/01.tar", "/data/02.tar"]),
        ("a.tar::s3://b/{0..1}.tar", ["a.tar", "s3://b/0.tar", "s3://b/1.tar"]),
        (["b.tar", "{x,y}.tar"], ["b.tar", "x.tar", "y.tar"]),
        ("pipe:cat {0..1}.tar | tee a::b", ["pipe:cat 0.tar | tee a::b", "pipe:cat 1.tar | tee a::b"]),
        ("plain.tar", ["plain.tar"]),
    ],
)
def test_addresses(addresses: str | list[str], wanted: list[str]) -> None:
    assert expand_addresses(addresses) == wanted


@pytest.mark.parametrize(
    ("addresses", "message"), [("/data/{00..02.tar", "do not match"), ("", "no address"), ([], "no address")]
)
def test_addresses_that_cannot_be_used(addresses: str | list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand_addresses(addresses)


def test_is_remote() -> None:
    assert [is_remote(a) for a in ("s3://b/k", "http://h/f", "pipe:cat f", "/a/b", "a/b", "file:///a")] == [
        True
    ] * 3 + [False] * 3


def test_s3_round_trip(s3: S3Server, tmp_path: Path) -> None:
    storage = pickle.loads(pickle.dumps(Storage(QUICK, s3.options)))  # noqa: S301
    (tmp_path / "a").write_bytes(CONTENT)
    storage.upload(tmp_path / "a", "s3://data/some/where.tar")
    assert storage.size("s3://data/some/where.tar") == len(CONTENT)
    storage.fetch("s3://data/some/where.tar", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == CONTENT
    with storage.open("s3://data/some/where.tar") as file:
        file.seek(1000)
        assert file.read(10) == CONTENT[1000:1010]
    with storage.local_copy("s3://data/some/where.tar") as path:
        assert path.read_bytes() == CONTENT
    assert not path.exists()
    assert storage.list("s3://data/some/*.tar") == ["s3://data/some/where.tar"]
    before = storage.identity("s3://data/some/where.tar")
    (tmp_path / "a").write_bytes(CONTENT[::-1])
    storage.upload(tmp_path / "a", "s3://data/some/where.tar")
    assert storage.identity("s3://data/some/where.tar") != before


def test_many_identities_need_few_requests(s3: S3Server, http: HttpServer, tmp_path: Path) -> None:
    storage = Storage(QUICK, s3.options)
    (tmp_path / "a").write_bytes(CONTENT)
    addresses = [f"s3://data/many/{number}.tar" for number in range(9)]
    for address in addresses:
        storage.upload(tmp_path / "a", address)
    others = [f"{http.url}/a.tar", str(tmp_path / "a"), "s3://data/many/3.tar"]
    wanted = [storage.identity(address) for address in [*addresses, *others]]
    assert storage.identities([*addresses, *others]) == wanted
    with pytest.raises(StorageError, match=r"many/gone\.tar: one attempt"):
        storage.identities([*addresses, "s3://data/many/gone.tar"])


def test_s3_missing_file_is_not_retried(s3: S3Server, tmp_path: Path) -> None:
    storage = Storage(QUICK, s3.options)
    with pytest.raises(
        StorageError, match=r"^s3://data/no\.tar: one attempt, the last one failed with FileNotFoundError"
    ):
        storage.fetch("s3://data/no.tar", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_secrets_are_redacted(s3: S3Server) -> None:
    options = {"s3": {"key": "AKIA", "secret": "hush", "client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}}}
    storage = Storage(StorageConfig(retries=0, timeout_s=1.0), options)
    with pytest.raises(StorageError) as error:
        storage.size("s3://data/a.tar")
    assert "hush" not in str(error.value) + repr(storage)
    wrong = {"http": {"headers": {"Authorization": "Bearer hush\n"}}}
    with pytest.raises(StorageError) as error:
        Storage(QUICK, wrong).size("http://127.0.0.1:9/a.tar")
    assert "hush" not in str(error.value)


@pytest.mark.parametrize("address", ["http://me:hush@h/a.tar", "s3://KEY:HU/SH@data/a.tar", "http://h/a.tar?sig=hush"])
def test_addresses_with_secrets_are_refused(address: str, tmp_path: Path) -> None:
    storage = Storage(StorageConfig(allow_pipe=True))
    for use in (
        storage.size,
        storage.list,
        storage.open,
        storage.identity,
        lambda one: storage.fetch(one, tmp_path / "x"),
    ):
        with pytest.raises(ConfigError, match=r"^address: contains a .*credentials\.yml") as error:
            use(address)
        assert "hush" not in str(error.value).lower()
    with pytest.raises(ConfigError, match=r"\$VARIABLE"):
        storage.size("pipe:curl -H 'Authorization: Bearer hush' http://h/a.tar")
    with pytest.raises(ConfigError, match=r"^address\[1\]: contains a"):
        expand_addresses(["a.tar", f"b.tar::{address}"])


def test_errors_of_a_storage_show_no_secret() -> None:
    storage = Storage(QUICK, {"s3": {"secret": "hush-hush"}})
    assert str(StorageError("http://me:pw@host/f?X-Amz-Signature=abc: failed")) == "http://…@host/f?…: failed"
    assert "hush" not in str(StorageError(f"{storage.options} failed")) + str(ConfigError("hush-hush"))


def test_http(http: HttpServer, tmp_path: Path) -> None:
    storage = Storage(QUICK)
    assert storage.size(f"{http.url}/a.tar") == len(CONTENT)
    storage.fetch(f"{http.url}/a.tar", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == CONTENT
    assert http.gets("a.tar") == 1


@pytest.mark.parametrize("kind", ["503", "429", "drop", "hang"])
def test_transient_faults_are_retried(http: HttpServer, tmp_path: Path, kind: str) -> None:
    http.faults["a.tar"] = Fault(kind, times=2)
    Storage(StorageConfig(retries=2, back_off_s=0.01, timeout_s=0.5)).fetch(f"{http.url}/a.tar", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == CONTENT
    assert http.gets("a.tar") == 3


@pytest.mark.parametrize(
    ("kind", "attempts", "cause"),
    [("503", 3, "503"), ("drop", 3, "ClientPayloadError"), ("404", 1, "FileNotFoundError"), ("403", 1, "403")],
)
def test_permanent_faults_are_an_error(http: HttpServer, tmp_path: Path, kind: str, attempts: int, cause: str) -> None:
    http.faults["a.tar"] = Fault(kind)
    times = "one attempt" if attempts == 1 else f"{attempts} attempts"
    with pytest.raises(StorageError, match=rf"a\.tar: {times}, the last one failed with .*{cause}"):
        Storage(QUICK).fetch(f"{http.url}/a.tar", tmp_path / "b")
    assert http.gets("a.tar") == attempts
    assert sorted(path.name for path in tmp_path.iterdir()) == ["served"]


def test_missing_server_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="3 attempts"):
        Storage(QUICK).fetch("http://127.0.0.1:9/a.tar", tmp_path / "b")


def test_the_size_of_a_file_on_a_server_that_is_away_is_asked_again(http: HttpServer) -> None:
    """fsspec raises FileNotFoundError for every error of such a request; a retry must not be left out for it."""
    for ask in (Storage(QUICK).size, Storage(QUICK).identity):
        with pytest.raises(
            StorageError, match=r"a\.tar: 3 attempts, the last one failed with ClientConnector"
        ) as found:
            ask("http://127.0.0.1:9/a.tar")
        assert not found.value.missing
        with pytest.raises(StorageError, match=r"gone\.tar: one attempt, .* FileNotFoundError") as found:
            ask(f"{http.url}/gone.tar")
        assert found.value.missing


def _s3_options(http: HttpServer) -> dict[str, dict[str, Any]]:
    return {"s3": {"key": "testing", "secret": "testing", "client_kwargs": {"endpoint_url": http.url}}}


@pytest.fixture
def bucket(http: HttpServer) -> HttpServer:
    (http.folder / "bucket").mkdir()
    (http.folder / "bucket" / "a.tar").write_bytes(CONTENT)
    return http


@pytest.mark.parametrize("kind", ["503", "drop", "hang"])
def test_s3_transient_faults_are_retried(bucket: HttpServer, tmp_path: Path, kind: str) -> None:
    bucket.faults["bucket/a.tar"] = Fault(kind, times=2)
    quick = StorageConfig(retries=2, back_off_s=0.01, timeout_s=0.5)
    Storage(quick, _s3_options(bucket)).fetch("s3://bucket/a.tar", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == CONTENT
    # The client's own retries would multiply ours.
    assert bucket.gets("bucket/a.tar") == 3


@pytest.mark.parametrize(("kind", "attempts"), [("503", 3), ("drop", 3), ("404", 1), ("403", 1)])
def test_s3_permanent_faults_are_an_error(bucket: HttpServer, tmp_path: Path, kind: str, attempts: int) -> None:
    bucket.faults["bucket/a.tar"] = Fault(kind)
    times = "one attempt" if attempts == 1 else f"{attempts} attempts"
    with pytest.raises(StorageError, match=rf"^s3://bucket/a\.tar: {times}, the last one failed with"):
        Storage(QUICK, _s3_options(bucket)).fetch("s3://bucket/a.tar", tmp_path / "b")
    assert bucket.gets("bucket/a.tar") == attempts
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("protocol", ["s3", "http"])
def test_range_requests_are_retried(bucket: HttpServer, protocol: str) -> None:
    address = "s3://bucket/a.tar" if protocol == "s3" else f"{bucket.url}/bucket/a.tar"
    storage = Storage(StorageConfig(retries=2, back_off_s=0.01, timeout_s=0.5), _s3_options(bucket))
    with storage.open(address) as file:
        assert file.seek(0, 2) == len(CONTENT)
        for number, kind in enumerate(("503", "hang", "drop")):
            bucket.faults["bucket/a.tar"] = Fault(kind, times=2)
            file.seek(-1000 * (number + 1), 2)
            assert file.read(10) == CONTENT[-1000 * (number + 1) :][:10]
        file.seek(0)
        assert file.read() == CONTENT
    with storage.open(address) as file:
        bucket.faults["bucket/a.tar"] = Fault("503")
        with pytest.raises(StorageError, match=r"a\.tar: 3 attempts"):
            file.read(2000)


def test_server_without_ranges_sends_the_file_once(http: HttpServer) -> None:
    http.ranges = False
    with Storage(QUICK).open(f"{http.url}/a.tar") as file:
        file.seek(-20, 2)
        assert file.read() == CONTENT[-20:]
        file.seek(5)
        assert file.read(5) == CONTENT[5:10]
    # One request was for a range that the server did not send.
    assert http.gets("a.tar") == 2


def _fetch(storage: Storage, address: str, target: Path) -> None:
    storage.fetch(address, target)


def test_forked_process_opens_its_own_connections(http: HttpServer, s3: S3Server, tmp_path: Path) -> None:
    storage = Storage(QUICK, s3.options)
    (tmp_path / "a").write_bytes(CONTENT)
    storage.upload(tmp_path / "a", "s3://data/forked.tar")
    for number, address in enumerate((f"{http.url}/a.tar", "s3://data/forked.tar")):
        parent, child = tmp_path / f"parent-{number}", tmp_path / f"child-{number}"
        storage.fetch(address, parent)
        worker = multiprocessing.get_context("fork").Process(target=_fetch, args=(storage, address, child))
        worker.start()
        worker.join(30.0)
        assert worker.exitcode == 0
        assert child.read_bytes() == parent.read_bytes() == CONTENT


def test_full_disk_is_an_error(http: HttpServer, tmp_path: Path) -> None:
    (tmp_path / "b").symlink_to("/dev/full")
    storage = Storage(StorageConfig(retries=2, back_off_s=0.01, unreachable="skip"))
    with pytest.raises(StorageError, match=r"one attempt.*No space left on device") as error:
        storage.fetch(f"{http.url}/a.tar", tmp_path / "b")
    assert http.gets("a.tar") == 1
    assert not storage.should_skip(error.value)
    with pytest.raises(StorageError) as error:
        storage.fetch(f"{http.url}/gone.tar", tmp_path / "b")
    assert storage.should_skip(error.value)


def test_google_needs_its_package(tmp_path: Path) -> None:
    if importlib.util.find_spec("gcsfs") is not None:
        pytest.skip("gcsfs is installed here")
    with pytest.raises(StorageError, match=r"gs://bucket/a\.tar: one attempt.*gcsfs"):
        Storage(QUICK).fetch("gs://bucket/a.tar", tmp_path / "b")


def test_misspelled_bucket_is_not_created(s3: S3Server, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(CONTENT)
    storage = Storage(QUICK, s3.options)
    with pytest.raises(StorageError, match=r"^s3://dtaa/a: one attempt"):
        storage.upload(tmp_path / "a", "s3://dtaa/a")
    with pytest.raises(StorageError):
        storage.size("s3://dtaa/a")


def test_local_files(tmp_path: Path) -> None:
    storage = Storage(QUICK)
    (tmp_path / "a").write_bytes(CONTENT)
    storage.upload(tmp_path / "a", str(tmp_path / "new" / "b"))
    assert storage.size(str(tmp_path / "new" / "b")) == len(CONTENT)
    with storage.local_copy(f"file://{tmp_path}/new/b") as path:
        assert path == tmp_path / "new" / "b"
    assert path.exists()
    storage.fetch(str(path), tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == CONTENT
    with pytest.raises(StorageError, match="gone: one attempt"), storage.local_copy(str(tmp_path / "gone")):
        pass


def test_commands_run_only_if_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"would run a command in a shell.*storage\.allow_pipe"):
        Storage(QUICK).fetch(f"pipe:touch {tmp_path}/ran", target)
    assert not (tmp_path / "ran").exists()
    allowed = Storage(StorageConfig(retries=0, allow_pipe=True))
    allowed.fetch("pipe:printf hello", target)
    assert target.read_bytes() == b"hello"
    with pytest.raises(StorageError, match="exit status 3: oh no"):
        allowed.fetch("pipe:echo oh no >&2; exit 3", tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with monkeypatch.context() as secure:
        secure.setattr("webdataset.utils.enforce_security", True)
        with pytest.raises(ConfigError, match="WDS_SECURE is set"):
            allowed.fetch(f"pipe:touch {tmp_path}/ran", tmp_path / "other")
    assert not (tmp_path / "ran").exists()
    impatient = Storage(StorageConfig(retries=0, allow_pipe=True, timeout_s=0.2))
    with pytest.raises(StorageError, match="gave no output for"):
        impatient.fetch("pipe:sleep 60 | cat", tmp_path / "other")


def test_unknown_protocol_is_not_retried(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"one attempt.*Protocol not known: nope"):
        Storage(QUICK).fetch("nope://x/a.tar", tmp_path / "b")


@pytest.mark.parametrize("change", [{"retries": -1}, {"timeout_s": 0.0}, {"cache_gib": 0.0}])
def test_impossible_settings_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        from_mapping(StorageConfig, change, "storage")


def test_the_end_of_a_commands_errors_is_redacted_before_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE_TOKEN", "hush" * 40)
    allowed = Storage(StorageConfig(retries=0, allow_pipe=True))
    command = 'pipe:echo "$MINE_TOKEN" >&2; seq 60 >&2; exit 3'
    with pytest.raises(StorageError, match="exit status 3") as error, allowed.local_copy(command):
        pass
    assert "hush" not in str(error.value)
    assert "60" in str(error.value)
