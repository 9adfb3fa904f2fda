"""The exported vision tower inside LLaVA: no code of this project, the same patches, loss, generation and reload."""

import runpy
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.unit.interop.export_models import write_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    ViTModel,
)

from clips_pipeline.interop.export.transformers_form import write_transformers
from clips_pipeline.interop.folder import LoadedModel, load_model_folder
from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

IMAGE_TOKEN, VOCABULARY = 99, 100
PATCHES = 4
UNKNOWN = "?"


@pytest.fixture
def loaded(tmp_path: Path, fixtures_dir: Path) -> LoadedModel:
    tokenizer = WordPieceTokenizer.from_vocab(fixtures_dir / "bert_base_uncased_vocab.txt")
    return load_model_folder(write_model(tmp_path, tokenizer))


@pytest.fixture
def vision_folder(tmp_path: Path, loaded: LoadedModel) -> Path:
    (tmp_path / "out").mkdir()
    write_transformers(loaded, tmp_path / "out")
    return tmp_path / "out" / "vision"


def test_llava_reads_the_same_patches(tmp_path: Path, loaded: LoadedModel, vision_folder: Path) -> None:
    vision = ViTModel.from_pretrained(vision_folder, add_pooling_layer=False)
    language = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    config = LlavaConfig(
        vision_config=vision.config,
        text_config=language,
        image_token_index=IMAGE_TOKEN,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    torch.manual_seed(0)
    llava = LlavaForConditionalGeneration(config).eval()
    missing = llava.model.vision_tower.load_state_dict(vision.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(key.startswith("pooler") for key in missing.missing_keys)
    images_BCHW = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected_BSD = loaded.model.vision.embed(images_BCHW)
        for block in loaded.model.vision.blocks[:-1]:
            expected_BSD = block(expected_BSD)
        states = llava.model.vision_tower(images_BCHW, output_hidden_states=True).hidden_states
    assert torch.allclose(states[-2], expected_BSD, rtol=0, atol=1e-5)
    ids = torch.tensor([[1, *[IMAGE_TOKEN] * PATCHES, 5, 6]] * 2)
    output = llava(input_ids=ids, pixel_values=images_BCHW, labels=ids.where(ids != IMAGE_TOKEN, -100))
    output.loss.backward()
    assert llava.model.vision_tower.get_input_embeddings().projection.weight.grad.abs().sum() > 0
    generated = llava.generate(input_ids=ids, pixel_values=images_BCHW, max_new_tokens=3, do_sample=False)
    assert generated.shape == (2, ids.shape[1] + 3)
    llava.save_pretrained(tmp_path / "llava")
    again = LlavaForConditionalGeneration.from_pretrained(tmp_path / "llava").eval()
    with torch.no_grad():
        assert torch.equal(
            again(input_ids=ids, pixel_values=images_BCHW).logits, llava(input_ids=ids, pixel_values=images_BCHW).logits
        )


def test_the_example_writes_a_folder_that_transformers_loads(
    tmp_path: Path, vision_folder: Path, repository: Path
) -> None:
    language = LlamaConfig(
        vocab_size=6, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(language).save_pretrained(tmp_path / "language")
    words = Tokenizer(
        models.WordLevel(
            {word: number for number, word in enumerate(["?", "USER", "ASSISTANT", "what", ":", "."])}, "?"
        )
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token=UNKNOWN).save_pretrained(tmp_path / "language")
    example = runpy.run_path(str(repository / "examples" / "llava_folder.py"))
    example["main"](str(vision_folder), str(tmp_path / "language"), str(tmp_path / "llava"))
    llava = LlavaForConditionalGeneration.from_pretrained(tmp_path / "llava").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "llava")
    inputs = processor(
        images=Image.new("RGB", (50, 40), "red"), text="USER : <image> what ? ASSISTANT :", return_tensors="pt"
    )
    assert (inputs["input_ids"] == llava.config.image_token_index).sum() == PATCHES
    assert llava.generate(**inputs, max_new_tokens=2, do_sample=False).shape[1] <= inputs["input_ids"].shape[1] + 2
    vision = ViTModel.from_pretrained(vision_folder, add_pooling_layer=False).state_dict()
    kept = llava.model.vision_tower.state_dict()
    assert all(torch.equal(kept[name], weight) for name, weight in vision.items())


def test_the_automatic_classes_have_what_the_repository_of_llava_reads(vision_folder: Path) -> None:
    config = AutoConfig.from_pretrained(vision_folder)
    assert (config.hidden_size, config.image_size, config.patch_size) == (32, 32, 16)
    tower = AutoModel.from_pretrained(vision_folder, add_pooling_layer=False)
    assert isinstance(tower, ViTModel)
    processor = AutoImageProcessor.from_pretrained(vision_folder)
    assert len(processor.image_mean) == 3
    assert (processor.crop_size["height"], processor.crop_size["width"]) == (32, 32)
    image_CHW = processor.preprocess(Image.new("RGB", (50, 50), "red"), return_tensors="pt")["pixel_values"][0]
    states = tower(image_CHW[None], output_hidden_states=True).hidden_states
    assert states[-2][:, 1:].shape == (1, PATCHES, 32)
