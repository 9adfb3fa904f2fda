"""Script of the check of an open_clip export: run in a process of its own, it imports open_clip and nothing of this project.

python -P check_open_clip.py FOLDER INPUTS.npz TEXTS.json OUTPUTS.npz
"""

import json
import sys
from pathlib import Path


def main(folder: str, inputs: str, texts: str, outputs: str) -> None:
    """Load `FOLDER` as a user of open_clip does; write its token ids, features and preprocessed image."""
    import numpy as np
    import open_clip
    import torch
    from PIL import Image

    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}", weights_only=True)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    given = np.load(inputs, allow_pickle=False)
    with torch.no_grad():
        ids_BL = tokenizer(json.loads(Path(texts).read_text(encoding="utf-8")))
        np.savez(
            outputs,
            ids=ids_BL.numpy(),
            image_features=model.eval().encode_image(torch.from_numpy(given["images"]), normalize=True).numpy(),
            text_features=model.encode_text(ids_BL, normalize=True).numpy(),
            view=transform(Image.fromarray(given["picture"])).numpy(),
            logit_scale=model.logit_scale.exp().numpy(),
            **({} if model.logit_bias is None else {"logit_bias": model.logit_bias.numpy()}),
        )
    assert "clips_pipeline" not in sys.modules  # noqa: S101  (what the check is about)


if __name__ == "__main__":
    main(*sys.argv[1:])
