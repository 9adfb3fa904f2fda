"""Addresses of shards: as webdataset and img2dataset users write them, and the file systems of fsspec behind them."""

import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import braceexpand

from clips_pipeline.config import ConfigError

_CHUNK = 1 << 20


def expand_addresses(addresses: str | Sequence[str]) -> list[str]:
    """Every single address, in the order in which they are written.

    Args:
        addresses: one text or several; each may join others by `::` and hold ranges (`{000..123}`) or choices (`{a,b}`).

    Raises:
        ConfigError: braces that do not fit, or no address at all.
    """
    texts = [addresses] if isinstance(addresses, str) else list(addresses)
    expanded: list[str] = []
    for text in texts:
        # A command may hold braces and colons of its own.
        parts = [text] if text.startswith("pipe:") else text.split("::")
        for part in parts:
            try:
                expanded += braceexpand.braceexpand(part)
            except braceexpand.UnbalancedBracesError:  # type: ignore[attr-defined]
                raise ConfigError(f"{part!r}: the braces do not fit; write ranges like {{000..123}}") from None
    expanded = [address.strip() for address in expanded if address.strip()]
    if not expanded:
        raise ConfigError("no address of a shard; give one, such as /data/{00000..00099}.tar")
    return expanded


def is_remote(address: str) -> bool:
    """Whether the address is a URL (or a command), and not a path of this machine."""
    return address.startswith("pipe:") or ("://" in address and not address.startswith("file://"))


def file_system(address: str, options: Mapping[str, Mapping[str, Any]], timeout_s: float) -> tuple[Any, str]:
    """The file system of an address, and the path in it. fsspec keeps one per process and options.

    Args:
        address: a path or a URL.
        options: fsspec's, by protocol.
        timeout_s: seconds without a byte after which a request has failed.

    Raises:
        ValueError: nobody knows the protocol.
        ImportError: its package is not installed; the message names it.
    """
    from fsspec.core import url_to_fs

    protocol = address.split("://", 1)[0] if "://" in address else "file"
    fs, path = url_to_fs(address, **_with_timeouts(protocol, timeout_s, dict(options.get(protocol, {}))))
    if protocol == "s3":
        # With its own five on top of ours a server in trouble would be asked thirty times.
        fs.retries = 1
    return fs, path


def _with_timeouts(protocol: str, seconds: float, options: dict[str, Any]) -> dict[str, Any]:
    if protocol in ("http", "https", "gs", "gcs"):
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
        name = "client_kwargs" if protocol.startswith("http") else "session_kwargs"
        options[name] = {"timeout": timeout, **options.get(name, {})}
    elif protocol == "s3":
        own = {"connect_timeout": seconds, "read_timeout": seconds, "retries": {"total_max_attempts": 1}}
        options["config_kwargs"] = {**own, **options.get("config_kwargs", {})}
    return options


def write_command_output(command: str, out: BinaryIO, timeout_s: float) -> None:
    """Write the output of a command to `out`, by webdataset's `Pipe`: in a shell, which is why it has to be allowed.

    webdataset's own switch (the environment variable `WDS_SECURE=1`) forbids it too, whatever the configuration says.

    Args:
        command: for `sh`.
        out: a file open for writing.
        timeout_s: seconds without a byte after which it is killed.

    Raises:
        ConfigError: webdataset's switch is set.
        TimeoutError: it was killed.
        OSError: it ended with an error; the message ends with what it said.
    """
    # Here and not above: it imports torch, which the process that starts `kedro` does without.
    from webdataset import utils
    from webdataset.gopen import Pipe

    if utils.enforce_security:
        raise ConfigError(
            "pipe: WDS_SECURE is set, so webdataset runs no commands; unset it, or use s3://, gs:// or http://"
        )
    with tempfile.TemporaryFile() as stderr:
        options = {"stdin": subprocess.DEVNULL, "stderr": stderr, "start_new_session": True}
        pipe = Pipe(command, mode="rb", shell=True, **options)  # noqa: S604 - allowed by storage.allow_pipe
        process = pipe.proc  # read directly: `Pipe` itself has no time-out for a command that hangs
        try:
            while True:
                if not select.select([process.stdout], [], [], timeout_s)[0]:
                    raise TimeoutError(f"the command gave nothing for {timeout_s:g} s")
                chunk = os.read(process.stdout.fileno(), _CHUNK)
                if not chunk:
                    break
                out.write(chunk)
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the command did not end within {timeout_s:g} s of its output") from None
        finally:
            if process.poll() is None:
                # The shell's children too.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            process.stdout.close()
        if status:
            stderr.seek(0)
            tail = stderr.read().decode("utf-8", "replace").strip()[-300:]
            raise OSError(f"the command ended with {status}: {tail}")
