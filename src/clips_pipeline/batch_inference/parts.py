"""Parts of the work: one shard, or some images of a folder. A part is done when its result file exists.

Parts are files of a work folder beside the output, named by the fingerprint of all that the output depends on. A run that was
killed finds the finished parts there; one with other parameters or data starts from the beginning.
"""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor

from clips_pipeline.batch_inference.inputs import InputTask, Item
from clips_pipeline.config import ConfigError
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.records import Skip
from clips_pipeline.data.shards.unexpected import make_skip
from clips_pipeline.evaluation.inference.embed import TowerEmbedder, open_image
from clips_pipeline.io.atomic import write_text
from clips_pipeline.io.terminal import safe_text

log = logging.getLogger(__name__)

_EXAMPLES = 3
_DAMAGED = (records.UNREADABLE_SHARD, records.TRUNCATED_SHARD)


@dataclass(frozen=True)
class PartResult:
    """What a part gave.

    Attributes:
        used: samples with a result.
        rows: rows of its table.
        skipped: samples without a result, by reason.
        examples: a few of those, as text.
    """

    used: int = 0
    rows: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    examples: Sequence[str] = ()


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        number: its place among all parts.
        task: what it reads.
        folder: work folder.
    """

    number: int
    task: InputTask
    folder: Path

    @property
    def is_done(self) -> bool:
        """Whether its result exists. The result is written last."""
        return self._result.is_file()

    @property
    def table(self) -> Path:
        """File of its table."""
        return self.folder / f"{self.number:06d}.parquet"

    @property
    def shard(self) -> Path:
        """File of its shard."""
        return self.folder / f"{self.number:06d}.tar"

    @property
    def _result(self) -> Path:
        return self.folder / f"{self.number:06d}.json"

    def save(self, result: PartResult) -> None:
        """Mark the part as done."""
        write_text(self._result, json.dumps(asdict(result)), sync=True)

    def load(self) -> PartResult:
        """Return the saved result."""
        return PartResult(**json.loads(self._result.read_text()))


class ImageReader:
    """The samples of a task whose images can be used, and counts of the others.

    Args:
        task: what is read.
        embedder: the model, whose threads decode the images.
    """

    def __init__(self, task: InputTask, embedder: TowerEmbedder) -> None:
        self._task, self._embedder = task, embedder
        self.skipped, self.examples = Counter[str](), list[str]()

    def read(self) -> Iterator[tuple[Item, Tensor]]:
        """Yield samples with their transformed images (C, H, W)."""
        for found in self._embedder.ahead(self._open, self._task.items()):
            if isinstance(found, Skip):
                self.skip(found)
            else:
                yield found

    def _open(self, found: Item | Skip) -> tuple[Item, Tensor] | Skip:
        if isinstance(found, Skip):
            return found
        key = found.record.key
        try:
            key.encode()
            return found, self._embedder.towers.image_transform(open_image(found.record.image, found.record.limits))
        except UnicodeEncodeError:
            return Skip(records.NOT_UTF8, repr(key), "a key that is not UTF-8")
        except Exception as error:
            return make_skip(error, key)

    def skip(self, skip: Skip) -> None:
        """Count a sample without a result."""
        self.skipped[skip.reason] += 1
        if self.skipped[skip.reason] <= _EXAMPLES:
            self.examples.append(safe_text(f"{skip.reason} {skip.key}: {skip.detail}"[:500]))


def open_parts(tasks: Sequence[InputTask], folder: Path, fingerprint: str) -> list[Part]:
    """Return the parts, in a folder for this fingerprint; parts of other fingerprints are deleted.

    Raises:
        OSError: the folder cannot be written.
    """
    work = folder / fingerprint[:24]
    if folder.is_dir():
        for other in folder.iterdir():
            if other != work:
                shutil.rmtree(other, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    return [Part(number, task, work) for number, task in enumerate(tasks)]


def check_results(results: Sequence[PartResult], max_skipped_fraction: float, what: str) -> PartResult:
    """Log the skipped samples and return the sums.

    Raises:
        ConfigError: too many samples were skipped, or none has a result.
    """
    skipped: Counter[str] = Counter()
    for result in results:
        skipped.update(result.skipped)
    examples = [example for result in results for example in result.examples][: 2 * _EXAMPLES]
    total = PartResult(sum(one.used for one in results), sum(one.rows for one in results), dict(skipped), examples)
    for reason, count in sorted(skipped.items()):
        log.warning("%s: skipped %d samples: %s", what, count, reason)
    # A damaged shard counts as the mean number of samples of the others, as in `prepare`.
    whole = [one.used for one in results if one.used and not any(reason in one.skipped for reason in _DAMAGED)]
    per_shard = sum(whole) / len(whole) if whole else 1.0
    bad = sum(count * (per_shard if reason in _DAMAGED else 1) for reason, count in skipped.items())
    counted = "; ".join(f"{reason} {count}" for reason, count in sorted(skipped.items()))
    told = ". Examples:\n  " + "\n  ".join(examples) if examples else ""
    if not total.used:
        raise ConfigError(
            f"{what}: no sample has a result ({counted or 'the shards are empty'}); give other data{told}"
        )
    if bad > max_skipped_fraction * (bad + total.used):
        raise ConfigError(
            f"{what}: {bad / (bad + total.used):.1%} of the samples cannot be used, max_skipped_fraction allows "
            f"{max_skipped_fraction:.1%} ({counted}). Repair the data or raise max_skipped_fraction; finished shards are not "
            f"read again{told}"
        )
    return total
