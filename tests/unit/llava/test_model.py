"""The model behind precomputed patches: the same as LLaVA on pixels, and questions that do not see each other."""

import pytest
import torch
from tests.unit.interop.export_models import write_model

from clips_pipeline.llava.config import LanguageConfig, LlavaProbeConfig
from clips_pipeline.llava.features import load_tower
from clips_pipeline.llava.model import (
    build_llava,
    conversation,
    conversation_loss,
    generate,
    input_embeddings,
    prompt_row,
)
from clips_pipeline.llava.questions import BOS, EOS, IMAGE, PAD, Question, Vocabulary
from clips_pipeline.llava.training import ProbeData, accuracy, train_probe
from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

PATCHES, LAYER = 4, -2


@pytest.fixture(scope="module")
def folder(tmp_path_factory, fixtures_dir):
    tokenizer = WordPieceTokenizer.from_vocab(fixtures_dir / "bert_base_uncased_vocab.txt")
    return write_model(tmp_path_factory.mktemp("model"), tokenizer)


@pytest.fixture(scope="module")
def vision(folder):
    return load_tower(folder, None)[0]


@pytest.fixture
def llava(vision):
    torch.manual_seed(0)
    return build_llava(vision, LAYER, LanguageConfig(16, 1, 2), 40, 64).eval()


def test_patches_enter_where_llava_puts_them(llava, vision):
    images = torch.randn(3, 3, 32, 32)
    patches = vision(images, output_hidden_states=True).hidden_states[LAYER][:, 1:]
    ids = torch.tensor([prompt_row([7, 8], PATCHES)] * 3)
    with torch.no_grad():
        expected = llava(input_ids=ids, pixel_values=images).logits
        found = llava(inputs_embeds=input_embeddings(llava, ids, patches)).logits
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)
    assert not torch.allclose(found[0], found[1], atol=1e-3)
    answers = generate(llava, ids, patches, 3)
    whole = llava.generate(
        input_ids=ids, pixel_values=images, max_new_tokens=3, do_sample=False, pad_token_id=PAD, eos_token_id=EOS
    )
    assert answers == whole[:, ids.shape[1] :].tolist()


def test_only_projector_and_language_model_are_trained(llava):
    trained = {name.split(".")[1] for name, one in llava.named_parameters() if one.requires_grad}
    assert trained == {"multi_modal_projector", "language_model", "weight"}  # lm_head.weight
    projector = llava.model.multi_modal_projector
    assert [tuple(layer.weight.shape) for layer in (projector.linear_1, projector.linear_2)] == [(16, 32), (16, 16)]


def test_questions_of_an_image_do_not_see_each_other(llava):
    with torch.no_grad():
        for parameter in llava.model.language_model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # so that attention and positions matter
    turns = [([7, 8], [9]), ([7, 10, 11], [12, 13]), ([14], [9])]
    patches = torch.randn(2, PATCHES, 32)
    # A second image with fewer questions is padded.
    together = [conversation(turns, PATCHES), conversation(turns[:1], PATCHES)]
    expected = sum(
        count * conversation_loss(llava, [conversation([turn], PATCHES)], patches[image : image + 1])
        for image, turn, count in [(0, turns[0], 2), (0, turns[1], 3), (0, turns[2], 2), (1, turns[0], 2)]
    ) / (2 + 3 + 2 + 2)
    assert conversation_loss(llava, together, patches).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_conversation_labels_answers_only():
    found = conversation([([7, 8], [9]), ([10], [11])], 2)
    assert found.ids == [BOS, IMAGE, IMAGE, 7, 8, 9, EOS, 10, 11, EOS]
    assert found.labels == [-100, -100, -100, -100, -100, 9, EOS, -100, 11, EOS]
    assert found.positions == [0, 1, 2, 3, 4, 5, 6, 3, 4, 5]
    assert found.turn == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]


def probe_data(count, seed, blind=False):
    """Questions whose answer is visible: the sign of one channel of the patches."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(count, PATCHES, 32, generator=generator)
    questions = []
    for index in range(count):
        answer = "yes" if index % 2 else "no"
        patches[index, :, 0] = 3.0 if index % 2 else -3.0
        questions.append(Question(str(index), index, "exists", "is there a cat ?", answer))
    return ProbeData(questions, None if blind else patches.half(), {index: index for index in range(count)})


def test_a_probe_learns_what_is_visible_and_a_blind_one_does_not(vision):
    config = LlavaProbeConfig(
        language=LanguageConfig(16, 1, 2), batch_size=16, epochs=6.0, learning_rate=1e-2, evaluations=3
    )
    found = {}
    for blind in (False, True):
        sizes = {"train": 160, "validation": 40, "test": 40}
        data = {split: probe_data(size, size, blind) for split, size in sizes.items()}
        result, _ = train_probe(vision, config, data, seed=0)
        again, _ = train_probe(vision, config, data, seed=0)
        assert (again.answers, again.validation, again.train_loss) == (
            result.answers,
            result.validation,
            result.train_loss,
        )
        assert len(result.validation) == len(result.train_loss) == 3
        found[blind] = accuracy(result.answers, data["test"].questions)
    assert found[False] > 0.95
    assert found[True] == 0.5


def test_an_untrained_tower_has_other_weights_of_its_seed(folder, vision):
    first, again, other = (load_tower(folder, seed)[0].state_dict() for seed in (0, 0, 1))
    name = "embeddings.patch_embeddings.projection.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], vision.state_dict()[name])
    assert set(Vocabulary().words) >= {"yes", "no"}
