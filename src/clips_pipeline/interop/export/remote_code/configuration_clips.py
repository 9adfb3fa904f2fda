"""Configuration of a CLIPS model (arXiv 2411.16828) for Transformers."""

from typing import Any

from transformers import PretrainedConfig


class ClipsConfig(PretrainedConfig):  # type: ignore[misc]
    """Sizes of both towers.

    Args:
        vision: arguments of `PlainVision`.
        text: arguments of `PlainText`.
        pad_id: id that fills rows.
        cls_id: id at the last position of a row.
        sigmoid: whether the model has the bias of the sigmoid loss.
        **others: arguments of `PretrainedConfig`.
    """

    model_type = "clips"

    def __init__(
        self,
        vision: dict[str, Any] | None = None,
        text: dict[str, Any] | None = None,
        pad_id: int = 0,
        cls_id: int = 101,
        sigmoid: bool = False,
        **others: Any,
    ) -> None:
        self.vision, self.text, self.pad_id, self.cls_id = vision or {}, text or {}, pad_id, cls_id
        self.sigmoid = sigmoid
        super().__init__(**others)
