"""Caption decoding, parallel and by beam search, against enumeration of all captions; example captions as data and figure."""

import io
import itertools

import pytest
import torch
from PIL import Image
from tests import naive_decoding
from tests.naive_decoding import next_from_positions, next_from_prefix

from clips_pipeline.data.shards.records import Caption as SyntheticCaption
from clips_pipeline.data.shards.records import Record
from clips_pipeline.evaluation.inference import caption_decoding
from clips_pipeline.evaluation.inference.beam_search import Caption, PositionSteps, SpecialIds, Steps, beam_search
from clips_pipeline.evaluation.inference.caption_decoding import decode_parallel, log_probabilities, parallel_caption
from clips_pipeline.evaluation.inference.caption_examples import CaptionedImage, draw_examples, examples_to_mapping
from clips_pipeline.models.cached_decoding import CachedCaptioner
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.sizes import CaptionerConfig, ClipsConfig, TextConfig, VisionConfig

BOS, EOS = 1, 2
SPECIALS = SpecialIds(BOS, EOS, (0,))
WORDS = (3, 4, 5)
PLACES = 4


def model(inputs: str) -> ClipsModel:
    torch.manual_seed(3)
    found = ClipsModel(
        ClipsConfig(
            vision=VisionConfig(image_size=32, patch_size=16, width=32, depth=1, heads=1),
            text=TextConfig(vocab_size=6, width=32, depth=1, heads=1, context_length=8, padding="mask"),
            captioner=CaptionerConfig(vocab_size=6, width=32, depth=2, heads=1, queries=PLACES + 1, inputs=inputs),
            embed_dim=32,
        )
    ).eval()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return found


def every_caption(repeat: bool) -> list[list[int]]:
    captions = [list(ids) for n in range(PLACES + 1) for ids in itertools.product(WORDS, repeat=n)]
    return [ids for ids in captions if repeat or all(a != b for a, b in itertools.pairwise(ids))]


def image() -> torch.Tensor:
    return torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(5))


def score(next_log_probs: object, ids: list[int]) -> float:
    """Return the ids of one caption, with EOS if it fits."""
    total = 0.0
    for place, word in enumerate([*ids, EOS][:PLACES]):
        total += float(next_log_probs([ids[:place]])[0, word])  # type: ignore[operator]
    return total


def steps_of(captioner: ClipsModel, images_BCHW: torch.Tensor) -> Steps:
    if captioner.captioner.token_embedding is not None:  # type: ignore[union-attr]
        with torch.no_grad():
            return CachedCaptioner(captioner.captioner, captioner.vision(images_BCHW).tokens_BPD)  # type: ignore[arg-type]
    web = torch.tensor([[1, 3, 4, 2, 0, 0, 0, 5]])
    return PositionSteps(log_probabilities(captioner, images_BCHW, web.expand(len(images_BCHW), -1)))


@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("inputs", ["queries", "tokens"])
def test_a_wide_beam_finds_the_best_of_all_captions(inputs: str, penalty: float, repeat: bool) -> None:
    captioner = model(inputs)
    if inputs == "queries":
        web = torch.tensor([[1, 3, 4, 2, 0, 0, 0, 5]])
        next_log_probs = next_from_positions(log_probabilities(captioner, image()[None], web)[0])
    else:
        next_log_probs = next_from_prefix(captioner, image(), BOS)
    steps = steps_of(captioner, image()[None])

    def rank(ids: list[int], total: float) -> float:
        return total / max(1, len(ids) + 1) ** penalty

    expected = sorted(
        (Caption(ids, score(next_log_probs, ids)) for ids in every_caption(repeat)), key=lambda c: -rank(c.ids, c.score)
    )
    # The beam is as wide as the number of hypotheses.
    (found,) = beam_search(steps, 1, PLACES, SPECIALS, width=200, length_penalty=penalty, repeat=repeat)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.score == pytest.approx(theirs.score, abs=1e-5)
    assert found[0].ids == expected[0].ids


def words_model(inputs: str) -> ClipsModel:
    """Return a model whose captions are long enough to differ: 40 words, 12 positions, two heads."""
    torch.manual_seed(7)
    found = ClipsModel(
        ClipsConfig(
            vision=VisionConfig(image_size=32, patch_size=8, width=32, depth=1, heads=1),
            text=TextConfig(vocab_size=40, width=32, depth=1, heads=1, context_length=8, padding="mask"),
            captioner=CaptionerConfig(vocab_size=40, width=32, depth=3, heads=2, queries=13, inputs=inputs),
            embed_dim=32,
        )
    ).eval()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        found.captioner.head.weight[EOS] *= 3  # type: ignore[union-attr]  # some captions end early
    return found


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("width", [1, 4, 30])
@pytest.mark.parametrize("inputs", ["queries", "tokens"])
def test_captions_of_a_batch_equal_the_naive_ones(inputs: str, width: int, penalty: float) -> None:
    """Also where the searches of a batch end at different lengths."""
    captioner = words_model(inputs)
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(8))
    found = beam_search(steps_of(captioner, images), 6, 12, SPECIALS, width=width, length_penalty=penalty)
    lengths = set()
    for one, ours in zip(images, found, strict=True):
        if inputs == "queries":
            web = torch.tensor([[1, 3, 4, 2, 0, 0, 0, 5]])
            next_log_probs = next_from_positions(log_probabilities(captioner, one[None], web)[0])
        else:
            next_log_probs = next_from_prefix(captioner, one, BOS)
        theirs = naive_decoding.beam_search(next_log_probs, 12, SPECIALS, width=width, length_penalty=penalty)
        assert [caption.ids for caption in ours] == [caption.ids for caption in theirs]
        assert [c.score for c in ours] == pytest.approx([c.score for c in theirs], abs=1e-4)
        lengths |= {len(caption.ids) for caption in ours}
    assert width < 30 or len(lengths) > 1


