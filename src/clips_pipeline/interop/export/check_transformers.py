"""Script of the check of a Transformers export: run in a process of its own, it imports nothing of this project.

python -P check_transformers.py FOLDER INPUTS.npz TEXTS.json OUTPUTS.npz
"""

import json
import sys
from pathlib import Path


def main(folder: str, inputs: str, texts: str, outputs: str) -> None:
    """Load `FOLDER` as a user of Transformers does; write its token ids, features, hidden states and preprocessed image."""
    import numpy as np
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, ViTModel

    vision = ViTModel.from_pretrained(f"{folder}/vision", add_pooling_layer=False).eval()
    given = np.load(inputs, allow_pickle=False)
    images_BCHW = torch.from_numpy(given["images"])
    view = AutoImageProcessor.from_pretrained(f"{folder}/vision")(
        Image.fromarray(given["picture"]), return_tensors="pt"
    )
    with torch.no_grad():
        states = vision(images_BCHW, output_hidden_states=True).hidden_states
        found = {"tokens": states[-2].numpy(), "view": view["pixel_values"][0].numpy()}
        if not Path(folder, "model").is_dir():  # a model without a text tower
            np.savez(outputs, **found)
            return
        model = AutoModel.from_pretrained(f"{folder}/model", trust_remote_code=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(f"{folder}/model")
        rows = tokenizer(
            json.loads(Path(texts).read_text(encoding="utf-8")),
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        )
        ids_BL = rows["input_ids"].clone()
        ids_BL[:, -1] = tokenizer.cls_token_id
        both = model(input_ids=rows["input_ids"], pixel_values=images_BCHW)
        np.savez(
            outputs,
            ids=ids_BL.numpy(),
            image_features=both.image_embeds.numpy(),
            text_features=both.text_embeds.numpy(),
            pooled=vision.layernorm(states[-1][:, 1:].mean(dim=1)).numpy(),
            logit_scale=model.logit_scale.exp().numpy(),
            **({} if model.logit_bias is None else {"logit_bias": model.logit_bias.numpy()}),
            **found,
        )
    assert "clips_pipeline" not in sys.modules  # noqa: S101  (what the check is about)


if __name__ == "__main__":
    main(*sys.argv[1:])
