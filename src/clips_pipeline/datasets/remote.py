"""The way to files elsewhere, as a catalog entry: nodes name it as an input and know neither settings nor credentials."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DatasetError

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.data.storage.files import Storage, StorageConfig


class RemoteDataset(AbstractDataset[None, ShardCache]):
    """Loads a `ShardCache`; its `.storage` reads and writes other files. Put into the catalog by `ProjectHooks`.

    It is no `params:` input, because how bytes are fetched does not change what they are: no stage runs again because of
    another time-out, and no run records a credential.

    Args:
        settings: the parameter group `storage`.
        credentials: entries `storage` of Kedro's credentials, None where there is none: fsspec's options by protocol. Those of a
            later one take the place of an earlier one's, protocol by protocol.
        cache: gives the folder for copies.
    """

    def __init__(self, settings: Mapping[str, Any], credentials: Sequence[Any], cache: Callable[[], Path]) -> None:
        self._settings, self._credentials, self._cache = settings, credentials, cache

    def load(self) -> ShardCache:
        """Raises `ConfigError` where the settings or the credentials have another shape."""
        storage = Storage(from_mapping(StorageConfig, self._settings, where="storage"), _by_protocol(self._credentials))
        return ShardCache(self._cache(), storage)

    def save(self, data: None) -> None:
        """It is only read.

        Raises:
            DatasetError: always.
        """
        raise DatasetError("remote_shards is only read")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"settings": dict(self._settings)}


def _by_protocol(credentials: Sequence[Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for entry in credentials:
        # Values may be secrets, so they are not shown.
        if not isinstance(entry, Mapping | None):
            raise ConfigError("credentials.storage: a mapping is needed, such as s3: {key: …, secret: …}")
        for protocol, options in (entry or {}).items():
            if not isinstance(options, Mapping):
                raise ConfigError(
                    f"credentials.storage.{protocol}: fsspec's options for {protocol}:// are needed, as a mapping such as "
                    "{key: …, secret: …}"
                )
            found[protocol] = dict(options)
    return found