def test_kept_keys_and_values_give_the_log_probabilities_of_all_positions() -> None:
    captioner = words_model("tokens")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(9))
    ids = [[5, 9, 7, 30, 11], [6, 6, 35, 8, 4]]
    steps = steps_of(captioner, images)
    for length in range(6):
        last = torch.tensor([[row[length - 1] if length else BOS] for row in ids])
        found = steps.step(last)[:, 0]
        for row, image_CHW, ids_so_far in zip(found, images, ids, strict=True):
            wanted = next_from_prefix(captioner, image_CHW, BOS)([ids_so_far[:length]])[0]
            assert torch.allclose(row, wanted, atol=2e-5)


def test_a_step_computes_one_position_only(monkeypatch: pytest.MonkeyPatch) -> None:
    captioner = words_model("tokens")
    steps = steps_of(captioner, torch.zeros(3, 3, 32, 32))
    rows: list[int] = []
    captioner.captioner.blocks[0].mlp.c_fc.register_forward_hook(
        lambda *given: rows.append(given[1][0].shape[:-1].numel())
    )  # type: ignore[union-attr, index, operator]
    for _ in range(5):
        steps.step(torch.full((3, 1), 4))
    assert rows == [3] * 5
    for _ in range(8):
        steps.step(torch.full((3, 1), 4))
    with pytest.raises(ValueError, match="at most 13 positions"):
        steps.step(torch.full((3, 1), 4))


def test_parallel_decoding_equals_beam_search_over_independent_positions() -> None:
    captioner = model("queries")
    web = torch.tensor([[1, 3, 4, 2, 0, 0, 0, 5]])
    log_p_BQV = log_probabilities(captioner, torch.stack([image(), -image()]), web.expand(2, -1))
    assert log_p_BQV.shape == (2, PLACES, 6)
    for row, caption in zip(log_p_BQV, decode_parallel(log_p_BQV, SPECIALS), strict=True):
        assert not {0, BOS, EOS} & set(caption.ids)
        assert caption.score == pytest.approx(score(next_from_positions(row), caption.ids), abs=1e-5)
        # Each token is the most likely one, so no longer caption is more likely.
        same = [ids for ids in every_caption(True) if len(ids) == len(caption.ids)]
        assert caption.score >= max(score(next_from_positions(row), ids) for ids in same) - 1e-5


class Pieces:
    """Ids 3 and 4 begin a word, id 5 continues one; id 6 is no text at all."""

    bos_id, eos_id, pad_id, unk_id, cls_id, vocab_size = BOS, EOS, 0, 0, 0, 7

    def decode(self, ids: list[int]) -> str:
        return "".join({3: " three", 4: " four", 5: "teen", 6: ""}[i] for i in ids).strip()


def test_words_of_parallel_decoding_have_the_probability_of_their_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    captioner = model("queries")
    rows = torch.full((1, 6, 7), 0.01)
    for place, (piece, probability) in enumerate([(6, 0.5), (3, 0.9), (5, 0.8), (4, 0.7), (6, 0.4), (EOS, 0.6)]):
        rows[0, place, piece] = probability
    monkeypatch.setattr(caption_decoding, "log_probabilities", lambda *_: rows.log())
    found = parallel_caption(captioner, image(), torch.tensor([1, 2]), Pieces())  # type: ignore[arg-type]
    assert found.text == "threeteen four"
    assert [word for word, _ in found.words] == ["threeteen", "four"]
    assert [probability for _, probability in found.words] == pytest.approx([0.9 * 0.8, 0.7 * 0.4])


def test_no_word_twice_in_a_row() -> None:
    log_p = torch.full((5, 6), -10.0)
    log_p[:, 3], log_p[:, 4], log_p[:, EOS] = -0.1, -2.0, -3.0
    assert decode_parallel(log_p[None], SPECIALS)[0].ids == [3] * 5
    best = beam_search(PositionSteps(log_p[None]), 1, 5, SPECIALS, width=3, length_penalty=1.0)[0][0].ids
    assert best
    assert all(a != b for a, b in itertools.pairwise(best))
    with pytest.raises(ValueError, match="must be at least 1"):
        beam_search(PositionSteps(log_p[None]), 1, 5, SPECIALS, width=0)


def test_captioners_of_the_wrong_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="method clips"):
        log_probabilities(model("tokens"), image()[None], torch.tensor([[1, 2, 0, 0, 0, 0, 0, 5]]))
    with pytest.raises(ValueError, match="method coca"):
        CachedCaptioner(model("queries").captioner, torch.zeros(1, 5, 32))  # type: ignore[arg-type]


def test_a_figure_and_its_data_with_hostile_text() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(stream, "png")
    odd = "costs $5 and $6_7 \\frac{ \U0001f98a " * 20
    examples = [CaptionedImage(str(i), odd, odd, None if i else "a", "") for i in range(4)]
    records = [
        Record(
            key=str(i),
            image=stream.getvalue(),
            extension="png",
            web_captions=(odd,),
            synthetic_captions=(SyntheticCaption(odd),),
        )
        for i in range(4)
    ]
    drawn = Image.open(io.BytesIO(draw_examples(examples, records, 12)))
    assert drawn.format == "PNG"
    assert drawn.width > drawn.height * 0.8
    assert examples_to_mapping(examples, 12)["examples"][0]["at_once"] == "a"
    assert set(examples_to_mapping(examples, 12)["examples"][0]) == {"key", "web", "synthetic", "at_once", "beam"}
    assert examples_to_mapping(examples, 12)["step"] == 12
