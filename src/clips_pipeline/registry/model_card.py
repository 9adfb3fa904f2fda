"""The model card: what a version is, in Markdown, from facts alone. It goes with the version and stands beside the reports."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clips_pipeline.config import flatten
from clips_pipeline.evaluation.comparison import intervals
from clips_pipeline.evaluation.items import Items
from clips_pipeline.evaluation.metric_keys import higher_is_better

_SHOWN_PARAMETERS = ("method", "model.", "captions.", "loss.", "optimizer.", "samples", "batch_size", "seed", "ema")
_RESAMPLES = 2_000
_WHAT = (
    "A CLIP model (image and text towers with one embedding space), trained with a contrastive loss on web captions and fragments "
    "of synthetic captions and, where the method has one, a captioner (CLIPS, arXiv 2411.16828)."
)
_USE = (
    "## Intended use\n\nEmbedding images and English texts for retrieval, zero-shot classification and filtering. Not for "
    "decisions about people, nor for anything that was not measured below."
)


@dataclass(frozen=True)
class SplitFacts:
    """Counts of one split of the data: samples used, and left out or filtered by reason."""

    name: str
    samples: int
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class CardFacts:
    """What the card is made from.

    Attributes:
        name: of the registered model.
        version: of it.
        run_id: of MLflow.
        decision: the gate's sentence.
        metrics: flat numbers.
        items: per-item results by set, for intervals.
        parameters: of the training, nested.
        data_version: digest of the shards.
        splits: counts.
        history: a mapping per logged step, as `training_history.csv` has them.
        git_commit: of the code; None where it is not known.
    """

    name: str
    version: int
    run_id: str
    decision: str
    metrics: Mapping[str, float]
    items: Mapping[str, Items]
    parameters: Mapping[str, Any]
    data_version: str
    splits: Sequence[SplitFacts]
    history: Sequence[Mapping[str, Any]]
    git_commit: str | None


def card(facts: CardFacts) -> str:
    """The whole card."""
    parts = [f"# {_plain(facts.name)}, version {facts.version}", _WHAT, _USE, _numbers(facts)]
    parts += [f"**Registered as:** {_plain(facts.decision)}.", _data(facts), _training(facts), _limits(facts)]
    return "\n\n".join(parts) + "\n"


def _numbers(facts: CardFacts) -> str:
    reach = {
        name: f"{low:.4f} to {high:.4f}"
        for name, (low, high) in intervals(facts.items, facts.metrics, resamples=_RESAMPLES).items()
    }
    rows = [(f"`{name}`", f"{value:.4f}", reach.get(name, "–")) for name, value in sorted(facts.metrics.items())]
    note = (
        "Intervals are of 95 %, by resampling the images of the set (of Winoground the pairs); they say nothing about other "
        "seeds or other data."
    )
    return "## Measured\n\n" + _table(("metric", "value", "95 % interval"), rows) + f"\n\n{note}"


def _data(facts: CardFacts) -> str:
    rows = []
    for split in facts.splits:
        reasons = ", ".join(f"{count:,} {_plain(reason)}" for reason, count in sorted(split.left_out.items()))
        rows.append((split.name, f"{split.samples:,}", reasons or "none"))
    return (
        "## Data\n\n"
        + _table(("split", "samples", "left out"), rows)
        + f"\n\nData version `{facts.data_version}`, a digest of all "
        "samples; the data health report is an artifact of the run."
    )


def _training(facts: CardFacts) -> str:
    named = {
        name: value
        for name, value in flatten(dict(facts.parameters)).items()
        if name.removeprefix("train.").startswith(_SHOWN_PARAMETERS)
    }
    rows = [(f"`{name}`", f"`{value}`") for name, value in sorted(named.items())]
    rates = [float(row["samples_per_s"]) for row in facts.history if _is_number(row.get("samples_per_s"))]
    seen = max((int(row["samples"]) for row in facts.history if _is_number(row.get("samples"))), default=0)
    told = []
    if rates and seen:
        rate = statistics.median(rates)
        told.append(
            f"{seen:,} samples seen at a median of {rate:,.0f} a second, about {_duration(seen / rate)} of training."
        )
    code = f"Code: commit `{facts.git_commit}`. " if facts.git_commit else ""
    told.append(
        f"{code}MLflow run `{facts.run_id}`; `kedro lineage show {facts.version}` prints all inputs with their hashes."
    )
    return "## Training\n\n" + _table(("parameter", "value"), rows) + "\n\n" + "\n".join(told)


def _limits(facts: CardFacts) -> str:
    sets = sorted({name.split("/")[1] for name in facts.metrics if name.count("/") == 2})
    worst = [name for name in facts.metrics if name.startswith("zero_shot/") and higher_is_better(name)]
    lines = [
        f"Measured on {', '.join(map(_plain, sets)) or 'nothing'} alone; other data may behave otherwise.",
        "One training with one seed: another seed gives other numbers.",
        "What web and synthetic captions get wrong, the model has learnt too.",
    ]
    if not worst:
        lines.append("Zero-shot classification was not measured.")
    return "## Known limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plain(value: object) -> str:
    """Foreign text without what Markdown or HTML would act on."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>|#!" else letter for letter in " ".join(str(value).split()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and value == value


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
