"""Refusal of addresses that contain credentials: indexes, locks, logs and MLflow would keep them."""

from collections.abc import Mapping
from typing import Any

from clips_pipeline.config import ConfigError
from clips_pipeline.io.redact import find_secret

REMEDY = (
    "put credentials into conf/local/credentials.yml as options of storage (docs/how-to/remote-storage.md), and in `pipe:` write "
    "$VARIABLE for the value of an environment variable"
)


def refuse_secrets(value: Any, key: str, remedy: str = REMEDY) -> None:
    """Refuse a value, or a nested one, that contains a password, token or signature.

    Args:
        value: text, or mappings and lists with text in them.
        key: its dotted path in the configuration, or what it is.
        remedy: where the secret belongs, for the message.

    Raises:
        ConfigError: a text contains a secret. The message names its key and does not show it.
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            refuse_secrets(inner, f"{key}.{name}" if key else str(name), remedy)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            refuse_secrets(inner, f"{key}[{number}]", remedy)
    elif isinstance(value, str):
        kind = find_secret(value)
        if kind is not None:
            raise ConfigError(f"{key}: contains {kind}, which would be written to files and logs; {remedy}")
