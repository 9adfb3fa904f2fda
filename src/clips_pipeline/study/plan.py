"""Trainings of a study, from its configuration. A training that two comparisons share runs once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from clips_pipeline.config import ConfigError
from clips_pipeline.study.config import StudyConfig, StudyMethod
from clips_pipeline.text.methods import CAPTIONING_METHODS
from clips_pipeline.training.config import TrainConfig

WHOLE_CAPTION = "whole caption"
ORIGINAL_CAPTIONS = "original captions"
ALL_CAPTIONERS = "all captioners"


@dataclass(frozen=True)
class Case:
    """One row of a comparison, before seeds.

    Attributes:
        comparison: name of the comparison.
        label: name of the row.
        fraction: fraction of the caption that the text encoder reads, where the comparison is a curve.
        shards: folder of other shards to train on; None takes the usual ones.
        train: configuration of the training, with the comparison's number of samples.
        baseline: label of the row, in the same comparison, that this one is compared with.
    """

    comparison: str
    label: str
    train: TrainConfig
    baseline: str
    fraction: float | None = None
    shards: str | None = None


def cases(
    config: StudyConfig,
    train: TrainConfig,
    mean_ids: Callable[[int], float],
    flops: Callable[[TrainConfig], float],
    captioners: Sequence[str] = (),
) -> list[Case]:
    """Return all rows of all comparisons.

    Args:
        config: configuration of the study.
        train: the training that the rows change.
        mean_ids: mean length in ids of web (0) and synthetic (1) captions.
        flops: FLOPs of one training sample.
        captioners: names of the captioners of the training data.

    Raises:
        ConfigError: the comparison of captioners finds less than two.
    """
    clips = replace(train, method="clips")
    rows = _methods(config, with_samples(clips, config.samples), flops)
    base = with_samples(clips, config.curve_samples or config.samples)
    if "fragment_lengths" in config.comparisons:
        whole = _fragment(base, "truncation", None)
        rows.append(Case("fragment_lengths", WHOLE_CAPTION, whole, WHOLE_CAPTION, 1.0))
        for strategy in config.strategies:
            for fraction in config.length_fractions:
                tokens = min(max(1, round(fraction * mean_ids(1))), base.captions.context_length - 3)
                rows.append(
                    Case("fragment_lengths", strategy, _fragment(base, strategy, tokens), WHOLE_CAPTION, fraction)
                )
    if "web_lengths" in config.comparisons:
        rows.append(Case("web_lengths", WHOLE_CAPTION, base, WHOLE_CAPTION, 1.0))
        for fraction in config.length_fractions:
            captions = replace(base.captions, web_tokens=max(1, round(fraction * mean_ids(0))))
            rows.append(Case("web_lengths", "web caption", replace(base, captions=captions), WHOLE_CAPTION, fraction))
    if "ablations" in config.comparisons:
        found = _ablations(base, mean_ids(1), config.optimizers)
        rows += [Case("ablations", label, changed, "as configured") for label, changed in found]
    if "captioners" in config.comparisons:
        rows += _captioners(base, captioners)
    if "second_generation" in config.comparisons:
        rows.append(Case("second_generation", ORIGINAL_CAPTIONS, base, ORIGINAL_CAPTIONS))
        rows.append(
            Case("second_generation", "captions of a model", base, ORIGINAL_CAPTIONS, shards=config.recaptioned)
        )
    return rows


def _captioners(base: TrainConfig, names: Sequence[str]) -> list[Case]:
    if len(names) < 2:
        raise ConfigError(
            f"study.comparisons: captioners needs data of at least two captioners with names, and these shards have "
            f"{', '.join(names) or 'none'}; see docs/reference/captions.md, or leave it out"
        )
    named = [(ALL_CAPTIONERS, None), *((f"{name} alone", (name,)) for name in names)]
    return [
        Case("captioners", label, _captions(base, captioners=chosen, target_captioner=None), ALL_CAPTIONERS)
        for label, chosen in named
    ]


def _methods(config: StudyConfig, base: TrainConfig, flops: Callable[[TrainConfig], float]) -> list[Case]:
    rows: list[Case] = []
    if "methods" in config.comparisons:
        rows += [Case("methods", name, with_method(base, name), "clips") for name in config.methods]
    if "methods_at_equal_compute" in config.comparisons:
        budget = flops(base) * base.samples
        for name in config.methods:
            other = with_method(base, name)
            longer = other if name == "clips" else with_samples(other, round(budget / flops(other)))
            rows.append(Case("methods_at_equal_compute", name, longer, "clips"))
    return rows


def with_method(base: TrainConfig, name: StudyMethod) -> TrainConfig:
    """Return a training of `clips` with another method, or with a variant of `clips`; all else stays the same."""
    if name == "clips sigmoid":
        return replace(base, loss=replace(base.loss, contrastive="sigmoid"))
    if name == "clips 2 positives":
        return replace(base, captions=replace(base.captions, positives=2))
    # What a method does not have must not be set for it.
    captions = replace(base.captions, positives=base.captions.positives if name == "clips" else 1)
    if name == "captioning":
        model, loss = (
            replace(base.model, image_tokens_kept=0.35, text_weights=None),
            replace(base.loss, contrastive="softmax"),
        )
        return replace(base, method=name, model=model, loss=loss, captions=captions)
    kept = base.model.image_tokens_kept if name in CAPTIONING_METHODS else 1.0
    return replace(base, method=name, model=replace(base.model, image_tokens_kept=kept), captions=captions)


def with_samples(config: TrainConfig, samples: int) -> TrainConfig:
    """Return the training with about `samples` samples, rounded to whole steps, and warm-up of at most a tenth of them."""
    whole = max(1, round(samples / config.batch_size)) * config.batch_size
    warmup = min(config.optimizer.warmup_samples, whole // 10)
    return replace(config, samples=whole, optimizer=replace(config.optimizer, warmup_samples=warmup))


def _ablations(base: TrainConfig, synthetic_ids: float, optimizers: Sequence[str]) -> list[tuple[str, TrainConfig]]:
    ablations: list[tuple[str, TrainConfig]] = [("as configured", base)]
    for weight in (0.0, 0.5, 1.0, 2.0, 4.0):
        ablations.append((f"caption weight {weight:g}", replace(base, loss=replace(base.loss, caption_weight=weight))))
    for padding in ("attend", "mask"):
        ablations.append((f"padding {padding}", _model(base, padding=padding)))
    for condition in ("before_norm", "after_norm"):
        ablations.append((f"condition {condition}", _model(base, condition=condition)))
    tokens = min(max(1, round(synthetic_ids / 4)), base.captions.context_length - 3)
    ablations.append(("one sentence", _fragment(base, "sub_caption", None)))
    ablations.append((f"sentences within {tokens} ids", _fragment(base, "sub_caption", tokens)))
    for name in optimizers:
        options = base.optimizer.options if name == base.optimizer.name else {}
        ablations.append(
            (f"optimizer {name}", replace(base, optimizer=replace(base.optimizer, name=name, options=options)))
        )
    # Leave out rows that equal the configured training.
    return [ablations[0], *((label, changed) for label, changed in ablations[1:] if changed != base)]


def _model(base: TrainConfig, **changes: Any) -> TrainConfig:
    return replace(base, model=replace(base.model, **changes))


def _captions(base: TrainConfig, **changes: Any) -> TrainConfig:
    return replace(base, captions=replace(base.captions, **changes))


def _fragment(base: TrainConfig, strategy: Any, tokens: int | None) -> TrainConfig:
    keep = base.captions.fragment.blank_pieces if strategy == "sub_caption" else "keep"
    fragment = replace(base.captions.fragment, strategy=strategy, tokens=tokens, blank_pieces=keep)
    return replace(base, captions=replace(base.captions, fragment=fragment))
