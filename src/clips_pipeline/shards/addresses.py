"""Addresses of shards as webdataset and img2dataset users write them: `{000..123}`, `one::two`, lists."""

from collections.abc import Sequence

import braceexpand

from clips_pipeline.config import ConfigError


def expand(addresses: str | Sequence[str]) -> list[str]:
    """Every single address, in the order in which they are written.

    Args:
        addresses: one text or several; each may join others by `::` and hold ranges (`{000..123}`) or choices (`{a,b}`).

    Raises:
        ConfigError: braces that do not fit, or no address at all.
    """
    texts = [addresses] if isinstance(addresses, str) else list(addresses)
    found: list[str] = []
    for text in texts:
        # A command may hold braces and colons of its own.
        parts = [text] if text.startswith("pipe:") else text.split("::")
        for part in parts:
            try:
                found += braceexpand.braceexpand(part)
            except braceexpand.UnbalancedBracesError:  # type: ignore[attr-defined]
                raise ConfigError(f"{part!r}: the braces do not fit; write ranges like {{000..123}}") from None
    found = [address.strip() for address in found if address.strip()]
    if not found:
        raise ConfigError("no address of a shard; give one, such as /data/{00000..00099}.tar")
    return found


def is_remote(address: str) -> bool:
    """Whether the address is a URL (or a command), and not a path of this machine."""
    return address.startswith("pipe:") or ("://" in address and not address.startswith("file://"))
