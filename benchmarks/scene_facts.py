"""Training of the text side alone: captions of the embedded data against facts of the scenes instead of images.

    python -m benchmarks.scene_facts [--fragments whole sentence] [--seen all kinds colors] [--samples N] [--seeds 0 1]
    [--scenes TRAIN TEST] [--json]

A linear map of true facts (kinds of things, their colors, textures and sizes, the background) replaces the vision
tower. Text tower, captions, fragments, contrastive loss and retrieval are those of training; there is no captioner. So
this measures how fast and how well captions of each length train the text tower if the image is understood from the
beginning. `--seen` selects the facts that the map receives.

The result is recall@1 on the test scenes, mean of both directions, after a quarter, half and all of the samples.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from clips_pipeline.data.scenes.human_captions import human_captions
from clips_pipeline.data.scenes.random_integers import RandomStream
from clips_pipeline.data.scenes.scene import BACKGROUNDS, COLORS, TEXTURES, Scene
from clips_pipeline.data.scenes.shapes import KINDS
from clips_pipeline.data.scenes.source import ScenesConfig, scene_sample
from clips_pipeline.evaluation.metrics.retrieval import recall_metrics, retrieval_ranks
from clips_pipeline.losses.contrastive import contrastive_loss
from clips_pipeline.models.init import initialize_text
from clips_pipeline.models.sizes import SIZES
from clips_pipeline.models.text import TextTower
from clips_pipeline.text.caption_rows import CaptionConfig, CaptionReader
from clips_pipeline.text.fragments import FragmentConfig
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer, load_tokenizer
from clips_pipeline.text.tokenizers.train_vocabulary import train_wordpiece

FRAGMENTS = {
    "whole": FragmentConfig(strategy="truncation", tokens=None),
    "half": FragmentConfig(strategy="truncation", tokens=30),
    "quarter": FragmentConfig(strategy="truncation", tokens=15),
    "sentence": FragmentConfig(strategy="sub_caption", tokens=None),
}
SEEN = ("all", "kinds", "colors", "backgrounds")
SIZES_OF_THINGS = ("small", "medium", "large")
BATCH, WARM_UP, PEAK, MAX_SCALE = 64, 3_000, 6e-4, 100.0


def scene_facts(scene: Scene, seen: str) -> list[str]:
    """Return the true facts of a scene that the map receives."""
    found = [f"background {scene.background}"]
    for thing in scene.things if seen != "backgrounds" else ():
        found.append(f"color {thing.color}")
        if seen in ("all", "kinds"):
            found += [f"kind {thing.kind}", f"{thing.kind} {thing.color}"]
        if seen == "all":
            found += [f"{thing.kind} {thing.texture}", f"{thing.kind} {thing.size_name}"]
    return found


def fact_columns() -> dict[str, int]:
    """Return the column of each fact."""
    names = [f"background {name}" for name in BACKGROUNDS] + [f"color {name}" for name in COLORS]
    for kind in KINDS:
        names += [f"kind {kind}", *(f"{kind} {other}" for other in (*COLORS, *TEXTURES, *SIZES_OF_THINGS))]
    return {name: number for number, name in enumerate(names)}


def fact_matrix(scenes: Sequence[Scene], seen: str, columns: dict[str, int]) -> torch.Tensor:
    """Return (N, F), 1 for each true fact."""
    rows_NF = torch.zeros(len(scenes), len(columns))
    for row_F, scene in zip(rows_NF, scenes, strict=True):
        row_F[[columns[fact] for fact in scene_facts(scene, seen)]] = 1.0
    return rows_NF


class FactsAndText(nn.Module):
    """Linear map of facts, text tower, and logit scale."""

    def __init__(self, facts: int, vocabulary_size: int) -> None:
        super().__init__()
        size = SIZES["tiny"]
        self.seen = nn.Linear(facts, size.embed_dim)
        self.text = TextTower(replace(size.text, vocab_size=vocabulary_size, padding="mask"), size.embed_dim)
        self.log_scale = nn.Parameter(torch.tensor(float(np.log(1 / 0.07))))
        initialize_text(self.text)


def train(
    fragment: str, seen: str, samples: int, seed: int, train_set: Any, test_set: Any, tokenizer: Tokenizer
) -> list[float]:
    """Train and return the recall after a quarter, half and all of the samples."""
    torch.manual_seed(seed)
    columns = fact_columns()
    train_NF, test_NF = (
        fact_matrix([sample.scene for sample, _ in found], seen, columns) for found in (train_set, test_set)
    )
    reader = CaptionReader(CaptionConfig(fragment=FRAGMENTS[fragment]), tokenizer, seed)
    model = FactsAndText(len(columns), tokenizer.vocab_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.95), weight_decay=0.01)
    steps, warm_up = samples // BATCH, WARM_UP // BATCH
    found = []
    order = np.random.default_rng(seed)
    places: list[int] = []
    epoch = -1
    for step in range(steps):
        if len(places) < BATCH:
            places, epoch = order.permutation(len(train_set)).tolist(), epoch + 1
        batch, places = places[:BATCH], places[BATCH:]
        read = [
            reader.read((sample.web.text,), sample.synthetic_captions, epoch=epoch, key=str(place))
            for place, (sample, _) in ((place, train_set[place]) for place in batch)
        ]
        for group in optimizer.param_groups:
            group["lr"] = PEAK * min((step + 1) / warm_up, 1.0)
        unit = nn.functional.normalize
        web, part = contrastive_loss(
            unit(model.seen(train_NF[batch]), dim=-1),
            unit(model.text.feature(torch.tensor([row.web for row in read])), dim=-1),
            unit(model.text.feature(torch.tensor([row.fragment for row in read])), dim=-1),
            model.log_scale.exp(),
        )
        optimizer.zero_grad()
        ((web + part) / 2).backward()
        optimizer.step()
        with torch.no_grad():
            model.log_scale.clamp_(max=float(np.log(MAX_SCALE)))
        if step + 1 in (steps // 4, steps // 2, steps):
            found.append(recall(model, test_NF, test_set, tokenizer))
    return found


@torch.no_grad()
def recall(model: FactsAndText, test_NF: torch.Tensor, test_set: Any, tokenizer: Tokenizer) -> float:
    """Return recall@1, mean of both directions."""
    length = model.text.config.context_length
    texts = [(owner, text) for owner, (_, captions) in enumerate(test_set) for text in captions]
    ids = torch.tensor([tokenizer.encoder_row(tokenizer.body(text), length) for _, text in texts])
    unit = nn.functional.normalize
    captions_ME = torch.cat([unit(model.text.feature(part), dim=-1) for part in ids.split(256)])
    ranks = retrieval_ranks(
        unit(model.seen(test_NF), dim=-1).numpy(), captions_ME.numpy(), np.array([owner for owner, _ in texts])
    )
    return recall_metrics(ranks)["mean_recall@1"]


def main() -> None:
    """Train every combination and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fragments", nargs="+", choices=FRAGMENTS, default=["whole", "sentence"])
    parser.add_argument("--seen", nargs="+", choices=SEEN, default=["all"])
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--scenes", nargs=2, type=int, default=[20_000, 1_000], metavar=("TRAIN", "TEST"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    config = ScenesConfig()
    train_set = [(scene_sample(config, "train", index), ()) for index in range(chosen.scenes[0])]
    test_set = []
    for index in range(chosen.scenes[1]):
        sample = scene_sample(config, "test", index)
        test_set.append((sample, human_captions(sample.scene, RandomStream(config.seed, "test", index, "human"))))
    with TemporaryDirectory() as folder:
        texts = [text for sample, _ in train_set for text in (sample.web.text, sample.synthetic.text)]
        train_wordpiece(texts, 1_000, Path(folder) / "tokenizer")
        tokenizer = load_tokenizer(Path(folder) / "tokenizer")
    for seen in chosen.seen:
        for fragment in chosen.fragments:
            for seed in chosen.seeds:
                got = train(fragment, seen, chosen.samples, seed, train_set, test_set, tokenizer)
                row = {"seen": seen, "fragment": fragment, "seed": seed, "samples": chosen.samples, "recall": got}
                print(
                    json.dumps(row)
                    if chosen.json
                    else f"{seen:12} {fragment:10} seed {seed}: {', '.join(f'{value:.4f}' for value in got)}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
