"""Script of the check of an ONNX export: run in a process of its own, it imports neither torch nor this project.

python -P check_onnx.py FOLDER INPUTS.npz TEXTS.json OUTPUTS.npz
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(folder: str, inputs: str, texts: str, outputs: str) -> None:
    """Load `FOLDER` as its README says; write its token ids, features and preprocessed image."""
    import numpy as np
    from onnxruntime import InferenceSession
    from PIL import Image
    from tokenizers import Tokenizer

    config = json.loads(Path(folder, "preprocessing.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.encode_special_tokens = True
    given = np.load(inputs, allow_pickle=False)
    ids_BL = np.array([row.ids for row in tokenizer.encode_batch(json.loads(Path(texts).read_text(encoding="utf-8")))])
    ids_BL[:, -1] = config["cls_id"]
    found: dict[str, Any] = {}
    int8 = ("_int8",) if Path(folder, "vision_int8.onnx").is_file() else ()
    for suffix in ("", "_fp16", *int8):
        for tower, values in (("vision", {"images": given["images"]}), ("text", {"ids": ids_BL})):
            session = InferenceSession(f"{folder}/{tower}{suffix}.onnx", providers=["CPUExecutionProvider"])
            name = {"vision": "image", "text": "text"}[tower]
            found[f"{name}_features{suffix}"] = session.run(None, values)[0]
    view = preprocess(Image.fromarray(given["picture"]), config)
    found |= {name: np.float32(config[name]) for name in ("logit_scale", "logit_bias") if name in config}
    np.savez(outputs, ids=ids_BL, view=view, **found)
    assert not {"torch", "clips_pipeline"} & set(sys.modules)  # noqa: S101  (what the check is about)


def preprocess(image: Any, config: dict[str, Any]) -> Any:
    """Return a Pillow image as the vision tower reads it: (3, size, size), float32."""
    import numpy as np
    from PIL import Image

    (width, height), size = image.size, config["size"]
    side = min(width, height)
    box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    if config["framing"] == "squash":
        box = (0, 0, width, height)
    view = image.convert("RGB").resize((size, size), Image.Resampling[config["interpolation"].upper()], box=box)
    pixels_HWC = (np.asarray(view, np.float32) / 255 - config["mean"]) / config["std"]
    return pixels_HWC.transpose(2, 0, 1).astype(np.float32)


if __name__ == "__main__":
    main(*sys.argv[1:])
