"""The redactor and the refusal of secrets, on the shapes that addresses, headers and commands have."""

import io
import logging
import subprocess
import sys
import threading

import pytest

from clips_pipeline.config import ConfigError
from clips_pipeline.data.storage.credentials import refuse_secrets
from clips_pipeline.io.redact import find_secret, redact, redact_values, remember
from clips_pipeline.io.terminal import SafeFormatter, protect_output

SECRET = [
    "http://user:hush@host/x",
    "http://user:hu/hush@host/x",
    "http://user:h@hush@host/x",
    "http://hush@host/x",
    "s3://KEY:hu/hush@bucket/x",
    "postgresql+psycopg://user:hush@host/db",
    "postgresql://host/db?user=me&password=hush",
    "tcp://user:hush@10.0.0.1:8786",
    "http://host/x?X-Amz-Signature=hush",
    "http://host?sig=hush",
    "https://host/x?sv=2024&se=2026&sig=hush",
    "http://host/x#access_token=hush",
    "one.tar::http://user:hush@host/x",
    "pipe:curl -H 'Authorization: Bearer hush-hush-hush' http://host/x",
    "pipe:curl -H X-Auth-Token:hush http://host/x",
    "pipe:curl --header Cookie:hush http://host/x",
    "pipe:curl -u user:hush http://host/x",
    "pipe:curl --user=user:hush http://host/x",
    "pipe:curl http://user:hush@host/x",
    "pipe:wget --http-password=hush -O - http://host/x",
    "pipe:tool --secret hush s3://bucket/x",
    "pipe:AWS_SECRET_ACCESS_KEY=hush aws s3 cp s3://bucket/x -",
    "pipe:psql 'host=h password=hush' -c x",
]
HARMLESS = [
    "s3://bucket/{00000..00999}.tar",
    "s3://bucket/????.tar",
    "http://host/a@2x.jpg",
    "http://host:8080/a@2x.jpg",
    "http://[::1]:80/a@2x.jpg",
    "http://host/x?download=true",
    "https://huggingface.co/datasets/x/resolve/main",
    "http://127.0.0.1:5000/#/experiments/1/runs/2",
    "abfs://container@account.dfs.core.windows.net/x",
    "ssh://me@host/x",
    "postgresql://me@host/db",
    "models:/clips@champion",
    "tcp://10.0.0.1:8786",
    "/data/tokens=5/key=1.tar",
    "pipe:cat /data/tokens=5.tar",
    'pipe:curl -H "Authorization: Bearer $TOKEN" http://host/x',
    "pipe:curl -u me:$PASSWORD http://host/x",
    "pipe:curl http://$NAME:${PASSWORD}@host/x",
    "pipe:AWS_SECRET_ACCESS_KEY=$MINE aws s3 cp s3://bucket/x -",
    "pipe:docker run --user 1000:1000 image cat x",
    "a photo of a {}.",
]


@pytest.mark.parametrize("text", SECRET)
def test_a_secret_is_hidden_and_refused_without_being_shown(text: str) -> None:
    assert "hush" not in redact(text)
    assert "hush" not in redact(f"failed: ({text}), then 'more'")
    assert "then" in redact(f"failed:\n{text}\nthen 'more'")
    assert redact(redact(text)) == redact(text)
    with pytest.raises(
        ConfigError, match=r"^prepare\.lists\[1\]\.train: contains .*; put credentials into conf/local"
    ) as error:
        refuse_secrets({"prepare": {"lists": ["", {"train": text}]}}, "")
    assert "hush" not in str(error.value)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_is_accepted(text: str) -> None:
    assert find_secret(text) is None
    refuse_secrets(text, "key")


@pytest.mark.parametrize(
    "text",
    [
        "http://host/a.tar: 3 attempts, the last one failed with FileNotFoundError",
        "'train' of s3://bucket/{000..999}.tar: tokens=512 key=3, 10:30@noon",
        "models:/clips@champion at http://127.0.0.1:5000/#/experiments/1/runs/2",
        "{'key': '0001', 'tokenizer': 'trained'}",
        "the bearer of a token",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert redact(text) == text


def test_addresses_with_blanks_are_refused() -> None:
    assert find_secret("http://us er:pa ss@host/x") == "a user name or password"


def test_known_secrets_are_hidden_in_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    remember(
        {
            "storage": {
                "s3": {"key": "abcd", "secret": "hush/hush"},
                "http": {"headers": {"Authorization": "Basic aHVzaDpodXNo"}},
            },
            "search": {"url": "postgresql://me:p%40ssword@host/db"},
            "other": {"endpoint_url": "http://host"},
        }
    )
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "from-the-environment")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:of-the-proxy@proxy:3128")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false-is-no-secret")
    text = (
        "a hush/hush b hush%2Fhush c aHVzaDpodXNo d p@ssword e p%40ssword f from-the-environment g of-the-proxy h abcd"
    )
    assert redact(text) == "a … b … c … d … e … f … g … h …"
    # A short one only as a word.
    assert redact("abcdefg false-is-no-secret http://host/x") == "abcdefg false-is-no-secret http://host/x"
    assert redact_values({"a": ["hush/hush", 1, None, {"b": "x hush/hush"}]}) == {"a": ["…", 1, None, {"b": "x …"}]}
    assert find_secret("s3://bucket/hush/hush.tar") == "a value of the credentials"


def test_hostile_text_takes_linear_time() -> None:
    """The child takes two seconds; with a quadratic pattern it would take hours."""
    code = (
        "from clips_pipeline.io.redact import find_secret, redact\n"
        "parts = 'x-', 'x-key-', 'SECRET_', 'KEY_', 'a://', 'http://a:', '--x-', 'authorization ', '?a=', 'user:', ' -u ', '_'\n"
        "for part in parts:\n"
        "    text = part * (100_000 // len(part))\n"
        "    redact(text), find_secret('pipe:' + text)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_log_lines_and_tracebacks_show_no_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(SafeFormatter("%(message)s"))
    log = logging.Logger("of its own")
    log.addHandler(handler)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    handlers, formatters = list(logging.root.handlers), [one.formatter for one in logging.root.handlers]
    last = logging.lastResort.formatter if logging.lastResort else None
    factory = logging.getLogRecordFactory()
    protect_output()
    other = io.StringIO()
    library = logging.getLogger("a library with a handler of its own")
    library.addHandler(logging.StreamHandler(other))
    library.propagate = False
    try:
        try:
            raise ValueError("control http://me:hush@host/x")
        except ValueError as error:
            log.exception("skipped in %s", "http://host/x?sig=hush")
            library.exception("control %s", "http://me:hush@host/x")
            sys.excepthook(ValueError, error, error.__traceback__)
        thread = threading.Thread(target=redact_nothing)
        thread.start()
        thread.join()
    finally:
        logging.setLogRecordFactory(factory)
        for one, formatter in zip(handlers, formatters, strict=True):
            one.setFormatter(formatter)
        if logging.lastResort:
            logging.lastResort.setFormatter(last)
    shown = stream.getvalue() + other.getvalue() + "".join(capsys.readouterr())
    assert shown.count("control http://…@host/x") >= 5
    assert "hush" not in shown.replace("redact_nothing", "")


def redact_nothing() -> None:
    url = "http://me:" + "hu" + "sh@host/x"
    raise ValueError(f"control {url}")
