"""Shard addresses in the syntax of webdataset and img2dataset, and their fsspec file systems."""

import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import braceexpand

from clips_pipeline.config import ConfigError
from clips_pipeline.data.storage.credentials import refuse_secrets
from clips_pipeline.data.storage.hub import PROTOCOL as HUB
from clips_pipeline.data.storage.hub import hub_options
from clips_pipeline.io.redact import redact

_CHUNK = 1 << 20


def expand_addresses(addresses: str | Sequence[str]) -> list[str]:
    """Return every single address, in the given order.

    Args:
        addresses: one text or several; each may join addresses by `::` and hold ranges (`{000..123}`) or choices
            (`{a,b}`).

    Raises:
        ConfigError: the braces are not balanced, there is no address, or one contains a password, token or signature.
    """
    refuse_secrets(addresses, "address")
    texts = [addresses] if isinstance(addresses, str) else list(addresses)
    expanded: list[str] = []
    for text in texts:
        # A command may contain braces and colons.
        parts = [text] if text.startswith("pipe:") else text.split("::")
        for part in parts:
            try:
                expanded += braceexpand.braceexpand(part)
            except braceexpand.UnbalancedBracesError:  # type: ignore[attr-defined]
                raise ConfigError(f"{part!r}: the braces do not match; write ranges like {{000..123}}") from None
    expanded = [address.strip() for address in expanded if address.strip()]
    if not expanded:
        raise ConfigError("no address of a shard; give one, such as /data/{00000..00099}.tar")
    return expanded


def is_remote(address: str) -> bool:
    """Return whether the address is a URL or a command, rather than a local path."""
    return address.startswith("pipe:") or ("://" in address and not address.startswith("file://"))


def file_system(address: str, options: Mapping[str, Mapping[str, Any]], timeout_s: float) -> tuple[Any, str]:
    """Return the file system of an address and the path in it. fsspec caches one instance per process and options.

    Args:
        address: a path or a URL.
        options: options of fsspec, by protocol.
        timeout_s: seconds without a byte after which a request fails.

    Raises:
        ValueError: the protocol is unknown.
        ImportError: the package for the protocol is not installed; the message names it.
    """
    from fsspec.core import url_to_fs

    protocol = address.split("://", 1)[0] if "://" in address else "file"
    fs, path = url_to_fs(address, **_with_timeouts(protocol, timeout_s, dict(options.get(protocol, {}))))
    if protocol == "s3":
        # Otherwise s3fs would retry five times within each of our own attempts.
        fs.retries = 1
    return fs, path


def _with_timeouts(protocol: str, seconds: float, options: dict[str, Any]) -> dict[str, Any]:
    if protocol in ("http", "https", "gs", "gcs"):
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
        name = "client_kwargs" if protocol.startswith("http") else "session_kwargs"
        options[name] = {"timeout": timeout, **options.get(name, {})}
    elif protocol == HUB:
        options = hub_options(options, seconds)
    elif protocol == "s3":
        own = {"connect_timeout": seconds, "read_timeout": seconds, "retries": {"total_max_attempts": 1}}
        options["config_kwargs"] = {**own, **options.get("config_kwargs", {})}
    return options


def write_command_output(command: str, out: BinaryIO, timeout_s: float) -> None:
    """Run a command in a shell with webdataset's `Pipe` and write its output to `out`.

    webdataset's own switch (the environment variable `WDS_SECURE=1`) forbids it even if the configuration allows it.

    Args:
        command: a command for `sh`.
        out: a file open for writing.
        timeout_s: seconds without output after which the command is killed.

    Raises:
        ConfigError: `WDS_SECURE` is set.
        TimeoutError: the command was killed.
        OSError: the command failed; the message includes the end of its standard error.
    """
    # Imported here: it imports torch, which the process that starts `kedro` does not need.
    from webdataset import utils
    from webdataset.gopen import Pipe

    if utils.enforce_security:
        raise ConfigError(
            "pipe: WDS_SECURE is set, so webdataset runs no commands; unset it, or use s3://, gs:// or http://"
        )
    with tempfile.TemporaryFile() as stderr:
        options = {"stdin": subprocess.DEVNULL, "stderr": stderr, "start_new_session": True}
        pipe = Pipe(command, mode="rb", shell=True, **options)  # noqa: S604 - allowed by storage.allow_pipe
        process = pipe.proc  # read directly: `Pipe` has no timeout for a command that hangs
        try:
            while True:
                if not select.select([process.stdout], [], [], timeout_s)[0]:
                    raise TimeoutError(f"the command gave no output for {timeout_s:g} s")
                chunk = os.read(process.stdout.fileno(), _CHUNK)
                if not chunk:
                    break
                out.write(chunk)
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the command did not exit within {timeout_s:g} s after its output") from None
        finally:
            if process.poll() is None:
                # Kill the children of the shell too.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            process.stdout.close()
        if status:
            stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - _CHUNK))
            # Redacted before it is cut: a part of a secret would not be recognized.
            tail = redact(stderr.read().decode("utf-8", "replace").strip())[-300:]
            raise OSError(f"the command failed with exit status {status}: {tail}")
