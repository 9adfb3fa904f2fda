"""Access to remote files as a catalog entry: nodes name it as an input and see neither settings nor credentials."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DatasetError

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.data.storage.files import Storage, StorageConfig


class RemoteDataset(AbstractDataset[None, ShardCache]):
    """Loads a `ShardCache`; its `.storage` reads and writes other files. `ProjectHooks` adds it to the catalog.

    It is not a `params:` input, because how bytes are downloaded does not change them: a different time-out reruns no
    stage, and no run records a credential.

    Args:
        settings: the parameter group `storage`.
        credentials: entries `storage` of Kedro's credentials (None where absent): fsspec options by protocol. A later
            entry replaces the options of an earlier one, protocol by protocol.
        cache: returns the folder for cached copies.
    """

    def __init__(self, settings: Mapping[str, Any], credentials: Sequence[Any], cache: Callable[[], Path]) -> None:
        self._settings, self._credentials, self._cache = settings, credentials, cache

    def load(self) -> ShardCache:
        """Return the shard cache.

        Raises:
            ConfigError: settings or credentials of the wrong shape.
        """
        storage = Storage(from_mapping(StorageConfig, self._settings, where="storage"), _by_protocol(self._credentials))
        return ShardCache(self._cache(), storage)

    def save(self, data: None) -> None:
        """Refuse: the dataset is read-only.

        Raises:
            DatasetError: always.
        """
        raise DatasetError("remote_shards is read-only")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"settings": dict(self._settings)}


def _by_protocol(credentials: Sequence[Any]) -> dict[str, dict[str, Any]]:
    merged: dict[str, dict[str, Any]] = {}
    for entry in credentials:
        # Values may be secrets, so messages do not show them.
        if not isinstance(entry, Mapping | None):
            raise ConfigError("credentials.storage: expected a mapping such as s3: {key: …, secret: …}")
        for protocol, options in (entry or {}).items():
            if not isinstance(options, Mapping):
                raise ConfigError(
                    f"credentials.storage.{protocol}: expected fsspec options for {protocol}:// as a mapping such as "
                    "{key: …, secret: …}"
                )
            merged[protocol] = dict(options)
    return merged
