"""The gate of an int8 export: retrieval with the float32 and the int8 files of an ONNX export, by this project's evaluation."""

from pathlib import Path
from typing import Final, Literal

from clips_pipeline.config import ConfigError
from clips_pipeline.data.shards.index import load_index
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.evaluation.evaluate import evaluate_records
from clips_pipeline.evaluation.inference.embed import TowerEmbedder
from clips_pipeline.interop.export.onnx_form import Int8Check, onnx_towers
from clips_pipeline.interop.folder import LoadedModel

Split = Literal["train", "validation", "test"]

DEFAULT_MAX_DROP: Final = 0.005
"""Fall of mean recall@1 below which int8 is kept."""

_SET = "set"


class Int8Gate:
    """Measures mean recall@1 of an ONNX export on a split of prepared shards.

    Args:
        shards: folder that `prepare` wrote.
        split: its split.
        max_drop: fall of mean recall@1, from 0 to 1, below which int8 is kept.

    Attributes:
        check: the result, after a call.

    Raises:
        ConfigError: there is no such folder or split.
    """

    def __init__(self, shards: Path, split: Split = "test", max_drop: float = DEFAULT_MAX_DROP) -> None:
        if not load_index(shards).split_samples(split):
            raise ConfigError(f"--recall-set {shards}: its {split} split is empty; give another --recall-split")
        self._shards, self._split, self._max_drop = shards, split, max_drop
        self.check: Int8Check | None = None

    def __call__(self, loaded: LoadedModel, folder: Path) -> Int8Check:
        """Return what int8 costs.

        Args:
            loaded: the exported model.
            folder: the export with its float32 and int8 files.

        Raises:
            ConfigError: the split has no captions, or an image cannot be decoded.
        """
        # Captions and examples need the whole model, which an export is not.
        config = EvaluationConfig(
            set_name=_SET, split=self._split, examples=0, captioning=False, missing_captions="skip", device="cpu"
        )
        recalls = []
        images = captions = 0
        for suffix in ("", "_int8"):
            embedder = TowerEmbedder(onnx_towers(loaded, folder, suffix))
            found = evaluate_records(embedder, lambda: eval_samples(self._shards, self._split), None, config)
            recalls.append(found.metrics[f"retrieval/{_SET}/mean_recall@1"])
            images = len(found.per_item)
            captions = sum(len(row["text_to_image_ranks"]) for row in found.per_item)
        name = f"{self._shards.name}, split {self._split}"
        self.check = Int8Check(name, images, captions, recalls[0], recalls[1], self._max_drop)
        return self.check
