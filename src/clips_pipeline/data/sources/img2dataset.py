"""Shards of img2dataset, or any shards in webdataset's layout, read in place."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clips_pipeline.config import ConfigError, PositiveInt, digest_mapping
from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits
from clips_pipeline.data.shards.records import SampleFields, captioner_order
from clips_pipeline.data.shards.splits import Split
from clips_pipeline.data.sources.in_place import CopyTask, TarTask
from clips_pipeline.data.sources.source import ShardTask, Source
from clips_pipeline.data.storage.files import Storage, StorageError
from clips_pipeline.data.storage.urls import expand_addresses, is_remote

NO_SPLIT = "none"


@dataclass(frozen=True)
class Img2datasetConfig:
    """Location of the shards. Addresses are paths or URLs, with `{00000..00123}`, `one::two` and lists.

    Attributes:
        train: shards to train on.
        validation: shards to monitor training with; None takes the last `held_out` shards of `train`, `none` makes no
            such split.
        test: shards for the final evaluation; None takes the `held_out` shards before those, `none` makes no such
            split.
        held_out: number of shards for each split without addresses of its own.
        fields: names of the caption fields; the defaults are those of Recap-DataComp-1B.
        rewrite: copy the used samples into new shards; otherwise nothing is copied, and the index lists the used
            samples.
    """

    train: str | tuple[str, ...]
    validation: str | tuple[str, ...] | None = None
    test: str | tuple[str, ...] | None = None
    held_out: PositiveInt = 1
    fields: SampleFields = field(default_factory=SampleFields)
    rewrite: bool = False


class Img2datasetSource(Source):
    """Shards in place.

    Args:
        config: addresses and names of fields.
        storage: access to the shards.
        limits: limits on a sample.

    Raises:
        ConfigError: an address is invalid, a shard is in two splits, there are too few shards to hold out, or the first
            shard of a split cannot be reached.
    """

    def __init__(self, config: Img2datasetConfig, storage: Storage, limits: SampleLimits = DEFAULT_LIMITS) -> None:
        self.config, self.storage, self.limits = config, storage, limits
        self.fields = SampleFields() if config.rewrite else config.fields
        self._addresses = self._split_shards()
        seen: dict[str, Split] = {}
        for split, addresses in self._addresses.items():
            for address in addresses:
                if address in seen:
                    raise ConfigError(f"source.img2dataset: {address} is {_repetition_message(seen[address], split)}")
                seen[address] = split
        for split, addresses in self._addresses.items():
            try:
                storage.identity(addresses[0])
            except StorageError as error:
                raise ConfigError(f"source.img2dataset.{split}: {error}") from None

    @property
    def splits(self) -> tuple[Split, ...]:
        """`train`, and `validation` and `test` unless they are `none`."""
        return tuple(self._addresses)

    @property
    def captioners(self) -> tuple[str, ...]:
        """Those of the fields that are read, also where the samples are copied."""
        return self.config.fields.captioners

    def tasks(self, split: Split) -> Sequence[ShardTask] | Sequence[TarTask]:
        """Return one task per shard, in the order of the addresses."""
        tars = [TarTask(address, self.config.fields, self.storage, self.limits) for address in self.addresses(split)]
        return [CopyTask(tar) for tar in tars] if self.config.rewrite else tars

    def addresses(self, split: Split) -> list[str]:
        """Return the addresses of the shards of a split."""
        return self._addresses.get(split, [])

    def fingerprint(self) -> str:
        """Return the SHA-256 over field names, addresses, sizes and entity tags or modification times.

        The content of the shards is not read.

        Raises:
            StorageError: a shard cannot be reached.
        """
        facts: dict[str, Any] = {"fields": digest_mapping(self.config.fields), "rewrite": self.config.rewrite}
        facts |= captioner_order(self.config.fields.synthetic)
        total = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for split, addresses in self._addresses.items():
            for address, identity in zip(addresses, self.storage.identities(addresses), strict=True):
                total.update(f"{split} {address} {identity}\n".encode())
        return total.hexdigest()

    def _split_shards(self) -> dict[Split, list[str]]:
        train = _absolute_addresses(self.config.train)
        missing = [split for split in ("validation", "test") if getattr(self.config, split) is None]
        held = self.config.held_out * len(missing)
        if held >= len(train):
            raise ConfigError(
                f"source.img2dataset.train: {len(train)} shards, of which {held} are held out for {' and '.join(missing)}; "
                f"name more, or give {' and '.join(f'source.img2dataset.{split}' for split in missing)} (`none` for no such split)"
            )
        last, count = len(train), self.config.held_out
        parts: dict[Split, list[str]] = {"train": train[: last - held]}
        for split in ("validation", "test"):
            own = getattr(self.config, split)
            if own == NO_SPLIT:
                continue
            if own is not None:
                parts[split] = _absolute_addresses(own)
            else:
                parts[split], last = train[last - count : last], last - count
        return parts


def _repetition_message(first: Split, second: Split) -> str:
    if first == second:
        return f"twice in {first}; name it once"
    where = f"in {first} and in {second}"
    if first == "train":
        return f"{where}; evaluation needs samples that are not in train. Give other shards, or {second}: {NO_SPLIT}"
    # `validation` and `test`.
    return (
        f"{where}; the test split must not select anything, and validation selects hyperparameters and checkpoints. "
        f"Give other shards, or test: {NO_SPLIT} with evaluate.split: validation"
    )


def _absolute_addresses(addresses: str | tuple[str, ...]) -> list[str]:
    return [
        address if is_remote(address) else str(Path(address.removeprefix("file://")).absolute())
        for address in expand_addresses(addresses)
    ]
