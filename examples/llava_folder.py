"""Put an exported vision tower and a language model together as a folder that LLaVA's classes in Transformers load.

    python examples/llava_folder.py out/clips/vision lmsys/vicuna-7b-v1.5 out/llava

The projector is untrained. It needs transformers only, not this project.
"""

import sys

from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    ViTModel,
)

IMAGE = "<image>"


def main(vision_folder: str, language_name: str, out: str) -> None:
    """Write the model and its processor to `out`."""
    vision = ViTModel.from_pretrained(vision_folder, add_pooling_layer=False)
    language = AutoModelForCausalLM.from_pretrained(language_name)
    tokenizer = AutoTokenizer.from_pretrained(language_name)
    tokenizer.add_tokens([IMAGE], special_tokens=True)
    language.resize_token_embeddings(len(tokenizer))
    config = LlavaConfig(
        vision_config=vision.config,
        text_config=language.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    llava = LlavaForConditionalGeneration(config)
    # Not strict: LLaVA's tower has a pooling layer, which it does not use.
    llava.model.vision_tower.load_state_dict(vision.state_dict(), strict=False)
    llava.model.language_model.load_state_dict(language.model.state_dict())
    llava.lm_head.load_state_dict(language.lm_head.state_dict())
    llava.save_pretrained(out)
    processor = LlavaProcessor(
        image_processor=AutoImageProcessor.from_pretrained(vision_folder),
        tokenizer=tokenizer,
        patch_size=vision.config.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLS, which the tower has and LLaVA leaves out
        image_token=IMAGE,
    )
    processor.save_pretrained(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
